"""Circular blur."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.index.physics._operators import Convolution
from lemmse.index.physics._spec import PhysicsKind, Read, Spec, is_file

__all__ = ["PHYSICS", "Blur"]

_FORMS = ("blur:gaussian:STD", "blur:disk:RADIUS", "blur:FILE")
_WIDEST = 100
"""Largest standard deviation and radius, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Blur(Convolution):
    """Circular convolution with a kernel.

    Examples
    --------
    >>> x = np.zeros((1, 4, 1))
    >>> x[0, 1] = 1.0
    >>> Blur(np.array([[0.25, 0.75]])).apply(x)[0, :, 0].round(12) + 0.0    # the origin is the second pixel
    array([0.25, 0.75, 0.  , 0.  ])
    """

    kernel: NDArray[np.float64]
    """Kernel of shape (h, w), with its origin at (⌊h/2⌋, ⌊w/2⌋)."""

    def transfer(self, height: int, width: int) -> NDArray[np.complex128]:
        """Return the Fourier transform of the kernel, which is wrapped around the image."""
        h, w = self.kernel.shape
        padded = np.pad(self.kernel, ((0, -h % height), (0, -w % width)))
        tiles = padded.reshape(padded.shape[0] // height, height, padded.shape[1] // width, width)
        wrapped = np.roll(tiles.sum(axis=(0, 2)), (-(h // 2), -(w // 2)), axis=(0, 1))
        return np.fft.rfft2(wrapped)


def _gaussian(std: float) -> NDArray[np.float64]:
    # Beyond 9 standard deviations the kernel vanishes in float64; truncating it earlier would cause ripples
    # in the spectrum.
    reach = int(np.ceil(9 * std))
    profile = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2)
    return np.outer(profile, profile)


def _disk(radius: float) -> NDArray[np.float64]:
    reach = int(radius)
    squares = np.arange(-reach, reach + 1) ** 2
    inside = squares[:, None] + squares <= radius**2
    return inside.astype(np.float64)


def _parse(spec: Spec, read: Read) -> Blur:
    match spec.words[1:]:
        case ["gaussian", word] if not is_file(word):
            kernel = _gaussian(spec.number(word, "STD", at_most=_WIDEST))
        case ["disk", word] if not is_file(word):
            kernel = _disk(spec.number(word, "RADIUS", at_most=_WIDEST))
        case words if is_file(path := ":".join(words)):
            kernel = read("kernel", path)
            if kernel.ndim != 2 or not kernel.sum() > 0:
                raise spec.error(
                    f"a kernel of shape (h, w) with a sum > 0, found shape {kernel.shape}, "
                    f"sum {kernel.sum():g}"
                )
        case _:
            raise spec.error(f"one of {', '.join(_FORMS)}, FILE being a .npy or .png")
    return Blur(kernel / kernel.sum())


PHYSICS = PhysicsKind(_FORMS, _parse)
