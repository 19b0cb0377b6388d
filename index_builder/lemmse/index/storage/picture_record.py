"""How good the pictures of an index are, as measured on training images that were held out.

For each σ of a grid it holds the refinement that gave the best pictures, and how good these and those of the
paper's formula were. `quality="best"` takes it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["PAPER", "Pictures", "Refinement"]

Row = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Refinement:
    """What goes beyond the paper's formula; by default nothing does."""

    aggregate: str = "centre"
    """What a pixel is: centre or overlap."""
    bandwidth: float = 0.0
    """Standard deviation τ of a Gaussian about each patch of the prior, intensities."""
    gaussian_share: float = 0.0
    """Share of the prior that the mixture of Gaussians has; the training patches have the rest."""


PAPER = Refinement()
"""The formula untouched."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The best refinement at each σ."""

    images: int
    """Images that were held out."""
    sigmas: Row
    """Noise standard deviations, ascending, intensities."""
    refinements: tuple[Refinement, ...]
    """What was best at each σ."""
    best_db: Row
    """PSNR that it gave, in dB."""
    paper_db: Row
    """PSNR of the paper's formula, in dB."""
    noisy_db: Row
    """PSNR of the measurements, in dB."""

    @classmethod
    def restore(cls, content: Mapping[str, Any]) -> "Pictures":
        """Read what JSON made of it."""
        rows: dict[str, Any] = {name: tuple(row) for name, row in content.items() if name != "images"}
        rows["refinements"] = tuple(Refinement(**refinement) for refinement in rows["refinements"])
        return cls(images=content["images"], **rows)

    def best(self, sigma: float) -> Refinement:
        """The refinement to take at any σ.

        Aggregate and share are those of the nearest σ; the bandwidth lies between those of the two nearest,
        on a logarithmic scale of σ, and is that of the nearest beyond the ends of the grid.

        Examples
        --------
        >>> rows = dict(best_db=(34.0, 22.0), paper_db=(30.0, 21.0), noisy_db=(34.0, 8.0))
        >>> ways = Refinement("overlap", 0.04, 0.5), Refinement("overlap", 0.0, 0.01)
        >>> found = Pictures(16, (0.02, 0.4), ways, **rows)
        >>> found.best(0.01)
        Refinement(aggregate='overlap', bandwidth=0.04, gaussian_share=0.5)
        >>> round(found.expected_db(0.09), 1)
        28.0
        """
        below, above, share = self._between(sigma)
        one, other = self.refinements[below], self.refinements[above]
        bandwidth = (1 - share) * one.bandwidth + share * other.bandwidth
        return replace(other if share >= 0.5 else one, bandwidth=bandwidth)

    def expected_db(self, sigma: float) -> float:
        """PSNR that it gives at any σ, likewise, in dB."""
        below, above, share = self._between(sigma)
        return (1 - share) * self.best_db[below] + share * self.best_db[above]

    def _between(self, sigma: float) -> tuple[int, int, float]:
        """The numbers of the two nearest σ, and how far from the first to the second one is."""
        above = next((i for i, known in enumerate(self.sigmas) if known >= sigma), len(self.sigmas) - 1)
        below = above if self.sigmas[above] <= sigma else max(0, above - 1)
        if above == below:
            return below, above, 0.0
        span = math.log(self.sigmas[above] / self.sigmas[below])
        return below, above, math.log(sigma / self.sigmas[below]) / span
