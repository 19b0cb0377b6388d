"""The map of the heaviest training images: those of the oracle, in every mode, for every estimator."""

import numpy as np
import pytest

from lemmse.contract.errors import Cancelled
from lemmse.contract.results import Result
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from tests.support.cases import constant, smooth
from tests.support.oracle import oracle

TRAINING = [
    np.rint(255 * x).astype(np.uint8)
    for x in (
        smooth(4, 6, 6, 1),
        constant(0.2, 6, 6),
        smooth(5, 6, 6, 1),
        constant(0.2, 6, 6),
        smooth(4, 6, 6, 1),
    )
]
"""Of which the first and the last, and the second and the fourth, are equal."""
Y = np.rint(255 * np.concatenate([smooth(5, 4, 7, 1), smooth(9, 4, 7, 1), constant(0.2, 4, 7)])) / 255
ALL_CELLS = {"nprobe": 10**6}
MODES = [{"mode": "exact"}, {"mode": "topk", "k": 3, **ALL_CELLS}, {"mode": "hybrid", **ALL_CELLS}]


@pytest.fixture(scope="module")
def lemmse(tmp_path_factory) -> Reconstructor:
    folder = tmp_path_factory.mktemp("source")
    np.save(folder / "x.npy", np.stack(TRAINING))
    return Reconstructor(open_index(build([folder / "x.npy"], folder / "index", patch_size=3)))


@pytest.fixture(scope="module")
def lightest() -> np.ndarray:
    """The largest weight of a patch of each training image, relative to the largest of all, (H, W, K)."""
    expected = oracle([x / 255 for x in TRAINING], Y, 0.1, 3)
    images = np.array([image for image, _, _ in expected.ids])
    of_images = [expected.weights[..., images == k].max(axis=-1) for k in range(len(TRAINING))]
    return np.stack(of_images, axis=-1) / expected.weights.max(axis=-1, keepdims=True)


def require_heaviest(result: Result, lightest: np.ndarray) -> None:
    assert result.source.dtype == np.float32
    assert result.source.shape == lightest.shape[:2]
    found = result.source.astype(int)
    assert (np.take_along_axis(lightest, found[..., None], axis=-1) > 1 - 1e-4).all()
    assert set(np.unique(found)) == {0, 1, 2}  # of equal images, the first


@pytest.mark.parametrize("options", MODES, ids=lambda options: options["mode"])
@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
def test_the_source_is_the_image_of_the_heaviest_patch(lemmse, lightest, options, aggregate):
    result = lemmse.reconstruct(Y, sigma=0.1, maps=["source", "ess"], aggregate=aggregate, **options)
    assert result.diagnostics.mode == options["mode"]
    require_heaviest(result, lightest)


def test_the_map_does_not_change_the_image(lemmse):
    for options in MODES:
        plain = lemmse.reconstruct(Y, sigma=0.1, **options)
        np.testing.assert_array_equal(
            lemmse.reconstruct(Y, sigma=0.1, maps=["source"], **options).image, plain.image
        )


@pytest.mark.parametrize("options", MODES, ids=lambda options: options["mode"])
def test_the_source_with_a_mask_is_that_of_the_observed_pixels(lemmse, options):
    mask = np.ones(Y.shape[:2], np.uint8)
    mask[:5] = 0
    mask[2, 3] = 1
    y = np.where(mask[..., None], TRAINING[2][0, 0] / 255, np.nan)
    y[5:] = TRAINING[2][:, [0, 1, 2, 3, 4, 5, 0]][[5, 0, 1, 2, 3, 4, 5]] / 255
    source = lemmse.reconstruct(y, sigma=0.01, mask=mask, maps=["source"], **options).source
    assert (source[7:11, 1:6] == 2).all()
    assert set(np.unique(source)) <= {0, 1, 2, 3, 4}  # also where nothing was observed


def test_gaussians_alone_have_no_source(lemmse):
    for mode in ("exact", "hybrid"):
        result = lemmse.reconstruct(Y, sigma=0.1, gaussian_share=1, mode=mode, maps=["source"])
        assert (result.source == -1).all()
        shared = lemmse.reconstruct(Y, sigma=0.1, gaussian_share=0.5, mode=mode, maps=["source"], **ALL_CELLS)
        assert (shared.source >= 0).all()


@pytest.mark.parametrize("estimator", ["mmse", "e-mmse"])
def test_the_source_of_whole_images_is_one_for_all_pixels(lemmse, estimator):
    rolled = np.roll(TRAINING[2], 2 if estimator == "e-mmse" else 0, axis=0)
    result = lemmse.reconstruct(rolled, sigma=0.1, estimator=estimator, maps=["source"])
    np.testing.assert_array_equal(result.source, np.full((6, 6), 2, np.float32))
    assert result.source.max() == 2  # a number, not an intensity, though y is of uint8
    left = lemmse.reconstruct(rolled, sigma=0.1, estimator=estimator, maps=["source"], exclude=[0, 1])
    assert set(np.unique(left.source)) == {2}


@pytest.mark.parametrize("options", MODES, ids=lambda options: options["mode"])
def test_images_that_are_left_out_are_no_sources(lemmse, options):
    whole = lemmse.reconstruct(Y, sigma=0.1, maps=["source"], **options).source
    source = lemmse.reconstruct(Y, sigma=0.1, maps=["source"], exclude=[0, 1], **options).source
    np.testing.assert_array_equal(source, np.choose(whole.astype(int), [4, 3, 2]))


def test_looking_images_up_can_be_cancelled(lemmse):
    polls = 0

    def cancelled() -> bool:
        nonlocal polls
        polls += 1
        return polls == last

    last = 0
    lemmse.reconstruct(Y, sigma=0.1, mode="exact", maps=["source"], cancelled=cancelled)
    last, polls = polls, 0
    with pytest.raises(Cancelled):
        lemmse.reconstruct(Y, sigma=0.1, mode="exact", maps=["source"], cancelled=cancelled)
