"""The functions `build`, `update` and `remove`, and the checks of their arguments."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.building.index_images import IndexImages
from lemmse.index.building.plan import BuildPlan
from lemmse.index.building.removal import run_removal
from lemmse.index.building.run import run_build
from lemmse.index.building.state import MEMORY_MIN, Runner, run_serially
from lemmse.index.callbacks import Notice, Progress, ignored, silent
from lemmse.index.images.stack import BOUNDARIES
from lemmse.index.physics import InverseProblem, read_spectrum
from lemmse.index.reading import Index, file_of, find_images, open_index
from lemmse.index.sources import Region

__all__ = ["AUGMENTS", "EQUIVARIANCES", "MEMORY", "PATCH_SIZE_MAX", "build", "remove", "update"]

AUGMENTS = ("none", "dihedral")
EQUIVARIANCES = ("none", "offset")
MEMORY = 4 * 10**9
"""Default memory limit of a build, in bytes."""
PATCH_SIZE_MAX = 64
"""Largest patch side; a key of three channels then has 12 288 elements."""
_STRIDE_MAX = 4096
"""Largest stride, in pixels."""
_SEED_MAX = 2**31 - 1
"""Largest seed that FAISS accepts."""

_Sources = Sequence[str | os.PathLike[str]]


def build(
    sources: _Sources,
    out: str | os.PathLike[str],
    *,
    patch_size: int = 5,
    patch_depth: int = 1,
    physics: str = "identity",
    pre_inverse: str = "identity",
    noise: str | os.PathLike[str] | None = None,
    noise_roi: str | None = None,
    boundary: str = "circular",
    equivariance: str = "none",
    augment: str = "none",
    stride: int = 1,
    axes: str | None = None,
    range: tuple[float, float] | None = None,
    roi: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: Progress = silent,
    run: Runner = run_serially,
    notice: Notice = ignored,
) -> Path:
    """Build an index of all training patches, and return its folder.

    An interrupted build is resumed by the same call with the same images, and gives the same result. Until it
    is complete, `out` does not exist.

    Parameters
    ----------
    sources : sequence of str or path
        Sources of the training images; see `lemmse.index.sources`.
    out : path
        The folder to create; its name is the name of the index.
    patch_size : int
        Side p of the patches in pixels, 1 to 64, odd or even; see `lemmse.index.images.stack` for the centre.
    patch_depth : int
        Number of planes p_z of the patches, odd. If it is more than 1, the sources are volumes, see
        `lemmse.index.sources.open_volumes`, and the images of the index are their planes. p_z·p² is at most
        4096.
    physics, pre_inverse : str
        Specifications of A and B; see `lemmse.index.physics`.
    noise : str or path, optional
        Power spectrum of the noise, or frames from which it is estimated, where the noise of neighbouring
        pixels is correlated; see `lemmse.index.physics.noise_frames`. B must be I or a convolution.
    noise_roi : str, optional
        A region that is flat in all of the frames, as two slices of rows and columns, "0:64,-64:"; one frame
        is then enough, such as a noisy image itself.
    boundary : str
        "circular", "reflect" or "valid"; see `lemmse.index.images.stack`.
    equivariance : str
        "none", or "offset": the estimator commutes with adding a constant to a channel, so that a patch
        represents all its levels. Offset needs physics identity or blur.
    augment : str
        "none", or "dihedral": add all rotations by 90° and reflections of the training images; see
        `lemmse.index.images.symmetries`.
    stride : int
        Take only the patches around every `stride`-th row and column, 1 to 4096; see `centres` in
        `lemmse.index.images.stack`. The estimators mmse and e-mmse, of whole images, take no notice of it.
    axes : str, optional
        Letters of the axes of all sources, such as "TZYX", instead of those that the files state; see
        `lemmse.index.files.layout`.
    range : (float, float), optional
        The finite numbers that encode intensities 0 and 1 in all sources, ascending, instead of those of
        their element types.
    roi : str, optional
        The region of each image to use, as two slices of rows and columns: "0:512,-512:".
    limit : int, optional
        Use only the first `limit` images, or volumes.
    seed : int
        Seed of the clustering and the samples; the same arguments and seed give the same index.
    memory : int
        Memory limit of each process of the build, in bytes, at least 1 GB; it determines the size of the
        shards.
    progress : callable
        Called as `progress(stage, done, total)`.
    run : callable
        Runs the tasks of the passes over all patches; by default in this process.
    notice : callable
        Called as `notice(text)` with a line about equal training images, if there are some, and with the
        standard deviation of the noise in frames.

    Returns
    -------
    Path
        The index folder.

    Raises
    ------
    InvalidArgument, NotFound
        An argument or an image is invalid, or differs from that of the unfinished build.
    AlreadyExists
        `out` exists, or another process is building it.

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
    if noise is None and noise_roi is not None:
        raise InvalidArgument.of("noise-roi", f"expected none without noise, got {noise_roi!r}")
    _require_in("patch-size", patch_size, 1, PATCH_SIZE_MAX)
    _require_in("stride", stride, 1, _STRIDE_MAX)
    _require_depth(patch_depth, patch_size)
    if limit is not None:
        _require_in("limit", limit, 1)
    _require_in("seed", seed, 0, _SEED_MAX)
    for argument, value, allowed in (
        ("boundary", boundary, BOUNDARIES),
        ("equivariance", equivariance, EQUIVARIANCES),
        ("augment", augment, AUGMENTS),
    ):
        if value not in allowed:
            raise InvalidArgument.of(argument, f"expected one of {', '.join(allowed)}, got {value!r}")
    _require_in("memory", memory, MEMORY_MIN)
    spectrum = None if noise is None else read_spectrum(noise, noise_roi, notice)
    problem = InverseProblem.parse(physics, pre_inverse, spectrum)
    plan = BuildPlan(
        sources=_names(sources),
        patch_size=patch_size,
        patch_depth=patch_depth,
        physics=physics,
        pre_inverse=pre_inverse,
        noise=None if spectrum is None else spectrum.name,
        boundary=boundary,
        equivariance=equivariance,
        augment=augment,
        stride=stride,
        **_reading(axes, range, roi),
        limit=limit,
        seed=seed,
        memory=memory,
    )
    return run_build(_absolute(out), plan, problem, None, progress, run, notice)


