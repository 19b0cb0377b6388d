"""Run a build plan; each step continues from the files that an interrupted build left."""

import hashlib
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.building.ingest import Ingested, ingest
from lemmse.index.building.plan import BuildPlan
from lemmse.index.building.state import BuildState, Runner, Task
from lemmse.index.callbacks import Notice, Progress
from lemmse.index.physics import InverseProblem
from lemmse.index.sources import (
    ImageSource,
    Reading,
    Region,
    concatenate,
    depths_of,
    open_source,
    open_volumes,
)
from lemmse.index.storage import zarr_store
from lemmse.index.storage.folder import (
    ARRAYS,
    DEPTHS,
    SOURCES,
    STAGED,
    clear,
    is_published,
    next_version,
    publish,
    staging,
)
from lemmse.index.storage.manifest import FORMAT, MANIFEST, FileEntry, Manifest, checksum

__all__ = ["digest_of", "other_files", "resume", "run_build"]


def run_build(
    out: Path,
    plan: BuildPlan,
    problem: InverseProblem,
    base: ImageSource | None,
    progress: Progress,
    runner: Runner,
    notice: Notice,
) -> Path:
    """Run a plan, or its remaining steps, and return the index folder.

    Parameters
    ----------
    out : Path
        The index folder.
    plan : BuildPlan
        The plan; its version is chosen here.
    problem : InverseProblem
        The inverse problem of the plan.
    base : ImageSource, optional
        Images of the version to update, which precede those of the sources.
    progress : callable
        Called as `progress(stage, done, total)`.
    runner : callable
        Runs the tasks of the passes over all patches.
    notice : callable
        Told of equal images.
    """
    reading = Reading(plan.axes, plan.range, None if plan.roi is None else Region.parse(plan.roi))
    with staging(out, update=plan.base_version is not None) as folder:
        plan = resume(out, plan, folder)
        if not (out / plan.version).exists():
            opened = open_source if plan.patch_depth == 1 else open_volumes
            added = [opened(spec, reading) for spec in plan.sources]
            source = concatenate(added if base is None else [base, *added])
            state = _ingest(folder, plan, problem, source, progress, notice)
            state.fit_key_model(progress)
            blocks = len(state.corpus.blocks) - 1
            _run(runner, state, "assign patches", state.assign_tasks(), blocks, progress)
            _run(runner, state, "write shards", state.shard_tasks(), state.shards, progress)
            _write_manifest(state)
        publish(folder, out, plan.version)
    return out


def resume(out: Path, plan: BuildPlan, folder: Path) -> BuildPlan:
    """Return the plan with its version: the version of an unfinished build, or a new one."""
    unfinished = BuildPlan.read(folder)
    if unfinished is not None and is_published(out, unfinished.version):
        clear(folder)  # interrupted before the folder was removed
        unfinished = None
    if unfinished is None:
        plan = replace(plan, version=next_version(out))
        plan.write(folder)
    else:
        plan = replace(plan, version=unfinished.version)
        plan.require_same(unfinished, folder)
    return plan


def _ingest(
    folder: Path,
    plan: BuildPlan,
    problem: InverseProblem,
    source: ImageSource,
    progress: Progress,
    notice: Notice,
) -> BuildState:
    """Store the images, or check that those stored by an unfinished build are the same; return the state."""
    depths = depths_of(source)[: plan.limit]
    count = int(depths.sum())
    state = BuildState.open(folder)
    if state is not None:
        images = ingest(source, count, None, progress)
        if (digest_of(images, depths, plan.patch_depth), problem.digest) != (
            state.digest,
            state.problem_digest,
        ):
            raise InvalidArgument.of(
                "SOURCE",
                f"expected what the unfinished build in {folder} began with, got others; "
                "remove that folder to begin anew",
            )
        _tell_of_duplicates(images, notice)
        return state
    version_folder = folder / STAGED / plan.version
    shutil.rmtree(version_folder, ignore_errors=True)  # left by an interrupted build
    version_folder.mkdir(parents=True)
    group = zarr_store.create(version_folder / ARRAYS)
    images = ingest(source, count, group, progress)
    _tell_of_duplicates(images, notice)
    if plan.patch_depth > 1:
        zarr_store.write(group, DEPTHS, depths)
    for name, array in problem.arrays.items():
        zarr_store.write(group, f"physics/{name}", array)
    (version_folder / SOURCES).write_text(json.dumps(images.labels))
    return BuildState.begin(folder, plan, digest_of(images, depths, plan.patch_depth), problem.digest)


def digest_of(images: Ingested, depths: NDArray[np.int64], patch_depth: int) -> str:
    """Return the SHA-256 of the images, and of the volumes of which they are planes, in hexadecimal."""
    if patch_depth == 1:
        return images.digest
    return hashlib.sha256(images.digest.encode() + depths.tobytes()).hexdigest()


def _tell_of_duplicates(images: Ingested, notice: Notice) -> None:
    if images.equal is not None:
        first, other = images.equal
        notice(
            f"{images.duplicates} of {len(images.labels)} training images equal earlier ones, as {other} "
            f"equals {first}; all are kept"
        )


def _run(
    runner: Runner, state: BuildState, stage: str, tasks: Sequence[Task], total: int, progress: Progress
) -> None:
    """Run the remaining tasks of a pass that has `total` tasks, and report progress."""
    done = itertools.count(total - len(tasks))
    progress(stage, next(done), total)
    runner(state.folder, tasks, lambda: progress(stage, next(done), total))


def _write_manifest(state: BuildState) -> None:
    """Write the manifest of a version whose shards are complete."""
    plan, corpus, model, shards = state.plan, state.corpus, state.key_model, state.shard_summaries()
    files = {name: entry for shard in shards for name, entry in shard.files.items()}
    Manifest(
        format=FORMAT,
        lemmse=plan.lemmse,
        sources=(*plan.base_sources, *plan.sources),
        digest=state.digest,
        images=state.images,
        channels=corpus.training_strata.channels,
        dtype=state.dtype,
        physics=plan.physics,
        pre_inverse=plan.pre_inverse,
        noise=plan.noise,
        boundary=plan.boundary,
        equivariance=plan.equivariance,
        augment=plan.augment,
        stride=plan.stride,
        patch_size=plan.patch_size,
        patch_depth=plan.patch_depth,
        keys=len(corpus),
        distinct=sum(shard.distinct for shard in shards),
        cells=len(model.centroids),
        shards=len(shards),
        leaves=sum(shard.leaves for shard in shards),
        strata=len(corpus.strata),
        gaussians=len(model.mixture.weights) if model.mixture else 0,
        condition=corpus.training_strata.condition,
        key_dtype=str(state.quantization.dtype),
        key_step=state.quantization.step,
        key_low=state.quantization.low,
        seed=plan.seed,
        files=dict(sorted((files | other_files(state.version, files)).items())),
    ).write(state.version)


def other_files(version: Path, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    """Remove partial files of a version, and return the entries of the files that are not in `files`."""
    entries = {}
    for path in [path for path in version.rglob("*") if path.is_file()]:
        name = str(path.relative_to(version))
        if path.name.startswith(".") or path.suffix == ".partial":
            path.unlink()  # left by an interrupted build
        elif name not in files and name != MANIFEST:
            entries[name] = checksum(path)
    return entries
