"""Measurement of accuracy and cost of mode hybrid on held-out images.

The errors at a threshold are differences from the means at a much lower threshold, which takes a part of the
time of the sum over all keys: each step of the threshold by 2 divides the squared error by about ten.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lemmse.calibration.held_out import HeldOut, hold_out, windows
from lemmse.estimator import Outputs, SumSpec
from lemmse.estimator.image_queries import WhitenedQueries
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.measured_errors import measure_errors
from lemmse.estimator.observation import Observation
from lemmse.estimator.stratum_sums import ColouredQueries
from lemmse.estimator.sum_spec import EXACT
from lemmse.index import Index
from lemmse.index.callbacks import Progress, silent
from lemmse.index.storage import Calibration

__all__ = ["SIGMAS", "THRESHOLDS", "calibrate"]

SIGMAS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""The noise levels of the paper, and 0.05, near which the posterior changes most with the noise level."""
THRESHOLDS = (4.0, 3.0, 2.0, *np.arange(1.5, -3.5, -0.5).tolist(), -4.0, -5.0, -6.0, -8.0)
"""Thresholds of mode hybrid, in order of increasing work."""
_REFERENCE = SumSpec("hybrid", threshold=-10.0)
"""What the sums at all thresholds are compared with; it agrees with the exact sum to 80 dB and more."""
_Row = tuple[float, ...]
_QUERIES = 256
_MARGINS = ((0.09, 4.5), (0.15, 2.0), (0.25, 1.0))
"""Up to each σ, a threshold is assigned the agreement measured at a threshold higher by this number: at low
noise, a sample may lack the few patches with large errors."""
_ENOUGH_DB = 80.0
"""Agreement at which a row ends, in dB; further thresholds are not measured."""
_FEW_KEYS = 4096
"""A row also ends if more keys than this and than 1/16 of all are evaluated: exact is about as fast."""


def calibrate(
    index: Index,
    *,
    held_out: HeldOut | None = None,
    seed: int = 0,
    sigmas: Sequence[float] = SIGMAS,
    progress: Progress = silent,
) -> Calibration:
    """Return the calibration of mode hybrid, measured on patches of held-out images.

    Parameters
    ----------
    index : Index
        The index; it is not changed.
    held_out : HeldOut, optional
        The images to measure on, from `hold_out`; by default they are drawn by `seed`.
    seed : int
        Seed of the choice of images and patches, and of the noise.
    sigmas : sequence of float
        Noise standard deviations at which to measure, in intensities, ascending.
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
    view, numbers = hold_out(index, seed) if held_out is None else held_out
    rng = np.random.default_rng(seed)
    progress("calibrate", 0, len(sigmas))
    local = LocalBackend(view, torch.device("cpu"))
    images = windows(index, numbers)
    local.prepare_sums()  # compiles the kernels before timing
    exact_seconds = _exact_seconds(local, _queries(local, images, sigmas[-1], rng))
    rows = []
    for done, sigma in enumerate(sigmas):
        rows.append(_row(local, _queries(local, images, sigma, rng), sigma, exact_seconds))
        progress("calibrate", done + 1, len(sigmas))
    queries, accuracy, touched, cost, scale, overlap_scale, rms_scale = zip(*rows, strict=True)
    return Calibration(
        images=len(images),
        queries=queries,
        sigmas=tuple(sigmas),
        thresholds=THRESHOLDS,
        accuracy_db=accuracy,
        keys_touched=touched,
        cost=cost,
        error_scale=scale,
        overlap_error_scale=overlap_scale,
        rms_scale=rms_scale,
    )


def _queries(
    local: LocalBackend,
    images: Sequence[NDArray[np.float32]],
    sigma: float,
    rng: np.random.Generator,
) -> ColouredQueries:
    """Return noisy patches of the middle plane of each image, (p_z, H, W, C), as many of each, or all."""
    patches = []
    for x in images:
        problem = local.index.problem
        y = np.stack([problem.measure(plane) + sigma * problem.sample_noise(plane.shape, rng) for plane in x])
        plane = x.shape[1] * x.shape[2]
        n = len(x) // 2 * plane + rng.permutation(plane)[: max(1, _QUERIES // len(images))]
        patches.append(WhitenedQueries(local, Observation(y, sigma)).queries(np.sort(n)))
    return ColouredQueries.join(patches)


def _exact_seconds(local: LocalBackend, queries: ColouredQueries) -> float:
    """Return the time of the exact sum for a patch, which is the same at all σ."""
    start = time.perf_counter()
    local.sums(queries, EXACT)
    return (time.perf_counter() - start) / len(queries)


def _row(
    local: LocalBackend, queries: ColouredQueries, sigma: float, exact_seconds: float
) -> tuple[int, _Row, _Row, _Row, _Row, _Row, _Row]:
    """Return the number of patches and, by threshold: agreement, keys evaluated, cost, error scales."""
    channels = local.index.manifest.channels
    most_keys = max(_FEW_KEYS, local.keys.count / 16)
    reference = local.sums(queries, _REFERENCE).posterior(channels).mean
    columns: list[tuple[float, float, float, float, float, float]] = []
    for threshold in THRESHOLDS:
        if columns and (columns[-1][0] >= _ENOUGH_DB or columns[-1][1] > most_keys):
            columns.append(columns[-1])
            continue
        start = time.perf_counter()
        sums = local.sums(queries, SumSpec("hybrid", threshold=threshold, outputs=Outputs(error=True)))
        cost = (time.perf_counter() - start) / (exact_seconds * len(queries))
        posterior, keys = sums.posterior(channels), float(sums.keys_evaluated.double().mean())
        agreement, own, overlapped, rms = measure_errors(
            posterior.mean, reference, posterior.error, local.index.manifest.patch_pixels
        )
        columns.append((agreement, keys, cost, own, overlapped, rms))
    seen, touched, cost_row, scale, overlap_scale, rms_scale = zip(*columns, strict=True)
    margin = next((margin for most, margin in _MARGINS if sigma <= most), 0.0)
    promised = [
        max([seen[0], *(seen[i] for i, more in enumerate(THRESHOLDS[: k + 1]) if more >= threshold + margin)])
        for k, threshold in enumerate(THRESHOLDS)
    ]
    return len(queries), tuple(map(min, promised, seen)), touched, cost_row, scale, overlap_scale, rms_scale
