"""Input and output files of `lemmse reconstruct`, validated before any work starts."""

import os
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lemmse.contract.errors import AlreadyExists, InvalidArgument, NotFound
from lemmse.index.files import READ, WRITTEN, find_files
from lemmse.index.files.zarrs import is_zarr

__all__ = ["Job", "Plan", "check_writable", "plan"]


@dataclass(frozen=True, slots=True)
class Job:
    """One file to reconstruct, an image or a stack of them."""

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


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs, and what was left out."""

    jobs: list[Job]
    """One job for each file."""
    notes: list[str] = field(default_factory=list)
    """What in the input folders is not reconstructed, in lines for the user."""


def plan(
    inputs: Sequence[Path],
    out: Path,
    maps: Collection[str],
    *,
    overwrite: bool,
    done: Collection[Job] = (),
    replaceable: Collection[Path] = (),
) -> Plan:
    """Return a job for each image file.

    Parameters
    ----------
    inputs : sequence of path
        Image files, and folders that are searched for image files; hidden files are skipped, and so is `out`
        where it is in such a folder.
    out : path
        The output file, if there is a single input file, or the output folder. Files from input folders keep
        their relative paths. Files of formats that are not written become PNG.
    maps : collection of str
        Names of the maps to write beside each image: as NAME.MAP.npy for NumPy files, NAME.MAP.zarr for Zarr
        and NAME.MAP.tiff for others.
    overwrite : bool
        Whether existing files may be replaced.
    done : collection of Job
        Jobs whose outputs exist and stay: they are not among those returned.
    replaceable : collection of path
        Existing files that may be replaced in any case.

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
    notes: list[str] = []
    if len(inputs) == 1 and _is_file(inputs[0]) and _names_a_file(inputs[0], out):
        expected = _written_name(inputs[0]).suffix
        if out.suffix.lower() != expected.lower():
            raise InvalidArgument.of("--out", _expected_name(inputs[0], out))
        pairs = [(inputs[0], out)]
    else:
        if os.path.lexists(out) and not os.path.isdir(out):
            raise AlreadyExists(f"--out: expected a folder, got the file {out}")
        pairs = [(source, out / name) for path in inputs for source, name in _images(path, out, notes)]
    jobs = [
        Job(source, image, {name: _map_path(image, name) for name in sorted(maps)}) for source, image in pairs
    ]
    _check_distinct(jobs)
    finished = {(job.source, job.image, tuple(job.maps.items())) for job in done}
    jobs = [job for job in jobs if (job.source, job.image, tuple(job.maps.items())) not in finished]
    for folder in {path.parent: None for job in jobs for path in job.outputs}:
        check_writable("--out", folder)
    existing = [path for job in jobs for path in job.outputs if path.exists()]
    kept = [] if overwrite else [path for path in existing if path not in replaceable]
    if kept:
        are = f" and {len(kept) - 1} more exist" if len(kept) > 1 else " exists"
        raise AlreadyExists(f"--out: {kept[0]}{are} already; choose another or pass --overwrite")
    for path in existing:
        if path.is_dir() and not is_zarr(path):
            raise InvalidArgument.of("--out", f"expected a place for a file, got the folder {path}")
    return Plan(jobs, notes)


def check_writable(argument: str, folder: Path) -> None:
    """Raise InvalidArgument unless a folder can be created and written to; nothing is left behind."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        where = f"{folder}" if nearest == folder else f"{folder}: {nearest}"
        raise InvalidArgument.of(argument, f"cannot write to {where}: {error.strerror}") from error


def _is_file(path: Path) -> bool:
    return path.is_file() or is_zarr(path)


def _names_a_file(source: Path, out: Path) -> bool:
    """Return whether the output is meant as a file: it has a suffix of images and is not a folder."""
    return out.suffix.lower() in READ and (is_zarr(out) or not out.is_dir())


def _written_name(source: Path) -> Path:
    """Return the name of the output for an input: that of the input, in a format that is written."""
    if is_zarr(source):
        return Path(source.name if source.suffix.lower() == ".zarr" else f"{source.name}.zarr")
    return Path(source.name) if source.suffix.lower() in WRITTEN else Path(source.name).with_suffix(".png")


def _expected_name(source: Path, out: Path) -> str:
    expected = _written_name(source).suffix
    if expected.lower() == source.suffix.lower():
        return f"expected a name in {expected} like INPUT, got {out}"
    return f"expected a name in {expected}, since {source.suffix} is read only, got {out}"


def _images(path: Path, out: Path, notes: list[str]) -> Iterator[tuple[Path, Path]]:
    """Yield image files, and their output paths relative to the output folder."""
    if path.is_dir() and not is_zarr(path):
        try:
            inside = out if not out.exists() or not out.samefile(path) else None
            found = find_files(path, _is_image, is_leaf=is_zarr, without=inside)
        except OSError as error:
            raise InvalidArgument.of("INPUT", f"cannot read {path}: {error}") from error
        for paths, what in ((found.others, "not images"), (found.links, "links to folders that are read")):
            if paths:
                more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
                notes.append(f"skipped {path / paths[0]}{more}: {what}")
        if not found.files:
            raise NotFound(f"INPUT: expected images ({_KNOWN}) in {path}, got none")
        yield from ((path / file, file.parent / _written_name(path / file)) for file in found.files)
        return
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise NotFound(
            f"INPUT: expected an image file or a folder, got {path}, which does not exist"
        ) from error
    if path.suffix.lower() not in READ and not is_zarr(path):
        raise InvalidArgument.of("INPUT", f"expected a name in {_KNOWN}, got {path}")
    if not stat.S_ISREG(mode) and not is_zarr(path):
        raise InvalidArgument.of("INPUT", f"expected a file, got {path}, a pipe, socket or device")
    yield path, _written_name(path)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in READ


def _map_path(image: Path, name: str) -> Path:
    suffix = {".npy": ".npy", ".npz": ".npy", ".zarr": ".zarr"}.get(image.suffix.lower(), ".tiff")
    return image.with_suffix(f".{name}{suffix}")


def _check_distinct(jobs: Sequence[Job]) -> None:
    writer: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs:
            other = writer.setdefault(path, job.source)
            if other is not job.source:
                raise InvalidArgument.of(
                    "INPUT", f"{other} and {job.source} would both be written to {path}; rename one of them"
                )


_KNOWN = ", ".join(READ)
