"""The arguments of a build, and of an update."""

import os
from collections.abc import Sequence
from pathlib import Path

from lemmse.contract.errors import InvalidArgument
from lemmse.index.building.index_images import IndexImages
from lemmse.index.building.plan import BuildPlan
from lemmse.index.building.run import run_build
from lemmse.index.building.state import MEMORY_MIN, Run, run_serially
from lemmse.index.images.stack import BOUNDARIES
from lemmse.index.physics import InverseProblem
from lemmse.index.progress import Progress, silent
from lemmse.index.reading.index import open_index

__all__ = ["AUGMENTS", "EQUIVARIANCES", "MEMORY", "PATCH_SIZE_MAX", "build", "update"]

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
    run: Run = run_serially,
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
        Side p of the patches, 1 to 64, odd or even; see `lemmse.index.images.stack` for the centre.
    physics, pre_inverse : str
        Specifications of A and B, see `lemmse.index.physics`.
    boundary : str
        How positions outside an image are read.
    equivariance : str
        "offset" has the estimator commute with constants added to a channel, as "none" does not: every patch
        stands for all its levels. For physics identity and blur.
    augment : str
        "dihedral" adds all rotations by 90° and mirror images of the training images, see
        `lemmse.index.images.symmetries`.
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
    >>> import numpy as np
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
            raise InvalidArgument.of(argument, f"expected one of {', '.join(known)}, got {value!r}")
    _require_in("memory", memory, MEMORY_MIN)
    plan = BuildPlan(
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
    return run_build(_place(out), plan, problem, [], progress, run)


def update(
    sources: _Sources,
    out: str | os.PathLike[str],
    *,
    memory: int = MEMORY,
    progress: Progress = silent,
    run: Run = run_serially,
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
    _require_in("memory", memory, MEMORY_MIN)
    out = _place(out)
    index = open_index(out)
    manifest = index.manifest
    plan = BuildPlan(
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
    return run_build(out, plan, index.problem, [IndexImages(index)], progress, run)


def _names(sources: _Sources) -> tuple[str, ...]:
    return tuple(os.fspath(source) for source in sources)


def _place(out: str | os.PathLike[str]) -> Path:
    if not os.fspath(out):
        raise InvalidArgument.of("out", "expected the name of a new folder, got an empty one")
    return Path(os.path.abspath(out))


def _require_in(argument: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        bounds = f">= {least}" if most is None else f"in [{least}, {most}]"
        raise InvalidArgument.of(argument, f"expected a whole number {bounds}, got {value}")
