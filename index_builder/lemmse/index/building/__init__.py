"""Build an index: take the images in, find cells and axes, assign every patch to a cell, arrange the cells.

Patches are cut when they are needed, in each pass anew, so that a build holds a block of images and the keys
of a shard at a time, however many images there are.
"""

import itertools
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lemmse.index import store
from lemmse.index.building.intake import take_in
from lemmse.index.building.plan import Plan
from lemmse.index.building.stored import StoredImages
from lemmse.index.building.work import MEMORY_MIN, Part, Run, Work, do, one_after_the_other
from lemmse.index.errors import InvalidArgument
from lemmse.index.folder import (
    ARRAYS,
    SOURCES,
    STAGED,
    clear,
    is_published,
    next_version,
    publish,
    staging,
)
from lemmse.index.images import BOUNDARIES
from lemmse.index.manifest import FORMAT, MANIFEST, Manifest, checksum
from lemmse.index.physics import InverseProblem
from lemmse.index.progress import Progress, silent
from lemmse.index.reader import open_index
from lemmse.index.sources import ImageSource, concatenate, open_source

__all__ = [
    "AUGMENTS",
    "EQUIVARIANCES",
    "MEMORY",
    "PATCH_SIZE_MAX",
    "Part",
    "Run",
    "build",
    "do",
    "one_after_the_other",
    "update",
]

AUGMENTS = ("none", "dihedral")
EQUIVARIANCES = ("none", "offset")
MEMORY = 4 * 10**9
"""Bytes that a build holds unless told otherwise."""
PATCH_SIZE_MAX = 64
"""Largest patch side: a key of three channels then has 12 288 numbers."""
_SEED_MAX = 2**31 - 1
"""Largest seed that FAISS takes."""

_Sources = Sequence[str | os.PathLike[str]]


def build(
    sources: _Sources,
    out: str | os.PathLike[str],
    *,
    patch_size: int = 5,
    physics: str = "identity",
    pre_inverse: str = "identity",
    boundary: str = "circular",
    equivariance: str = "none",
    augment: str = "none",
    limit: int | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: Progress = silent,
    run: Run = one_after_the_other,
) -> Path:
    """Build an index of all translated training patches.

    A build that was ended goes on where it was when it is started again with the same arguments and images,
    and gives the index that it would have given; until it is done there is nothing at `out`.

    Parameters
    ----------
    sources : sequence of str or path
        Where the training images come from, see `lemmse.index.sources`.
    out : path
        The folder to make; its name is the name of the index.
    patch_size : int
        Side p of the patches, 1 to 64, odd or even; see `lemmse.index.images` for the centre.
    physics, pre_inverse : str
        Specifications of A and B, see `lemmse.index.physics`.
    boundary : str
        How positions outside an image are read.
    equivariance : str
        "offset" has the estimator commute with constants added to a channel, as "none" does not: every patch
        stands for all its levels. For physics identity and blur.
    augment : str
        "dihedral" adds all rotations by 90° and mirror images of the training images, see
        `lemmse.index.symmetries`.
    limit : int, optional
        Use only the first `limit` images.
    seed : int
        Seed of the clustering and of samples; the same arguments and seed give the same index.
    memory : int
        Bytes that a process of the build may hold, 1 GB at least; the keys are stored in shards that fit.
    progress : callable
        Called as `progress(stage, done, total)`.
    run : callable
        Does the parts of the passes over all patches; in this process, unless told otherwise.

    Returns
    -------
    Path
        The index folder.

    Raises
    ------
    InvalidArgument, NotFound
        An argument or an image is not what was expected, or not what an unfinished build was asked for.
    AlreadyExists
        `out` is there, or another process builds it.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(f"{folder.name}/images.npy", np.zeros((2, 8, 8), np.uint8))
    >>> build([f"{folder.name}/images.npy"], f"{folder.name}/index").name
    'index'
    >>> folder.cleanup()
    """
    problem = InverseProblem.parse(physics, pre_inverse)
    _require_in("patch-size", patch_size, 1, PATCH_SIZE_MAX)
    if limit is not None:
        _require_in("limit", limit, 1)
    _require_in("seed", seed, 0, _SEED_MAX)
    for argument, value, known in (
        ("boundary", boundary, BOUNDARIES),
        ("equivariance", equivariance, EQUIVARIANCES),
        ("augment", augment, AUGMENTS),
    ):
        if value not in known:
            raise InvalidArgument(argument, f"expected one of {', '.join(known)}, got {value!r}")
    plan = Plan(
        sources=_names(sources),
        patch_size=patch_size,
        physics=physics,
        pre_inverse=pre_inverse,
        boundary=boundary,
        equivariance=equivariance,
        augment=augment,
        limit=limit,
        seed=seed,
        memory=memory,
    )
    return _build(_place(out), plan, problem, [], progress, run)


