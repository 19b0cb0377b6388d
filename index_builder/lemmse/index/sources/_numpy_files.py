"""NumPy files as a source: a memory-mapped .npy, or one array of an .npz."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.arrays import npz_headers, read_header
from lemmse.index.sources._array_source import ArraySource
from lemmse.index.sources._image import SourceKind, bad_source, decoding

__all__ = ["KIND"]

_PREFERRED = ("images", "train", "x_train", "data")
"""Names of the array of images in an .npz, in order of preference."""


def _matches(spec: str) -> bool:
    path = Path(spec)
    return path.suffix.lower() in (".npy", ".npz") and path.is_file()


def _open(spec: str) -> ArraySource:
    path = Path(spec)
    return _open_npy(spec, path) if path.suffix.lower() == ".npy" else _open_npz(spec, path)


def _open_npy(spec: str, path: Path) -> ArraySource:
    with decoding(spec), path.open("rb") as file:
        header = read_header(file)
    return ArraySource(spec, path, shape=header.shape, dtype=header.dtype, load=partial(_map, path))


def _open_npz(spec: str, path: Path) -> ArraySource:
    with decoding(spec):
        headers = npz_headers(path)
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


def _map(path: Path) -> NDArray[Any]:
    with decoding(str(path)):
        return npy.open_memmap(path, mode="r")


def _load(path: Path, name: str) -> NDArray[Any]:
    with decoding(str(path)), np.load(path, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[name]
        return array


KIND = SourceKind(".npy or .npz with images (N, H, W) or (N, H, W, C)", _matches, _open)
