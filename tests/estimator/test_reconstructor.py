"""From a measurement to a reconstruction."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract import choices
from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.oracle import agreement

MODES = tuple(choices.MODES)
X = np.stack([smooth(seed, 9, 8, 3) for seed in range(6)])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reconstructor")
    np.save(folder / "x.npy", X)
    return open_index(build([folder / "x.npy"], folder / "index", patch_size=3))


@pytest.fixture(scope="module")
def lemmse(index):
    return Reconstructor(index)


@given(
    shift=st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
    sigma=st.sampled_from([0.01, 0.2, 1.0]),
    mode=st.sampled_from(MODES),
)
@settings(max_examples=30, deadline=None)
def test_translating_y_translates_the_result(lemmse, shift, sigma, mode):
    y = smooth(77, 7, 10, 3) + sigma * np.random.default_rng(1).standard_normal((7, 10, 3))

    def roll(a):
        return np.roll(a, shift, axis=(0, 1))

    maps = ("variance", "ess", "log_density")
    moved = lemmse.reconstruct(roll(y), sigma=sigma, mode=mode, k=30, maps=maps)
    still = lemmse.reconstruct(y, sigma=sigma, mode=mode, k=30, maps=maps)
    for name in ("image", "variance", "ess", "log_density"):
        np.testing.assert_allclose(getattr(moved, name), roll(getattr(still, name)), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_vanishing_noise_returns_a_training_image(lemmse, mode):
    for x in X:
        assert agreement(lemmse.reconstruct(x, sigma=1e-6, mode=mode).image, x) > 100


@pytest.mark.parametrize("mode", ["exact", "auto"])
def test_infinite_noise_returns_the_mean_of_all_targets(lemmse, mode):
    y = smooth(5, 4, 4, 3) + 1e5 * np.random.default_rng(1).standard_normal((4, 4, 3))
    image = lemmse.reconstruct(y, sigma=1e6, mode=mode).image
    np.testing.assert_allclose(image, np.broadcast_to(X.mean(axis=(0, 1, 2)), image.shape), atol=2e-2)


def test_auto_is_exact_up_to_the_work_given(index):
    y = smooth(5, 4, 5, 3)
    work = y[..., 0].size * index.manifest.keys * index.patch_length
    for exact_work, expected in ((work, "exact"), (work - 1, "hybrid")):
        result = Reconstructor(index, device="cpu", exact_work=exact_work).reconstruct(y, sigma=0.1)
        assert result.diagnostics.mode == expected


def test_diagnostics_tell_what_ran(lemmse, index):
    y = smooth(5, 4, 5, 3)
    exact = lemmse.reconstruct(y, sigma=0.1, mode="exact").diagnostics
    assert (exact.mode, exact.index, exact.version) == ("exact", "index", "1")
    assert exact.keys == exact.keys_touched == len(X) * 72
    assert exact.seconds > 0
    topk = lemmse.reconstruct(y, sigma=0.1, mode="topk", k=3, nprobe=2).diagnostics
    assert topk.mode == "topk"
    assert 3 <= topk.keys_touched < exact.keys


def test_large_images_are_cut_into_blocks(lemmse):
    y = smooth(8, 150, 130, 3)
    whole = lemmse.reconstruct(y, sigma=0.1).image
    # Circular boundaries: the middle of a crop is what it is in the whole.
    crop = lemmse.reconstruct(y[100:, :20], sigma=0.1).image
    np.testing.assert_allclose(whole[101:149, 1:19], crop[1:49, 1:19], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["exact", "topk"])
def test_cancelling_ends_the_call(lemmse, mode):
    with pytest.raises(Cancelled):
        lemmse.reconstruct(X[0], sigma=0.1, mode=mode, cancelled=lambda: True)
    with pytest.raises(Cancelled):
        lemmse.explain(X[0], sigma=0.1, pixel=(0, 0), cancelled=lambda: True)


def test_cancelling_ends_the_naming_of_patches(lemmse):
    calls = itertools.count()
    named = lemmse.explain(X[0], sigma=10.0, pixel=(0, 0), top=100, cancelled=lambda: next(calls) < 0)
    assert len(named.contributors) == 100
    needed = next(calls)
    for last in range(needed - 4, needed):  # before each of the four reads
        polls = iter([False] * last + [True])
        with pytest.raises(Cancelled):
            lemmse.explain(X[0], sigma=10.0, pixel=(0, 0), top=100, cancelled=polls.__next__)
        assert not list(polls)


NAN, INF = X[0].copy(), X[0].copy()
NAN[1, 2, 0] = np.nan
INF[1, 2, 0] = np.inf

BAD = [
    ({"y": X[0][..., :2]}, r"y: expected an image of shape \(H, W, 3\), got \(9, 8, 2\)"),
    ({"y": X[0][..., 0]}, r"y: expected an image of shape \(H, W, 3\), got \(9, 8\)"),
    ({"y": X}, r"y: expected an image of shape \(H, W, 3\), got \(6, 9, 8, 3\)"),
    ({"y": X[0][:0]}, r"y: expected an image of shape \(H, W\) or .*, or a volume .*, got \(0, 8, 3\)"),
    ({"y": np.zeros((9, 8, 3), np.int32)}, r"y: expected floats in \[0, 1\], uint8 or uint16, got int32"),
    ({"y": X[0] + 0j}, r"y: expected floats .*, got complex"),
    ({"y": "image"}, r"y: expected floats .*, got <U5"),
    ({"y": NAN}, r"y: expected finite numbers, got nan"),
    ({"y": INF}, r"y: expected finite numbers, got inf"),
    ({"y": 1e9 * X[0]}, r"y: expected numbers within ±1e\+06, got \d"),
    ({"sigma": 0.0}, r"sigma: expected a number in \[1e-06, 1e\+06\], got 0"),
    ({"sigma": -1}, r"sigma: expected a number .*, got -1"),
    ({"sigma": np.nan}, r"sigma: expected a number .*, got nan"),
    ({"sigma": np.inf}, r"sigma: expected a number .*, got inf"),
    ({"sigma": 10**400}, r"sigma: expected a number, a map or auto, got 10000"),
    ({"accuracy_db": 10**400}, r"accuracy_db: expected a number of dB, got 10000"),
    ({"bandwidth": 10**400}, r"bandwidth: expected a number, got 10000"),
    ({"sigma": "much"}, r"sigma: expected a number, a map or auto, got 'much'"),
    ({"mode": "fast"}, r"mode: expected one of auto, exact, topk, hybrid, got 'fast'"),
    ({"k": 0}, r"k: expected a whole number >= 1, got 0"),
    ({"k": 1.5}, r"k: expected a whole number >= 1, got 1.5"),
    ({"nprobe": -1}, r"nprobe: expected a whole number >= 1, got -1"),
    (
        {"maps": ["variance", "entropy"]},
        r"maps: expected names out of variance, ess, log_density, error, source, got 'entropy'",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_arguments_are_named(lemmse, change, message):
    arguments = {"y": X[0], "sigma": 0.1} | change
    with pytest.raises(InvalidArgument, match=f"^{message}") as caught:
        lemmse.reconstruct(arguments.pop("y"), **arguments)
    assert caught.value.argument == next(iter(change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixel": (9, 0)}, r"pixel: expected numbers >= 0 and below \(9, 8\), got \(9, 0\)"),
        ({"pixel": (0, -1)}, r"pixel: .*, got \(0, -1\)"),
        ({"pixel": 3}, r"pixel: expected \(row, column\), or \(plane, row, column\) in a volume, got 3"),
        ({"pixel": (0.5, 1)}, r"pixel: expected \(row, column\), or .*, got \(0.5, 1\)"),
        ({"top": 0}, r"top: expected a whole number >= 1, got 0"),
    ],
)
def test_bad_arguments_of_explain_are_named(lemmse, change, message):
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        lemmse.explain(X[0], **({"sigma": 0.1, "pixel": (0, 0)} | change))


def test_more_contributors_than_there_are_name_all(lemmse, index):
    named = lemmse.explain(X[0], sigma=10.0, pixel=(0, 0), top=10**30)
    assert len(named.contributors) == index.manifest.keys


def test_unknown_device_is_named(index):
    with pytest.raises(InvalidArgument, match=r"device: expected auto, cpu or a GPU .*, got 'abacus'"):
        Reconstructor(index, device="abacus")


def test_cancelling_ends_the_validation_of_a_large_image(lemmse):
    y = np.zeros((1024, 1024, X[0].shape[2]), np.float32)
    y[-1, -1] = np.nan
    with pytest.raises(InvalidArgument, match="expected finite numbers"):
        lemmse.reconstruct(y, sigma=0.1)
    polls = itertools.count()
    for call in (lemmse.reconstruct, lambda y, **options: lemmse.explain(y, pixel=(0, 0), **options)):
        with pytest.raises(Cancelled):
            call(y, sigma=0.1, cancelled=lambda: next(polls) % 4 == 3)
    assert next(polls) == 8
