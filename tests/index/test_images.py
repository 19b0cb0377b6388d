"""Patches of a stack of images against the definition, one pixel at a time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.index.images.stack import Images
from tests.support.oracle import patch

SHAPES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5)


def stack_of(shapes, channels) -> list[np.ndarray]:
    rng = np.random.default_rng(len(shapes))
    return [rng.integers(0, 256, (*shape, channels)).astype(np.uint8) for shape in shapes]


@given(SHAPES, st.integers(1, 4), st.integers(1, 9))
@settings(deadline=None)
def test_patches_wrap_around_in_images_of_any_size(shapes, channels, p):
    parts = stack_of(shapes, channels)
    stack = Images.stack(parts)
    cut = stack.patches(np.arange(stack.positions), p)
    expected = [
        patch(x, row, column, p) for x in parts for row in range(x.shape[0]) for column in range(x.shape[1])
    ]
    np.testing.assert_array_equal(cut, expected)
    assert cut.dtype == np.uint8


@given(SHAPES)
def test_positions_are_located_in_their_image(shapes):
    parts = stack_of(shapes, 1)
    stack = Images.stack(parts)
    assert len(stack) == len(parts)
    for n, (k, row, column) in enumerate(stack.locate(np.arange(stack.positions))):
        assert stack.pixels[n] == parts[k][row, column]
    for k, x in enumerate(parts):
        np.testing.assert_array_equal(stack[k], x)


def test_centre_of_an_even_patch_is_below_and_right_of_the_middle():
    x = np.arange(16).reshape(4, 4, 1)
    assert Images.stack([x]).patches(np.array([5]), 2).tolist() == [[0, 1, 4, 5]]
