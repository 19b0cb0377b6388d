"""HDF5 files as a source: FILE.h5:/PATH/OF/DATASET, or the only dataset of images in FILE.h5."""

import re
from pathlib import Path

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.hdf5 import HDF5, datasets, open_dataset
from lemmse.index.sources._array_source import ArraySource
from lemmse.index.sources._chunks import Chunked
from lemmse.index.sources._image import SourceKind, bad_source, decoding
from lemmse.index.sources._reading import Reading

__all__ = ["KIND"]

_NAMED = re.compile(rf"(.+(?:{'|'.join(map(re.escape, HDF5))})):(.+)", re.IGNORECASE | re.DOTALL)
_LISTED = 8
"""Largest number of datasets in an error message."""


def _split(spec: str) -> tuple[Path, str | None]:
    """Return the file and the path of the dataset in it, if the spec has one."""
    named = None if Path(spec).is_file() else _NAMED.fullmatch(spec)
    return (Path(spec), None) if named is None else (Path(named[1]), named[2])


def _matches(spec: str) -> bool:
    path, _ = _split(spec)
    return path.suffix.lower() in HDF5 and path.is_file()


def _open(spec: str, reading: Reading) -> ArraySource:
    path, inner = _split(spec)
    with decoding(str(path)):
        inner = _only(path, reading) if inner is None else inner
        try:
            dataset = open_dataset(path, inner)
        except InvalidArgument as error:
            raise bad_source(f"{path}: {error}") from error
    chunks = dataset.chunks
    return ArraySource(
        spec,
        path,
        reading,
        shape=dataset.shape,
        dtype=dataset.dtype,
        load=lambda: dataset if chunks is None else Chunked(dataset, chunks),
        axes=dataset.axes,
    )


def _only(path: Path, reading: Reading) -> str:
    """Return the path of the only dataset with as many axes as images have."""
    found = datasets(path)
    counts = (3, 4) if reading.axes is None else (len(reading.axes),)
    images = [name for name, (shape, dtype) in found.items() if len(shape) in counts and dtype.kind in "bfiu"]
    if len(images) == 1:
        return images[0]
    names = [f"{name} {shape} {dtype}" for name, (shape, dtype) in found.items()]
    listing = ", ".join([*names[:_LISTED], *(["…"] if len(names) > _LISTED else [])]) or "none"
    raise bad_source(f"expected one dataset of images, or its name as {path}:/NAME, got {listing}")


KIND = SourceKind("HDF5, FILE.h5 or FILE.h5:/PATH/OF/DATASET", _matches, _open)
