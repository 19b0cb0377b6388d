"""CIFAR-10 in its distributed form as a source: pickled or binary batches, one file or their folder."""

import pickle
import re
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lemmse.index.sources._array_source import ArraySource
from lemmse.index.sources._image import ImageSource, SourceKind, bad_source, decoding
from lemmse.index.sources._reading import Reading
from lemmse.index.sources._sequence import concatenate

__all__ = ["KIND"]

_BATCH = re.compile(r"(data_batch_\d+|test_batch)(\.bin)?")
_PIXELS = 3 * 32 * 32
"""Number of bytes of an image: red plane, green plane, blue plane, each row by row."""


def _matches(spec: str) -> bool:
    path = Path(spec)
    if path.is_dir():
        return bool(_training_batches(path))
    return _BATCH.fullmatch(path.name) is not None and path.is_file()


def _open(spec: str, reading: Reading) -> ImageSource:
    path = Path(spec)
    batches = _training_batches(path) if path.is_dir() else [path]
    return concatenate([_open_batch(spec, batch, reading) for batch in batches])


def _training_batches(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.glob("data_batch_*")
        if _BATCH.fullmatch(path.name) is not None and path.is_file()
    )


def _open_batch(spec: str, path: Path, reading: Reading) -> ArraySource:
    planes = _read_binary(path) if path.suffix == ".bin" else _read_pickle(path)
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArraySource(spec, path, reading, shape=images.shape, dtype=images.dtype, load=lambda: images)


def _read_binary(path: Path) -> NDArray[np.uint8]:
    record = 1 + _PIXELS  # a label, then the image
    size = path.stat().st_size
    if size == 0 or size % record != 0:
        raise bad_source(f"expected CIFAR-10 records of {record} bytes, got {size} bytes in {path}")
    with decoding(str(path)):
        return np.memmap(path, np.uint8, mode="r").reshape(-1, record)[:, 1:]


def _read_pickle(path: Path) -> NDArray[np.uint8]:
    with decoding(str(path)), path.open("rb") as file:
        batch = _ArrayUnpickler(file).load()
    data = batch.get(b"data", batch.get("data")) if isinstance(batch, dict) else None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (_PIXELS,):
        raise bad_source(f"expected a CIFAR-10 batch with 'data' (N, {_PIXELS}) uint8, got another in {path}")
    return data


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that accepts only plain values and NumPy arrays, since a pickle may call any function."""

    _ADMITTED: ClassVar[dict[str, Any]] = {
        "_reconstruct": np.empty(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
    }

    def __init__(self, file: IO[bytes]) -> None:
        # The batches were pickled by Python 2, whose strings are bytes.
        super().__init__(file, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self._ADMITTED:
            return self._ADMITTED[name]
        if (module, name) == ("_codecs", "encode"):  # how Python 3 pickles bytes for Python 2
            return _encode
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


KIND = SourceKind("CIFAR-10 batches", _matches, _open)
