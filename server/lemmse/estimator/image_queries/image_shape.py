"""What the shape of an image changes, if it is not that of the training images: noise and strata."""

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.backend import Backend
from lemmse.index import Index

__all__ = ["require_same_noise", "strata_of"]

_WHITENESS = 1e-2
"""Largest deviation from the identity, in any entry, of the covariance of the whitened noise of an image that
does not have the size of the training images."""


def require_same_noise(index: Index, shape: tuple[int, int, int]) -> None:
    """Raise InvalidArgument unless B yields the noise that the strata whiten, for an image of this shape."""
    try:
        index.problem.check(shape)
    except InvalidArgument as error:
        raise InvalidArgument.of("y", error.expected) from error
    if index.problem.depends_on_size:
        covariance = index.problem.covariance(shape, index.manifest.patch_size, index.manifest.patch_depth)
        if index.strata.whiteness_error(covariance) > _WHITENESS:
            raise InvalidArgument.of(
                "y",
                "expected an image of the training images' size, "
                f"{'x'.join(map(str, index.image_size))}, got {shape[0]}x{shape[1]}, where "
                f"{index.manifest.pre_inverse!r} makes other noise",
            )


def strata_of(backend: Backend, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the stratum of each pixel of a y of this shape, (D·H·W,); 0 where all strata count."""
    index, (depth, height, width, channels) = backend.index, shape
    if not index.strata.exclusive:
        return np.zeros(depth * height * width, np.int64)
    scale = index.problem.scale((height, width, channels))[None]
    stratum = np.tile(index.strata.of(backend.patches(scale, np.arange(height * width))), depth)
    if (stratum < 0).any():
        row, column = divmod(int(np.argmin(stratum)), width)
        raise InvalidArgument.of(
            "y",
            f"expected an image whose mask has the patterns of the index's training images, got "
            f"{height}x{width} pixels with another pattern around ({row}, {column})",
        )
    return stratum
