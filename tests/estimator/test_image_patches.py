"""Patches cut on the device of the keys, and whitened there: those of NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lemmse.estimator.image_patches import ImagePatches
from lemmse.estimator.whitening import Whitening
from lemmse.index.images.stack import BOUNDARIES, Images
from lemmse.index.images.volumes import planes_around
from lemmse.index.patches.strata import Strata

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)),
    sides=st.tuples(st.sampled_from([1, 3]), st.integers(1, 7)),
    boundary=st.sampled_from(BOUNDARIES),
    data=st.data(),
)
def test_they_are_those_of_the_images(shape, sides, boundary, data):
    image = np.random.default_rng(0).random(shape)
    positions = st.integers(0, np.prod(shape[:3]) - 1)
    n = np.array(data.draw(st.lists(positions, min_size=1, max_size=9)))
    around = planes_around([shape[0]], sides[0], boundary)
    right = Images.stack(list(image), around).patches(n, sides[1], boundary)
    patches = ImagePatches(image, (sides[0], sides[1], sides[1]), boundary, DEVICE)
    np.testing.assert_array_equal(patches.at(n).cpu(), right)
    np.testing.assert_array_equal(patches.centres(n).cpu(), image.reshape(-1, shape[3])[n])


def test_arrays_that_are_not_contiguous_or_not_writable():
    image = np.broadcast_to(np.arange(12).reshape(1, 3, 4, 1)[:, ::-1, ::2], (1, 3, 2, 2))
    patches = ImagePatches(image, (1, 1, 1), "reflect", DEVICE)
    np.testing.assert_array_equal(patches.at(np.arange(6)).cpu(), image.reshape(-1, 2))


@pytest.mark.parametrize("kind", ["scale", "matrix", "matrix and levels"])
def test_whitening_is_that_of_the_strata(kind):
    rng = np.random.default_rng(1)
    scale = np.ones((1, 8)) if kind != "scale" else rng.integers(0, 3, (4, 8)) * 0.7
    matrix = None if kind == "scale" else rng.standard_normal((8, 8))
    levels = matrix @ np.tile(np.eye(2), (4, 1)) if kind == "matrix and levels" else None
    strata, u = Strata(scale, matrix, levels), rng.standard_normal((5, 8))
    whitening = Whitening(strata, DEVICE)
    for stratum in range(len(strata)):
        found = whitening.whiten(torch.from_numpy(u).to(DEVICE), stratum)
        np.testing.assert_allclose(found.cpu(), strata.whiten_precisely(u, stratum), rtol=1e-12, atol=1e-12)
    if levels is None:
        with pytest.raises(TypeError, match="without their level"):
            whitening.levels(found, 0)
    else:
        found = whitening.levels(torch.from_numpy(u).to(DEVICE), 0)
        np.testing.assert_allclose(found.cpu(), strata.levels(u, 0), rtol=1e-12)
