"""The layout of the arrays of an index version, checked before any memory is taken for their content.

An index may come from an untrusted source. Codecs may run code, a few bytes may claim an array of any size,
and the compiled loops follow the offsets that they read. Therefore only Zarr format 3 is read, of arrays with
the codecs, chunks, types and shapes with which a build writes them; each compressed chunk must decode to its
own size, and the offsets of cells, leaves and patches must be ascending and end where the arrays end.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.contract.errors import DataLoss
from lemmse.index.clustering.groups import leading_count
from lemmse.index.clustering.moments import LEADING
from lemmse.index.clustering.sketches import ALL
from lemmse.index.storage import zarr_store
from lemmse.index.storage.folder import ARRAYS, DEPTHS, SOURCES
from lemmse.index.storage.inverted_lists import code_size
from lemmse.index.storage.manifest import REMEDY, Manifest
from lemmse.index.storage.packing import LANES
from lemmse.index.storage.pinned import PinnedFiles
from lemmse.index.storage.quantization import Quantization
from lemmse.index.storage.shards import NEIGHBOURS, name_of

__all__ = ["require_layout"]

_METADATA = "zarr.json"
_METADATA_BYTES = 1 << 16
_CODECS = frozenset(("bytes", "crc32c", "sharding_indexed", "zstd"))
"""Names of the codecs that are written and read."""
_KEYS = {"name": "default", "configuration": {"separator": "/"}}
"""The naming of chunks."""
_DECODED = 1 << 28, 64
"""All arrays together have at most so many bytes, plus so many for each byte of the files."""
_MISSING = (1 << 64) - 1
"""Marks a chunk of a Zarr shard that is not stored, being all zeros."""
_CRC = 4
"""Bytes of a checksum at the end of a plain array, and of the table of a Zarr shard."""
_KERNEL_NUMBERS = 1 << 26
"""Largest number of elements of a kernel or a mask."""


@dataclass(frozen=True, slots=True)
class _Array:
    """What the metadata of an array says."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: tuple[int, ...]
    """Shape of the part of the array that is in one file."""
    chunk: tuple[int, ...] | None
    """Shape of the chunks in such a part; None if it is plain."""

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def files(self) -> Iterator[str]:
        """Yield the names of the files with its content."""
        counts = [-(-length // own) for length, own in zip(self.shape, self.stored, strict=True)]
        for place in product(*map(range, counts)):
            yield "/".join([self.name, "c", *map(str, place)])


def require_layout(files: PinnedFiles, manifest: Manifest, first_shard: int = 0) -> None:
    """Raise DataLoss unless the arrays of a version have the layout that its manifest says.

    Parameters
    ----------
    files : PinnedFiles
        The files of the version, or those of some of its shards.
    manifest : Manifest
        Its manifest, which counts what these shards have.
    first_shard : int
        Number of the first shard.

    Raises
    ------
    DataLoss
        A file does not belong there, or an array is missing, or it has other metadata, another shape, chunks
        of another size, or offsets that lead nowhere.
    """
    arrays, groups = _read_arrays(files)
    most = _DECODED[0] + _DECODED[1] * sum(len(content) for content in files.contents.values())
    if (total := sum(array.nbytes for array in arrays.values())) > most:
        raise DataLoss(f"the arrays claim {total} bytes, from files that may hold {most} at most; {REMEDY}")
    expected = _Expected(files, arrays, groups, manifest)
    expected.version()
    counts = [expected.shard(name_of(first_shard + number)) for number in range(manifest.shards)]
    for name, found in zip(("distinct", "keys", "cells", "leaves"), np.sum(counts, axis=0), strict=True):
        if found != getattr(manifest, name):
            raise DataLoss(
                f"the shards have {found} {name}, the manifest says {getattr(manifest, name)}; {REMEDY}"
            )
    expected.nothing_else()


@dataclass
class _Expected:
    """The arrays that a version has to have."""

    files: PinnedFiles
    arrays: dict[str, _Array]
    groups: set[str]
    manifest: Manifest

    def version(self) -> None:
        """Check the arrays of the version."""
        manifest, p, c = self.manifest, self._p, self.manifest.channels
        n, f4, f8 = None, "float32", "float64"
        group = self._group(ARRAYS)
        (pixels, _) = group("images/pixels", manifest.dtype, (n, c))
        sizes = group.values("images/sizes", (manifest.images, 2))
        if sizes.min() < 1 or sizes.max() > 1 << 24 or int(sizes.prod(axis=1).sum()) != pixels:
            raise DataLoss(f"{ARRAYS}/images/sizes does not fit the pixels; {REMEDY}")
        if manifest.patch_depth > 1:
            depths = group.values(DEPTHS, (n,))
            if depths.min() < 1 or depths.max() > manifest.images or depths.sum() != manifest.images:
                raise DataLoss(f"{ARRAYS}/{DEPTHS} does not fit the images; {REMEDY}")
            if (sizes != sizes[np.repeat(np.cumsum(depths) - depths, depths)]).any():
                raise DataLoss(f"{ARRAYS}/images/sizes differ in a volume; {REMEDY}")
        group("strata/scale", f8, (manifest.strata, p))
        if f"{ARRAYS}/strata/whitener" in self.arrays:
            group("strata/whitener", f8, (p, p))
        if manifest.equivariance == "offset":
            group("strata/constants", f8, (p, c))
        (cells, _) = group("cells/centroids", f4, (n, p))
        # The manifest of some shards counts their cells only.
        group.offsets("strata/cells", manifest.strata, cells)
        if cells < manifest.cells:
            raise DataLoss(f"{ARRAYS}/cells/centroids has too few rows; {REMEDY}")
        group("basis/mean", f4, (p,))
        group("basis/axes", f4, (p, p))
        if count := manifest.gaussians:
            r = p - c if manifest.equivariance == "offset" else p
            shapes = {
                "weights": (count,),
                "means": (count, p),
                "variances": (count, r),
                "axes": (count, p, r),
            }
            for name, shape in shapes.items():
                group(f"mixture/{name}", f4, shape)
        for name in ("kernel", "mask"):
            found = self.arrays.get(f"{ARRAYS}/physics/{name}")
            if found is not None:
                if len(found.shape) not in (2, 3) or not 0 < prod(found.shape) <= _KERNEL_NUMBERS:
                    raise DataLoss(f"{found.name} has the shape {found.shape}; {REMEDY}")
                group(f"physics/{name}", f8, found.shape)
        if manifest.noise is not None:
            (*_, own) = group("physics/noise", f8, (n, n, n))
            if own not in (1, c):
                raise DataLoss(f"{ARRAYS}/physics/noise has {own} channels; {REMEDY}")

    def shard(self, folder: str) -> tuple[int, int, int, int]:
        """Check the arrays of a shard, and return its numbers of distinct keys, patches, cells and leaves."""
        manifest, p, c = self.manifest, self._p, self.manifest.channels
        f4, i4, n = "float32", "int32", None
        group = self._group(f"{folder}/{ARRAYS}")
        (u,) = group("counts", i4, (n,))
        (m, _) = group("ids", i4, (n, 3))
        cell_keys = group.offsets("cells/keys", n, u)
        cells = len(cell_keys) - 1
        cell_leaves = group.offsets("cells/leaves", cells, n)
        leaves = int(cell_leaves[-1])
        leaf_keys = group.offsets("leaves/keys", leaves, u, least=1)
        group.offsets("leaves/patches", leaves, m, least=1)
        if not (cell_keys == leaf_keys[cell_leaves]).all():
            raise DataLoss(f"{folder}: its cells do not begin with a leaf; {REMEDY}")
        nonempty = int(np.count_nonzero(np.diff(cell_leaves)))
        runs, blocks = -(-u // LANES), int((-(-np.diff(cell_leaves) // LANES)).sum())
        even, extent = p + p % 2, min(p, LEADING) + 1
        leading = leading_count(p)
        others = even - leading
        group("targets", f4, (m, c))
        if manifest.augment == "dihedral":
            group("symmetries", "uint8", (m,))
        group("cells/moments", f4, (nonempty, 2 * p + 4 * c + c * p + 2 * extent))
        plain: Mapping[str, tuple[str, tuple[int, ...]]] = {
            "keys": (manifest.key_dtype, (runs, p, LANES)),
            "moments": (f4, (runs, 1 + 2 * c, LANES)),
            "leaves/n": (f4, (blocks, LANES)),
            "leaves/leading": (f4, (blocks, leading, 2, LANES)),
            "leaves/variance": (f4, (blocks, LANES)),
            "leaves/target": (f4, (blocks, c, LANES)),
            "leaves/target_variance": (f4, (blocks, c, LANES)),
            "leaves/cross": (f4, (blocks, c, leading, LANES)),
            "leaves/isotropic": (f4, (blocks, 2, LANES)),
            "leaves/low": (f4, (leaves, extent)),
            "leaves/high": (f4, (leaves, extent)),
            "leaves/target_low": (f4, (leaves, c)),
            "leaves/target_high": (f4, (leaves, c)),
            "sketches/centre": (f4, (nonempty, ALL)),
            "sketches/step": (f4, (nonempty, 1)),
            "sketches/off": (f4, (nonempty, 2)),
            "sketches/near": (i4, (runs, 5, LANES)),
            "sketches/more": (i4, (runs, 5, LANES)),
        }
        if others:
            plain = {**plain, "leaves/others": (f4, (blocks, others, LANES))}
        for name, (dtype, shape) in plain.items():
            group(name, dtype, shape, plain=True)
        self._neighbours(f"{folder}/{NEIGHBOURS}", u)
        return u, m, cells, leaves

    def nothing_else(self) -> None:
        """Raise DataLoss if there is an array that is not read."""
        for name in self.arrays:
            raise DataLoss(f"{name} is no array of such an index; {REMEDY}")

    @property
    def _p(self) -> int:
        return self.manifest.patch_pixels * self.manifest.channels

    def _group(self, prefix: str) -> "_Group":
        if prefix not in self.groups:
            raise DataLoss(f"{prefix} is not a group of Zarr format 3; {REMEDY}")
        return _Group(self.files, self.arrays, prefix, zarr_store.open_pinned(self.files, prefix))

    def _neighbours(self, name: str, keys: int) -> None:
        """Check that the FAISS index of a shard is long enough for its inverted lists."""
        manifest = self.manifest
        quantization = Quantization(np.dtype(manifest.key_dtype), manifest.key_step, manifest.key_low)
        least = keys * (code_size(self._p, quantization) + 8)
        if name not in self.files:
            raise DataLoss(f"{name} is missing; {REMEDY}")
        if (found := len(self.files[name])) < least:
            raise DataLoss(f"{name}: expected {least} bytes or more for {keys} keys, got {found}; {REMEDY}")


@dataclass
class _Group:
    """The arrays that one of the groups has to have; those that were checked are removed from `arrays`."""

    files: PinnedFiles
    arrays: dict[str, _Array]
    path: str
    opened: zarr.Group

    def __call__(
        self, name: str, dtype: str, shape: Sequence[int | None], *, plain: bool = False
    ) -> tuple[int, ...]:
        """Check an array, whose lengths may be given as None if they are not known, and return its shape."""
        path = f"{self.path}/{name}"
        array = self.arrays.pop(path, None)
        if array is None:
            raise DataLoss(f"{path} is missing; {REMEDY}")
        fits = len(array.shape) == len(shape) and all(
            own == other or other is None for own, other in zip(array.shape, shape, strict=True)
        )
        if array.dtype != dtype or not fits or 0 in array.shape:
            expected = " × ".join("any" if length is None else str(length) for length in shape)
            found = " × ".join(map(str, array.shape))
            raise DataLoss(f"{path}: expected {dtype} {expected}, got {array.dtype} {found}; {REMEDY}")
        if plain != (array.chunk is None):
            raise DataLoss(f"{path}: expected {'plain' if plain else 'compressed'} numbers; {REMEDY}")
        _require_content(self.files, array)
        with zarr_store.raise_data_loss(path):  # for metadata that is not looked at here
            opened = zarr_store.shape(self.opened, name)
        if opened != array.shape:
            raise DataLoss(f"{path} has damaged metadata; {REMEDY}")
        return array.shape

    def values(self, name: str, shape: Sequence[int | None]) -> NDArray[np.int64]:
        """Return the numbers of an array of int64."""
        self(name, "int64", shape)
        return zarr_store.read_all(self.opened, name)

    def offsets(self, name: str, count: int | None, end: int | None, least: int = 0) -> NDArray[np.int64]:
        """Return the offsets of `count` groups of at least `least` items, of which there are `end`."""
        offsets = self.values(name, (None if count is None else count + 1,))
        ends_right = end is None or offsets[-1] == end
        if offsets[0] != 0 or not ends_right or offsets[-1] < 1 or (np.diff(offsets) < least).any():
            raise DataLoss(f"{self.path}/{name} leads nowhere; {REMEDY}")
        return offsets


def _read_arrays(files: PinnedFiles) -> tuple[dict[str, _Array], set[str]]:
    """Return all arrays by name, and the names of all groups.

    Raises
    ------
    DataLoss
        A file does not belong there, or the metadata of an array is not what is written.
    """
    arrays: dict[str, _Array] = {}
    groups: set[str] = set()
    for name in files.contents:
        folder, _, last = name.rpartition("/")
        if last != _METADATA:
            continue
        content = _metadata(files, name)
        if content.get("node_type") == "group":
            groups.add(folder)
        else:
            arrays[folder] = _array(folder, content)
    for name in files.contents:
        *folders, last = name.split("/")
        if last.startswith(".z"):
            raise DataLoss(f"{name}: expected Zarr format 3, got format 2; {REMEDY}")
        if "c" not in folders and last != "c" and last not in (_METADATA, NEIGHBOURS, SOURCES):
            raise DataLoss(f"{name} is no file of an index; {REMEDY}")
    return arrays, groups


def _metadata(files: PinnedFiles, name: str) -> dict[str, Any]:
    folder = name.rpartition("/")[0]
    damaged = DataLoss(f"{folder} has damaged metadata; {REMEDY}")
    if len(files[name]) > _METADATA_BYTES:
        raise damaged
    try:
        content = json.loads(files[name].tobytes())
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(content, dict) or content.get("zarr_format") != 3:
        raise damaged
    return content


def _array(name: str, content: dict[str, Any]) -> _Array:
    """Return what the metadata of an array says.

    Raises
    ------
    DataLoss
        The metadata is not what is written.
    """
    try:
        codecs = content["codecs"]
        if unknown := sorted(set(_codec_names(codecs)) - _CODECS):
            raise DataLoss(
                f"{name}: expected codecs {', '.join(sorted(_CODECS))}, got {', '.join(unknown)}; {REMEDY}"
            )
        grid = content["chunk_grid"]
        shape, stored = _lengths(content["shape"]), _lengths(grid["configuration"]["chunk_shape"])
        right = (
            content["node_type"] == "array"
            and grid["name"] == "regular"
            and content["chunk_key_encoding"] == _KEYS
            and not content.get("storage_transformers")
            and np.dtype(content["data_type"]).kind in "iuf"
            and len(shape) == len(stored)
        )
        chunk = None
        match [*_codec_names(codecs[:1])], len(codecs):
            case ["bytes"], 2:
                right &= [*_codec_names(codecs)] == ["bytes", "crc32c"] and stored == shape
                right &= _is_little_endian(codecs[0])
            case ["sharding_indexed", *inner], 1:
                own = codecs[0]["configuration"]
                chunk = _lengths(own["chunk_shape"])
                right &= inner == ["bytes", "zstd", "bytes", "crc32c"] and own["index_location"] == "end"
                right &= _is_little_endian(own["codecs"][0]) and _is_little_endian(own["index_codecs"][0])
                right &= chunk[1:] == stored[1:] == shape[1:] and stored[0] % chunk[0] == 0
                right &= chunk[0] <= zarr_store.CHUNK and stored[0] <= zarr_store.SHARD
            case _:
                right = False
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataLoss(f"{name} has damaged metadata; {REMEDY}") from error
    if not right:
        raise DataLoss(f"{name} has metadata that no build writes; {REMEDY}")
    return _Array(name, shape, str(np.dtype(content["data_type"])), stored, chunk)


def _lengths(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(
        type(value) is int and 0 <= value < 1 << 48 for value in values
    ):
        raise ValueError("expected a shape")
    return tuple(values)


def _is_little_endian(codec: Any) -> bool:
    """Return whether a codec `bytes` writes what is in memory; numbers of one byte have no order."""
    return not isinstance(codec, dict) or codec.get("configuration", {}).get("endian", "little") == "little"


def _codec_names(codecs: Any) -> Iterator[str]:
    """Yield the names of codecs, including those inside sharding codecs."""
    for codec in codecs:
        if isinstance(codec, str):
            yield codec
            continue
        yield str(codec["name"])
        for inner in ("codecs", "index_codecs"):
            yield from _codec_names(codec.get("configuration", {}).get(inner, ()))


def _require_content(files: PinnedFiles, array: _Array) -> None:
    """Raise DataLoss unless the files of an array have the length of its content, or decode to it."""
    for name in array.files():
        if array.chunk is None:
            if name not in files or len(files[name]) != array.nbytes + _CRC:
                raise DataLoss(f"{array.name} has another length than its shape; {REMEDY}")
        elif name in files:  # otherwise it is all zeros
            chunks = array.stored[0] // array.chunk[0]
            size = prod(array.chunk) * np.dtype(array.dtype).itemsize
            if not _decodes_to(memoryview(files[name].data), chunks, size):
                raise DataLoss(f"{name} has chunks of another size; {REMEDY}")


def _decodes_to(content: memoryview, chunks: int, size: int) -> bool:
    """Return whether each chunk of a Zarr shard lies within it, and is a Zstandard frame of this size."""
    end = len(content) - 16 * chunks - _CRC
    if end < 0:
        return False
    for begin, length in struct.iter_unpack("<QQ", content[end : end + 16 * chunks]):
        if begin == length == _MISSING:
            continue
        if (
            begin + length > end
            or _frame_size(bytes(content[begin : min(begin + length, begin + 18)])) != size
        ):
            return False
    return True


def _frame_size(frame: bytes) -> int | None:
    """Return the size of the decoded content that the header of a Zstandard frame declares (RFC 8878).

    Examples
    --------
    >>> _frame_size(bytes.fromhex("28b52ffd24 05 290000 68656c6c6f"))
    5
    """
    if len(frame) < 6 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    flags = frame[4]
    single = flags >> 5 & 1
    begin = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    length = (single, 2, 4, 8)[flags >> 6]
    if not length or len(frame) < begin + length:
        return None
    return int.from_bytes(frame[begin : begin + length], "little") + (256 if length == 2 else 0)
