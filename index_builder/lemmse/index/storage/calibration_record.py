"""What the hybrid posterior of an index gives for its work, as measured on images that were held out.

For each σ of a grid and each threshold (what a group of keys may hide before it is opened, as a logarithm)
the calibration holds the agreement with the sum over all keys that came of it, what it cost, and how its
estimate of its own error must be scaled. From that follows how much work an agreement takes at any σ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Calibration", "OperatingPoint"]

Row = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How to reach an agreement at one σ."""

    threshold: float
    """What a group may hide before it is opened, as a natural logarithm."""
    accuracy_db: float
    """Agreement with the sum over all keys to expect, PSNR in dB."""
    cost: float
    """Time relative to that of the sum over all keys."""
    error_scale: float
    """What the estimated error of a pixel is multiplied by, so that few pixels exceed it."""
    overlap_error_scale: float
    """The same for pixels that all patches tell which hold them."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Curves of agreement and cost; each table has a row for each σ and a column for each threshold."""

    images: int
    """Held-out images that the patches came from."""
    sigmas: Row
    """Noise standard deviations, ascending, intensities."""
    queries: tuple[int, ...]
    """Patches at each σ."""
    thresholds: Row
    """Thresholds, descending: the work grows along a row."""
    accuracy_db: tuple[Row, ...]
    """Agreement with the sum over all keys, PSNR in dB."""
    keys_touched: tuple[Row, ...]
    """Keys summed one by one, mean over the patches."""
    cost: tuple[Row, ...]
    """Time relative to that of the sum over all keys."""
    error_scale: tuple[Row, ...]
    """What the estimated error is multiplied by."""
    overlap_error_scale: tuple[Row, ...]
    """The same for the mean of overlapping patches."""

    @classmethod
    def restore(cls, content: Mapping[str, Any]) -> "Calibration":
        """Read what JSON made of a calibration."""

        def table(name: str) -> tuple[Row, ...]:
            return tuple(tuple(row) for row in content[name])

        return cls(
            images=content["images"],
            sigmas=tuple(content["sigmas"]),
            queries=tuple(content["queries"]),
            thresholds=tuple(content["thresholds"]),
            accuracy_db=table("accuracy_db"),
            keys_touched=table("keys_touched"),
            cost=table("cost"),
            error_scale=table("error_scale"),
            overlap_error_scale=table("overlap_error_scale"),
        )

    def plan(self, sigma: float, accuracy_db: float) -> OperatingPoint:
        """The least work that was seen to reach an agreement, or the most that was measured if none did.

        Between two σ of the grid it is the work that reaches it at both, and what is expected is the worse of
        the two; beyond the ends of the grid they are those of the nearest σ.

        Examples
        --------
        >>> tables = dict(accuracy_db=((40.0, 60.0), (50.0, 70.0)), keys_touched=((9.0, 99.0),) * 2)
        >>> tables |= dict(cost=((0.01, 0.02),) * 2, error_scale=((1.0, 1.0),) * 2)
        >>> tables |= dict(overlap_error_scale=((2.0, 2.0),) * 2)
        >>> tables |= dict(images=16, sigmas=(0.1, 1.0), queries=(4096, 1024), thresholds=(-2.0, -4.0))
        >>> curve = Calibration(**tables)
        >>> curve.plan(sigma=0.5, accuracy_db=50)
        OperatingPoint(threshold=-4.0, accuracy_db=60.0, cost=0.02, error_scale=1.0, overlap_error_scale=2.0)
        """
        last = len(self.sigmas) - 1
        above = next((row for row, known in enumerate(self.sigmas) if known >= sigma), last)
        rows = {above, above if self.sigmas[above] <= sigma else max(0, above - 1)}
        column = max(self._column(self.accuracy_db[row], accuracy_db) for row in rows)
        return OperatingPoint(
            threshold=self.thresholds[column],
            accuracy_db=min(self.accuracy_db[row][column] for row in rows),
            cost=max(self.cost[row][column] for row in rows),
            error_scale=max(self.error_scale[row][column] for row in rows),
            overlap_error_scale=max(self.overlap_error_scale[row][column] for row in rows),
        )

    @staticmethod
    def _column(reached: Row, accuracy_db: float) -> int:
        """The first column that reaches an agreement, or the one that comes nearest to it."""
        enough = [column for column, found in enumerate(reached) if found >= accuracy_db]
        return enough[0] if enough else reached.index(max(reached))
