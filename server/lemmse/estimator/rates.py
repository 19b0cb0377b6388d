"""Times of exact and hybrid sums on a GPU, by which mode auto chooses there.

On a CPU the choice follows from the work and from the calibration of the index (see `modes`). On a GPU
hybrid is calibrated on each image, and which mode is faster depends on the card: see `rate_measurement`.
"""

from dataclasses import dataclass

__all__ = ["LEAST_PIXELS", "Times"]

LEAST_PIXELS = 1 << 18
"""Number of pixels of the smallest image for which hybrid may be faster, and worth measuring."""
_GAIN = 0.9
"""Largest time of hybrid, relative to that of exact, for which it is chosen."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of sums on a device."""

    exact: float
    """Exact, for one pixel."""
    hybrid: float
    """Hybrid, for one pixel; infinite if the requested agreement is not expected."""
    calibration: float
    """The calibration of hybrid on an image."""

    def favour_hybrid(self, pixels: int) -> bool:
        """Return whether hybrid is expected to be faster for an image of so many pixels, by a tenth or more.

        Examples
        --------
        >>> times = Times(exact=4e-6, hybrid=3e-6, calibration=0.3)
        >>> times.favour_hybrid(10**6), times.favour_hybrid(4 * 10**5)
        (True, False)
        """
        return self.calibration + self.hybrid * pixels < _GAIN * self.exact * pixels
