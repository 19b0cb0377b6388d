"""Volumes as a source: files and folders of them, each plane an image, read one by one.

A file has an axis of planes, Z or, if it has none, T; other axes number volumes. Arrays without names of axes
are (D, H, W), (N, D, H, W) or (N, D, H, W, C).
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import NotFound
from lemmse.index.files import READ, Stack, find_files, open_stack
from lemmse.index.files.zarrs import is_zarr
from lemmse.index.sources._image import Image, ImageSource, bad_source, decoding
from lemmse.index.sources._image_files import as_text, naming, read_plane
from lemmse.index.sources._reading import Reading

__all__ = ["VolumeSource", "depths_of", "open_volumes"]


@runtime_checkable
class VolumeSource(ImageSource, Protocol):
    """A source of volumes: its images are their planes, in order."""

    @property
    def depths(self) -> Sequence[int] | NDArray[np.int64]:
        """Number of planes of each volume."""
        ...


def depths_of(source: ImageSource) -> NDArray[np.int64]:
    """Return the number of planes of each volume of a source; an image is a volume of one plane."""
    if isinstance(source, VolumeSource):
        return np.asarray(source.depths, np.int64)
    return np.ones(len(source), np.int64)


class _Volumes:
    """The volumes in files.

    Parameters
    ----------
    spec : str
        The source, as the user wrote it.
    folder : Path
        The folder that the names are relative to.
    names : sequence of Path
        The files.
    reading : Reading
        How they are read.
    """

    def __init__(self, spec: str, folder: Path, names: Sequence[Path], reading: Reading) -> None:
        self.spec = spec
        self._folder = folder
        self._reading = reading
        self._last: tuple[Path, Stack] | None = None
        """The file that was read last, which is kept open for its next plane."""
        self._volumes: list[tuple[Path, str, NDArray[np.int64]]] = []
        """File, label and numbers of the planes in the file, of each volume."""
        for name in names:
            with naming(folder / name):
                planes = self._open(name).layout.volumes()
            for number, own in enumerate(planes):
                label = reading.label(as_text(name), number if len(planes) > 1 else None)
                self._volumes.append((name, label, own))
        self.depths = [len(planes) for _, _, planes in self._volumes]
        self._starts = list(accumulate(self.depths, initial=0))

    def __len__(self) -> int:
        """Return the number of planes."""
        return self._starts[-1]

    def __getitem__(self, k: int) -> Image:
        """Return plane k, decoded."""
        volume, z = self._find(k)
        name, _, planes = self._volumes[volume]
        with naming(self._folder / name):
            return read_plane(self._open(name), int(planes[z]), self._folder / name, self._reading)

    def label(self, k: int) -> str:
        """Return the origin of plane k, such as 'volumes.npy[3] plane 7'."""
        volume, z = self._find(k)
        return f"{self._volumes[volume][1]} plane {z}"

    def __del__(self) -> None:
        if self._last is not None:
            self._last[1].close()

    def _open(self, name: Path) -> Stack:
        if self._last is None or self._last[0] != name:
            if self._last is not None:
                self._last[1].close()
                self._last = None
            axes, stated = self._reading.axes, self._reading.stated
            self._last = name, open_stack(self._folder / name, axes=axes, stated=stated, volumes=True)
        return self._last[1]

    def _find(self, k: int) -> tuple[int, int]:
        k = range(len(self))[k]
        volume = bisect_right(self._starts, k) - 1
        return volume, k - self._starts[volume]


def open_volumes(spec: str | os.PathLike[str], reading: Reading | None = None) -> VolumeSource:
    """Open a source of volumes.

    Parameters
    ----------
    spec : str or path
        A file of volumes (TIFF, .npy, .npz, Zarr, OME-Zarr), or a folder of such files.
    reading : Reading, optional
        How the files are read; by default as they state it.

    Raises
    ------
    NotFound
        There is no such file or folder.
    InvalidArgument
        A file has no axis of planes, or cannot be read; or the folder has no such files.
    """
    path = Path(os.fspath(spec))
    if not os.fspath(spec) or not path.exists():
        raise NotFound(f"SOURCE: no such file or folder: {os.fspath(spec)!r}")
    if not path.is_dir() or is_zarr(path):
        return _Volumes(str(path), path.parent, [Path(path.name)], reading or Reading())
    with decoding(str(path)):
        found = find_files(path, lambda name: name.suffix.lower() in READ, is_leaf=is_zarr)
    if not found.files:
        raise bad_source(f"expected volumes in {path}, got none (of {' '.join(READ)})")
    return _Volumes(str(path), path, found.files, reading or Reading())
