"""Carry out a plan: each step takes up what was left of it."""

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lemmse.contract.errors import InvalidArgument
from lemmse.index.building.ingest import ingest
from lemmse.index.building.plan import BuildPlan
from lemmse.index.building.state import Part, Run, Work
from lemmse.index.physics import InverseProblem
from lemmse.index.progress import Progress
from lemmse.index.sources import ImageSource, concatenate, open_source
from lemmse.index.storage import zarr_store
from lemmse.index.storage.folder import (
    ARRAYS,
    SOURCES,
    STAGED,
    clear,
    is_published,
    next_version,
    publish,
    staging,
)
from lemmse.index.storage.manifest import FORMAT, MANIFEST, Manifest, checksum

__all__ = ["run_build"]


def run_build(
    out: Path,
    plan: BuildPlan,
    problem: InverseProblem,
    before: list[ImageSource],
    progress: Progress,
    run: Run,
) -> Path:
    """Do what a plan says, or what is left of it."""
    with staging(out, update=plan.based_on is not None) as folder:
        unfinished = BuildPlan.read(folder)
        if unfinished is not None and is_published(out, unfinished.version):
            clear(folder)  # all that was left of it was to remove this
            unfinished = None
        if unfinished is None:
            plan = replace(plan, version=next_version(out))
            plan.write(folder)
        else:
            plan = replace(plan, version=unfinished.version)
            plan.require_same(unfinished, folder)
        if not (out / plan.version).exists():
            source = concatenate([*before, *(open_source(spec) for spec in plan.sources)])
            work = _ingest(folder, plan, problem, source, progress)
            work.fit_key_model(progress)
            _run(run, work, "assign patches", work.unassigned, len(work.corpus.blocks) - 1, progress)
            _run(run, work, "arrange shards", work.unarranged, work.shards, progress)
            _conclude(work)
        publish(folder, out, plan.version)
    return out


def _ingest(
    folder: Path, plan: BuildPlan, problem: InverseProblem, source: ImageSource, progress: Progress
) -> Work:
    """Store the images, or see that those that were stored are the same."""
    count = len(source) if plan.limit is None else min(plan.limit, len(source))
    work = Work.open(folder)
    if work is not None:
        images = ingest(source, count, None, progress)
        if (images.digest, problem.digest) != (work.digest, work.problem_digest):
            raise InvalidArgument.of(
                "SOURCE",
                f"expected what the unfinished build in {folder} began with, got others; "
                "remove that folder to begin anew",
            )
        return work
    version_folder = folder / STAGED / plan.version
    shutil.rmtree(version_folder, ignore_errors=True)  # what an ended build left of it
    version_folder.mkdir(parents=True)
    group = zarr_store.create(version_folder / ARRAYS)
    images = ingest(source, count, group, progress)
    for name, array in problem.arrays.items():
        zarr_store.write(group, f"physics/{name}", array)
    (version_folder / SOURCES).write_text(json.dumps(images.labels))
    return Work.begin(folder, plan, images.digest, problem.digest)


def _run(run: Run, work: Work, stage: str, parts: Sequence[Part], total: int, progress: Progress) -> None:
    """Do the parts of a pass that are not done, and tell how many are."""
    done = itertools.count(total - len(parts))
    progress(stage, next(done), total)
    run(work.folder, parts, lambda: progress(stage, next(done), total))


def _conclude(work: Work) -> None:
    """Write what belongs to all shards, and the manifest."""
    plan, corpus, groundwork, arranged = work.plan, work.corpus, work.groundwork, work.arranged()
    own = [path for path in work.version.rglob("*") if path.is_file()]
    for path in [path for path in own if path.name.startswith(".") or path.suffix == ".partial"]:
        path.unlink()  # what an ended build was writing
        own.remove(path)
    files = {name: entry for shard in arranged for name, entry in shard.files.items()}
    files |= {
        name: checksum(path)
        for path in own
        if (name := str(path.relative_to(work.version))) not in files and name != MANIFEST
    }
    Manifest(
        format=FORMAT,
        lemmse=plan.lemmse,
        sources=(*plan.kept, *plan.sources),
        digest=work.digest,
        images=len(corpus.sizes),
        channels=corpus.layout.channels,
        dtype=work.dtype,
        physics=plan.physics,
        pre_inverse=plan.pre_inverse,
        boundary=plan.boundary,
        equivariance=plan.equivariance,
        augment=plan.augment,
        patch_size=plan.patch_size,
        keys=len(corpus),
        distinct=sum(shard.distinct for shard in arranged),
        cells=len(groundwork.centroids),
        shards=len(arranged),
        leaves=sum(shard.leaves for shard in arranged),
        strata=len(corpus.strata),
        gaussians=len(groundwork.mixture.weights) if groundwork.mixture else 0,
        condition=corpus.layout.condition,
        key_dtype=str(work.quantization.dtype),
        key_step=work.quantization.step,
        key_low=work.quantization.low,
        seed=plan.seed,
        files=dict(sorted(files.items())),
    ).write(work.version)
