"""The calibration record: accuracy and cost of mode hybrid on an index, measured on held-out images.

For each σ of a grid and each threshold (log of the largest tolerated contribution of an unopened group), it
contains the agreement with the sum over all keys, the cost, and the factor of the error estimate. These
determine the threshold for a given agreement at any σ.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["Calibration", "OperatingPoint"]

Row = tuple[float, ...]
_EQUAL = 1.01
"""Two σ are the same if their ratio is less; a bandwidth, for example, makes σ slightly larger."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Threshold of mode hybrid at one σ, with the expected agreement, cost and error scale."""

    threshold: float
    """Natural logarithm of the largest tolerated contribution of an unopened group."""
    accuracy_db: float
    """Expected agreement with the sum over all keys, PSNR in dB."""
    cost: float
    """Time relative to that of the sum over all keys."""
    error_scale: float
    """Factor for the estimated error of a pixel, chosen such that few pixels exceed it."""
    overlap_error_scale: float
    """The same for `aggregate="overlap"`."""
    rms_scale: float
    """Factor for the estimated error, such that its mean square is that of the error."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured agreement, cost and error scale; tables have one row per σ and one column per threshold."""

    images: int
    """Number of held-out images."""
    sigmas: Row
    """Noise standard deviations, in intensities, ascending."""
    queries: tuple[int, ...]
    """Number of measured patches at each σ."""
    thresholds: Row
    """Thresholds, descending, so that the cost grows along a row."""
    accuracy_db: tuple[Row, ...]
    """Agreement with the sum over all keys, PSNR in dB."""
    keys_touched: tuple[Row, ...]
    """Number of keys evaluated, mean over the patches."""
    cost: tuple[Row, ...]
    """Time relative to that of the sum over all keys."""
    error_scale: tuple[Row, ...]
    """Factor for the estimated error."""
    overlap_error_scale: tuple[Row, ...]
    """The same for `aggregate="overlap"`."""
    rms_scale: tuple[Row, ...]
    """Factor for the estimated error, such that its mean square is that of the error."""

    @classmethod
    def restore(cls, content: Mapping[str, Any]) -> "Calibration":
        """Return the calibration stored in a decoded JSON object."""

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
            rms_scale=table("rms_scale"),
        )

    def is_consistent(self) -> bool:
        """Return whether all tables have a row per σ and a column per threshold, of numbers."""
        measured = (self.accuracy_db, self.keys_touched, self.cost)
        tables = (*measured, self.error_scale, self.overlap_error_scale, self.rms_scale)
        rows = [self.sigmas, self.thresholds, self.queries, *(row for table in tables for row in table)]
        return (
            bool(self.sigmas and self.thresholds)
            and all(len(table) == len(self.sigmas) for table in (*tables, self.queries))
            and all(len(row) == len(self.thresholds) for table in tables for row in table)
            and all(isinstance(x, int | float) and not math.isnan(x) for row in rows for x in row)
            and all(a < b for a, b in pairwise(self.sigmas))
            and self.sigmas[0] > 0
        )

    def plan(self, sigma: float, accuracy_db: float) -> OperatingPoint:
        """Return the cheapest operating point that reached an agreement, or the most accurate if none did.

        Between two σ of the grid, it is the cheapest that reached the agreement at both, with the worse
        expectations of the two; beyond the ends of the grid, and within 1 % of a σ, the nearest is used.

        Examples
        --------
        >>> tables = dict(accuracy_db=((40.0, 60.0), (50.0, 70.0)), keys_touched=((9.0, 99.0),) * 2)
        >>> tables |= dict(cost=((0.01, 0.02),) * 2, error_scale=((1.0, 1.0),) * 2)
        >>> tables |= dict(overlap_error_scale=((2.0, 2.0),) * 2, rms_scale=((0.5, 0.5),) * 2)
        >>> tables |= dict(images=16, sigmas=(0.1, 1.0), queries=(4096, 1024), thresholds=(-2.0, -4.0))
        >>> curve = Calibration(**tables)
        >>> point = curve.plan(sigma=0.5, accuracy_db=50)
        >>> point.threshold, point.accuracy_db, point.cost
        (-4.0, 60.0, 0.02)
        """
        column = max(self._column(self.accuracy_db[row], accuracy_db) for row in self._rows(sigma))
        return self._point(sigma, column)

    def at(self, sigma: float, threshold: float) -> OperatingPoint:
        """Return the operating point with the largest threshold up to a given one, or the smallest."""
        enough = [column for column, own in enumerate(self.thresholds) if own <= threshold]
        return self._point(sigma, enough[0] if enough else len(self.thresholds) - 1)

    def _rows(self, sigma: float) -> set[int]:
        """Return the rows of the σ of the grid next to a σ."""
        last = len(self.sigmas) - 1
        above = next((row for row, measured in enumerate(self.sigmas) if measured * _EQUAL >= sigma), last)
        return {above, above if self.sigmas[above] <= sigma * _EQUAL else max(0, above - 1)}

    def _point(self, sigma: float, column: int) -> OperatingPoint:
        rows = self._rows(sigma)
        return OperatingPoint(
            threshold=self.thresholds[column],
            accuracy_db=min(self.accuracy_db[row][column] for row in rows),
            cost=max(self.cost[row][column] for row in rows),
            error_scale=max(self.error_scale[row][column] for row in rows),
            overlap_error_scale=max(self.overlap_error_scale[row][column] for row in rows),
            rms_scale=max(self.rms_scale[row][column] for row in rows),
        )

    @staticmethod
    def _column(reached: Row, accuracy_db: float) -> int:
        """Return the first column that reaches an agreement, or the most accurate one."""
        enough = [column for column, found in enumerate(reached) if found >= accuracy_db]
        return enough[0] if enough else reached.index(max(reached))