def update(
    sources: _Sources,
    out: str | os.PathLike[str],
    *,
    axes: str | None = None,
    range: tuple[float, float] | None = None,
    roi: str | None = None,
    memory: int = MEMORY,
    progress: Progress = silent,
    run: Runner = run_serially,
    notice: Notice = ignored,
) -> Path:
    """Add training images to an index as a new version, and return its folder.

    The new version is built with the arguments of the current version, from its images followed by those of
    the sources, and becomes the current version when it is complete. It is not calibrated. Other versions do
    not change.

    Parameters
    ----------
    sources : sequence of str or path
        Sources of the images to add.
    out : path
        The index folder.
    axes, range, roi
        As for `build`, for the images to add.
    memory, progress, run, notice
        As for `build`.

    Returns
    -------
    Path
        The index folder.

    Raises
    ------
    NotFound, DataLoss, UnsupportedFormat
        There is no readable index at `out`.
    InvalidArgument, AlreadyExists
        As for `build`.
    """
    _require_in("memory", memory, MEMORY_MIN)
    out = _absolute(out)
    index = open_index(out)
    plan = replace(_plan_of(index, memory), sources=_names(sources), **_reading(axes, range, roi))
    return run_build(out, plan, index.problem, IndexImages(index, index.remaining), progress, run, notice)


