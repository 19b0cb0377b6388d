"""Operators on images: convolutions and diagonal operators."""

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Convolution", "Diagonal", "Operator", "Shape"]

Shape: TypeAlias = tuple[int, int, int]
"""Height, width and channels (H, W, C) of an image."""


class Operator(ABC):
    """A linear operator on images of any size, whose output has the shape of its input."""

    __slots__ = ()

    @abstractmethod
    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the operator applied to an image, (H, W, C)."""

    def check(self, shape: Shape) -> None:  # noqa: B027  (most operators accept images of any size)
        """Raise InvalidArgument unless the operator is defined on images of this shape."""


class Convolution(Operator):
    """A circular convolution, the same in all channels; it commutes with translations."""

    __slots__ = ()

    @abstractmethod
    def transfer(self, height: int, width: int) -> NDArray[np.complex128]:
        """Return the transfer function in the layout of `numpy.fft.rfft2`, (H, W // 2 + 1)."""

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the convolution with an image, (H, W, C), as float64."""
        size = x.shape[:2]
        spectrum = np.fft.rfft2(x.astype(np.float64), axes=(0, 1))
        spectrum *= self.transfer(*size)[..., None]
        return np.fft.irfft2(spectrum, s=size, axes=(0, 1))


class Diagonal(Operator):
    """Multiplication of each pixel by its own factor."""

    __slots__ = ()

    @abstractmethod
    def diagonal(self, shape: Shape) -> NDArray[np.float64]:
        """Return the factors for images of a shape, float64, (H, W, C)."""

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the product with an image, (H, W, C), as float64; a factor of 0 gives 0 even for NaN."""
        factors = self.diagonal((x.shape[0], x.shape[1], x.shape[2]))
        product: NDArray[np.float64] = np.multiply(x, factors, out=np.zeros(x.shape), where=factors != 0)
        return product
