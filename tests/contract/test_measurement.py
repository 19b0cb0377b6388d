"""What a caller measured: ranges, maps, masks, and a batch of them."""

from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lemmse.contract.batch import measurements
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.results import Contributor, Result

IMAGES = [np.full((2, 3), 0.1 * number) for number in range(3)]


@given(
    st.sampled_from([np.uint8, np.uint16, ">u2"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=3))
    )
)
def test_integers_are_intensities_and_come_back_exactly(stored):
    measurement = Measurement.checked(stored, sigma=0.1, mask=None)
    assert measurement.y.dtype == np.float32
    assert measurement.white_level == np.iinfo(stored.dtype).max
    np.testing.assert_allclose(measurement.y, stored / measurement.white_level, rtol=1e-6)
    result = Result(
        image=measurement.y, variance=None, ess=None, log_density=None, error=None, diagnostics=None
    ).scaled(measurement.white_level)
    assert result.image.dtype == np.float32
    np.testing.assert_array_equal(np.rint(result.image), stored)


def test_results_in_the_range_of_the_image():
    ones = np.ones((2, 2), np.float32)
    result = Result(image=ones, variance=ones, ess=ones, log_density=ones, error=ones, diagnostics=None)
    assert result.scaled(1.0) is result
    scaled = result.scaled(255.0)
    assert (scaled.image == 255).all()
    assert (scaled.error == 255).all()
    assert (scaled.variance == 255**2).all()
    assert (scaled.ess == 1).all()
    assert (scaled.log_density == 1).all()
    contributor = Contributor(
        image=0, source="a.png", row=1, column=2, weight=0.5, value=(0.2, 1.0), symmetry="flip"
    )
    assert contributor.scaled(255.0) == replace(contributor, value=(51, 255))


@pytest.mark.parametrize("sigma", [1, 0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5)])
def test_one_sigma(sigma):
    measurement = Measurement.checked(IMAGES[0], sigma=sigma, mask=None)
    assert isinstance(measurement.sigma, float)
    assert measurement.sigma == sigma
    assert measurement.arrays.keys() == {"y"}


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 4)])
def test_maps_of_pixels_and_of_channels(shape):
    y = np.zeros((2, 3, 4), np.float32)
    measurement = Measurement.checked(y, sigma=np.ones(shape, int), mask=np.eye(2, 3).tolist())
    assert measurement.sigma.shape == shape
    assert measurement.sigma.dtype == np.float64
    arrays = measurement.arrays
    assert arrays.keys() == {"y", "sigma_map", "mask"}
    assert arrays["mask"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["mask"], [[1, 0, 0], [0, 1, 0]])
    assert measurement.nbytes == sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize(
    "mask",
    [
        np.array([[True, False]]),
        np.array([[255, 0]], np.uint8),
        [[0.5, 0.0]],
        [[-1, 0]],
        torch.tensor([[1, 0]]),
        np.asfortranarray([[2, 0]]),
    ],
)
def test_not_zero_is_observed(mask):
    measurement = Measurement.checked([[0.0, np.nan]], sigma=1, mask=mask)
    assert measurement.mask.tolist() == [[True, False]]


def test_a_crop_takes_everything_along():
    y = np.arange(24.0).reshape(4, 6)
    measurement = Measurement.checked(y, sigma=y + 1, mask=y % 2)
    cut = measurement.crop(np.array([3, 0]), np.array([5]))
    assert cut.y.tolist() == [[23], [5]]
    assert cut.sigma.tolist() == [[24], [6]]
    assert cut.mask.tolist() == [[True], [True]]
    assert Measurement.checked(y, sigma=1, mask=None).crop(np.array([0]), np.array([0])).sigma == 1


def batch(sigma, mask=None, images=IMAGES):
    """Sigma and mask of each image, or the field of its error."""
    return [
        outcome.violations[0].field
        if isinstance(outcome, InvalidArgument)
        else (np.max(outcome.sigma), None if outcome.mask is None else int(outcome.mask.sum()))
        for outcome in measurements(images, sigma, mask)
    ]


