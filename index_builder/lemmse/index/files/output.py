"""An output: an image or stack that is written in parts, and as a whole or not at all.

It is written under a temporary name beside its own, and renamed when it is complete, so that readers never
see a part of it.
"""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lemmse.contract.replacing import naming, temporary_name
from lemmse.index.files.layout import Layout
from lemmse.index.files.mapped import forget

__all__ = ["ArrayOutput", "Output", "remove"]


def remove(path: Path) -> None:
    """Remove a file, or the folder of a Zarr array, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class Output(ABC):
    """An image or stack that is written; `commit`, `discard` or `keep` it in the end."""

    def __init__(self, path: Path, layout: Layout, temporary: Path | None = None) -> None:
        self.path = path
        self.layout = layout
        self.temporary = temporary or temporary_name(path)

    @abstractmethod
    def put(
        self, k: int, plane: NDArray[Any], rows: slice = slice(None), columns: slice = slice(None)
    ) -> None:
        """Write plane k, (H, W) or (H, W, C), or some of its rows and columns, in the output's element type.

        Parts of a plane come row by row.
        """

    @abstractmethod
    def _finish(self) -> None:
        """Complete the temporary file."""

    def commit(self) -> None:
        """Complete the output, and give it its name."""
        with naming(self.path):
            self._finish()
            self._rename()

    def _rename(self) -> None:
        """Give the complete output its name."""
        self.temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what was written."""
        remove(self.temporary)

    def keep(self) -> Path | None:
        """Leave what was written for a later output to go on with, and return its path.

        It is None, and all is removed, for formats that cannot.
        """
        self.discard()
        return None

    def sync(self) -> bool:
        """Have what was written stored, and return whether `keep` leaves it."""
        return False


class ArrayOutput(Output):
    """An output whose planes are put into an array."""

    array: Any

    def put(
        self, k: int, plane: NDArray[Any], rows: slice = slice(None), columns: slice = slice(None)
    ) -> None:
        """Write a plane, or some of its rows and columns."""
        self.array[self.layout.index(k, rows, columns)] = self.layout.from_plane(plane)
        forget(self.array)

    def _finish(self) -> None:
        self.array.flush()
        del self.array
