"""Write images and stacks plane by plane, or large planes in parts, in the format of their suffix."""

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import LARGE_PIXELS
from lemmse.contract.replacing import naming, temporary_name
from lemmse.index.files.layout import Layout
from lemmse.index.files.mapped_outputs import mapped_output
from lemmse.index.files.output import ArrayOutput, Output, remove
from lemmse.index.files.pngs import write_png
from lemmse.index.files.scale import Scale
from lemmse.index.files.stack import Metadata
from lemmse.index.files.tiff import TIFF
from lemmse.index.files.tiff_options import tiff_options

__all__ = ["WRITTEN", "Output", "check_output", "create_output"]

WRITTEN = (".npy", ".npz", ".png", *TIFF, ".zarr")
"""Suffixes, in lower case, of the formats that can be written."""


def check_output(suffix: str, layout: Layout, scale: Scale) -> None:
    """Raise InvalidArgument if a format cannot hold an image."""
    if suffix != ".png":
        return
    if layout.count != 1:
        raise InvalidArgument(
            f"PNG holds one picture, got {layout.count} ({layout.axes}); use TIFF, npy or Zarr"
        )
    if layout.channels not in (1, 3) or scale.dtype not in (np.bool_, np.uint8, np.uint16):
        raise InvalidArgument(
            f"PNG holds 1 or 3 channels of bool, uint8 or uint16, got {layout.channels} of {scale.dtype}; "
            "use TIFF"
        )


def create_output(
    path: Path, layout: Layout, scale: Scale, metadata: Metadata, *, temporary: Path | None = None
) -> "Output":
    """Return an output to put planes into.

    Parameters
    ----------
    path : Path
        The file; its suffix, one of `WRITTEN`, determines the format. A missing folder is created.
    layout : Layout
        The axes.
    scale : Scale
        The element type and number of bits.
    metadata : Metadata
        What to keep of the input.
    temporary : Path, optional
        What `Output.keep` has left of the same output, to go on with.

    Raises
    ------
    InvalidArgument
        The format cannot hold such an image.
    """
    suffix = path.suffix.lower()
    check_output(suffix, layout, scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    if temporary is not None:
        return mapped_output(suffix, layout)(path, layout, scale, metadata, temporary=temporary)
    try:
        with naming(path):
            return _create(suffix, path, layout, scale, metadata)
    except BaseException:
        remove(temporary_name(path))
        raise


def _create(suffix: str, path: Path, layout: Layout, scale: Scale, metadata: Metadata) -> "Output":
    if suffix in (".zarr", ".npy"):
        return mapped_output(suffix, layout)(path, layout, scale, metadata)
    if suffix == ".npz":
        return _HeldOutput(path, layout, scale, partial(_write_npz, metadata))
    if suffix == ".png":
        return _HeldOutput(path, layout, scale, lambda file, array: write_png(file, array, metadata))
    packed = scale.bits != 8 * scale.dtype.itemsize
    large = prod(layout.plane_shape[:2]) > LARGE_PIXELS
    if layout.count == 1 and (packed or not large):
        options = tiff_options(layout, scale, metadata)
        return _HeldOutput(path, layout, scale, lambda file, array: tifffile.imwrite(file, array, **options))
    kind = _PackedOutput if packed else mapped_output(suffix, layout)
    return kind(path, layout, scale, metadata)


def _write_npz(metadata: Metadata, file: BinaryIO, array: NDArray[Any]) -> None:
    arrays: dict[str, Any] = {str(metadata.details.get("name", "images")): array}
    np.savez(file, **arrays)


class _HeldOutput(ArrayOutput):
    """An output that is written when all of it is there."""

    def __init__(
        self, path: Path, layout: Layout, scale: Scale, write: Callable[[BinaryIO, NDArray[Any]], Any]
    ) -> None:
        super().__init__(path, layout)
        self.array = np.empty(layout.shape, scale.dtype)
        self._write = write

    def _finish(self) -> None:
        with self.temporary.open("wb") as file:
            self._write(file, self.array)


class _PackedOutput(Output):
    """A stack in a TIFF file whose numbers are packed; its planes come in order, and are written as pages."""

    def __init__(self, path: Path, layout: Layout, scale: Scale, metadata: Metadata) -> None:
        super().__init__(path, layout)
        one = Layout(layout.axes[-len(layout.plane_shape) :], layout.plane_shape)
        self._options = tiff_options(one, scale, metadata) | {"metadata": None}
        self._options = {name: self._options[name] for name in self._options if name not in ("imagej", "ome")}
        self._file = tifffile.TiffWriter(self.temporary)
        self._plane = np.empty(layout.plane_shape, scale.dtype)

    def put(
        self, k: int, plane: NDArray[Any], rows: slice = slice(None), columns: slice = slice(None)
    ) -> None:
        self._plane[rows, columns] = plane
        height, width = self._plane.shape[:2]
        if (rows.indices(height)[1], columns.indices(width)[1]) == (height, width):
            self._file.write(self._plane, **self._options)

    def _finish(self) -> None:
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        super().discard()
