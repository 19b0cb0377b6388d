"""Datasets of numbers in HDF5 files, read by parts.

A dataset has one of the compressions that come with h5py, applied once, so that no chunk decodes to more than
it says: gzip, whose decoder knows no limit, is checked before long chunks are decoded.
"""

import zlib
from collections.abc import Iterator
from itertools import product
from math import prod
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lemmse.contract.errors import FailedPrecondition, InvalidArgument
from lemmse.index.files.limits import MAX_SAMPLES

if TYPE_CHECKING:
    import h5py

__all__ = ["HDF5", "Dataset", "datasets", "open_dataset"]

HDF5 = (".h5", ".hdf5")
"""Suffixes of HDF5 files, in lower case."""

_GZIP, _SHUFFLE, _CHECKSUM, _LZF = 1, 2, 3, 32000
_COMPRESSIONS = {_GZIP, 4, 5, 6, _LZF}
"""HDF5's numbers for gzip, szip, n-bit, scale-offset and LZF."""
_GZIP_RATIO = 1032
"""Largest ratio of lengths of gzip."""


class Dataset:
    """A dataset in an HDF5 file, which is open as long as the dataset is there.

    Parameters
    ----------
    found : h5py.Dataset
        The dataset.

    Raises
    ------
    InvalidArgument
        Its numbers are elsewhere, compressed in another way, or in chunks that are too large.
    """

    def __init__(self, found: "h5py.Dataset") -> None:
        self._dataset = found
        self.shape: tuple[int, ...] = found.shape or ()
        self.dtype = found.dtype
        self.chunks: tuple[int, ...] | None = found.chunks
        if found.external or found.is_virtual:
            raise InvalidArgument(
                "expected numbers in the file itself, got those of other files; store it anew"
            )
        plan = found.id.get_create_plist()
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        compressions = [code for code in filters if code not in (_SHUFFLE, _CHECKSUM)]
        if unknown := sorted(set(compressions) - _COMPRESSIONS) or compressions[1:]:
            raise InvalidArgument(
                f"expected gzip, lzf or szip, once, got filter {unknown[0]}; store it anew, as h5repack does"
            )
        self._gzipped = _GZIP in filters
        if self.chunks is not None and prod(self.chunks) > MAX_SAMPLES:
            raise InvalidArgument(f"expected chunks of at most {MAX_SAMPLES} values, got {self.chunks}")

    @property
    def axes(self) -> str | None:
        """Letters of the axes, if the labels of the dimensions are letters of axes."""
        letters = "".join(dimension.label.upper() for dimension in self._dataset.dims)
        return letters if len(letters) == len(self.shape) and {"Y", "X"} <= set(letters) else None

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        """Return the numbers that integers and slices, one for each axis, select."""
        if self._gzipped:
            for place in self._chunks_of(index):
                self._check_length(place)
        numbers: NDArray[Any] = self._dataset[index]
        return numbers

    def _chunks_of(self, index: tuple[Any, ...]) -> Iterator[tuple[int, ...]]:
        """Return the first element of each chunk that an index reads."""
        ranges = []
        for i, chunk, length in zip(index, self.chunks or (), self.shape, strict=True):
            start, stop = i.indices(length)[:2] if isinstance(i, slice) else (i, i + 1)
            ranges.append(range(start - start % chunk, stop, chunk))
        return product(*ranges)

    def _check_length(self, place: tuple[int, ...]) -> None:
        """Raise InvalidArgument if a chunk would decode to more than its size."""
        info = self._dataset.id.get_chunk_info_by_coord(place)
        if info.byte_offset is None or info.size * _GZIP_RATIO <= MAX_SAMPLES:
            return
        expected = prod(self.chunks or ()) * self.dtype.itemsize
        mask, content = self._dataset.id.read_direct_chunk(place)
        if mask:  # this chunk was stored without some of the filters
            return
        decoder, rest, length = zlib.decompressobj(), content, 0
        while length <= expected and (decoded := decoder.decompress(rest, 1 << 20)):
            length += len(decoded)
            rest = decoder.unconsumed_tail
        if length > expected:
            raise InvalidArgument(f"expected chunks of {expected} bytes, got a longer one; it is damaged")


def open_dataset(path: Path, inner: str) -> Dataset:
    """Open a dataset, for example /entry/images.

    Raises
    ------
    InvalidArgument
        There is no such dataset, or it cannot be read, see `Dataset`.
    FailedPrecondition
        h5py is not installed.
    """
    file = _import_h5py().File(path, "r")
    found = file.get(inner)
    if found is None or not hasattr(found, "chunks") or found.file.filename != file.filename:
        raise InvalidArgument(f"expected a dataset of this file, got {inner}, which is none")
    return Dataset(found)


def datasets(path: Path) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape and element type of the datasets of a file, by path in it; links are not followed."""
    found: dict[str, tuple[tuple[int, ...], Any]] = {}

    def visit(name: str, node: Any) -> None:
        if hasattr(node, "chunks"):
            found[f"/{name}"] = (node.shape or (), node.dtype)

    with _import_h5py().File(path, "r") as file:
        file.visititems(visit)
    return found


def _import_h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise FailedPrecondition("HDF5 needs h5py; pip install 'lemmse[hdf5]'") from error
    module: ModuleType = h5py
    return module
