"""NumPy files as a source: a memory-mapped .npy, or one array of an .npz."""

import zipfile
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.sources._array_source import ArraySource
from lemmse.index.sources._image import SourceKind, bad_source, decoding

__all__ = ["KIND"]

_PREFERRED = ("images", "train", "x_train", "data")
"""Names of the array of images in an .npz, in order of preference."""


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype.name}"


def _matches(spec: str) -> bool:
    path = Path(spec)
    return path.suffix.lower() in (".npy", ".npz") and path.is_file()


def _open(spec: str) -> ArraySource:
    path = Path(spec)
    return _open_npy(spec, path) if path.suffix.lower() == ".npy" else _open_npz(spec, path)


def _open_npy(spec: str, path: Path) -> ArraySource:
    with decoding(spec), path.open("rb") as file:
        header = _read_header(file)
    return ArraySource(spec, path, shape=header.shape, dtype=header.dtype, load=partial(_map, path))


def _open_npz(spec: str, path: Path) -> ArraySource:
    with decoding(spec), zipfile.ZipFile(path) as archive:
        headers = {}
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    headers[member.removesuffix(".npy")] = _read_header(file)
    stacks, problems = {}, []
    for name, header in headers.items():
        try:
            stacks[name] = ArraySource(
                spec, path, shape=header.shape, dtype=header.dtype, load=partial(_load, path, name)
            )
        except InvalidArgument as exc:
            problems.append(exc)
    for name in _PREFERRED:
        if name in stacks:
            return stacks[name]
    if len(stacks) == 1:
        return next(iter(stacks.values()))
    if len(headers) == 1:
        raise problems[0]
    listing = ", ".join(f"{name} {header}" for name, header in headers.items()) or "no array"
    raise bad_source(
        f"expected one array of images, or one named {', '.join(_PREFERRED)}, got {listing} in {path}"
    )


def _read_header(file: IO[bytes]) -> _Header:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    return _Header(shape, dtype)


def _map(path: Path) -> NDArray[Any]:
    with decoding(str(path)):
        return npy.open_memmap(path, mode="r")


def _load(path: Path, name: str) -> NDArray[Any]:
    with decoding(str(path)), np.load(path, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[name]
        return array


KIND = SourceKind(".npy or .npz with images (N, H, W) or (N, H, W, C)", _matches, _open)
