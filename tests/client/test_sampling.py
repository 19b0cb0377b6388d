"""Samples: the flow against its definition and the oracle, conditions, and `lemmse sample`."""

import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from lemmse.client import connect
from lemmse.client.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from lemmse.client.sampling import noise_levels
from lemmse.index import build
from tests.support.commands import invoke
from tests.support.oracle import oracle, patch

EXACT = {"mode": "exact"}


@pytest.fixture(scope="module")
def training(tiny_index):
    """The images of the tiny index, (2, 6, 6, 1)."""
    return np.load(tiny_index.parent / "images.npy")[..., None].astype(np.float64)


def built(folder, images, name, **options):
    np.save(folder / f"{name}.npy", np.asarray(images, np.float32))
    return build([folder / f"{name}.npy"], folder / name, **options)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two images of 2 × 2, at distance 0.5: their mixture has a posterior mean in closed form."""
    images = np.array([[[0.2, 0.5], [0.4, 0.3]], [[0.5, 0.3], [0.6, 0.3]]])
    return built(tmp_path_factory.mktemp("pair"), images, "pair", patch_size=1), images


def two(images, x, sigma):
    """The posterior mean of images x, (N, 2, 2), under the mixture of two."""
    log_w = [-((x - one) ** 2).sum(axis=(1, 2)) / (2 * sigma**2) for one in images]
    share = 1 / (1 + np.exp(log_w[0] - log_w[1]))[:, None, None]
    return (1 - share) * images[0] + share * images[1]


def start(count, shape, seed, sigma):
    return 0.5 + sigma * np.random.default_rng(seed).standard_normal((count, *shape))


def test_noise_levels():
    levels = noise_levels(5, 7, 0.3)
    fifth = lambda i: (7 ** (1 / 7) + i / 4 * (0.3 ** (1 / 7) - 7 ** (1 / 7))) ** 7  # noqa: E731
    np.testing.assert_allclose(levels, [*map(fifth, range(5)), 0])
    assert noise_levels(1, 7, 0.3).tolist() == [pytest.approx(7), 0]


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2)])
def test_the_flow_of_two_images_against_a_fine_integration(pair, solver, order):
    """Down to a noise level at which both still count; the last step is the posterior mean there."""
    folder, images = pair
    high, low, count = 8.0, 0.25, 6
    x = start(count, (2, 2), 5, high)
    step = math.log(low / high) / 4000
    slope = lambda x, log: x - two(images, x, math.exp(log))  # noqa: E731  dx / d log σ
    for k in range(4000):
        log = math.log(high) + k * step
        middle = x + step / 2 * slope(x, log)
        x = x + step * slope(middle, log + step / 2)
    expected = two(images, x, low)
    assert np.ptp(expected[:, 0, 0]) > 0.1
    with connect(folder) as client:
        arguments = {"count": count, "seed": 5, "sigma_max": high, "sigma_min": low, "solver": solver}
        errors = [
            np.abs(client.sample((2, 2), steps=n, estimator="mmse", **arguments) - expected).max()
            for n in (16, 32)
        ]
    assert errors[1] < errors[0] / 2 ** (order - 0.3)
    assert errors[1] < {1: 0.01, 2: 0.002}[order]


def test_samples_are_of_the_two_images_in_their_shares(pair):
    """Noisy y weighs the two images; as often as that says, each is drawn."""
    folder, images = pair
    y, noise, count = images[0] + 0.3 * (images[1] - images[0]), 0.35, 60
    share = two(images, y[None], noise)[0, 0, 0]
    share = (share - 0.2) / 0.3  # of the second, whose first pixel is 0.5 and not 0.2
    with connect(folder) as client:
        drawn = client.sample((2, 2), y=y, sigma=noise, count=count, steps=12, estimator="mmse", seed=1)
    second = np.abs(drawn - images[1]).max(axis=(1, 2)) < 1e-4
    np.testing.assert_allclose(drawn[~second], np.broadcast_to(images[0], drawn[~second].shape), atol=1e-4)
    assert 0.25 < share < 0.45
    assert abs(second.mean() - share) < 2 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_steps_with_the_means_of_the_oracle(training, embedded, solver):
    levels = noise_levels(3, 2, 0.05)
    (x,) = start(1, (4, 5, 1), 3, levels[0])
    mean = lambda x, sigma: oracle(training, x, sigma, 3).image  # noqa: E731
    for sigma, below in pairwise(levels):
        slope = (x - mean(x, sigma)) / sigma
        moved = x + (below - sigma) * slope
        if solver == "heun" and below:
            slope = (slope + (moved - mean(moved, below)) / below) / 2
            moved = x + (below - sigma) * slope
        x = moved
    options = {"seed": 3, "sigma_max": 2, "sigma_min": 0.05, "solver": solver}
    (found,) = embedded.sample((4, 5, 1), steps=3, **options, **EXACT)
    np.testing.assert_allclose(found, x, atol=2e-5)


def test_one_image_is_drawn_in_one_of_its_translations(tmp_path):
    image = np.random.default_rng(8).random((5, 5))
    with connect(built(tmp_path, image[None], "one", patch_size=5)) as client:
        samples = client.sample((5, 5), count=3, steps=8, **EXACT)
    shifts = [np.roll(image, (i, j), (0, 1)) for i in range(5) for j in range(5)]
    for sample in samples:
        assert min(np.abs(sample - one).max() for one in shifts) < 1e-5


def test_one_key_is_drawn(tmp_path):
    with connect(built(tmp_path, np.full((1, 4, 4), 0.3), "flat", patch_size=3)) as client:
        np.testing.assert_allclose(client.sample((7, 3), count=2, steps=2, **EXACT), 0.3, atol=1e-6)


def test_every_client_draws_the_same(client, embedded):
    arguments = {"count": 3, "steps": 3, "seed": 11}
    told = []
    found = client.sample((6, 5), **arguments, progress=lambda *numbers: told.append(numbers))
    assert (found.shape, found.dtype) == ((3, 6, 5), np.float32)
    np.testing.assert_array_equal(found, embedded.sample((6, 5), **arguments))
    assert told == [(done, 9) for done in range(1, 10)]
    assert 0 <= found.min() < found.max() <= 1


def test_a_seed_and_a_number_make_an_image(embedded):
    draw = lambda seed, count: embedded.sample((5, 4), count=count, steps=3, seed=seed)  # noqa: E731
    three = draw(7, 3)
    np.testing.assert_array_equal(draw(7, 3), three)
    np.testing.assert_array_equal(draw(7, 1), three[:1])
    assert len({image.tobytes() for image in (*three, *draw(8, 3))}) == 6


@pytest.mark.parametrize("noise", [0.2, 0.05])
@pytest.mark.parametrize("masked", [True, False])
def test_a_step_given_a_noisy_measurement_against_its_definition(training, embedded, noise, masked):
    """The mean with the densities of x and of y as two factors; one step is one posterior mean."""
    rng = np.random.default_rng(4)
    mask = rng.random((4, 4)) < 0.5 if masked else np.ones((4, 4), bool)
    y = np.where(mask, 0.5 + 0.2 * rng.standard_normal((4, 4)), np.nan)
    (x,) = start(1, (4, 4), 9, 1.5)
    places = [(k, i, j) for k in range(2) for i in range(6) for j in range(6)]
    keys = np.array([patch(training[k], i, j, 3) for k, i, j in places])
    expected = np.empty((4, 4))
    for i, j in np.ndindex(4, 4):
        of_x, of_y, observed = (patch(one[..., None], i, j, 3) for one in (x, np.nan_to_num(y), mask))
        log_w = -((of_x - keys) ** 2).sum(axis=1) / (2 * 1.5**2)
        log_w -= (observed * (of_y - keys) ** 2).sum(axis=1) / (2 * noise**2)
        w = np.exp(log_w - log_w.max())
        expected[i, j] = w @ [training[place][0] for place in places] / w.sum()
    arguments = {"y": y, "mask": mask if masked else None, "sigma": noise, "sigma_max": 1.5, "seed": 9}
    (found,) = embedded.sample((4, 4), steps=1, **arguments, **EXACT)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1)])
def test_exact_pixels_are_kept(client, shape):
    rng = np.random.default_rng(5)
    y = rng.integers(0, 256, shape, np.uint8)
    mask = rng.random(shape[:2]) < 0.5
    found = client.sample(shape, y=y, mask=mask, count=2, steps=3)
    assert found.shape == (2, *shape)
    np.testing.assert_allclose(found[:, mask], np.broadcast_to(y[mask], found[:, mask].shape), atol=1e-4)
    assert np.abs(np.diff(found[:, ~mask], axis=0)).max() > 1
    assert 0 <= found.min() < found.max() <= 255
    hidden = np.ma.masked_array(y, np.broadcast_to(~mask if y.ndim == 2 else ~mask[..., None], shape))
    np.testing.assert_array_equal(client.sample(shape, y=hidden, count=2, steps=3), found)


def test_indexes_by_noise_level(tmp_path, training):
    folders = [built(tmp_path, training[..., 0], f"p{p}", patch_size=p) for p in (1, 5)]
    levels = noise_levels(4, 3, 0.05)
    (x,) = start(1, (6, 6), 0, levels[0])
    with connect(*folders) as client:
        for sigma, below in pairwise(levels):
            name = "p5" if sigma >= levels[1] else "p1"
            mean = client.reconstruct(x.astype(np.float32), sigma=sigma, index=name, **EXACT).image
            x = mean + below / sigma * (x - mean)
        arguments = {"steps": 4, "sigma_max": 3, "sigma_min": 0.05, **EXACT}
        (found,) = client.sample((6, 6), index={0: "p1", levels[1]: "p5"}, **arguments)
        np.testing.assert_allclose(found, x, atol=1e-6)
        status, _, stderr = invoke(
            *("sample", "--shape", "6x6", "--steps", 4, "--count", 1, "--out", tmp_path / "x.npy"),
            *("--index", folders[0], "--index", folders[1], "--index-name", "p1", "--index-name", "p5@0.5"),
        )
        assert status == 0, stderr
        (expected,) = client.sample((6, 6), index={0: "p1", 0.5: "p5"}, steps=4)
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected[None])
        with pytest.raises(InvalidArgument, match="index: expected one of p1, p5, got no name"):
            client.sample((6, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"shape": (6, 6, 3)},
            r"shape: expected \(H, W\) or \(H, W, 1\), as index 'tiny' has images with 1 ",
        ),
        ({"shape": (2, 6, 6, 1)}, r"shape: expected \(H, W\) or \(H, W, 1\)"),
        ({"shape": 6}, r"shape: expected \(H, W\) or .* got 6"),
        ({"shape": (6, 0)}, "shape: .* each >= 1"),
        ({"shape": (6.0, 6)}, r"shape: expected .* got \(6.0, 6\)"),
        ({"steps": 0}, "steps: expected a whole number >= 1, got 0"),
        ({"count": 0}, "count: expected a whole number >= 1, got 0"),
        ({"count": 10**7}, "count: expected images of 67108864 numbers in all at most"),
        ({"seed": -1}, "seed: expected a whole number >= 0"),
        ({"solver": "euler"}, "solver: expected one of ddim, heun, got 'euler'"),
        ({"sigma_min": 10}, "sigma_min: expected a number below sigma_max, 10, got 10"),
        ({"sigma_max": math.nan}, "sigma_max: expected a number in"),
        ({"sigma": 0.1}, "y: expected one with sigma, got none"),
        ({"y": np.zeros((6, 6)), "sigma": 1e-300}, r"sigma: expected 0 or a number in \[1e-05, 10000\]"),
        ({"mask": np.ones((6, 6))}, "y: expected one with mask, got none"),
        ({"y": np.zeros((5, 5)), "sigma": 0.1}, r"y: expected shape \(6, 6\), got \(5, 5\)"),
        ({"y": np.zeros((6, 6))}, "sigma: expected a number > 0 where y has all pixels, got 0"),
        ({"y": np.full((6, 6), np.nan), "sigma": 0.1}, "y: expected finite numbers where the mask is not 0"),
        ({"y": np.zeros((6, 6)), "mask": np.ones(6)}, "mask: expected shape"),
        ({"index": {1: "tiny"}}, "index: expected names by the noise level .* one from 0"),
        ({"index": {}}, "index: expected names by the noise level"),
        ({"index": {"low": "tiny"}}, "index: expected a number, got 'low'"),
        ({"maps": ["ess"]}, "maps: expected none for samples, got ess"),
        ({"mode": "fast"}, "mode: expected one of"),
    ],
)
def test_bad_arguments(client, arguments, message):
    with pytest.raises(InvalidArgument, match=f"^{message}") as error:
        client.sample(**{"shape": (6, 6), "steps": 2} | arguments)
    assert "\n" not in str(error.value)


def test_errors_of_the_calls(client, connect_any, tiny_index):
    with pytest.raises(NotFound):
        client.sample((6, 6), index="other")
    with pytest.raises(DeadlineExceeded):
        client.sample((6, 6), timeout=0)
    with pytest.raises(TypeError, match="nonsense"):
        client.sample((6, 6), nonsense=1)
    closed = connect_any(tiny_index)
    closed.close()
    with pytest.raises(FailedPrecondition, match="the client is closed"):
        closed.sample((6, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"physics": "blur:gaussian:1.0"}, "one of physics identity, 'other' has blur:gaussian:1.0"),
        ({"equivariance": "offset"}, "one of equivariance none, 'other' has offset"),
    ],
)
def test_other_indexes_have_no_score(tmp_path, training, options, message):
    folder = built(tmp_path, training[..., 0], "other", patch_size=3, **options)
    with connect(folder) as client, pytest.raises(InvalidArgument, match=f"index: expected {message}"):
        client.sample((6, 6))


def test_volumes(tmp_path):
    volumes = np.random.default_rng(2).random((1, 4, 6, 5))
    folder = built(tmp_path, volumes, "volumes", patch_size=3, patch_depth=3)
    with connect(folder) as client:
        y, mask = volumes[0], np.zeros((4, 6, 5), bool)
        mask[1] = True
        found = client.sample((4, 6, 5), count=2, steps=2, y=y, mask=mask, **EXACT)
        assert found.shape == (2, 4, 6, 5)
        np.testing.assert_allclose(found[:, 1], np.stack([y[1], y[1]]), atol=1e-6)
        with pytest.raises(InvalidArgument, match=r"mask: expected \(D, H, W\) or that with channels, got 2"):
            client.sample((4, 6, 5), y=y, mask=mask[..., 0])
        with pytest.raises(InvalidArgument, match=r"shape: expected \(D, H, W\) or \(D, H, W, 1\)"):
            client.sample((6, 5))


@pytest.fixture(params=["remote", "embedded"])
def run(request, tmp_path, monkeypatch, server, tiny_index):
    """Exit status, stdout and stderr of `lemmse sample`."""
    monkeypatch.chdir(tmp_path)
    where = ["--server", server.address] if request.param == "remote" else ["--index", tiny_index]
    return lambda *arguments: invoke("sample", "--steps", 2, *where, *arguments)


def test_the_command_draws_a_picture(run, tmp_path, embedded):
    assert run("--shape", "5x4", "--count", 3, "--seed", 2, "--out", "new/grid.png") == (
        *(0, "new/grid.png\n"),
        "",
    )
    sheet = np.asarray(Image.open("new/grid.png"))
    expected = embedded.sample((5, 4), count=3, seed=2, steps=2)
    assert sheet.shape == (11, 9)
    for number, (top, left) in enumerate([(0, 0), (0, 5), (6, 0)]):
        part = sheet[top : top + 5, left : left + 4]
        np.testing.assert_array_equal(part, np.rint(255 * expected[number]))
    assert (sheet[5] == 255).all()
    assert (sheet[6:, 5:] == 255).all()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grid.png"]


def test_the_command_given_a_measurement(run, embedded):
    rng = np.random.default_rng(6)
    y, mask = rng.random((5, 4), np.float32), (rng.random((5, 4)) < 0.5).astype(np.uint8)
    np.save("y.npy", y)
    np.save("mask.npy", mask)
    given = ("--measurement", "y.npy", "--count", 2)
    assert run(*given, "--mask", "mask.npy", "--out", "x.npy")[0] == 0
    expected = embedded.sample((5, 4), y=y, mask=mask, count=2, steps=2)
    np.testing.assert_array_equal(np.load("x.npy"), expected)
    assert run(*given, "--sigma", 0.1, "--out", "x.npy", "--overwrite")[0] == 0
    expected = embedded.sample((5, 4), y=y, sigma=0.1, count=2, steps=2)
    np.testing.assert_array_equal(np.load("x.npy"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "x.png"), "expected either --shape or --measurement"),
        (("--shape", "5", "--out", "x.png"), "expected HxW, such as 32x32, or DxHxW, got '5'"),
        (("--shape", "0x5", "--out", "x.png"), "expected HxW"),
        (("--shape", "2x5x5", "--out", "x.png"), "shape: expected (H, W) or (H, W, 1)"),
        (("--shape", "5x5", "--out", "x.jpg"), "--out: expected a name in .npy"),
        (("--shape", "5x5", "--out", "there.png"), "there.png exists; --overwrite replaces it"),
        (("--shape", "5x5", "--out", "x.png", "--steps", "0"), "0 is not in the range"),
        (("--shape", "5x5", "--out", "x.png", "--index-name", "tiny@high"), "expected NAME@SIGMA"),
        (("--shape", "5x5", "--out", "x.png", "--sigma", "1"), "y: expected one with sigma, got none"),
        (("--measurement", "none.png", "--out", "x.png"), "none.png"),
    ],
)
def test_bad_input_of_the_command(run, tmp_path, arguments, message):
    (tmp_path / "there.png").write_text("kept")
    status, stdout, stderr = run(*arguments)
    assert (status, stdout) == (2, "")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]
