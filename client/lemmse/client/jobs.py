"""Input and output files of `lemmse reconstruct`, validated before any work starts."""

import mimetypes
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lemmse.contract.errors import AlreadyExists, InvalidArgument, NotFound
from lemmse.index.images.files import SUFFIXES

__all__ = ["Job", "plan"]


@dataclass(frozen=True, slots=True)
class Job:
    """One image file to reconstruct."""

    source: Path
    """File to read."""
    image: Path
    """File to write."""
    maps: Mapping[str, Path]
    """Output file of each map, by the name of the map."""

    @property
    def outputs(self) -> list[Path]:
        """All output files."""
        return [self.image, *self.maps.values()]


def plan(inputs: Sequence[Path], out: Path, maps: Collection[str], *, overwrite: bool) -> list[Job]:
    """Return a job for each image file.

    Parameters
    ----------
    inputs : sequence of path
        Image files, and folders that are searched for image files; hidden files are skipped.
    out : path
        The output file, if there is a single input file, or the output folder. Files from input folders keep
        their relative paths.
    maps : collection of str
        Names of the maps to write beside each image, as NAME.MAP.npy for npy files and NAME.MAP.tiff for
        others.
    overwrite : bool
        Whether existing files may be replaced.

    Raises
    ------
    NotFound
        An input does not exist, or a folder contains no images.
    InvalidArgument
        The suffix of an input is not an image suffix, two inputs would write the same file, or a file cannot
        be written.
    AlreadyExists
        An output exists already, or is a file where a folder is needed.
    """
    if len(inputs) == 1 and inputs[0].is_file() and out.suffix.lower() in SUFFIXES:
        if out.suffix.lower() != inputs[0].suffix.lower():
            raise InvalidArgument.of("--out", f"expected a name in {inputs[0].suffix} like INPUT, got {out}")
        pairs = [(inputs[0], out)]
    else:
        kind = mimetypes.guess_type(out.name)[0] or ""
        if len(inputs) == 1 and inputs[0].is_file() and kind.startswith("image/") and not out.is_dir():
            raise InvalidArgument.of("--out", f"expected a name in {inputs[0].suffix} like INPUT, got {out}")
        if os.path.lexists(out) and not os.path.isdir(out):
            raise AlreadyExists(f"--out: expected a folder, got the file {out}")
        pairs = [(source, out / name) for path in inputs for source, name in _images(path)]
    jobs = [
        Job(source, image, {name: _map_path(image, name) for name in sorted(maps)}) for source, image in pairs
    ]
    _check_distinct(jobs)
    for folder in {path.parent: None for job in jobs for path in job.outputs}:
        _check_writable(folder)
    existing = [path for job in jobs for path in job.outputs if path.exists()]
    if existing and not overwrite:
        are = f" and {len(existing) - 1} more exist" if len(existing) > 1 else " exists"
        raise AlreadyExists(f"--out: {existing[0]}{are} already; choose another or pass --overwrite")
    for path in existing:
        if path.is_dir():
            raise InvalidArgument.of("--out", f"expected a place for a file, got the folder {path}")
    return jobs


def _images(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield image files, and their paths relative to the input folder."""
    if path.is_dir():
        found = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in SUFFIXES and file.is_file() and not _hidden(file.relative_to(path))
        ]
        if not found:
            raise NotFound(f"INPUT: expected images ({_KNOWN}) in {path}, got none")
        yield from ((file, file.relative_to(path)) for file in found)
    elif not path.exists():
        raise NotFound(f"INPUT: expected an image file or a folder, got {path}, which does not exist")
    elif path.suffix.lower() not in SUFFIXES:
        raise InvalidArgument.of("INPUT", f"expected a name in {_KNOWN}, got {path}")
    else:
        yield path, Path(path.name)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _map_path(image: Path, name: str) -> Path:
    return image.with_suffix(f".{name}.npy" if image.suffix.lower() == ".npy" else f".{name}.tiff")


def _check_distinct(jobs: Sequence[Job]) -> None:
    writer: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs:
            other = writer.setdefault(path, job.source)
            if other is not job.source:
                raise InvalidArgument.of("INPUT", f"{other} and {job.source} would both be written to {path}")


def _check_writable(folder: Path) -> None:
    """Raise InvalidArgument unless a folder can be created and written to; nothing is left behind."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InvalidArgument.of("--out", f"cannot write to {folder}: {nearest}: {error.strerror}") from error


_KNOWN = ", ".join(sorted(SUFFIXES))
