"""The state of a build in its folder, and the tasks of its two passes over the training patches.

    FOLDER/plan.json           the plan
    FOLDER/ingested.json       digests of images and problem; written after the images are stored
    FOLDER/key_model           empty; written after the key model is stored
    FOLDER/assignments/…       the patches of each block of images by cell, see assign.py
    FOLDER/shards/….json       summary of a shard; written when it is complete
    FOLDER/index/VERSION/…     the version to publish

Files appear only when they are complete, so that an interrupted build resumes with the missing ones. A task
depends only on the folder, and can be run by any process that sees it.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import NotFound
from lemmse.index.building.assign import Assignment, assign
from lemmse.index.building.key_model import KeyModel, fit_key_model
from lemmse.index.building.plan import BuildPlan
from lemmse.index.building.shard_writer import gather, write_shard
from lemmse.index.callbacks import Progress
from lemmse.index.images.stack import Images
from lemmse.index.patches.corpus import Corpus
from lemmse.index.physics import InverseProblem
from lemmse.index.ranges import split_ranges
from lemmse.index.sources import intensities
from lemmse.index.storage import shards, zarr_store
from lemmse.index.storage.durable import sync_tree, write_atomically
from lemmse.index.storage.folder import ARRAYS, DEPTHS, STAGED
from lemmse.index.storage.manifest import FileEntry, checksum
from lemmse.index.storage.quantization import Quantization, quantizations

if TYPE_CHECKING:
    import zarr

__all__ = ["MEMORY_MIN", "BuildState", "Runner", "ShardSummary", "Task", "run_serially", "run_task"]

MEMORY_MIN = 10**9
"""Smallest memory limit of a build, in bytes."""

_INGESTED, _KEY_MODEL, _ASSIGNMENTS, _SHARDS = "ingested.json", "key_model", "assignments", "shards"
_RESIDENT = 600 << 20
"""Memory of a process before it holds keys, in bytes: libraries, and some chunks of every array."""
_KEY_ELEMENT_BYTES, _PATCH_BYTES = 24, 200
"""Memory per element of a key, and per patch, while a shard is written, in bytes."""
_BLOCK_MAX = 1 << 20
"""Largest number of patches in a block of several images."""
_SHARE = 8
"""Keys are extracted and summarized in blocks of 1/_SHARE of the number of keys that fit in memory."""

Task = tuple[str, int]
"""A pass, "assign" or "shard", and the number of the block or shard to process."""
Runner = Callable[[Path, Sequence[Task], Callable[[], None]], None]
"""A callable `runner(folder, tasks, done)` that runs tasks in any order and calls `done()` after each."""


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """Counts and files of a complete shard."""

    patches: int
    distinct: int
    leaves: int
    files: Mapping[str, FileEntry]
    """Entries of the files, by path in the folder of the version."""


@dataclass(frozen=True)
class BuildState:
    """The state of a build whose images are stored."""

    folder: Path
    plan: BuildPlan
    digest: str
    """SHA-256 of the images, in hexadecimal."""
    problem_digest: str
    """SHA-256 of the inverse problem, including its files, in hexadecimal."""

    @classmethod
    def open(cls, folder: Path) -> "BuildState | None":
        """Return the state of the build in a folder; None if its images are not stored."""
        plan = BuildPlan.read(folder)
        if plan is None or not (folder / _INGESTED).exists():
            return None
        return _opened(folder, plan, **json.loads((folder / _INGESTED).read_text()))

    @classmethod
    def begin(cls, folder: Path, plan: BuildPlan, digest: str, problem_digest: str) -> "BuildState":
        """Record that the images and the arrays of the problem are stored."""
        digests = {"digest": digest, "problem_digest": problem_digest}
        write_atomically(folder / _INGESTED, json.dumps(digests))
        return _opened(folder, plan, **digests)

    @property
    def version(self) -> Path:
        """Folder of the version to build."""
        return self.folder / STAGED / self.plan.version

    @property
    def _arrays(self) -> "zarr.Group":
        return zarr_store.open_arrays(self.version / ARRAYS)

    @property
    def dtype(self) -> str:
        """Element type of the stored images."""
        return zarr_store.dtype(self._arrays, "images/pixels")

    @cached_property
    def images(self) -> int:
        """Number of training images."""
        return zarr_store.shape(self._arrays, "images/sizes")[0]

    @cached_property
    def corpus(self) -> Corpus:
        """The training patches."""
        plan, arrays = self.plan, self._arrays
        sizes = zarr_store.read_all(arrays, "images/sizes")
        first = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))])
        channels = zarr_store.read(arrays, "images/pixels", 0, 1).shape[1]

        def read(numbers: NDArray[np.int64]) -> Images[np.float32]:
            runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
            pixels = [
                zarr_store.read(arrays, "images/pixels", int(first[run[0]]), int(first[run[-1] + 1]))
                for run in runs
            ]
            return Images(intensities(np.concatenate(pixels)), sizes[numbers])

        return Corpus.of(
            InverseProblem.restore(
                plan.physics, plan.pre_inverse, zarr_store.read_group(arrays, "physics"), plan.noise
            ),
            read,
            sizes,
            zarr_store.read_all(arrays, DEPTHS) if plan.patch_depth > 1 else np.ones(len(sizes), np.int64),
            channels,
            patch_size=plan.patch_size,
            patch_depth=plan.patch_depth,
            boundary=plan.boundary,
            equivariance=plan.equivariance,
            augment=plan.augment,
            stride=plan.stride,
            block=min(_BLOCK_MAX, self._capacity(channels)),
        )

    @cached_property
    def capacity(self) -> int:
        """Number of keys that fit in memory while a shard is written."""
        return self._capacity(self.corpus.training_strata.channels)

    def _capacity(self, channels: int) -> int:
        length = self.plan.patch_depth * self.plan.patch_size**2 * channels
        return max(1, (self.plan.memory - _RESIDENT) // (_KEY_ELEMENT_BYTES * length + _PATCH_BYTES))

    @cached_property
    def key_model(self) -> KeyModel:
        """The key model, once it is stored."""
        return KeyModel.read(self._arrays)

    def fit_key_model(self, progress: Progress) -> None:
        """Fit the key model and store it with the strata, unless this has been done."""
        if not (self.folder / _KEY_MODEL).exists():
            model = fit_key_model(self.corpus, self.plan.seed, self.capacity, progress)
            group = zarr_store.open_arrays(self.version / ARRAYS, writing=True)
            model.write(group)
            for name, array in asdict(self.corpus.strata).items():
                if array is not None:
                    zarr_store.write(group, f"strata/{name}", array)
            write_atomically(self.folder / _KEY_MODEL, "")

    def assign_tasks(self) -> list[Task]:
        """Return the remaining tasks of the first pass, one for each block."""
        (self.folder / _ASSIGNMENTS).mkdir(exist_ok=True)
        return [("assign", block) for block in self._blocks if not self._assignment(block).complete]

    def shard_tasks(self) -> list[Task]:
        """Return the remaining tasks of the second pass, one for each shard; the first must be complete."""
        (self.folder / _SHARDS).mkdir(exist_ok=True)
        return [("shard", shard) for shard in range(self.shards) if not self._summary_file(shard).exists()]

    @property
    def shards(self) -> int:
        """Number of shards, once the first pass is complete."""
        return len(self._shard_cells) - 1

    def run(self, task: Task) -> None:
        """Run a task."""
        kind, number = task
        if kind == "assign":
            cell, fits = assign(self.corpus.block(number), self.key_model)
            self._assignment(number).write(cell, len(self.key_model.centroids), fits)
        else:
            self._write_shard(number)

    def shard_summaries(self) -> list[ShardSummary]:
        """Return the summaries of all shards, once the second pass is complete."""
        summaries = []
        for shard in range(self.shards):
            content = json.loads(self._summary_file(shard).read_text())
            files = {path: FileEntry(**entry) for path, entry in content.pop("files").items()}
            summaries.append(ShardSummary(**content, files=files))
        return summaries

    def _write_shard(self, shard: int) -> None:
        first, end = self._shard_cells[shard : shard + 2].tolist()
        most = max(1, self.capacity // _SHARE)
        gathered = gather(self.corpus, self._assignment, first, end, most)
        folder = self.version / shards.name_of(shard)
        shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted build
        leaves = write_shard(
            folder,
            gathered,
            self.key_model.centroids[first:end],
            self.key_model.basis,
            self.quantization,
            self.plan.seed,
            most,
        )
        files = {str(path.relative_to(self.version)): checksum(path) for path in _files(folder)}
        sync_tree(folder)
        summary = ShardSummary(len(gathered.columns["ids"]), len(gathered.v), leaves, files)
        write_atomically(self._summary_file(shard), json.dumps(asdict(summary)))

    def _assignment(self, block: int) -> Assignment:
        return Assignment(self.folder / _ASSIGNMENTS, block)

    def _summary_file(self, shard: int) -> Path:
        return self.folder / _SHARDS / f"{shard:06}.json"

    @property
    def _blocks(self) -> range:
        return range(len(self.corpus.blocks) - 1)

    @cached_property
    def quantization(self) -> Quantization:
        """The quantization of the keys, once the first pass is complete."""
        fits = np.all([self._assignment(block).fits for block in self._blocks], axis=0)
        return quantizations(self.plan.patch_depth * self.plan.patch_size**2)[int(fits.argmax())]

    @cached_property
    def _shard_cells(self) -> NDArray[np.int64]:
        """First cell of each shard, followed by the number of cells; only one-cell shards exceed memory."""
        offsets = np.sum([self._assignment(block).offsets for block in self._blocks], axis=0)
        return np.array([0, *(end for _, end in split_ranges(offsets, self.capacity))])


def run_task(folder: Path, task: Task) -> None:
    """Run a task of the build in a folder, in this process.

    Raises
    ------
    NotFound
        This process does not see a build in the folder.
    """
    state = BuildState.open(folder)
    if state is None:
        raise NotFound(
            f"expected the folder of a build, got {folder}: every worker must see it under this path"
        )
    state.run(task)


def run_serially(folder: Path, tasks: Sequence[Task], done: Callable[[], None]) -> None:
    """Run tasks in this process, one after the other; this is the default `Runner`."""
    for task in tasks:
        run_task(folder, task)
        done()


@lru_cache(maxsize=1)
def _opened(folder: Path, plan: BuildPlan, digest: str, problem_digest: str) -> BuildState:
    """Return the state of a build, cached for all of its tasks, since its strata take long to compute."""
    return BuildState(folder, plan, digest, problem_digest)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