def remove(
    names: Iterable[str],
    out: str | os.PathLike[str],
    *,
    refit: bool = False,
    memory: int = MEMORY,
    progress: Progress = silent,
    run: Runner = run_serially,
) -> Path:
    """Remove training images from an index by a new version without them, and return its folder.

    All sums over patches are as if the images had never been there. Cells, leaves, PCA basis and Gaussians
    stay as they were fitted, and so does the calibration, unless more than a tenth of the images were removed
    since. Other versions do not change, and still have the images.

    Parameters
    ----------
    names : iterable of str
        Sources of the images; a name stands for all images of that source or file. None may be given with
        `refit`.
    out : path
        The index folder.
    refit : bool
        Whether to build the version from the remaining images, with nothing left that was fitted to others.
    memory, progress, run
        As for `build`, for `refit`.

    Returns
    -------
    Path
        The index folder.

    Raises
    ------
    NotFound, DataLoss, UnsupportedFormat
        There is no readable index at `out`.
    InvalidArgument
        A name stands for no image, no image would remain, or the models do not fit what remains.
    AlreadyExists
        Another process builds there.
    """
    _require_in("memory", memory, MEMORY_MIN)
    out = _absolute(out)
    index = open_index(out)
    names = tuple(sorted(set(names)))
    images = find_images(index, "remove", names, near=True)
    numbers = np.setdiff1d(index.remaining, images)
    if not len(numbers):
        raise InvalidArgument.of(
            "remove", f"expected some images of {index.name!r} to remain, got all {len(images)} of them"
        )
    if not names and not refit:
        raise InvalidArgument.of("remove", "expected names of images to remove, got none")
    sources = _sources_of(index, numbers, images)
    plan = replace(_plan_of(index, memory), base_sources=sources, remove=names, refit=refit)
    if refit:
        return run_build(out, plan, index.problem, IndexImages(index, numbers), progress, run, ignored)
    return run_removal(out, plan, index, images, progress)


def _sources_of(index: Index, numbers: NDArray[np.int64], removed: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the sources of an index without the files of which all images are removed."""
    left, gone = ({file_of(index.labels[k]) for k in some} for some in (numbers, removed))
    return tuple(source for source in index.manifest.sources if Path(source).name not in gone - left)


def _plan_of(index: Index, memory: int) -> BuildPlan:
    """Return the plan to build an index again, as a new version."""
    manifest = index.manifest
    return BuildPlan(
        base_sources=manifest.sources,
        base_version=index.version,
        sources=(),
        patch_size=manifest.patch_size,
        patch_depth=manifest.patch_depth,
        physics=manifest.physics,
        pre_inverse=manifest.pre_inverse,
        noise=manifest.noise,
        boundary=manifest.boundary,
        equivariance=manifest.equivariance,
        augment=manifest.augment,
        stride=manifest.stride,
        **_reading(None, None, None),
        limit=None,
        seed=manifest.seed,
        memory=memory,
    )


def _names(sources: _Sources) -> tuple[str, ...]:
    return tuple(os.fspath(source) for source in sources)


def _reading(axes: str | None, range: tuple[float, float] | None, roi: str | None) -> dict[str, Any]:
    """Return what a plan says about reading the sources."""
    if range is not None:
        low, high = range = float(range[0]), float(range[1])
        if not -math.inf < low < high < math.inf:
            raise InvalidArgument.of("range", f"expected finite LOW < HIGH, got {low:g} and {high:g}")
    if roi is not None:
        Region.parse(roi)
    return {"axes": axes, "range": range, "roi": roi}


def _absolute(out: str | os.PathLike[str]) -> Path:
    if not os.fspath(out):
        raise InvalidArgument.of("out", "expected the name of a new folder, got an empty one")
    return Path(os.path.abspath(out))


def _require_depth(patch_depth: int, patch_size: int) -> None:
    if patch_depth < 1 or patch_depth % 2 == 0:
        raise InvalidArgument.of("patch-size", f"expected an odd number of planes, got {patch_depth}")
    if patch_depth * patch_size**2 > PATCH_SIZE_MAX**2:
        raise InvalidArgument.of(
            "patch-size",
            f"expected patches of at most {PATCH_SIZE_MAX**2} pixels, got {patch_depth}x{patch_size}x"
            f"{patch_size}",
        )


def _require_in(argument: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        bounds = f">= {least}" if most is None else f"in [{least}, {most}]"
        raise InvalidArgument.of(argument, f"expected a whole number {bounds}, got {value}")
