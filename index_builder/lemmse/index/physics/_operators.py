"""What an operator on images is: a convolution, or a multiplication of each pixel."""

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Convolution", "Diagonal", "Operator", "Shape"]

Shape: TypeAlias = tuple[int, int, int]
"""Height, width and channels (H, W, C) of an image."""


class Operator(ABC):
    """A linear operator on images of any size, the output having the input's shape."""

    __slots__ = ()

    @abstractmethod
    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Apply to an image of shape (H, W, C)."""

    def check(self, shape: Shape) -> None:  # noqa: B027  (most operators are for images of any size)
        """Raise InvalidArgument where images of this shape cannot be meant."""


class Convolution(Operator):
    """Circular convolution, the same in all channels: stationary, it commutes with translations."""

    __slots__ = ()

    @abstractmethod
    def transfer(self, height: int, width: int) -> NDArray[np.complex128]:
        """Transfer function on the half plane of `numpy.fft.rfft2`, shape (H, W // 2 + 1)."""

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Convolve an image of shape (H, W, C), in float64."""
        size = x.shape[:2]
        spectrum = np.fft.rfft2(x.astype(np.float64), axes=(0, 1))
        spectrum *= self.transfer(*size)[..., None]
        return np.fft.irfft2(spectrum, s=size, axes=(0, 1))


class Diagonal(Operator):
    """Multiplication of each pixel by its own factor."""

    __slots__ = ()

    @abstractmethod
    def diagonal(self, shape: Shape) -> NDArray[np.float64]:
        """The factors for images of a shape, float64, shape (H, W, C)."""

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Multiply an image of shape (H, W, C), in float64; a factor of 0 gives 0 even of NaN."""
        factors = self.diagonal((x.shape[0], x.shape[1], x.shape[2]))
        product: NDArray[np.float64] = np.multiply(x, factors, out=np.zeros(x.shape), where=factors != 0)
        return product
