"""Outputs whose parts are written where they belong, so that a stopped one can go on: .npy, TIFF and Zarr."""

import shutil
from abc import abstractmethod
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.lib import format as npy
from numpy.typing import NDArray

from lemmse.contract.limits import LARGE_PIXELS
from lemmse.index.files.layout import Layout
from lemmse.index.files.mapped import forget, reserve
from lemmse.index.files.output import ArrayOutput
from lemmse.index.files.scale import Scale
from lemmse.index.files.stack import Metadata
from lemmse.index.files.tiff_options import tiff_options
from lemmse.index.files.zarrs import import_zarr, multiscales

__all__ = ["MappedOutput", "mapped_output"]

TILE = 256
"""Side of the tiles of a large picture, in pixels."""


def mapped_output(suffix: str, layout: Layout) -> "type[MappedOutput]":
    """Return the class for formats whose parts are written where they belong."""
    if suffix == ".zarr":
        return _ZarrOutput
    if suffix == ".npy":
        return _NpyOutput
    return _TiffOutput if layout.count > 1 else _TiledOutput


class MappedOutput(ArrayOutput):
    """An output whose parts are written where they belong."""

    def __init__(
        self, path: Path, layout: Layout, scale: Scale, metadata: Metadata, *, temporary: Path | None = None
    ) -> None:
        super().__init__(path, layout, temporary)
        if temporary is None:
            self.array = self._create(scale, metadata)
        else:
            self.array = self._open(scale)

    @abstractmethod
    def _create(self, scale: Scale, metadata: Metadata) -> Any:
        """Return the array of a new file."""

    @abstractmethod
    def _open(self, scale: Scale) -> Any:
        """Return the array of the file that is there."""

    def sync(self) -> bool:
        """Have what was written stored."""
        self.array.flush()
        return True

    def keep(self) -> Path | None:
        """Leave what was written."""
        self._finish()
        return self.temporary


class _NpyOutput(MappedOutput):
    def _create(self, scale: Scale, metadata: Metadata) -> Any:
        array = npy.open_memmap(self.temporary, "w+", scale.dtype, self.layout.shape)
        reserve(self.temporary)
        return array

    def _open(self, scale: Scale) -> Any:
        return npy.open_memmap(self.temporary, "r+")


class _TiffOutput(MappedOutput):
    """A stack in a TIFF file, uncompressed, mapped into memory."""

    def _create(self, scale: Scale, metadata: Metadata) -> Any:
        options = tiff_options(self.layout, scale, metadata) | {"compression": None}
        array = tifffile.memmap(self.temporary, shape=self.layout.shape, dtype=scale.dtype, **options)
        reserve(self.temporary)
        return array

    def _open(self, scale: Scale) -> Any:
        return tifffile.memmap(self.temporary, mode="r+")


class _TiledOutput(MappedOutput):
    """A large picture in a TIFF file in tiles, uncompressed, mapped into memory."""

    def _create(self, scale: Scale, metadata: Metadata) -> Any:
        options = tiff_options(self.layout, scale, metadata) | {"compression": None}
        if options["imagej"]:  # whose files have no tiles
            options |= {"imagej": False, "metadata": {"axes": self.layout.axes}}
        tifffile.imwrite(
            self.temporary, shape=self.layout.shape, dtype=scale.dtype, tile=(TILE, TILE), **options
        )
        reserve(self.temporary)
        return self._open(scale)

    def _open(self, scale: Scale) -> Any:
        with tifffile.TiffFile(self.temporary) as file:
            offset = file.pages[0].dataoffsets[0]
            dtype = scale.dtype.newbyteorder(file.byteorder)
        height, width, *channels = self.layout.plane_shape
        # The tiles are stored one after the other, row by row, those at the border with what is beyond it.
        grid = (-(-height // TILE), -(-width // TILE), TILE, TILE, *channels)
        return np.memmap(self.temporary, dtype, "r+", offset, grid)

    def put(
        self, k: int, plane: NDArray[Any], rows: slice = slice(None), columns: slice = slice(None)
    ) -> None:
        height, width = self.layout.plane_shape[:2]
        top, bottom, _ = rows.indices(height)
        left, right, _ = columns.indices(width)
        for i in range(top // TILE, -(-bottom // TILE)):
            inner, part = _overlap(i * TILE, top, bottom)
            for j in range(left // TILE, -(-right // TILE)):
                inner_columns, part_columns = _overlap(j * TILE, left, right)
                self.array[i, j, inner, inner_columns] = plane[part, part_columns]
        forget(self.array)


def _overlap(start: int, low: int, high: int) -> tuple[slice, slice]:
    """Return the overlap of the tile at `start` with low … high − 1, counted from `start` and from `low`."""
    first, last = max(start, low), min(start + TILE, high)
    return slice(first - start, last - start), slice(first - low, last - low)


class _ZarrOutput(MappedOutput):
    """A Zarr array with a chunk, or several, for each plane; an image of OME-Zarr at full resolution."""

    def _create(self, scale: Scale, metadata: Metadata) -> Any:
        layout, zarr, details = self.layout, import_zarr(), metadata.details
        kind = {"zarr_format": details.get("format", 3)}
        attributes = dict(details.get("attributes", {}))
        image = multiscales(attributes) if details.get("group") else None
        given = details.get("chunks", layout.shape)
        large = prod(layout.plane_shape[:2]) > LARGE_PIXELS
        inner = layout.axes if len(given) == len(layout.axes) else ""
        options: dict[str, Any] = {
            "shape": layout.shape,
            "dtype": scale.dtype,
            "chunks": tuple(
                _chunk(size, given[i] if inner else size, large and letter in "YX")
                if letter in "YX" + layout.colour
                else 1
                for i, (letter, size) in enumerate(zip(layout.axes, layout.shape, strict=True))
            ),
        }
        if kind["zarr_format"] == 3:
            options["dimension_names"] = list(layout.axes.lower())
        if image is None:
            return zarr.create_array(store=self.temporary, attributes=attributes, **kind, **options)
        full = _full_resolution(image, layout)
        place = attributes.get("ome", attributes)
        kept = {"multiscales": [full]} | {key: place[key] for key in ("omero", "version") if key in place}
        attributes = {"ome": kept} if "ome" in attributes else kept
        group = zarr.open_group(self.temporary, mode="w", attributes=attributes, **kind)
        separator = (
            {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if kind["zarr_format"] == 2 else {}
        )
        return group.create_array(full["datasets"][0]["path"], **separator, **options)

    def _open(self, scale: Scale) -> Any:
        node = import_zarr().open(self.temporary, mode="r+")
        image = multiscales(dict(node.attrs)) if hasattr(node, "arrays") else None
        return node if image is None else node[image["datasets"][0]["path"]]

    def sync(self) -> bool:
        return True  # chunks are files, each written as a whole

    def _finish(self) -> None:
        del self.array

    def _rename(self) -> None:
        old = self.temporary.with_suffix(".old")
        if self.path.exists():
            self.path.replace(old)
        self.temporary.replace(self.path)
        shutil.rmtree(old, ignore_errors=True)


def _chunk(size: int, given: int, large: bool) -> int:
    """Return the length of a chunk: as in the input, or that of a tile where this would be too long."""
    return min(size, TILE if large and given > 8 * TILE else given)


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
