"""What every client does, remote or embedded, synchronous or asyncio: the same answers, the same errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lemmse.client import Client, LemmseError, Result, aio, connect
from lemmse.client.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from tests.support.blocking import Blocking

MAPS = ("variance", "ess", "log_density")
IMAGE = np.random.default_rng(2).random((5, 7))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (1, 1)])
def test_result(client, dtype, shape):
    y = np.resize(IMAGE, shape).astype(dtype)
    result = client.reconstruct(y, sigma=0.2, maps=MAPS)
    assert result.image.shape == result.variance.shape == shape
    assert result.ess.shape == result.log_density.shape == shape[:2]
    assert {getattr(result, name).dtype for name in ("image", *MAPS)} == {np.dtype(np.float32)}
    assert (result.diagnostics.mode, result.diagnostics.index, result.diagnostics.version) == (
        "exact",
        "tiny",
        "1",
    )
    assert result.diagnostics.keys == 72
    assert result.diagnostics.seconds > 0


def test_maps_that_were_not_asked_for_are_none(client):
    result = client.reconstruct(IMAGE, sigma=0.2, maps=["ess"])
    assert result.variance is None
    assert result.log_density is None
    assert result.error is None
    assert result.ess.shape == (5, 7)


def assert_same(one: Result, other: Result):
    for name in ("image", *MAPS, "error"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert replace(one.diagnostics, seconds=0) == replace(other.diagnostics, seconds=0)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "exact"},
        {"mode": "topk", "k": 5, "nprobe": 2},
        {"mode": "hybrid"},
        {"mode": "hybrid", "accuracy_db": 30, "budget": 20},
        {"accuracy_db": np.float32(60)},
        {"aggregate": "centre", "bandwidth": 0, "gaussian_share": 0, "quality": "paper"},
        {"aggregate": "overlap"},
        {"bandwidth": np.float32(0.1)},
        {"gaussian_share": np.float32(0.1)},
        {"gaussian_share": 1},
        {"mode": "hybrid", "aggregate": "overlap", "bandwidth": 0.1},
        {"mode": "hybrid", "aggregate": "overlap", "bandwidth": 0.1, "gaussian_share": 0.3},
        {},
    ],
)
def test_remote_and_embedded_agree(remote, embedded, options):
    results = [client.reconstruct(IMAGE, sigma=0.2, maps=MAPS, **options) for client in (remote, embedded)]
    assert_same(*results)


def test_remote_and_embedded_agree_on_epll(remote, embedded):
    asked = {"aggregate": "epll", "gaussian_share": 0.3}
    results = [client.reconstruct(IMAGE, sigma=0.2, **asked) for client in (remote, embedded)]
    assert_same(*results)
    assert results[0].diagnostics.aggregate == "epll"


EXCLUDED = {"number": [0], "name": ["images.npy[0]"], "array": np.array([0]), "set": {"0", "images.npy[0]"}}


@pytest.mark.parametrize("exclude", EXCLUDED.values(), ids=EXCLUDED)
def test_an_excluded_image_counts_nowhere(client, embedded, exclude):
    result = client.reconstruct(IMAGE, sigma=0.2, maps=MAPS, exclude=exclude)
    assert_same(result, embedded.reconstruct(IMAGE, sigma=0.2, maps=MAPS, exclude=[0]))
    assert result.diagnostics.keys == 36
    assert (result.image != client.reconstruct(IMAGE, sigma=0.2).image).any()
    found = client.explain(IMAGE, sigma=0.2, pixel=(1, 2), top=72, exclude=exclude)
    assert {one.image for one in found} == {1}
    assert sum(one.weight for one in found) == pytest.approx(1)


def test_all_images_of_a_batch_exclude_the_same(remote, embedded):
    batches = [
        list(client.reconstruct_many([IMAGE, IMAGE[:3]], sigma=0.2, maps=MAPS, exclude=[1]))
        for client in (remote, embedded)
    ]
    for one, other in zip(*batches, strict=True):
        assert_same(one, other)
        assert one.diagnostics.keys == 36


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["images.npx"], "expected the source of a training image of 'tiny', got 'images.npx'"),
        ([2], "expected a number of an image below 2, got 2"),
        (["images.npy"], "expected some images of 'tiny' to remain, got all 2"),
        ("images.npy[0]", "expected a collection of names and numbers of images, got 'images.npy"),
        ([""], "expected the name or the number .* got ''"),
        ([-1], "expected the name or the number .* got '-1'"),
        ([0.5], "expected the name or the number .* got '0.5'"),
        ([True], "expected the name or the number .* got 'True'"),
        (["\ud800"], "expected the name or the number"),
        (5, "expected a collection of names and numbers of images, got 5"),
    ],
)
def test_images_to_exclude_that_are_none(client, exclude, message):
    with pytest.raises(InvalidArgument, match=f"exclude: {message}"):
        client.reconstruct(IMAGE, sigma=0.2, exclude=exclude)
    with pytest.raises(InvalidArgument, match=f"exclude: {message}"):
        client.explain(IMAGE, sigma=0.2, pixel=(0, 0), exclude=exclude)


def test_what_was_not_asked_for_is_the_formula_untouched(client):
    said = client.reconstruct(IMAGE, sigma=0.2).diagnostics
    assert (said.aggregate, said.bandwidth, said.gaussian_share) == ("centre", 0, 0)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1)])
@pytest.mark.parametrize("options", [{"accuracy_db": 100}, {"accuracy_db": 30, "budget": 20}])
def test_a_certified_error_is_never_exceeded(remote, embedded, shape, options):
    y = IMAGE.reshape(shape)
    asked = {"mode": "hybrid", "maps": ["error"], "error": "certified", **options}
    results = [client.reconstruct(y, sigma=0.2, **asked) for client in (remote, embedded)]
    assert_same(*results)
    exact = embedded.reconstruct(y, sigma=0.2, mode="exact")
    assert results[0].error.shape == shape
    assert results[0].error.dtype == np.float32
    # float32 rounds either answer.
    assert (np.abs(results[0].image - exact.image) <= results[0].error + 1e-5).all()
    assert 0 <= results[0].diagnostics.certified <= 1
    assert results[0].diagnostics.mode == "hybrid"


def test_an_estimated_error_certifies_nothing(remote, embedded):
    asked = {"mode": "hybrid", "maps": ["error"]}
    results = [client.reconstruct(IMAGE, sigma=0.2, **asked) for client in (remote, embedded)]
    assert_same(*results)
    assert (results[0].error >= 0).all()
    assert results[0].diagnostics.certified is None


def test_the_exact_sum_has_no_error(client):
    result = client.reconstruct(IMAGE, sigma=0.2, mode="exact", maps=["error"])
    np.testing.assert_array_equal(result.error, np.zeros((5, 7), np.float32))
    assert result.diagnostics.expected_accuracy_db is None
    assert result.diagnostics.certified is None


@pytest.mark.parametrize("error", ["estimated", "certified"])
@pytest.mark.parametrize("estimator", ["mmse", "e-mmse"])
def test_whole_images_have_no_error(client, estimator, error):
    y = np.full((6, 6), 0.5)
    result = client.reconstruct(y, sigma=0.2, estimator=estimator, maps=["error"], error=error)
    np.testing.assert_array_equal(result.error, np.zeros((6, 6), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1050, 1050), (1, 1_100_000)])
def test_images_larger_than_a_message(remote, embedded, shape):
    y = np.random.default_rng(3).random(shape, np.float32)
    results = [client.reconstruct(y, sigma=0.5, maps=MAPS) for client in (remote, embedded)]
    assert_same(*results)


def test_only_the_answer_is_larger_than_a_message(remote, embedded):
    y = np.random.default_rng(4).random((600, 600), np.float32)
    results = [client.reconstruct(y, sigma=0.5, maps=MAPS) for client in (remote, embedded)]
    assert_same(*results)


def test_anything_that_is_an_array(client):
    expected = client.reconstruct(IMAGE, sigma=0.2).image
    for y in (IMAGE.tolist(), torch.from_numpy(IMAGE), np.asfortranarray(IMAGE), IMAGE.astype(">f8")):
        np.testing.assert_array_equal(client.reconstruct(y, sigma=0.2).image, expected)


def slope(client, y, vector, direction, **options):
    """The derivative of the sum of vector · reconstruction along a direction, by central differences."""
    step = 1e-3
    there, back = (
        client.reconstruct(y + sign * step * direction, mode="exact", **options).image.astype(float)
        for sign in (1, -1)
    )
    return np.sum(vector * (there - back)) / (2 * step)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"aggregate": "overlap"},
        {"bandwidth": 0.1, "gaussian_share": 0.3},
        {"index": "tiny", "mask": IMAGE > 0.3},
        {"sigma": 0.1 + IMAGE},
    ],
)
def test_vjp_is_the_slope_of_the_reconstruction(client, options):
    options = {"sigma": 0.3} | options
    vector, direction = np.random.default_rng(5).standard_normal((2, *IMAGE.shape))
    product = client.vjp(IMAGE, vector=vector, **options)
    assert (product.shape, product.dtype) == (IMAGE.shape, np.float32)
    expected = slope(client, IMAGE, vector, direction, **options)
    np.testing.assert_allclose(np.sum(product * direction), expected, atol=2e-3)


def test_vjp_of_integers_has_the_unit_of_the_image(client):
    y = np.round(255 * IMAGE).astype(np.uint8)
    vector = np.random.default_rng(6).standard_normal(y.shape)
    found = client.vjp(y, sigma=0.3, vector=vector)
    np.testing.assert_allclose(found, client.vjp(y / 255, sigma=0.3, vector=vector), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "argument", "message"),
    [
        ({"vector": np.zeros((7, 5))}, "vector", "expected shape (5, 7), that of y, got (7, 5)"),
        ({"vector": 1.0}, "vector", "got ()"),
        ({"vector": None}, "vector", "expected numbers, got object"),
        ({"vector": np.full((5, 7), 1j)}, "vector", "expected numbers, got complex128"),
        ({"vector": np.full((5, 7), np.nan)}, "vector", "expected numbers within ±1e+20, got nan"),
        ({"vector": np.full((5, 7), np.inf, np.float16)}, "vector", "got inf"),
        ({"vector": np.full((5, 7), -1e21)}, "vector", "got -1e+21"),
        ({"sigma": 0}, "sigma", "got 0"),
        ({"aggregate": "mean"}, "aggregate", "expected one of centre, overlap, epll, got 'mean'"),
        ({"quality": "best"}, "quality", "was not calibrated"),
    ],
)
def test_arguments_of_vjp_that_are_refused(client, changes, argument, message):
    with pytest.raises(InvalidArgument, match=f"^{argument}: ") as caught:
        client.vjp(**{"y": IMAGE, "sigma": 0.2, "vector": IMAGE} | changes)
    assert message in str(caught.value)


def test_vjp_of_what_a_message_does_not_hold(remote, aio_remote):
    y = np.zeros((800, 800), np.float32)
    message = r"^y: expected at most 4128768 bytes with vector, sigma and mask, got 5120000; use float32, or"
    for client in (remote, aio_remote):
        with pytest.raises(InvalidArgument, match=message):
            client.vjp(y, sigma=0.2, vector=y)


BAD = [
    ({"y": np.zeros((2, 2), np.uint32)}, "y", "expected floats in [0, 1], uint8 or uint16, got uint32"),
    ({"y": np.zeros((2, 2), np.int8)}, "y", "got int8"),
    ({"y": np.zeros((2, 2), bool)}, "y", "got bool"),
    ({"y": np.zeros((2, 2), complex)}, "y", "got complex128"),
    ({"y": "image.png"}, "y", "got <U9"),
    ({"y": [[1.0], [1.0, 2.0]]}, "y", "expected an array, got a list"),
    ({"y": np.zeros(4)}, "y", "got (4,)"),
    ({"y": np.zeros((2, 2, 2, 1))}, "y", "got (2, 2, 2, 1)"),
    ({"y": np.zeros((0, 4))}, "y", "got (0, 4)"),
    ({"y": np.zeros((2, 2, 3))}, "y", "got (2, 2, 3)"),
    ({"y": np.full((2, 2), np.nan)}, "y", "finite"),
    ({"y": np.full((2, 2), -np.inf)}, "y", "finite"),
    ({"sigma": 0}, "sigma", "got 0"),
    ({"sigma": -1.0}, "sigma", "got -1"),
    ({"sigma": float("nan")}, "sigma", "got nan"),
    ({"sigma": "strong"}, "sigma", "expected a number, a map or auto, got 'strong'"),
    ({"sigma": 10**400}, "sigma", f"expected a number, a map or auto, got {10**400}"),
    ({"sigma": None}, "sigma", "expected a number, a map or auto, got None"),
    ({"sigma": [0.1, 0.2]}, "sigma", "expected shape (5, 7), that of y, got (2,)"),
    ({"sigma": np.full((7, 5), 0.1)}, "sigma", "got (7, 5)"),
    ({"sigma": [[0.1], [0.1, 0.2]]}, "sigma", "got a list"),
    ({"sigma": np.full((5, 7), 0.1j)}, "sigma", "got complex128"),
    ({"sigma": np.zeros((5, 7))}, "sigma", "got 0"),
    ({"sigma": np.full((5, 7), np.nan)}, "sigma", "got nan"),
    ({"mask": True}, "mask", "expected shape (5, 7), that of y, got ()"),
    ({"mask": np.ones((5, 7, 3))}, "mask", "got (5, 7, 3)"),
    ({"mask": np.full((5, 7), "a")}, "mask", "got <U1"),
    ({"mask": np.full((5, 7), np.nan)}, "mask", "got NaN"),
    ({"mask": np.ones((5, 7)), "y": np.full((5, 7), np.nan)}, "y", "finite"),
    ({"estimator": "best"}, "estimator", "expected one of le-mmse, e-mmse, mmse, got 'best'"),
    ({"estimator": "mmse"}, "y", "(6, 6, 1)"),
    ({"estimator": "e-mmse", "y": np.zeros((6, 7))}, "y", "(6, 6, 1)"),
    ({"mode": "fast"}, "mode", "expected one of auto, exact, topk, hybrid, got 'fast'"),
    ({"k": 0}, "k", "expected a whole number >= 1, got 0"),
    ({"k": 2**32}, "k", "got 4294967296"),
    ({"k": 1.5}, "k", "got 1.5"),
    ({"nprobe": -1}, "nprobe", "expected a whole number >= 1, got -1"),
    ({"accuracy_db": "high"}, "accuracy_db", "expected a number of dB, got 'high'"),
    ({"mode": "hybrid", "accuracy_db": 0}, "accuracy_db", "expected dB in (0, 120], got 0"),
    ({"mode": "hybrid", "accuracy_db": 121}, "accuracy_db", "got 121"),
    ({"mode": "hybrid", "accuracy_db": float("nan")}, "accuracy_db", "got nan"),
    ({"budget": 0}, "budget", "expected a whole number >= 1, got 0"),
    ({"budget": 1.5}, "budget", "got 1.5"),
    ({"budget": 2**64}, "budget", "got 18446744073709551616"),
    ({"error": "sure"}, "error", "expected one of estimated, certified, got 'sure'"),
    ({"aggregate": "mean"}, "aggregate", "expected one of centre, overlap, epll, got 'mean'"),
    ({"aggregate": ""}, "aggregate", "got ''"),
    ({"bandwidth": "wide"}, "bandwidth", "expected a number, got 'wide'"),
    ({"bandwidth": 10**400}, "bandwidth", f"expected a number, got {10**400}"),
    ({"bandwidth": [0.1, 0.2]}, "bandwidth", "expected a number, got [0.1, 0.2]"),
    ({"bandwidth": -0.1}, "bandwidth", "expected a number in [0, 1e+06], got -0.1"),
    ({"bandwidth": 2e6}, "bandwidth", "got 2e+06"),
    ({"bandwidth": float("nan")}, "bandwidth", "got nan"),
    ({"gaussian_share": "wide"}, "gaussian_share", "expected a number, got 'wide'"),
    ({"gaussian_share": [0.1, 0.2]}, "gaussian_share", "expected a number, got [0.1, 0.2]"),
    ({"gaussian_share": -0.1}, "gaussian_share", "expected a number in [0, 1], got -0.1"),
    ({"gaussian_share": 2}, "gaussian_share", "expected a number in [0, 1], got 2"),
    ({"gaussian_share": float("nan")}, "gaussian_share", "expected a number in [0, 1], got nan"),
    ({"quality": "good"}, "quality", "expected one of paper, best, got 'good'"),
    ({"quality": None}, "quality", "expected one of paper, best, got None"),
    ({"mode": "topk", "maps": ["error"]}, "maps", "topk"),
    ({"maps": ["vari"]}, "maps", "got 'vari'"),
    ({"maps": "variance"}, "maps", "expected a collection of names, got 'variance'"),
    ({"maps": None}, "maps", "expected a collection of names, got None"),
    ({"maps": [["ess"]]}, "maps", "got ['ess']"),
    ({"mode": ["exact"]}, "mode", "got ['exact']"),
    ({"index": 3}, "index", "expected the name of an index, got 3"),
    ({"index": b"tiny"}, "index", "got b'tiny'"),
    ({"timeout": "soon"}, "timeout", "expected a number of seconds, got 'soon'"),
    ({"timeout": float("nan")}, "timeout", "got nan"),
]


@pytest.mark.parametrize(("arguments", "name", "words"), BAD)
def test_bad_arguments(client, arguments, name, words):
    with pytest.raises(InvalidArgument) as caught:
        client.reconstruct(**{"y": IMAGE, "sigma": 0.1} | arguments)
    message = str(caught.value)
    assert message.startswith(f"{name}: expected")
    assert words in message
    assert "\n" not in message
    assert [violation.field for violation in caught.value.violations] == [name]
    assert caught.value.code == "INVALID_ARGUMENT"


def test_unknown_index(client):
    for ask in (
        lambda: client.reconstruct(IMAGE, sigma=0.1, index="nope"),
        lambda: client.explain(IMAGE, sigma=0.1, pixel=(0, 0), index="nope"),
        lambda: client.get_index("nope"),
    ):
        with pytest.raises(NotFound, match="index: expected one of tiny, got 'nope'"):
            ask()


def test_many_keeps_the_order_and_goes_on_after_an_error(client):
    images = [np.full((2, 2), np.nan), IMAGE, IMAGE.astype(int), IMAGE + 1, np.zeros((2, 2, 3)), IMAGE]
    outcomes = list(client.reconstruct_many(images, sigma=0.1, maps=["ess"], index="tiny"))
    assert len(outcomes) == len(images)
    for position in (0, 2, 4):
        assert isinstance(outcomes[position], InvalidArgument)
    for position in (1, 3, 5):
        expected = client.reconstruct(images[position], sigma=0.1, maps=["ess"])
        np.testing.assert_array_equal(outcomes[position].image, expected.image)
        np.testing.assert_array_equal(outcomes[position].ess, expected.ess)


def test_many_of_what_no_index_can_answer(client):
    outcomes = list(client.reconstruct_many([IMAGE, IMAGE], sigma=0.1, index="nope"))
    assert [type(outcome) for outcome in outcomes] == [NotFound, NotFound]


def test_many_of_none(client):
    assert list(client.reconstruct_many([], sigma=0.1)) == []


def test_many_checks_its_options_before_the_first_image(client):
    with pytest.raises(InvalidArgument, match="mode"):
        client.reconstruct_many([], sigma=0.1, mode="fast")


def test_many_is_lazy_and_reads_a_few_images_ahead(client):
    pulled = []

    def images():
        for number in range(100):
            pulled.append(number)
            yield IMAGE

    outcomes = client.reconstruct_many(images(), sigma=0.1)
    assert pulled == []
    for done in range(1, 20):
        next(outcomes)
        assert done <= len(pulled) <= done + 3
    outcomes.close()


def test_what_the_images_raise_reaches_the_caller(client):
    def images():
        yield IMAGE
        raise KeyError("lost")

    outcomes = client.reconstruct_many(images(), sigma=0.1)
    assert next(outcomes).image.shape == IMAGE.shape  # the results before it are not lost
    with pytest.raises(KeyError, match="lost"):
        next(outcomes)


@pytest.mark.slow
def test_many_with_a_large_image_between_small_ones(client):
    images = [np.zeros((n, n), np.float32) for n in (3, 1050, 4)]
    shapes = [outcome.image.shape for outcome in client.reconstruct_many(images, sigma=1)]
    assert shapes == [image.shape for image in images]


def test_explain(client):
    contributors = client.explain(IMAGE, sigma=0.2, pixel=(4, 0), top=72)
    weights = np.array([contributor.weight for contributor in contributors])
    assert len(contributors) == 72
    assert weights.sum() == pytest.approx(1)
    assert (np.diff(weights) <= 0).all()
    assert contributors[0].source.startswith("images.npy")
    assert {contributor.symmetry for contributor in contributors} == {"identity"}
    mean = sum(contributor.weight * contributor.value[0] for contributor in contributors)
    result = client.reconstruct(IMAGE, sigma=0.2, mode="exact")
    assert mean == pytest.approx(result.image[4, 0], abs=1e-6)


def test_explain_with_crops(client, tiny_index):
    images = np.load(tiny_index.parent / "images.npy")
    y = np.rint(255 * IMAGE).astype(np.uint8)
    (contributor,) = client.explain(y, sigma=0.2, pixel=(4, 0), top=1, context=4)
    around = np.pad(images[contributor.image], 11, mode="wrap")[contributor.row :, contributor.column :]
    np.testing.assert_allclose(contributor.crop[..., 0], 255 * around[6:17, 6:17], rtol=1e-6)
    assert contributor.crop.dtype == np.float32
    assert contributor.crop[5, 5] == pytest.approx(contributor.value)
    assert client.explain(y, sigma=0.2, pixel=(4, 0), top=1)[0].crop is None


def test_the_source_is_the_image_of_the_first_contributor(client):
    result = client.reconstruct(IMAGE, sigma=0.2, mode="exact", maps=["source"])
    for row, column in np.ndindex(IMAGE.shape):
        (contributor,) = client.explain(IMAGE, sigma=0.2, pixel=(row, column), top=1)
        assert result.source[row, column] == contributor.image


@pytest.mark.parametrize("pixel", [(0, 0), (0, 1099), (1099, 550), (17, 23)])
def test_explain_in_an_image_larger_than_a_message(remote, embedded, pixel):
    y = np.random.default_rng(5).random((1100, 1100), np.float32)
    assert remote.explain(y, sigma=0.3, pixel=pixel) == embedded.explain(y, sigma=0.3, pixel=pixel)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"pixel": (5, 0)}, "pixel"),
        ({"pixel": (0, -1)}, "pixel"),
        ({"pixel": (0,)}, "pixel"),
        ({"pixel": 3}, "pixel"),
        ({"pixel": (0.5, 0)}, "pixel"),
        ({"top": 0}, "top"),
        ({"top": 4097}, "top"),
        ({"context": -1}, "context"),
        ({"context": 1.5}, "context"),
        ({"context": 2**32 - 1}, "context"),
        ({"context": 150, "top": 12}, "context"),
        ({"sigma": 0}, "sigma"),
        ({"y": np.zeros(3)}, "y"),
    ],
)
def test_explain_bad_arguments(client, arguments, name):
    with pytest.raises(InvalidArgument, match=f"^{name}: expected"):
        client.explain(**{"y": IMAGE, "sigma": 0.1, "pixel": (0, 0)} | arguments)


def test_indexes(client):
    (info,) = client.list_indexes()
    assert info == client.get_index("tiny")
    assert (info.name, info.patch_size, info.channels, info.images, info.keys) == ("tiny", 3, 1, 2, 72)
    assert (info.distinct, info.equivariance, info.augment) == (72, "none", "none")
    assert len(info.digest) == 64


def test_the_descriptions_agree(remote, embedded):
    assert remote.list_indexes() == embedded.list_indexes()


@pytest.fixture(params=["remote", "embedded", "aio_remote", "aio_embedded"])
def own_client(request, server, tiny_index, loop) -> Client | Blocking:
    """A client that a test may close."""
    target = f"grpc://{server.address}" if request.param.endswith("remote") else tiny_index
    return Blocking(loop, lambda: aio.connect(target)) if "aio" in request.param else connect(target)


def test_a_closed_client_says_so(own_client):
    with own_client as client:
        client.list_indexes()
    client.close()
    for ask in (
        client.list_indexes,
        lambda: client.get_index("tiny"),
        lambda: client.reconstruct(IMAGE, sigma=0.1),
        lambda: client.reconstruct_many([IMAGE], sigma=0.1),
        lambda: client.explain(IMAGE, sigma=0.1, pixel=(0, 0)),
    ):
        with pytest.raises(FailedPrecondition, match="closed"):
            ask()


def test_a_batch_of_a_closed_client_says_so(own_client):
    with own_client as client:
        batches = [client.reconstruct_many([IMAGE, IMAGE], sigma=0.1) for _ in range(2)]
        next(batches[0])
    for batch in batches:
        with pytest.raises(LemmseError, match="closed"):
            list(batch)


@pytest.mark.parametrize("timeout", [float("inf"), 1e18])
def test_a_timeout_that_never_passes(client, timeout):
    assert client.reconstruct(IMAGE, sigma=0.1, timeout=timeout).image.shape == IMAGE.shape


def test_the_timeout_holds_for_a_whole_batch(client):
    def endless():
        while True:
            yield np.zeros((60, 60), np.float32)

    outcomes = []
    with pytest.raises(DeadlineExceeded) as caught:
        outcomes.extend(client.reconstruct_many(endless(), sigma=0.1, timeout=0.5))
    assert isinstance(caught.value, TimeoutError)
    assert outcomes
    assert all(isinstance(outcome, Result) for outcome in outcomes)
