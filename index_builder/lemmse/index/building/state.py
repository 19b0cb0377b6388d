"""The work of a build: its passes over the training patches, each a number of parts that stand by themselves.

    FOLDER/plan.json         what was asked for
    FOLDER/intake.json       what was read; written once the images are stored
    FOLDER/groundwork        empty; written once cells and axes are stored
    FOLDER/assigned/…        the patches of each block of images by cell, see assign.py
    FOLDER/arranged/….json   what a shard holds; written once it is whole
    FOLDER/index/VERSION/…   what is published

Whatever is there is whole, so a build that was ended goes on with what is not there. Every part is written by
itself, whoever does it: this process or another one that sees the folder.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.contract.errors import NotFound
from lemmse.index.building.assign import Assignment, assign
from lemmse.index.building.key_model import KeyModel, fit_key_model
from lemmse.index.building.plan import BuildPlan
from lemmse.index.building.shard_writer import gather, write_shard
from lemmse.index.images.stack import Images
from lemmse.index.patches.corpus import Corpus
from lemmse.index.physics import InverseProblem
from lemmse.index.progress import Progress
from lemmse.index.ranges import split_ranges
from lemmse.index.sources import intensities
from lemmse.index.storage import shards, zarr_store
from lemmse.index.storage.durable import sync_tree, write_atomically
from lemmse.index.storage.folder import ARRAYS, STAGED
from lemmse.index.storage.manifest import FileEntry, checksum
from lemmse.index.storage.quantization import Quantization, quantizations

__all__ = ["MEMORY_MIN", "Arranged", "Part", "Run", "Work", "do", "run_serially"]

_INTAKE, _GROUNDWORK, _ASSIGNED, _ARRANGED = "intake.json", "groundwork", "assigned", "arranged"
MEMORY_MIN = 10**9
"""Bytes that a build needs."""
_RESIDENT = 600 << 20
"""Bytes that a process holds whatever it builds: its libraries, and some chunks of everything."""
_OF_A_KEY, _OF_A_PATCH = 24, 200
"""Bytes held for each number of a key, and for each patch, while a shard is arranged."""
_BLOCK_MAX = 1 << 20
"""Patches of a block of images at most."""
_PIECES = 8
"""Of the keys that memory holds, a part that is worked on at a time."""

Part = tuple[str, int]
"""A pass, "assign" or "arrange", and a number in it."""
Run = Callable[[Path, Sequence[Part], Callable[[], None]], None]
"""Does parts of the work in a folder, in any order, and tells of each that is done."""


@dataclass(frozen=True, slots=True)
class Arranged:
    """What a shard holds."""

    patches: int
    distinct: int
    leaves: int
    files: Mapping[str, FileEntry]
    """By path in the version."""


@dataclass(frozen=True)
class Work:
    """A build that has its images, in a folder."""

    folder: Path
    plan: BuildPlan
    digest: str
    """Of the images."""
    problem_digest: str
    """Of the inverse problem, with what its files held."""

    @classmethod
    def open(cls, folder: Path) -> "Work | None":
        """The work in a folder, if its images are stored."""
        plan = BuildPlan.read(folder)
        if plan is None or not (folder / _INTAKE).exists():
            return None
        return _opened(folder, plan, **json.loads((folder / _INTAKE).read_text()))

    @classmethod
    def begin(cls, folder: Path, plan: BuildPlan, digest: str, problem_digest: str) -> "Work":
        """Note that the images are stored, and the arrays of the problem."""
        digests = {"digest": digest, "problem_digest": problem_digest}
        write_atomically(folder / _INTAKE, json.dumps(digests))
        return _opened(folder, plan, **digests)

    @property
    def version(self) -> Path:
        """The folder of the version to be."""
        return self.folder / STAGED / self.plan.version

    @property
    def _arrays(self) -> zarr.Group:
        return zarr_store.open_arrays(self.version / ARRAYS)

    @property
    def dtype(self) -> str:
        """Element type of the stored images."""
        return zarr_store.dtype(self._arrays, "images/pixels")

    @cached_property
    def corpus(self) -> Corpus:
        """The training patches."""
        plan, arrays = self.plan, self._arrays
        sizes = zarr_store.read_all(arrays, "images/sizes")
        first = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))])
        channels = zarr_store.read(arrays, "images/pixels", 0, 1).shape[1]

        def read(start: int, end: int) -> Images[np.float32]:
            pixels = zarr_store.read(arrays, "images/pixels", int(first[start]), int(first[end]))
            return Images(intensities(pixels), sizes[start:end])

        return Corpus.of(
            InverseProblem.restore(plan.physics, plan.pre_inverse, zarr_store.read_group(arrays, "physics")),
            read,
            sizes,
            channels,
            patch_size=plan.patch_size,
            boundary=plan.boundary,
            equivariance=plan.equivariance,
            augment=plan.augment,
            block=min(_BLOCK_MAX, self._held(channels)),
        )

    @cached_property
    def held(self) -> int:
        """Keys that memory holds, with all that is made of them."""
        return self._held(self.corpus.layout.channels)

    def _held(self, channels: int) -> int:
        length = self.plan.patch_size**2 * channels
        return max(1, (self.plan.memory - _RESIDENT) // (_OF_A_KEY * length + _OF_A_PATCH))

    @cached_property
    def groundwork(self) -> KeyModel:
        """Cells and axes."""
        return KeyModel.read(self._arrays)

    def fit_key_model(self, progress: Progress) -> None:
        """Find the cells and axes and store them, unless they are."""
        if not (self.folder / _GROUNDWORK).exists():
            found = fit_key_model(self.corpus, self.plan.seed, self.held, progress)
            group = zarr_store.open_arrays(self.version / ARRAYS, writing=True)
            found.write(group)
            self.corpus.strata.write(group)
            write_atomically(self.folder / _GROUNDWORK, "")

    @property
    def unassigned(self) -> list[Part]:
        """The parts of the first pass that are not done."""
        (self.folder / _ASSIGNED).mkdir(exist_ok=True)
        return [("assign", block) for block in self._blocks if not self._assignment(block).done]

    @property
    def unarranged(self) -> list[Part]:
        """The parts of the second pass, once the first is done, that are not done."""
        (self.folder / _ARRANGED).mkdir(exist_ok=True)
        return [("arrange", shard) for shard in range(self.shards) if not self._arranged(shard).exists()]

    @property
    def shards(self) -> int:
        """Number of shards, once the first pass is done."""
        return len(self._first_cells) - 1

    def do(self, part: Part) -> None:
        """Do a part."""
        kind, number = part
        if kind == "assign":
            cell, fits = assign(self.corpus.block(number), self.groundwork)
            self._assignment(number).write(cell, len(self.groundwork.centroids), fits)
        else:
            self._arrange(number)

    def arranged(self) -> list[Arranged]:
        """What the shards hold, once all are arranged."""
        return [self._read(shard) for shard in range(self.shards)]

    def _arrange(self, shard: int) -> None:
        first, end = self._first_cells[shard : shard + 2].tolist()
        held = max(1, self.held // _PIECES)
        gathered = gather(self.corpus, self._assignment, first, end, held)
        folder = shards.folder_of(self.version, shard)
        shutil.rmtree(folder, ignore_errors=True)  # what an ended build left of it
        base = self.groundwork
        leaves = write_shard(
            folder, gathered, base.centroids[first:end], base.basis, self.quantization, self.plan.seed, held
        )
        files = {str(path.relative_to(self.version)): asdict(checksum(path)) for path in _files(folder)}
        sync_tree(folder)
        held_there = {
            "patches": len(gathered.columns["ids"]),
            "distinct": len(gathered.v),
            "leaves": leaves,
            "files": files,
        }
        write_atomically(self._arranged(shard), json.dumps(held_there))

    def _assignment(self, block: int) -> Assignment:
        return Assignment(self.folder / _ASSIGNED, block)

    def _arranged(self, shard: int) -> Path:
        return self.folder / _ARRANGED / f"{shard:06}.json"

    def _read(self, shard: int) -> Arranged:
        content = json.loads(self._arranged(shard).read_text())
        files = {path: FileEntry(**entry) for path, entry in content.pop("files").items()}
        return Arranged(**content, files=files)

    @property
    def _blocks(self) -> range:
        return range(len(self.corpus.blocks) - 1)

    @cached_property
    def quantization(self) -> Quantization:
        """How keys are stored, once the first pass is done."""
        fits = np.all([self._assignment(block).fits for block in self._blocks], axis=0)
        return quantizations(self.plan.patch_size**2)[int(fits.argmax())]

    @cached_property
    def _first_cells(self) -> NDArray[np.int64]:
        """First cell of each shard, and the number of cells: as many patches as memory holds, or one cell."""
        edges = np.sum([self._assignment(block).edges for block in self._blocks], axis=0)
        return np.array([0, *(end for _, end in split_ranges(edges, self.held))])


def do(folder: Path, part: Part) -> None:
    """Do a part of the work in a folder, in whatever process."""
    work = Work.open(folder)
    if work is None:
        raise NotFound(
            f"expected the folder of a build, got {folder}: every worker must see it under this path"
        )
    work.do(part)


def run_serially(folder: Path, parts: Sequence[Part], done: Callable[[], None]) -> None:
    """Do parts in this process."""
    for part in parts:
        do(folder, part)
        done()


@lru_cache(maxsize=1)
def _opened(folder: Path, plan: BuildPlan, digest: str, problem_digest: str) -> Work:
    """The same work for all its parts, since it takes long to lay out."""
    return Work(folder, plan, digest, problem_digest)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
