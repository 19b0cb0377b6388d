"""How good the pictures of an index are, as measured on training images that were held out.

For each σ of a grid it holds the aggregate and the bandwidth τ that gave the best pictures, and how good
these and those of the paper's formula were. `quality="best"` takes them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Pictures"]

Row = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pictures:
    """The best aggregate and bandwidth at each σ."""

    images: int
    """Images that were held out."""
    sigmas: Row
    """Noise standard deviations, ascending, intensities."""
    aggregates: tuple[str, ...]
    """The better of centre and overlap at each σ."""
    bandwidths: Row
    """The best bandwidth τ for it, intensities."""
    best_db: Row
    """PSNR that these gave, in dB."""
    paper_db: Row
    """PSNR of centre and τ = 0, in dB."""
    noisy_db: Row
    """PSNR of the measurements, in dB."""

    @classmethod
    def restore(cls, content: Mapping[str, Any]) -> "Pictures":
        """Read what JSON made of it."""
        rows: dict[str, Any] = {name: tuple(row) for name, row in content.items() if name != "images"}
        return cls(images=content["images"], **rows)

    def best(self, sigma: float) -> tuple[str, float]:
        """The aggregate and the bandwidth to take at any σ.

        The aggregate is that of the nearest σ; the bandwidth lies between those of the two nearest, on a
        logarithmic scale of σ, and is that of the nearest beyond the ends of the grid.

        Examples
        --------
        >>> rows = dict(best_db=(34.0, 22.0), paper_db=(30.0, 21.0), noisy_db=(34.0, 8.0))
        >>> found = Pictures(16, (0.02, 0.4), ("overlap", "overlap"), (0.04, 0.0), **rows)
        >>> found.best(0.01), found.best(0.4)
        (('overlap', 0.04), ('overlap', 0.0))
        """
        above = next((i for i, known in enumerate(self.sigmas) if known >= sigma), len(self.sigmas) - 1)
        below = above if self.sigmas[above] <= sigma else max(0, above - 1)
        if above == below:
            return self.aggregates[above], self.bandwidths[above]
        span = math.log(self.sigmas[above] / self.sigmas[below])
        share = math.log(sigma / self.sigmas[below]) / span
        bandwidth = (1 - share) * self.bandwidths[below] + share * self.bandwidths[above]
        return self.aggregates[above if share >= 0.5 else below], bandwidth
