"""The manifest of an index version: arguments, counts and the checksum of every file.

It is written last: a folder without a manifest is not an index. It contains a checksum of itself.
"""

import builtins
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lemmse.contract.errors import DataLoss, UnsupportedFormat
from lemmse.index.storage.calibration_record import Calibration
from lemmse.index.storage.durable import write_atomically
from lemmse.index.storage.picture_record import Pictures
from lemmse.index.storage.quantization import Quantization, quantizations

__all__ = ["FORMAT", "MANIFEST", "REMEDY", "FileEntry", "Manifest", "checksum", "read_small"]

FORMAT = 9
"""The version of the index format that is written and read."""

MANIFEST = "manifest.json"
REMEDY = "restore the index from a copy or build it again"
_MOST_BYTES = 1 << 26
"""Largest length of a manifest: that of an index of ten thousand shards."""
_MOST = 1 << 48
"""Largest number that counts something."""
_PATH = re.compile(r"(?:(?!\.{1,2}(?:/|$))[A-Za-z0-9_.-]+(?:/(?!$)|$))+")
"""Paths of files in the folder of a version; none leads out of it."""
_CHOICES = {
    "dtype": ("uint8", "uint16", "float32", "float64"),
    "boundary": ("circular", "reflect", "valid"),
    "equivariance": ("none", "offset"),
    "augment": ("none", "dihedral"),
    "key_dtype": ("uint8", "int16", "float32"),
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of an index version."""

    bytes: int
    """Length."""
    sha256: str
    """SHA-256, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of an index version."""

    format: int
    """Version of the index format."""
    lemmse: str
    """Version of lemmse that built the index."""
    sources: tuple[str, ...]
    """Sources of the training images, as passed to the build."""
    digest: str
    """SHA-256 of dtype, pixels and sizes of the training images, in hexadecimal."""
    images: int
    """Number of training images, K."""
    channels: int
    """Number of channels of the images, C."""
    dtype: str
    """Element type of the stored images; uint8 and uint16 are in steps of 1/255 and 1/65535."""
    physics: str
    """Specification of the forward operator A."""
    pre_inverse: str
    """Specification of the pre-inverse B."""
    boundary: str
    """Boundary: circular, reflect or valid; see images/stack.py."""
    equivariance: str
    """Equivariance in addition to translations: none or offset."""
    augment: str
    """Symmetric copies that are added to the training images: none or dihedral."""
    patch_size: int
    """Side of the patches in pixels, p."""
    keys: int
    """Number of training patches, including those of symmetric copies, M."""
    distinct: int
    """Distinct keys, U."""
    cells: int
    """Number of cells."""
    shards: int
    """Number of shards, each a folder with some of the cells."""
    leaves: int
    """Number of leaves, which are groups of some tens of distinct keys."""
    strata: int
    """Number of strata of positions whose patches have the same noise, S."""
    gaussians: int
    """Number of components of the mixture of Gaussians; 0 if there is none."""
    condition: float
    """Condition number of the noise covariance; 1 unless B is a convolution or the noise has a spectrum."""
    key_dtype: str
    """Element type of the quantized keys: uint8, int16 or float32."""
    key_step: float
    """Quantization step."""
    key_low: float
    """The key value that is represented by 0."""
    seed: int
    """Seed of the clustering and the samples."""
    files: Mapping[str, FileEntry]
    """All other files of the version, by path in its folder."""
    stride: int = 1
    """Distance of the rows, and of the columns, with centres of training patches, in pixels."""
    patch_depth: int = 1
    """Planes of the patches, p_z; 1 if the images are not planes of volumes."""
    noise: str | None = None
    """Name of the power spectrum of the noise, as the user wrote it; None if the noise is white."""
    removed: int = 0
    """Number of images that were removed since cells, PCA basis and Gaussians were fitted: the models hold a
    trace of them."""
    calibration: Calibration | None = None
    """Accuracy and cost of mode hybrid; None if not measured."""
    pictures: Pictures | None = None
    """The best refinements; None if not measured."""

    @property
    def axes(self) -> int:
        """Number of axes of an image that the index reconstructs, without channels: 2, or 3 of a volume."""
        return 2 if self.patch_depth == 1 else 3

    @property
    def patch_pixels(self) -> int:
        """Number of pixels of a patch, p_z·p²."""
        return self.patch_depth * self.patch_size**2

    def write(self, folder: Path) -> None:
        """Write the manifest to the folder of a version."""
        content = asdict(self)
        content["manifest_sha256"] = _self_checksum(json.loads(json.dumps(content)))
        write_atomically(folder / MANIFEST, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest from the folder of a version.

        Raises
        ------
        DataLoss
            The manifest is missing or altered.
        UnsupportedFormat
            The index has another format.
        """
        try:
            content = json.loads(read_small(folder / MANIFEST, _MOST_BYTES))
            found, expected = content["format"], content.pop("manifest_sha256")
        except FileNotFoundError as error:
            raise DataLoss(f"{MANIFEST} is missing; {REMEDY}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataLoss(f"{MANIFEST} is damaged; {REMEDY}") from error
        if isinstance(found, int) and found != FORMAT:
            remedy = "update lemmse to read it" if found > FORMAT else "build it again"
            raise UnsupportedFormat(f"expected an index of format {FORMAT}, got format {found}; {remedy}")
        names = {field.name for field in fields(cls)}
        required = {field.name for field in fields(cls) if field.default is MISSING}
        if _self_checksum(content) != expected or not required <= set(content) <= names:
            raise DataLoss(f"{MANIFEST} is damaged; {REMEDY}")
        try:
            content["sources"] = tuple(content["sources"])
            content["files"] = {path: FileEntry(**entry) for path, entry in content["files"].items()}
            for name, kind in (("calibration", Calibration), ("pictures", Pictures)):
                if content.get(name) is not None:
                    content[name] = kind.restore(content[name])
            manifest = cls(**content)
            wrong = next(manifest._wrong(), None)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DataLoss(f"{MANIFEST} is damaged; {REMEDY}") from error
        if wrong is not None:
            raise DataLoss(f"{MANIFEST}: {wrong} has a value that no build writes; {REMEDY}")
        return manifest

    def _wrong(self) -> Iterator[str]:
        """Yield the names of fields whose values are of another type, or out of range."""
        for field in fields(self):
            value = getattr(self, field.name)
            match field.type:
                case "int" | builtins.int:
                    least = 0 if field.name in ("seed", "gaussians", "removed") else 1
                    right = type(value) is int and least <= value < _MOST
                case "str" | builtins.str:
                    right = type(value) is str and value in _CHOICES.get(field.name, (value,))
                case "float" | builtins.float:
                    right = isinstance(value, int | float) and math.isfinite(value)
                case _:
                    continue
            if not right:
                yield field.name
        if not all(type(source) is str for source in self.sources):
            yield "sources"
        if self.noise is not None and type(self.noise) is not str:
            yield "noise"
        for path, entry in self.files.items():
            right = type(entry.bytes) is int and 0 <= entry.bytes < _MOST and type(entry.sha256) is str
            if not right or not _PATH.fullmatch(path) or path == MANIFEST:
                yield "files"
        found = Quantization(np.dtype(self.key_dtype), self.key_step, self.key_low)
        if found not in quantizations(self.patch_pixels):
            yield "key_step"
        if self.gaussians > self.keys:
            yield "gaussians"
        for name in ("calibration", "pictures"):
            record = getattr(self, name)
            if record is not None and not record.is_consistent():
                yield name


def checksum(path: Path) -> FileEntry:
    """Return the length and the SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(path.stat().st_size, digest)


def read_small(path: Path, most: int) -> bytes:
    """Return the content of an ordinary file of at most so many bytes.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is a link, not an ordinary file, or longer.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        raise
    except OSError as error:  # a link
        raise ValueError(f"{path.name} cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise ValueError(f"expected an ordinary file of at most {most} bytes, got {found.st_size} bytes")
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def _self_checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
