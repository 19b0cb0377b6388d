"""What several programs measure and print: seconds, decibels, and tables of rows."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

__all__ = ["decibels", "print_rows", "timed"]

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what a call returns, and the seconds it took."""
    start = time.perf_counter()
    outcome = work()
    return outcome, time.perf_counter() - start


def decibels(squares: NDArray[np.floating[Any]], most: float = 100.0) -> float:
    """Return the PSNR of squared errors in dB, for a peak of 1, and at most `most`."""
    least = 10 ** (-most / 10)
    return -10 * math.log10(max(float(np.mean(squares, dtype=np.float64)), least))


def print_rows(rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print a table with a line for each row and a column for each name; None is left empty."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    Console(width=160).print(table)


def _cell(x: Any) -> str:
    if x is None:
        return ""
    if not isinstance(x, float):
        return str(x)
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"
