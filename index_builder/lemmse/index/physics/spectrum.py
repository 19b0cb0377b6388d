"""The power spectrum of stationary noise whose pixels are correlated."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument

__all__ = ["Spectrum"]

_ASYMMETRY = 1e-6
"""Largest difference of the power at f and −f, relative to the largest power."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The power spectrum of stationary noise; its channels are independent, and its mean variance is 1.

    Construct it with `of`. The correlation of two pixels of a channel at the distance d is the inverse
    Fourier transform of its power at d.
    """

    name: str
    """What it was read from, as the user wrote it."""
    power: NDArray[np.float64]
    """Power at each frequency in the layout of `numpy.fft.fft2`, of mean 1: (h, w, C), or (h, w, 1) for any
    number of channels that are alike."""

    @classmethod
    def of(cls, name: str, power: NDArray[np.floating]) -> "Spectrum":
        """Return the spectrum that is proportional to a power at each frequency, (h, w, C) or (h, w, 1).

        Raises
        ------
        InvalidArgument
            The numbers are not finite, some are negative or all are 0, or f and −f have different power.

        Examples
        --------
        >>> Spectrum.of("rows", np.array([[3.0, 0], [1, 0]])[..., None]).power[..., 0]
        array([[3., 0.],
               [1., 0.]])
        """
        power = power.astype(np.float64)
        if not np.isfinite(power).all() or power.min() < 0 or not power.any():
            found = f"{power.min():g} to {power.max():g}"
            raise InvalidArgument.of(
                "noise", f"expected power that is finite, >= 0 and not all 0, got {found} in {name}"
            )
        power /= power.max()  # so that no sum overflows
        mirrored = np.roll(power[::-1, ::-1], 1, axis=(0, 1))
        if (apart := np.abs(power - mirrored).max()) > _ASYMMETRY:
            raise InvalidArgument.of(
                "noise",
                f"expected equal power at f and -f, frequency 0 first as in numpy.fft.fft2, got a difference "
                f"of {apart:.1g} of the largest power in {name}",
            )
        power = (power + mirrored) / 2
        return cls(name, power / power.mean())

    @property
    def size(self) -> tuple[int, int]:
        """Number of frequencies along columns and rows, (h, w)."""
        return self.power.shape[0], self.power.shape[1]

    def require_channels(self, channels: int) -> None:
        """Raise InvalidArgument unless images with so many channels can have this noise."""
        if self.power.shape[2] not in (1, channels):
            raise InvalidArgument.of(
                "noise", f"expected {channels} channels, those of the images, got {self.power.shape[2]}"
            )

    def at(self, height: int, width: int) -> NDArray[np.float64]:
        """Return the power at the frequencies of images of a size, that of the spectrum or smaller.

        Pixels of a smaller image have the correlation of their distance, up to half of its sides; what little
        power this makes negative is set to 0.

        Returns
        -------
        ndarray, float64, (H, W // 2 + 1, C) or (H, W // 2 + 1, 1)
            In the layout of `numpy.fft.rfft2`.
        """
        if (height, width) == self.size:
            return self.power[:, : width // 2 + 1]
        correlation = np.fft.fftshift(np.fft.ifft2(self.power, axes=(0, 1)).real, axes=(0, 1))
        top, left = (have // 2 - want // 2 for have, want in zip(self.size, (height, width), strict=True))
        near = np.fft.ifftshift(correlation[top : top + height, left : left + width], axes=(0, 1))
        power: NDArray[np.float64] = np.maximum(np.fft.rfft2(near, axes=(0, 1)).real, 0)
        return power

    def sample(self, shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return noise for an image of shape (H, W, C); it repeats where that is larger than the spectrum."""
        height, width, channels = shape
        white = rng.standard_normal((*self.size, channels))
        noise = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) * np.sqrt(self.power), axes=(0, 1)).real
        rows, columns = (
            np.arange(want) % have for want, have in zip((height, width), self.size, strict=True)
        )
        return np.asarray(noise[rows[:, None], columns])
