"""The manifest of an index version: arguments, counts and the checksum of every file.

It is written last: a folder without a manifest is not an index. It contains a checksum of itself.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lemmse.contract.errors import DataLoss, UnsupportedFormat
from lemmse.index.callbacks import Progress, silent
from lemmse.index.storage.calibration_record import Calibration
from lemmse.index.storage.durable import write_atomically
from lemmse.index.storage.picture_record import Pictures

__all__ = ["FORMAT", "MANIFEST", "REMEDY", "FileEntry", "Manifest", "checksum"]

FORMAT = 9
"""The version of the index format that is written and read."""

MANIFEST = "manifest.json"
REMEDY = "restore the index from a copy or build it again"


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
    """Condition number of the noise covariance if B is a convolution, otherwise 1."""
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
    calibration: Calibration | None = None
    """Accuracy and cost of mode hybrid; None if not measured."""
    pictures: Pictures | None = None
    """The best refinements; None if not measured."""

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
            content = json.loads((folder / MANIFEST).read_bytes())
            found, expected = content["format"], content.pop("manifest_sha256")
        except FileNotFoundError as error:
            raise DataLoss(f"{MANIFEST} is missing; {REMEDY}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataLoss(f"{MANIFEST} is damaged; {REMEDY}") from error
        if isinstance(found, int) and found != FORMAT:
            remedy = "update lemmse to read it" if found > FORMAT else "build it again"
            raise UnsupportedFormat(f"expected an index of format {FORMAT}, got format {found}; {remedy}")
        if _self_checksum(content) != expected or set(content) != {f.name for f in fields(cls)}:
            raise DataLoss(f"{MANIFEST} is damaged; {REMEDY}")
        content["sources"] = tuple(content["sources"])
        content["files"] = {path: FileEntry(**entry) for path, entry in content["files"].items()}
        if content["calibration"] is not None:
            content["calibration"] = Calibration.restore(content["calibration"])
        if content["pictures"] is not None:
            content["pictures"] = Pictures.restore(content["pictures"])
        return cls(**content)

    def require_files(self, folder: Path) -> None:
        """Raise DataLoss unless every file exists and has its length.

        Raises
        ------
        DataLoss
            A file is missing or has another length.
        """
        for name, entry in self.files.items():
            path = folder / name
            if not path.is_file():
                raise DataLoss(f"{name} is missing; {REMEDY}")
            if path.stat().st_size != entry.bytes:
                raise DataLoss(f"{name}: expected {entry.bytes} bytes, got {path.stat().st_size}; {REMEDY}")

    def verify(self, folder: Path, progress: Progress = silent) -> None:
        """Raise DataLoss unless every file has its length and checksum.

        Parameters
        ----------
        folder : Path
            The folder of the version.
        progress : callable
            Called as `progress(stage, done, total)`, in bytes.

        Raises
        ------
        DataLoss
            A file is missing, truncated or altered.
        """
        self.require_files(folder)
        stage, done, total = "compare checksums", 0, sum(entry.bytes for entry in self.files.values())
        progress(stage, done, total)
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda name: checksum(folder / name), self.files)
            for (name, entry), seen in zip(self.files.items(), found, strict=True):
                if seen != entry:
                    raise DataLoss(f"{name} is altered: its SHA-256 is not the manifest's; {REMEDY}")
                done += entry.bytes
                progress(stage, done, total)


def checksum(path: Path) -> FileEntry:
    """Return the length and the SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(path.stat().st_size, digest)


def _self_checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
