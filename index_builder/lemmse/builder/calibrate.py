"""Measure what hybrid gives for its work: against the exact sum, on images that were held out."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lemmse.estimator import Want, never
from lemmse.estimator.arguments import as_measurement
from lemmse.estimator.local import Local, Method
from lemmse.index import Calibration, Index, Progress
from lemmse.index.errors import InvalidArgument
from lemmse.index.sources import intensities
from lemmse.index.without import Without, without

__all__ = ["SIGMAS", "THRESHOLDS", "calibrate"]

SIGMAS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""The noise levels of the paper, and one between where the posterior changes most."""
THRESHOLDS = (
    0.0,
    -1.0,
    -2.0,
    -2.5,
    -3.0,
    -3.25,
    -3.5,
    -3.75,
    -4.0,
    -4.25,
    -4.5,
    -5.0,
    -5.5,
    -6.0,
    -8.0,
    -10.0,
)
"""From little work to much."""
_IMAGES = 8
_QUERIES = 1024
"""At low noise few patches make all of the difference, so that many of many images must be seen."""
_MARGIN = 0.75
"""A threshold promises what one higher by this was seen to reach: a sample may hold none of the few patches
that decide."""
_ENOUGH_DB = 80.0
"""Agreement beyond which nobody asks for more: the rest of a row is not measured."""
_FEW_KEYS = 4096
"""Keys that are soon summed. Beyond them, and a 16th of all, the exact sum is near: a row ends there."""
_QUANTILE = 0.97
"""Share of pixels whose error the scaled estimate covers: more than the 95 % that are promised."""
_ROUNDING = 1e-5
"""Errors below are those of float32."""


def calibrate(
    index: Index,
    *,
    seed: int = 0,
    sigmas: Sequence[float] = SIGMAS,
    progress: Progress = lambda stage, done, total: None,
) -> Calibration:
    """Measure hybrid against exact on patches of images that are taken out of the index for it.

    Parameters
    ----------
    index : Index
        The index; it is not changed.
    seed : int
        Seed of the choice of images and patches, and of the noise.
    sigmas : sequence of float
        Noise standard deviations to measure at, ascending.
    progress : callable
        Called as `progress(stage, done, total)`.

    Raises
    ------
    InvalidArgument
        The index has too few images to hold one out.

    Examples
    --------
    >>> import tempfile
    >>> from lemmse.index import build, open_index
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(f"{folder.name}/images.npy", np.random.default_rng(0).random((4, 8, 8)))
    >>> index = open_index(build([f"{folder.name}/images.npy"], f"{folder.name}/index"))
    >>> curve = calibrate(index, sigmas=[0.1, 1])
    >>> curve.plan(sigma=0.5, accuracy_db=50).accuracy_db >= 50
    True
    >>> folder.cleanup()
    """
    rng = np.random.default_rng(seed)
    view = _held_out(index, rng)
    local = Local(view, torch.device("cpu"))
    stack = index.images()
    images = [intensities(stack[k]) for k in view.images_out]
    _row(local, images[:1], sigmas[0], rng, THRESHOLDS[:1])  # what is compiled once must not count
    rows = []
    for done, sigma in enumerate(sigmas):
        rows.append(_row(local, images, sigma, rng, THRESHOLDS))
        progress("calibrate", done + 1, len(sigmas))
    accuracy, touched, cost, scale = zip(*rows, strict=True)
    return Calibration(
        images=len(images),
        queries=sum(min(_QUERIES // len(images), x.shape[0] * x.shape[1]) for x in images),
        sigmas=tuple(sigmas),
        thresholds=THRESHOLDS,
        accuracy_db=accuracy,
        keys_touched=touched,
        cost=cost,
        error_scale=scale,
    )


def _held_out(index: Index, rng: np.random.Generator) -> Without:
    """The index without some images, as many as leave keys in every stratum."""
    count = index.manifest.images
    images = rng.permutation(count)[: min(_IMAGES, count // 2)]
    strata = index.cells[index.strata_cells]
    while len(images):
        view = without(index, np.sort(images))
        if np.diff(np.searchsorted(view.kept, strata)).all():
            return view
        images = images[:-1]
    raise InvalidArgument("index", "expected training images of which one can be held out, got too few")


def _row(
    local: Local,
    images: Sequence[NDArray[np.float32]],
    sigma: float,
    rng: np.random.Generator,
    thresholds: Sequence[float],
) -> tuple[tuple[float, ...], ...]:
    """Agreement, keys touched, cost and error scale at one σ, for each threshold."""
    channels = local.index.manifest.channels
    problem = local.index.problem
    views, positions = [], []
    for x in images:
        clean = problem.measure(x)
        y = clean + sigma * rng.standard_normal(clean.shape)
        views.append(local.view(as_measurement(y, sigma, None, channels)))
        n = rng.permutation(x.shape[0] * x.shape[1])[: _QUERIES // len(images)]
        positions.append(np.sort(n))

    def run(method: Method, want: Want) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
        """Means and errors of all patches, keys touched, and the time it took."""
        start = time.perf_counter()
        sums = [view.sums(n, method, want, never) for view, n in zip(views, positions, strict=True)]
        seconds = time.perf_counter() - start
        posteriors = [part.posterior(channels) for part in sums]
        mean = torch.cat([posterior.mean for posterior in posteriors]).numpy()
        error = torch.cat([posterior.error for posterior in posteriors]).numpy()
        return mean, error, float(torch.cat([part.touched for part in sums]).double().mean()), seconds

    most_keys = max(_FEW_KEYS, local.keys.count / 16)
    exact, _, _, exact_seconds = run(Method("exact"), Want())
    columns: list[tuple[float, float, float, float]] = []
    for threshold in thresholds:
        if columns and (columns[-1][0] >= _ENOUGH_DB or columns[-1][1] > most_keys):
            columns.append(columns[-1])
            continue
        mean, error, touched, seconds = run(Method("hybrid", threshold=threshold), Want(error=True))
        off = np.abs(mean - exact)
        agreement = -10 * np.log10(max(float(np.square(off).mean()), _ROUNDING**2))
        scale = np.quantile(np.maximum(off - _ROUNDING, 0) / np.maximum(error, _ROUNDING), _QUANTILE)
        columns.append((float(agreement), touched, seconds / exact_seconds, float(scale)))
    seen, *others = zip(*columns, strict=True)
    promised = [
        max([seen[0], *(seen[i] for i, more in enumerate(thresholds[:k]) if more >= threshold + _MARGIN)])
        for k, threshold in enumerate(thresholds)
    ]
    return tuple(map(min, promised, seen)), *others
