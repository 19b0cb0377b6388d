"""Write images and stacks plane by plane, in the format of their suffix, and as a whole or not at all.

An output is written under a temporary name beside its own, and renamed when it is complete, so that readers
never see a part of it.
"""

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.lib import format as npy
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.layout import Layout
from lemmse.index.files.mapped import forget, reserve
from lemmse.index.files.pngs import write_png
from lemmse.index.files.scale import Scale
from lemmse.index.files.stack import Metadata
from lemmse.index.files.tiff import TIFF
from lemmse.index.files.tiff_options import tiff_options
from lemmse.index.files.zarrs import import_zarr, multiscales

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


def create_output(path: Path, layout: Layout, scale: Scale, metadata: Metadata) -> "Output":
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

    Raises
    ------
    InvalidArgument
        The format cannot hold such an image.
    """
    suffix = path.suffix.lower()
    check_output(suffix, layout, scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _create(suffix, path, layout, scale, metadata)
    except BaseException:
        _remove(_temporary(path))
        raise


def _create(suffix: str, path: Path, layout: Layout, scale: Scale, metadata: Metadata) -> "Output":
    if suffix == ".zarr":
        return _ZarrOutput(path, layout, scale, metadata)
    if suffix == ".npy":
        return _NpyOutput(path, layout, scale)
    if suffix == ".npz":
        return _HeldOutput(path, layout, scale, partial(_write_npz, metadata))
    if suffix == ".png":
        return _HeldOutput(path, layout, scale, lambda file, array: write_png(file, array, metadata))
    packed = scale.bits != 8 * scale.dtype.itemsize
    if layout.count == 1:
        options = tiff_options(layout, scale, metadata)
        return _HeldOutput(path, layout, scale, lambda file, array: tifffile.imwrite(file, array, **options))
    return (_PackedOutput if packed else _TiffOutput)(path, layout, scale, metadata)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _remove(path: Path) -> None:
    """Remove a file, or the folder of a Zarr array, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_npz(metadata: Metadata, file: BinaryIO, array: NDArray[Any]) -> None:
    arrays: dict[str, Any] = {str(metadata.details.get("name", "images")): array}
    np.savez(file, **arrays)


class Output(ABC):
    """An image or stack that is written; `commit` or `discard` it in the end."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        self.layout = layout
        self.temporary = _temporary(path)

    @abstractmethod
    def put(self, k: int, plane: NDArray[Any]) -> None:
        """Write plane k, (H, W) or (H, W, C), of the element type of the output."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete the temporary file."""

    def commit(self) -> None:
        """Complete the output, and give it its name."""
        self._finish()
        self.temporary.replace(self.path)

    def discard(self) -> None:
        """Remove what was written."""
        _remove(self.temporary)


class _ArrayOutput(Output):
    """An output whose planes are put into an array."""

    array: Any

    def put(self, k: int, plane: NDArray[Any]) -> None:
        self.array[self.layout.index(k)] = self.layout.from_plane(plane)
        forget(self.array)

    def _finish(self) -> None:
        self.array.flush()
        del self.array


class _NpyOutput(_ArrayOutput):
    def __init__(self, path: Path, layout: Layout, scale: Scale) -> None:
        super().__init__(path, layout)
        self.array = npy.open_memmap(self.temporary, "w+", scale.dtype, layout.shape)
        reserve(self.temporary)


class _TiffOutput(_ArrayOutput):
    """A stack in a TIFF file, uncompressed, mapped into memory."""

    def __init__(self, path: Path, layout: Layout, scale: Scale, metadata: Metadata) -> None:
        super().__init__(path, layout)
        options = tiff_options(layout, scale, metadata) | {"compression": None}
        self.array = tifffile.memmap(self.temporary, shape=layout.shape, dtype=scale.dtype, **options)
        reserve(self.temporary)


class _HeldOutput(_ArrayOutput):
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

    def put(self, k: int, plane: NDArray[Any]) -> None:
        self._file.write(plane, **self._options)

    def _finish(self) -> None:
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        super().discard()


class _ZarrOutput(_ArrayOutput):
    """A Zarr array with a chunk, or several, for each plane; an image of OME-Zarr at full resolution."""

    def __init__(self, path: Path, layout: Layout, scale: Scale, metadata: Metadata) -> None:
        super().__init__(path, layout)
        zarr, details = import_zarr(), metadata.details
        kind = {"zarr_format": details.get("format", 3)}
        attributes = dict(details.get("attributes", {}))
        image = multiscales(attributes) if details.get("group") else None
        given = details.get("chunks", layout.shape)
        inner = layout.axes if len(given) == len(layout.axes) else ""
        options: dict[str, Any] = {
            "shape": layout.shape,
            "dtype": scale.dtype,
            "chunks": tuple(
                min(size, given[i] if inner else size) if letter in "YX" + layout.colour else 1
                for i, (letter, size) in enumerate(zip(layout.axes, layout.shape, strict=True))
            ),
        }
        if kind["zarr_format"] == 3:
            options["dimension_names"] = list(layout.axes.lower())
        if image is None:
            self.array = zarr.create_array(store=self.temporary, attributes=attributes, **kind, **options)
        else:
            full = _full_resolution(image, layout)
            place = attributes.get("ome", attributes)
            kept = {"multiscales": [full]} | {key: place[key] for key in ("omero", "version") if key in place}
            attributes = {"ome": kept} if "ome" in attributes else kept
            group = zarr.open_group(self.temporary, mode="w", attributes=attributes, **kind)
            separator = (
                {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if kind["zarr_format"] == 2 else {}
            )
            self.array = group.create_array(full["datasets"][0]["path"], **separator, **options)

    def _finish(self) -> None:
        del self.array

    def commit(self) -> None:
        self._finish()
        old = self.temporary.with_suffix(".old")
        if self.path.exists():
            self.path.replace(old)
        self.temporary.replace(self.path)
        shutil.rmtree(old, ignore_errors=True)


def _full_resolution(image: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """Return the description of an OME-Zarr image with its first resolution and the axes that are left."""
    axes = list(image.get("axes") or layout.axes.lower())
    names = [(axis["name"] if isinstance(axis, dict) else axis).upper() for axis in axes]
    left = [names.index(letter) for letter in layout.axes if letter in names]
    dataset = dict(image["datasets"][0])
    if steps := dataset.get("coordinateTransformations"):
        dataset["coordinateTransformations"] = [
            {
                key: [value[i] for i in left] if isinstance(value, list) else value
                for key, value in step.items()
            }
            for step in steps
        ]
    return image | {"axes": [axes[i] for i in left], "datasets": [dataset]}
