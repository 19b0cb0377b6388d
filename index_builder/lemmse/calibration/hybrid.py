"""Measurement of accuracy and cost of mode hybrid, compared with mode exact, on held-out images."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lemmse.calibration.held_out import hold_out, windows
from lemmse.estimator import Outputs, SumSpec
from lemmse.estimator.image_queries import WhitenedQueries
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.observation import Observation
from lemmse.estimator.stratum_sums import ColouredQueries
from lemmse.index import Index
from lemmse.index.callbacks import Progress, silent
from lemmse.index.storage import Calibration

__all__ = ["SIGMAS", "THRESHOLDS", "calibrate"]

SIGMAS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""The noise levels of the paper, and 0.05, near which the posterior changes most with the noise level."""
THRESHOLDS = (4.0, 3.0, 2.0, *np.arange(1.5, -3.5, -0.5).tolist(), -4.0, -5.0, -6.0, -8.0, -10.0)
"""Thresholds of mode hybrid, in order of increasing work."""
_Row = tuple[float, ...]
_IMAGES = 16
_QUERIES = 256
_MARGINS = ((0.09, 4.5), (0.15, 2.0), (0.25, 1.0))
"""Up to each σ, a threshold is assigned the agreement measured at a threshold higher by this number: at low
noise, a sample may lack the few patches with large errors."""
_ENOUGH_DB = 80.0
"""Agreement at which a row ends, in dB; further thresholds are not measured."""
_FEW_KEYS = 4096
"""A row also ends if more keys than this and than 1/16 of all are evaluated: exact is about as fast."""
_QUANTILE = 0.995
"""Share of pixels whose error is below the scaled estimate: more than the documented 95 %, so that it covers
the worst pixels as well."""
_ROUNDING = 1e-5
"""Errors below this are due to float32 rounding."""


def calibrate(
    index: Index,
    *,
    seed: int = 0,
    sigmas: Sequence[float] = SIGMAS,
    progress: Progress = silent,
) -> Calibration:
    """Return the calibration of mode hybrid, measured against mode exact on patches of held-out images.

    Parameters
    ----------
    index : Index
        The index; it is not changed.
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
    rng = np.random.default_rng(seed)
    view, numbers = hold_out(index, rng, _IMAGES)
    progress("calibrate", 0, len(sigmas))
    local = LocalBackend(view, torch.device("cpu"))
    images = windows(index, numbers)
    _row(local, images, sigmas[0], rng, 1, THRESHOLDS[:1])  # compiles the kernels before timing
    rows = []
    for done, sigma in enumerate(sigmas):
        rows.append(_row(local, images, sigma, rng, max(1, _QUERIES // len(images)), THRESHOLDS))
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


def _row(
    local: LocalBackend,
    images: Sequence[NDArray[np.float32]],
    sigma: float,
    rng: np.random.Generator,
    of_each: int,
    thresholds: Sequence[float],
) -> tuple[int, _Row, _Row, _Row, _Row, _Row, _Row]:
    """Return the number of patches and, by threshold: agreement, keys evaluated, cost, and the error scales.

    `of_each` patches are taken from the middle plane of each image, (p_z, H, W, C), or all of smaller images.
    """
    channels = local.index.manifest.channels
    patches = []
    for x in images:
        clean = np.stack([local.index.problem.measure(plane) for plane in x])
        y = (clean + sigma * rng.standard_normal(clean.shape)).reshape(x.shape)
        plane = x.shape[1] * x.shape[2]
        n = len(x) // 2 * plane + rng.permutation(plane)[:of_each]
        patches.append(WhitenedQueries(local, Observation(y, sigma)).queries(np.sort(n)))
    u, stratum = (np.concatenate([getattr(part, name) for part in patches]) for name in ("u", "stratum"))
    queries = ColouredQueries(u, stratum, 1 / sigma**2)

    def run(spec: SumSpec) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
        """Return means and errors of all patches, the mean number of keys evaluated, and seconds."""
        start = time.perf_counter()
        sums = local.sums(queries, spec)
        seconds = time.perf_counter() - start
        posterior = sums.posterior(channels)
        evaluated = float(sums.keys_evaluated.double().mean())
        return posterior.mean.numpy(), posterior.error.numpy(), evaluated, seconds

    # An underestimated patch affects all of its pixels.
    overlapping = 1 - (1 - _QUANTILE) / local.index.manifest.patch_pixels
    most_keys = max(_FEW_KEYS, local.keys.count / 16)
    exact, _, _, exact_seconds = run(SumSpec("exact"))
    columns: list[tuple[float, float, float, float, float, float]] = []
    for threshold in thresholds:
        if columns and (columns[-1][0] >= _ENOUGH_DB or columns[-1][1] > most_keys):
            columns.append(columns[-1])
            continue
        mean, error, keys, seconds = run(SumSpec("hybrid", threshold=threshold, outputs=Outputs(error=True)))
        off = np.abs(mean - exact)
        agreement = -10 * np.log10(max(float(np.square(off).mean()), _ROUNDING**2))
        factors = np.maximum(off - _ROUNDING, 0) / np.maximum(error, _ROUNDING)
        own, overlapped = np.quantile(factors, [_QUANTILE, overlapping]).tolist()
        rms = float(np.sqrt(np.square(off).mean() / max(np.square(error).mean(), _ROUNDING**2)))
        columns.append((float(agreement), keys, seconds / exact_seconds, own, overlapped, rms))
    seen, touched, cost, scale, overlap_scale, rms_scale = zip(*columns, strict=True)
    margin = next((margin for most, margin in _MARGINS if sigma <= most), 0.0)
    promised = [
        max([seen[0], *(seen[i] for i, more in enumerate(thresholds[: k + 1]) if more >= threshold + margin)])
        for k, threshold in enumerate(thresholds)
    ]
    return len(queries), tuple(map(min, promised, seen)), touched, cost, scale, overlap_scale, rms_scale