def update(
    sources: _Sources,
    out: str | os.PathLike[str],
    *,
    memory: int = MEMORY,
    progress: Progress = silent,
    run: Run = one_after_the_other,
) -> Path:
    """Add training images to an index, as a new version of it; the others stay as they are.

    The new version is built from the images that the current one holds and those of the sources, in this
    order, as the current one was; once it is whole, readers open it. It is not calibrated.

    Parameters
    ----------
    sources : sequence of str or path
        Where the further training images come from.
    out : path
        The index folder.
    memory, progress, run
        As for `build`.

    Returns
    -------
    Path
        The index folder.

    Raises
    ------
    NotFound, DataLoss, UnsupportedFormat
        There is no index at `out` that could be read.
    InvalidArgument, AlreadyExists
        As for `build`.
    """
    out = _place(out)
    index = open_index(out)
    manifest = index.manifest
    plan = Plan(
        kept=manifest.sources,
        based_on=index.version,
        sources=_names(sources),
        patch_size=manifest.patch_size,
        physics=manifest.physics,
        pre_inverse=manifest.pre_inverse,
        boundary=manifest.boundary,
        equivariance=manifest.equivariance,
        augment=manifest.augment,
        limit=None,
        seed=manifest.seed,
        memory=memory,
    )
    return _build(out, plan, index.problem, [StoredImages(index)], progress, run)


def _build(
    out: Path, plan: Plan, problem: InverseProblem, before: list[ImageSource], progress: Progress, run: Run
) -> Path:
    """Do what a plan says, or what is left of it."""
    _require_in("memory", plan.memory, MEMORY_MIN)
    with staging(out, update=plan.based_on is not None) as folder:
        unfinished = Plan.read(folder)
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
            work = _take_in(folder, plan, problem, source, progress)
            work.lay_groundwork(progress)
            _run(run, work, "assign patches", work.unassigned, len(work.corpus.blocks) - 1, progress)
            _run(run, work, "arrange shards", work.unarranged, work.shards, progress)
            _conclude(work)
        publish(folder, out, plan.version)
    return out


def _take_in(
    folder: Path, plan: Plan, problem: InverseProblem, source: ImageSource, progress: Progress
) -> Work:
    """Store the images, or see that those that were stored are the same."""
    count = len(source) if plan.limit is None else min(plan.limit, len(source))
    work = Work.open(folder)
    if work is not None:
        images = take_in(source, count, None, progress)
        if (images.digest, problem.digest) != (work.digest, work.corpus.problem.digest):
            raise InvalidArgument(
                "SOURCE",
                f"expected what the unfinished build in {folder} began with, got others; "
                "remove that folder to begin anew",
            )
        return work
    version_folder = folder / STAGED / plan.version
    shutil.rmtree(version_folder, ignore_errors=True)  # what an ended build left of it
    version_folder.mkdir(parents=True)
    group = store.create(version_folder / ARRAYS)
    images = take_in(source, count, group, progress)
    for name, array in problem.arrays.items():
        store.write(group, f"physics/{name}", array)
    (version_folder / SOURCES).write_text(json.dumps(images.labels))
    return Work.begin(folder, plan, images.digest)


def _run(run: Run, work: Work, stage: str, parts: Sequence[Part], total: int, progress: Progress) -> None:
    """Do the parts of a pass that are not done, and tell how many are."""
    count = itertools.count(total - len(parts) + 1)
    run(work.folder, parts, lambda: progress(stage, next(count), total))


def _conclude(work: Work) -> None:
    """Write what belongs to all shards, and the manifest."""
    plan, corpus, groundwork, arranged = work.plan, work.corpus, work.groundwork, work.arranged()
    own = [path for path in work.version.rglob("*") if path.is_file()]
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
        seed=plan.seed,
        files=dict(sorted(files.items())),
    ).write(work.version)


def _names(sources: _Sources) -> tuple[str, ...]:
    return tuple(os.fspath(source) for source in sources)


def _place(out: str | os.PathLike[str]) -> Path:
    if not os.fspath(out):
        raise InvalidArgument("out", "expected the name of a new folder, got an empty one")
    return Path(os.path.abspath(out))


def _require_in(argument: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        bounds = f">= {least}" if most is None else f"in [{least}, {most}]"
        raise InvalidArgument(argument, f"expected a whole number {bounds}, got {value}")
