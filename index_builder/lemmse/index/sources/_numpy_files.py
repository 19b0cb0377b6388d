"""NumPy files as a source: a memory-mapped .npy, or one array of an .npz, which is unpacked to disk."""

import zipfile
from functools import partial
from pathlib import Path
from typing import Any, Literal

from numpy.lib import format as npy
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.arrays import Header, npz_headers, read_header
from lemmse.index.sources._array_source import ArraySource
from lemmse.index.sources._image import SourceKind, bad_source, decoding
from lemmse.index.sources._reading import Reading
from lemmse.index.sources._unpacked import unpacked

__all__ = ["KIND"]

_PREFERRED = ("images", "train", "x_train", "data")
"""Names of the array of images in an .npz, in order of preference."""


def _matches(spec: str) -> bool:
    path = Path(spec)
    return path.suffix.lower() in (".npy", ".npz") and path.is_file()


def _open(spec: str, reading: Reading) -> ArraySource:
    path = Path(spec)
    return (_open_npy if path.suffix.lower() == ".npy" else _open_npz)(spec, path, reading)


def _open_npy(spec: str, path: Path, reading: Reading) -> ArraySource:
    with decoding(spec), path.open("rb") as file:
        header = read_header(file)
    return ArraySource(spec, path, reading, shape=header.shape, dtype=header.dtype, load=partial(_map, path))


def _open_npz(spec: str, path: Path, reading: Reading) -> ArraySource:
    with decoding(spec):
        headers = npz_headers(path)
    stacks, problems = {}, {}
    for name, header in headers.items():
        try:
            stacks[name] = ArraySource(
                spec,
                path,
                reading,
                shape=header.shape,
                dtype=header.dtype,
                load=partial(_unpack, path, name, header),
            )
        except InvalidArgument as exc:
            problems[name] = exc
    for name in _PREFERRED:
        if name in stacks:
            return stacks[name]
    if len(stacks) == 1:
        return next(iter(stacks.values()))
    for name in headers if len(headers) == 1 else _PREFERRED:
        if name in problems:
            raise problems[name]
    listing = ", ".join(f"{name} {header}" for name, header in headers.items()) or "no array"
    raise bad_source(
        f"expected one array of images, or one named {', '.join(_PREFERRED)}, got {listing} in {path}"
    )


def _map(path: Path) -> NDArray[Any]:
    with decoding(str(path)):
        return npy.open_memmap(path, mode="r")


def _unpack(path: Path, name: str, header: Header) -> NDArray[Any]:
    with decoding(str(path)), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        read_header(file)
        order: Literal["C", "F"] = "F" if header.fortran else "C"
        return unpacked(file, header.dtype, header.shape, str(path), order)


KIND = SourceKind(".npy or .npz with images (N, H, W) or (N, H, W, C)", _matches, _open)