@pytest.mark.parametrize(
    "sigma", [0.5, np.array(0.5), np.full((2, 3), 0.5), torch.full((2, 3), 0.5), np.full((2, 3, 1), 0.5)]
)
def test_one_for_all(sigma):
    images = [image[..., None] for image in IMAGES]
    assert batch(sigma, images=images) == [(0.5, None)] * 3
    assert batch(1, np.ones((2, 3)), images) == [(1, 6)] * 3


@pytest.mark.parametrize(
    "sigma",
    [
        [1, 2, 3],
        (1, 2, 3),
        np.array([1, 2, 3]),
        torch.tensor([1, 2, 3]),
        iter([1, 2, 3]),
        [1, np.full((2, 3), 2), np.full((2, 3, 1), 3)],
    ],
)
def test_one_for_each(sigma):
    images = [image[..., None] for image in IMAGES]
    assert batch(sigma, images=images) == [(1, None), (2, None), (3, None)]


def test_masks_for_each_may_be_none():
    masks = [None, np.ones((2, 3)), np.zeros((2, 3))]
    assert batch(1, masks) == [(1, None), (1, 6), (1, 0)]


def test_what_fails_fails_alone():
    images = [IMAGES[0], np.zeros(3), IMAGES[0], IMAGES[0]]
    outcomes = batch([1, 1, "a", 1], [None, None, None, np.ones(2)], images)
    assert outcomes == [(1, None), "y", "sigma", "mask"]


def test_numbers_that_are_known_to_differ_are_refused_at_once():
    with pytest.raises(InvalidArgument, match="sigma: expected one for each of the 3 images, got 2"):
        measurements(IMAGES, [1, 2], None)
    with pytest.raises(InvalidArgument, match="mask: expected one for each of the 3 images, got 4"):
        measurements(IMAGES, 1, [None] * 4)


def test_numbers_that_are_not_known_show_when_one_is_missing():
    assert batch(iter([1, 2])) == [(1, None), (2, None), "sigma"]
    assert batch([1, 2], images=iter(IMAGES)) == [(1, None), (2, None), "sigma"]
    assert batch(1, iter([None]), images=IMAGES[:2]) == [(1, None), "mask"]


def test_a_batch_is_read_one_at_a_time():
    pulled = []

    def counting(name):
        for number in range(1, 100):
            pulled.append((name, number))
            yield np.full((2, 2), 0.1) if name == "y" else number

    outcomes = measurements(counting("y"), counting("sigma"), None)
    assert pulled == []
    next(outcomes)
    assert pulled == [("y", 1), ("sigma", 1)]


class TestMaskedArrays:
    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
    @pytest.mark.parametrize("also", [None, (4, 5), (4, 5, 1), "shape"])
    def test_masked_pixels_were_not_observed(self, shape, also):
        rng = np.random.default_rng(4)
        y, hidden = rng.random(shape), rng.random(shape) < 0.3
        mask = None if also is None else rng.random(shape if also == "shape" else also) < 0.6
        found = Measurement.checked(np.ma.masked_array(y, hidden), sigma=0.1, mask=mask)
        np.testing.assert_array_equal(found.y, y)
        seen = np.ones(shape, bool) if mask is None else mask
        if seen.ndim < len(shape):
            seen = seen[..., None]
        np.testing.assert_array_equal(
            found.mask,
            np.broadcast_to(seen.reshape(*shape[:2], *seen.shape[2 : len(shape)]), shape) & ~hidden,
        )

    def test_nothing_masked(self):
        assert Measurement.checked(np.ma.masked_array(np.ones((4, 5))), sigma=0.1, mask=None).mask is None

    @pytest.mark.parametrize("argument", ["sigma", "mask"])
    def test_other_arguments_are_not_masked(self, argument):
        values = {"sigma": 0.1, "mask": None} | {argument: np.ma.masked_equal(np.ones((4, 5)), 1)}
        with pytest.raises(
            InvalidArgument, match=f"{argument}: expected an array, got one with masked values"
        ):
            Measurement.checked(np.ones((4, 5)), **values)
