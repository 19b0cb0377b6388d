"""The journal of a batch of files: what is finished, so that a stopped batch goes on where it was.

A journal is a text file of JSON lines. The first has the settings of the batch; each other names an input and
its outputs, once before they get their names, and once after, with size and time of change of the input. For
large images there are lines before these: one with the temporary files, and one for each tile that is stored
in them. A line that was cut short by a crash counts as not written. The file is locked, so that one process
at a time has it.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from lemmse.client.jobs import Job
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.results import Diagnostics

__all__ = ["Journal"]


@dataclass(frozen=True, slots=True)
class Begun:
    """A large image of which tiles are stored."""

    state: list[int] | None
    """Size and time of change of the input."""
    temporaries: dict[str, Path]
    """The temporary files of the outputs, by name."""
    tiles: dict[int, dict[int, Diagnostics]] = field(default_factory=dict)
    """How the tiles that are stored were computed, by the number of the plane and their own."""

    def fits(self, job: Job) -> bool:
        """Return whether the input is as it was, and the temporary files are there."""
        return self.state == _state(job.source) and all(path.exists() for path in self.temporaries.values())


class Journal:
    """The journal in a file, which need not exist yet. Leaving it as a context lets other processes have it.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    InvalidArgument
        It is not a journal, or another process has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._locked: BinaryIO | None = _lock(path, "r+b") if path.exists() else None
        content = b"" if self._locked is None else self._locked.read()
        self._length = content.rfind(b"\n") + 1
        """Length of the complete lines, in bytes."""
        try:
            lines = [json.loads(line) for line in content[: self._length].splitlines()]
            self._settings: Any = lines[0]["settings"] if lines else None
            finished = [line for line in lines[1:] if "outputs" in line]
            self._entries = [(line["input"], line["state"], line["outputs"]) for line in finished]
            self._begun = _begun(line for line in lines[1:] if "outputs" not in line)
        except (ValueError, LookupError, TypeError) as error:
            self.__exit__()
            raise InvalidArgument.of("--journal", f"expected a journal or no file, got {path}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._locked is not None:
            self._locked.close()

    def done(self) -> list[Job]:
        """Return the jobs that are finished: their inputs are as they were, and their outputs exist."""
        jobs = []
        for source, state, (image, maps) in self._entries:
            job = Job(Path(source), Path(image), {name: Path(path) for name, path in maps.items()})
            if (
                state is not None
                and _state(job.source) == state
                and all(path.exists() for path in job.outputs)
            ):
                jobs.append(job)
        return jobs

    def outputs(self) -> set[Path]:
        """Return the outputs that the batch has written, or was about to write."""
        return {Path(path) for _, _, (image, maps) in self._entries for path in (image, *maps.values())}

    def begun(self, job: Job) -> Begun | None:
        """Return the part of a large image that was stored, if any was."""
        return self._begun.get(_key(job))

    def begin_tiles(self, job: Job, temporaries: Mapping[str, Path]) -> None:
        """Note the temporary files of the outputs of a large image, by name."""
        paths = {name: str(path) for name, path in temporaries.items()}
        self._append({"begun": _key(job), "state": _state(job.source), "temporaries": paths})

    def add_tile(self, job: Job, plane: int, number: int, diagnostics: Diagnostics) -> None:
        """Note that a tile of a plane of a large image is stored in the temporary files."""
        self._append({"tile_of": _key(job), "tile": [plane, number], "diagnostics": asdict(diagnostics)})

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Start to write; the settings must be those of the part that is finished.

        Raises
        ------
        InvalidArgument
            The settings are others, or another process began the journal meanwhile.
        """
        if self._settings is not None and self._settings != settings:
            other = next(key for key in settings if self._settings.get(key) != settings[key])
            raise InvalidArgument.of(
                "--journal",
                f"{self._path} is of a batch with another {other}; name another file or remove it",
            )
        if self._locked is None:
            self._locked = _lock(self._path, "xb")
        self._locked.truncate(self._length)
        if self._settings is None:
            self._append({"settings": settings})

    def add(self, job: Job, *, done: bool) -> None:
        """Note that a job is finished, or that its outputs are about to get their names."""
        outputs = [str(job.image), {name: str(path) for name, path in job.maps.items()}]
        state = _state(job.source) if done else None
        self._append({"input": str(job.source), "state": state, "outputs": outputs})

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="ascii") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _lock(path: Path, mode: str) -> BinaryIO:
    """Open a file, which is locked until it is closed."""
    try:
        file = open(path, mode)  # noqa: SIM115  the caller closes it
    except FileExistsError as error:
        raise _in_use(path) from error
    except OSError as error:
        raise InvalidArgument.of("--journal", f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise _in_use(path) from error
    return cast(BinaryIO, file)


def _in_use(path: Path) -> InvalidArgument:
    return InvalidArgument.of("--journal", f"another command uses {path}; wait for it, or end it")


def _key(job: Job) -> str:
    """Return what names a job in the lines of its tiles: its input and its image."""
    return json.dumps([str(job.source), str(job.image)])


def _begun(lines: Iterable[Mapping[str, Any]]) -> dict[str, Begun]:
    """Return the large images that were begun, by the key of their job."""
    begun: dict[str, Begun] = {}
    for line in lines:
        if "begun" in line:
            temporaries = {name: Path(path) for name, path in line["temporaries"].items()}
            begun[line["begun"]] = Begun(line["state"], temporaries)
        else:
            plane, number = line["tile"]
            tiles = begun[line["tile_of"]].tiles.setdefault(plane, {})
            tiles[number] = Diagnostics(**line["diagnostics"])
    return begun


def _state(path: Path) -> list[int] | None:
    """Return size and time of change of a file; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
