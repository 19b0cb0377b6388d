"""Noise maps, masks, estimators and ranges, the same whether the index is remote or in this process."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lemmse.client import Client, LemmseError, Result, connect
from lemmse.client.errors import InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from tests.support.oracle import agreement, oracle
from tests.support.problem_oracle import weighted_oracle
from tests.support.quality_oracle import quality_oracle
from tests.support.whole_oracle import emmse_oracle, mmse_oracle

MAPS = ("variance", "ess", "log_density")
RNG = np.random.default_rng(7)
GREY = RNG.random((6, 6))
COLOUR = RNG.random((6, 6, 3))

OPTIONS = {
    "grey": {},
    "colour": {},
    "mirrored": {"boundary": "reflect"},
    "inside": {"boundary": "valid"},
    "deblur": {"physics": "blur:gaussian:1", "pre_inverse": "wiener:0.01"},
    "inpaint": {"physics": "inpaint:center:2", "pre_inverse": "mask"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """An index of each kind, of three images of 6 × 6 and patches of 3 × 3."""
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(8)
    np.save(folder / "grey.npy", rng.random((3, 6, 6), np.float32))
    np.save(folder / "colour.npy", rng.random((3, 6, 6, 3), np.float32))
    return {
        name: build(
            [folder / ("colour.npy" if name == "colour" else "grey.npy")],
            folder / name,
            patch_size=3,
            **options,
        )
        for name, options in OPTIONS.items()
    }


@dataclass(frozen=True)
class Asked:
    """The clients of all kinds of index: one of a server that has them all, one for each in this process."""

    remote: Client
    embedded: dict[str, Client]

    def clients(self, index: str) -> list[Client]:
        return [self.remote, self.embedded[index]]

    def reconstruct(self, index: str, y, **arguments) -> Result:
        """The result, which both agree about."""
        one, other = (c.reconstruct(y, index=index, maps=MAPS, **arguments) for c in self.clients(index))
        assert_same(one, other)
        return other

    def refused(self, index: str, y, words: str, **arguments) -> None:
        for client in self.clients(index):
            with pytest.raises(InvalidArgument, match=words):
                client.reconstruct(y, index=index, **arguments)


def training_of(folders, index: str) -> np.ndarray:
    """The training images of an index, (3, 6, 6, C)."""
    name = "colour" if index == "colour" else "grey"
    return np.load(folders[index].parent / f"{name}.npy").astype(float).reshape(3, 6, 6, -1)


def assert_same(one: Result, other: Result) -> None:
    for name in ("image", *MAPS):
        # To the rounding of float64: a BLAS adds up in another order for memory of another alignment.
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-12)
    assert one.diagnostics.mode == other.diagnostics.mode


@pytest.fixture(scope="module")
def asked(folders) -> Iterator[Asked]:
    server = Server(ServerConfig(indexes=tuple(folders.values()), listen="127.0.0.1:0", threads=1))
    embedded = {name: connect(folder) for name, folder in folders.items()}
    with connect(f"grpc://{server.address}") as remote:
        yield Asked(remote, embedded)
    server.stop(0)


SEEN = np.random.default_rng(12).random((6, 6)) < 0.7
NOISE = np.random.default_rng(13).random((6, 6)) * 0.3 + 0.05
CHANGES = {
    "sigma": {"sigma": 0.3},
    "a map of sigma": {"sigma": NOISE},
    "mask": {"mask": SEEN},
    "aggregate": {"aggregate": "overlap"},
    "bandwidth": {"bandwidth": 0.2},
    "gaussian_share": {"gaussian_share": 0.9},
    "all": {
        "sigma": NOISE,
        "mask": SEEN,
        "aggregate": "overlap",
        "bandwidth": 0.05,
        "gaussian_share": 0.3,
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("index", ["grey", "colour"])
def test_each_option_changes_the_posterior_as_the_oracle_says(asked, folders, index, change):
    y = GREY if index == "grey" else COLOUR
    plain = {"sigma": 0.1, "mode": "exact"}
    result = asked.reconstruct(index, y, **plain | change)
    assert agreement(result.image, asked.reconstruct(index, y, **plain).image) < 50

    y = y.reshape(6, 6, -1)
    options = {"sigma": 0.1} | change
    sigma, mask = options.pop("sigma"), options.pop("mask", np.ones((6, 6)))
    s = np.where(mask, sigma, np.inf)[..., None] * np.ones(y.shape)
    mixture = open_index(folders[index]).mixture
    expected = quality_oracle(training_of(folders, index), y, s, 3, mixture=mixture, **options)
    assert agreement(result.image.reshape(y.shape), expected.image) >= 80
    np.testing.assert_allclose(result.variance.reshape(y.shape), expected.variance, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(result.ess, expected.ess, rtol=1e-3)
    np.testing.assert_allclose(result.log_density, expected.log_density, atol=1e-3)


def test_topk_sums_the_k_nearest_in_the_cells_it_searches(asked, folders):
    truth = oracle(training_of(folders, "grey"), GREY[..., None], 0.3, 3)
    targets = np.array([training_of(folders, "grey")[k, i, j, 0] for k, i, j in truth.ids])
    for k in (1, 3):
        nearest = np.argsort(-truth.weights, axis=2)[..., :k]
        w = np.take_along_axis(truth.weights, nearest, axis=2)
        expected = (w * targets[nearest]).sum(axis=2) / w.sum(axis=2)
        result = asked.reconstruct("grey", GREY, sigma=0.3, mode="topk", k=k, nprobe=1000)
        assert result.diagnostics.mode == "topk"
        assert agreement(result.image, expected) >= 80
    some = asked.reconstruct("grey", GREY, sigma=0.3, mode="topk", k=3, nprobe=1)
    assert 0 < some.diagnostics.keys_touched < result.diagnostics.keys_touched == 108


def test_hybrid_keeps_to_accuracy_and_budget(asked, folders):
    truth = oracle(training_of(folders, "grey"), GREY[..., None], 0.5, 3).image[..., 0]
    hybrid = {"sigma": 0.5, "mode": "hybrid"}
    rough, fine, bounded = (
        asked.reconstruct("grey", GREY, **hybrid, **options)
        for options in ({"accuracy_db": 20}, {"accuracy_db": 100}, {"accuracy_db": 100, "budget": 20})
    )
    assert {result.diagnostics.mode for result in (rough, fine, bounded)} == {"hybrid"}
    assert agreement(fine.image, truth) >= 80
    assert 20 <= agreement(rough.image, truth) < 70
    assert rough.diagnostics.keys_touched < fine.diagnostics.keys_touched
    assert bounded.diagnostics.keys_touched <= 20 < fine.diagnostics.keys_touched


def test_maps_and_the_kind_of_error_are_those_asked_for(asked, folders):
    truth = oracle(training_of(folders, "grey"), GREY[..., None], 0.3, 3).image[..., 0]
    for client in asked.clients("grey"):
        estimated, certified = (
            client.reconstruct(
                GREY, sigma=0.3, mode="hybrid", budget=20, maps=["error"], error=kind, index="grey"
            )
            for kind in ("estimated", "certified")
        )
        assert estimated.diagnostics.certified is None
        assert certified.diagnostics.certified is not None
        assert (np.abs(certified.image - truth) <= certified.error).all()
        assert (certified.error != estimated.error).any()
        assert certified.variance is certified.ess is certified.log_density is None


@pytest.mark.parametrize("mode", ["exact", "topk"])
def test_a_map_of_one_sigma_is_that_sigma(asked, mode):
    one = asked.reconstruct("grey", GREY, sigma=0.2, mode=mode)
    everywhere = asked.reconstruct("grey", GREY, sigma=np.full((6, 6), 0.2), mask=np.ones((6, 6)), mode=mode)
    assert agreement(one.image, everywhere.image) > 100
    np.testing.assert_allclose(one.ess, everywhere.ess, rtol=1e-3)


def test_what_is_masked_is_not_looked_at(asked):
    mask = RNG.random((6, 6)) < 0.5
    results = [
        asked.reconstruct("grey", np.where(mask, GREY, hidden), sigma=0.1, mask=mask)
        for hidden in (np.nan, np.inf, 0.7)
    ]
    for result in results[1:]:
        assert_same(results[0], result)
    assert agreement(asked.reconstruct("grey", GREY, sigma=0.1).image, results[0].image) < 40


def test_a_mask_of_channels_is_a_mosaic(asked):
    bayer = np.zeros((6, 6, 3), bool)
    bayer[::2, ::2, 0] = bayer[::2, 1::2, 1] = bayer[1::2, ::2, 1] = bayer[1::2, 1::2, 2] = True
    mosaic = asked.reconstruct("colour", np.where(bayer, COLOUR, np.nan), sigma=0.1, mask=bayer)
    by_noise = asked.reconstruct("colour", COLOUR, sigma=np.where(bayer, 0.1, 1e5))
    assert agreement(mosaic.image, by_noise.image) > 60


def test_a_pixel_without_any_observation_is_the_mean_of_the_training_pixels(asked, folders):
    nothing = asked.reconstruct("grey", np.full((6, 6), np.nan), sigma=0.1, mask=np.zeros((6, 6)))
    training = np.load(folders["grey"].parent / "grey.npy")
    np.testing.assert_allclose(nothing.image, training.mean(), atol=1e-5)
    np.testing.assert_allclose(nothing.ess, training.size, rtol=1e-4)


@pytest.mark.parametrize("index", ["deblur", "inpaint"])
def test_masks_and_maps_need_an_index_of_the_identity(asked, index):
    asked.refused(index, GREY, "^mask: .*identity", sigma=0.1, mask=np.eye(6))
    asked.refused(index, GREY, "^sigma: .*identity", sigma=np.full((6, 6), 0.1))
    assert asked.reconstruct(index, GREY, sigma=0.1).image.shape == (6, 6)


@pytest.mark.parametrize("index", ["grey", "colour", "deblur", "inpaint"])
@pytest.mark.parametrize("estimator", ["e-mmse", "mmse"])
def test_the_family(asked, folders, index, estimator):
    """At low noise all that is left of the posterior is the training image that was measured."""
    clean = np.load(folders["grey"].parent / f"{'colour' if index == 'colour' else 'grey'}.npy")[1]
    operator = open_index(folders[index]).problem
    measured = operator.measure(clean.reshape(6, 6, -1)).reshape(clean.shape)
    result = asked.reconstruct(index, measured, sigma=0.001, estimator=estimator)
    assert agreement(result.image, clean) > 60
    np.testing.assert_allclose(result.ess, 1, rtol=1e-3)
    assert result.diagnostics.mode == "exact"


@pytest.mark.parametrize("index", ["grey", "colour"])
def test_the_estimators_differ_where_noise_is_high(asked, folders, index):
    training, y = training_of(folders, index), GREY if index == "grey" else COLOUR
    seen, s = y.reshape(6, 6, -1), np.full(y.shape, 0.4).reshape(6, 6, -1)
    local = asked.reconstruct(index, y, sigma=0.4, mode="exact")
    for estimator, truth in (("e-mmse", emmse_oracle), ("mmse", mmse_oracle)):
        result = asked.reconstruct(index, y, sigma=0.4, estimator=estimator)
        expected = truth(training, training, seen, s).image
        assert agreement(result.image.reshape(expected.shape), expected) >= 80
        assert agreement(result.image, local.image) < 60


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("mode", ["exact", "topk"])
def test_integers_come_back_in_their_range(asked, folders, dtype, white, mode):
    y = RNG.integers(0, white + 1, (6, 6), dtype)
    result = asked.reconstruct("grey", y, sigma=0.1, mode=mode)
    intensities = asked.reconstruct("grey", np.float32(y / np.float32(white)), sigma=0.1, mode=mode)
    np.testing.assert_allclose(result.image, intensities.image * white, rtol=1e-6)
    np.testing.assert_allclose(result.variance, intensities.variance * white**2, rtol=1e-6)
    np.testing.assert_array_equal(result.ess, intensities.ess)
    np.testing.assert_array_equal(result.log_density, intensities.log_density)
    if mode == "exact":
        training = np.load(folders["grey"].parent / "grey.npy")[..., None]
        truth = oracle(training, y[..., None] / white, 0.1, 3).image
        assert agreement(result.image / white, truth[..., 0]) > 80


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_bandwidth_is_in_intensities_whatever_the_range_of_the_image(asked, dtype, white):
    y = RNG.integers(0, white + 1, (6, 6), dtype)
    stored = asked.reconstruct("grey", y, sigma=0.1, bandwidth=0.05)
    intensities = asked.reconstruct("grey", np.float32(y / np.float32(white)), sigma=0.1, bandwidth=0.05)
    np.testing.assert_allclose(stored.image, intensities.image * white, rtol=1e-6)
    assert stored.diagnostics.bandwidth == intensities.diagnostics.bandwidth == 0.05


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_share_of_gaussians_is_no_intensity(asked, dtype, white):
    y = RNG.integers(0, white + 1, (6, 6), dtype)
    options = {"sigma": 0.1, "gaussian_share": 0.3, "aggregate": "overlap"}
    stored = asked.reconstruct("grey", y, **options)
    intensities = asked.reconstruct("grey", np.float32(y / np.float32(white)), **options)
    np.testing.assert_allclose(stored.image, intensities.image * white, rtol=1e-6)
    np.testing.assert_allclose(stored.variance, intensities.variance * white**2, rtol=1e-6)
    assert stored.diagnostics.gaussian_share == intensities.diagnostics.gaussian_share == 0.3


@pytest.mark.parametrize("index", ["mirrored", "inside"])
@pytest.mark.parametrize("measured", [{"sigma": 0.1, "mask": SEEN}, {"sigma": NOISE}], ids=["mask", "map"])
def test_gaussians_take_masks_and_noise_maps(asked, folders, index, measured):
    """Circular borders are above; here no option is lost on the way to the estimator."""
    options = measured | {"gaussian_share": 0.3, "bandwidth": 0.05, "mode": "exact"}
    result = asked.reconstruct(index, GREY, **options)
    expected = Reconstructor(open_index(folders[index])).reconstruct(GREY[..., None], maps=MAPS, **options)
    assert agreement(result.image, expected.image[..., 0]) >= 100
    for name in options.keys() - {"sigma", "mode"}:
        less = {key: value for key, value in options.items() if key != name}
        assert agreement(asked.reconstruct(index, GREY, **less).image, result.image) < 60


@pytest.mark.parametrize("index", ["deblur", "inpaint"])
def test_gaussians_need_an_index_of_the_identity(asked, index):
    words = (
        "^gaussian_share: a share of Gaussians needs an index of physics identity and pre-inverse identity"
    )
    asked.refused(index, GREY, words, sigma=0.1, gaussian_share=0.5)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_an_error_comes_back_in_the_range_of_the_image(asked, dtype, white):
    y = RNG.integers(0, white + 1, (6, 6), dtype)
    for client in asked.clients("grey"):
        stored, intensities = (
            client.reconstruct(
                image, sigma=0.1, mode="hybrid", budget=20, maps=["error"], error="certified", index="grey"
            )
            for image in (y, np.float32(y / np.float32(white)))
        )
        np.testing.assert_allclose(stored.error, intensities.error * white, rtol=1e-6)
        assert stored.diagnostics.certified == intensities.diagnostics.certified


@pytest.mark.slow
def test_explain_in_the_range_of_the_image(asked):
    y = np.rint(GREY * 255).astype(np.uint8)
    for client in asked.clients("grey"):
        stored = client.explain(y, sigma=0.1, pixel=(2, 3), top=108, index="grey")
        floats = client.explain(
            np.float32(y / np.float32(255)), sigma=0.1, pixel=(2, 3), top=108, index="grey"
        )
        assert [c.weight for c in stored] == [c.weight for c in floats]
        np.testing.assert_allclose(
            [c.value for c in stored], np.multiply([c.value for c in floats], 255), rtol=1e-6
        )
        mean = sum(c.weight * c.value[0] for c in stored)
        image = client.reconstruct(y, sigma=0.1, mode="exact", index="grey").image
        assert mean == pytest.approx(image[2, 3], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "side"), [("exact", 600), ("topk", 150)])
def test_everything_at_once_in_chunks(asked, folders, mode, side):
    """y and a map of sigma, each larger than a message in mode exact, and a mask."""
    shape = (side, side, 3)
    rng = np.random.default_rng(9)
    y, sigma, mask = rng.random(shape, np.float32), rng.random(shape) + 0.2, rng.random(shape) < 0.7
    kept = {"k": 5, "nprobe": 2} if mode == "topk" else {}
    result = asked.reconstruct("colour", np.where(mask, y, np.nan), sigma=sigma, mask=mask, mode=mode, **kept)
    last = side - 6
    for row, column in ((0, 0), (0, last), (side // 2, last // 2), (last, last)):
        crop = slice(row, row + 6), slice(column, column + 6)
        if mode == "exact":
            precision = np.where(mask, 1 / sigma**2, 0)
            expected = weighted_oracle(training_of(folders, "colour"), y[crop], precision[crop], 3)
        else:
            expected = asked.embedded["colour"].reconstruct(
                y[crop], sigma=sigma[crop], mask=mask[crop], mode=mode, maps=MAPS, **kept
            )
        inside = slice(1, -1), slice(1, -1)  # whose patches lie in the crop
        assert agreement(result.image[crop][inside], expected.image[inside]) >= 80
        np.testing.assert_allclose(result.ess[crop][inside], expected.ess[inside], rtol=1e-3)


def test_many_with_their_own_noise_and_masks(asked):
    rng = np.random.default_rng(10)
    mask = rng.random((6, 6)) < 0.5
    images = [GREY, np.rint(GREY * 255).astype(np.uint8), GREY[:4], GREY]
    sigmas = [0.1, np.full((6, 6), 0.2), 0.3, -1]
    masks = [mask, None, mask, None]
    for client in asked.clients("grey"):
        outcomes = list(client.reconstruct_many(images, sigma=sigmas, mask=masks, index="grey", maps=MAPS))
        for position in (0, 1):
            single = client.reconstruct(
                images[position], sigma=sigmas[position], mask=masks[position], index="grey", maps=MAPS
            )
            assert_same(outcomes[position], single)
        assert [o.violations[0].field for o in outcomes[2:] if isinstance(o, LemmseError)] == [
            "mask",
            "sigma",
        ]
        for shared in (0.2, np.full((6, 6), 0.2)):
            for outcome in client.reconstruct_many(
                [GREY, GREY], sigma=shared, mask=mask, index="grey", maps=MAPS
            ):
                assert_same(
                    outcome, client.reconstruct(GREY, sigma=shared, mask=mask, index="grey", maps=MAPS)
                )


def test_many_with_another_number_of_sigmas(asked):
    for client in asked.clients("grey"):
        with pytest.raises(InvalidArgument, match="sigma: expected one for each of the 2 images, got 3"):
            client.reconstruct_many([GREY, GREY], sigma=[0.1, 0.2, 0.3])


@pytest.mark.slow
@pytest.mark.parametrize("index", ["grey", "mirrored", "inside"])
@pytest.mark.parametrize("pixel", [(0, 0), (0, 1099), (1099, 550), (17, 23)])
def test_explain_in_an_image_larger_than_a_message(asked, folders, index, pixel):
    rng = np.random.default_rng(11)
    shape = (1100, 1100)
    y, sigma, mask = rng.random(shape), rng.random(shape) + 0.1, rng.random(shape) < 0.6
    for arguments in ({"sigma": 0.3}, {"sigma": sigma, "mask": mask}):
        one, other = (c.explain(y, pixel=pixel, index=index, **arguments) for c in asked.clients(index))
        assert one == other
        if index == "grey":
            around = np.ix_(*(np.arange(place - 1, place + 2) % 1100 for place in pixel))
            s = np.broadcast_to(arguments["sigma"], shape)[around]
            precision = np.where(arguments.get("mask", np.ones(shape))[around], 1 / s**2, 0)
            training = training_of(folders, index)
            expected = weighted_oracle(training, y[around][..., None], precision[..., None], 3)
            weights = dict(zip(expected.ids, expected.weights[1, 1], strict=True))
            heaviest = sorted(weights.values(), reverse=True)[: len(one)]
            np.testing.assert_allclose([c.weight for c in one], heaviest, rtol=1e-3)
            for c in one:
                assert c.weight == pytest.approx(weights[c.image, c.row, c.column], rel=1e-3)


def test_a_large_image_is_not_cropped_where_all_of_it_counts(asked):
    y = np.zeros((1100, 1100))
    with pytest.raises(InvalidArgument, match=r"pre-inverse wiener:0\.01 needs all of it"):
        asked.remote.explain(y, sigma=0.1, pixel=(0, 0), index="deblur")
    assert asked.remote.explain(y[:6, :6], sigma=0.1, pixel=(0, 0), index="deblur")


def test_what_an_index_expects(asked):
    for index, options in OPTIONS.items():
        one, other = (client.get_index(index) for client in asked.clients(index))
        assert one == other
        assert (one.physics, one.pre_inverse, one.boundary) == (
            options.get("physics", "identity"),
            options.get("pre_inverse", "identity"),
            options.get("boundary", "circular"),
        )
        assert (one.image_height, one.image_width) == (6, 6)


def test_sizes_that_differ_are_zero(tmp_path):
    for size in (6, 7):
        np.save(tmp_path / f"{size}.npy", np.zeros((1, 6, size), np.float32))
    folder = build([tmp_path / "6.npy", tmp_path / "7.npy"], tmp_path / "sizes", patch_size=3)
    with connect(folder) as client:
        info = client.get_index("sizes")
        assert (info.image_height, info.image_width) == (0, 0)
        with pytest.raises(InvalidArgument, match="estimator: expected"):
            client.reconstruct(np.zeros((6, 6)), sigma=0.1, estimator="mmse")
