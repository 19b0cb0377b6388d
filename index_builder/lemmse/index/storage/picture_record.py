"""The picture record: image quality of an index, measured on held-out training images.

For each σ of a grid, it contains the refinement with the highest PSNR, its PSNR, and the PSNR of the paper's
formula. It is used for `quality="best"`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

__all__ = ["PAPER", "Pictures", "Refinement"]

Row = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Refinement:
    """The options that extend the paper's formula; the defaults are the formula itself."""

    aggregate: str = "centre"
    """Aggregate: centre, overlap or epll."""
    bandwidth: float = 0.0
    """Standard deviation τ of a Gaussian around each training patch in the prior, in intensities."""
    gaussian_share: float = 0.0
    """Weight γ of the mixture of Gaussians in the prior; the training patches have 1 − γ."""


PAPER = Refinement()
"""The paper's formula."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The best refinement at each σ."""

    images: int
    """Number of held-out images."""
    sigmas: Row
    """Noise standard deviations, in intensities, ascending."""
    refinements: tuple[Refinement, ...]
    """The best refinement at each σ."""
    best_db: Row
    """PSNR of the best refinement, in dB."""
    paper_db: Row
    """PSNR of the paper's formula, in dB."""
    noisy_db: Row
    """PSNR of the measurements, in dB."""

    @classmethod
    def restore(cls, content: Mapping[str, Any]) -> "Pictures":
        """Return the record stored in a decoded JSON object."""
        rows: dict[str, Any] = {name: tuple(row) for name, row in content.items() if name != "images"}
        rows["refinements"] = tuple(Refinement(**refinement) for refinement in rows["refinements"])
        return cls(images=content["images"], **rows)

    def is_consistent(self) -> bool:
        """Return whether there is an entry for each σ in all rows, of numbers."""
        rows = (self.sigmas, self.best_db, self.paper_db, self.noisy_db)
        ways = [number for way in self.refinements for number in (way.bandwidth, way.gaussian_share)]
        return (
            bool(self.sigmas)
            and all(len(row) == len(self.sigmas) for row in (*rows, self.refinements))
            and all(isinstance(x, int | float) and not math.isnan(x) for row in (*rows, ways) for x in row)
            and all(a < b for a, b in pairwise(self.sigmas))
            and self.sigmas[0] > 0
            and all(way.aggregate in ("centre", "overlap", "epll") for way in self.refinements)
            and all(way.bandwidth >= 0 and 0 <= way.gaussian_share <= 1 for way in self.refinements)
        )

    def best(self, sigma: float) -> Refinement:
        """Return the refinement for any σ.

        Aggregate and Gaussian share are those of the nearest σ. The bandwidth is interpolated between the two
        nearest σ, on a logarithmic scale, and is constant beyond the ends of the grid.

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
        """Return the expected PSNR at any σ in dB, interpolated like the bandwidth."""
        below, above, share = self._between(sigma)
        return (1 - share) * self.best_db[below] + share * self.best_db[above]

    def _between(self, sigma: float) -> tuple[int, int, float]:
        """Return the rows of the two nearest σ, and the position of σ between them, in [0, 1]."""
        above = next((i for i, measured in enumerate(self.sigmas) if measured >= sigma), len(self.sigmas) - 1)
        below = above if self.sigmas[above] <= sigma else max(0, above - 1)
        if above == below:
            return below, above, 0.0
        span = math.log(self.sigmas[above] / self.sigmas[below])
        return below, above, math.log(sigma / self.sigmas[below]) / span
