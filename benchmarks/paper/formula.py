"""The formula's reconstructions: an index of the task, served by `lemmse serve` and used over gRPC."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.tasks import Measurements, Task
from benchmarks.quality.data import Image
from lemmse.calibration import calibrate
from lemmse.client import Client, LemmseError
from lemmse.index import build, open_index

EXACT_IMAGES = 2000
"""Largest number of training images for the exact sum; above it, hybrid reaches ACCURACY_DB."""
ACCURACY_DB = 50
"""Far above the agreement of any network, so that the difference is due to the network."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Reconstructions of some images at one σ."""

    images: list[Image]
    """Posterior means, (H, W, C)."""
    ess: list[NDArray[np.float32]]
    """Effective sample size of each pixel, (H, W)."""
    log_density: list[NDArray[np.float32]]
    """Log density of each noisy patch, (H, W)."""
    mode: str
    """The mode that ran."""
    expected_db: float | None
    """Expected agreement with the exact sum, the least over the images; None if the sum was exact."""


def index_of(task: Task, sigmas: Sequence[float], folder: Path) -> Path:
    """Return the index folder of a task, built if it is missing, and calibrated if hybrid is used."""
    index = folder / f"index-{task.key}"
    if not index.exists():
        # An interrupted build can only be continued from the same source.
        source = folder / f"training-{task.key}.npy"
        np.save(source, task.data.training)
        problem = task.problem
        build(
            [source],
            index,
            patch_size=task.patch_size,
            physics=problem.physics,
            pre_inverse=problem.pre_inverse,
        )
        source.unlink()
    if _mode(task) == "hybrid":
        opened = open_index(index)
        known = opened.manifest.calibration
        measured = set(known.sigmas) if known else set()
        if not measured >= set(sigmas):
            calibration = calibrate(opened, sigmas=sorted(measured.union(sigmas)))
            replace(opened.manifest, calibration=calibration).write(opened.folder)
    return index


def ask(client: Client, measurements: Measurements, *, masked: bool = False) -> Answers:
    """Reconstruct images; stop at the first that fails.

    Parameters
    ----------
    client : Client
        Connected to a server of the task's index.
    measurements : Measurements
        The images to reconstruct.
    masked : bool
        The index is one of clean patches, and the mask is sent with each image.

    Raises
    ------
    LemmseError
        An image could not be reconstructed.
    """
    mode = _mode(measurements.task)
    shape = measurements.task.data.training.shape[1:]
    results = []
    for result in client.reconstruct_many(
        measurements.measured,
        sigma=measurements.sigma,
        mask=measurements.task.operators.scale(shape) > 0 if masked else None,
        mode=mode,
        accuracy_db=ACCURACY_DB if mode == "hybrid" else None,
        maps=("ess", "log_density"),
    ):
        if isinstance(result, LemmseError):
            raise result
        results.append(result)
    expected = [result.diagnostics.expected_accuracy_db for result in results]
    known = [accuracy for accuracy in expected if accuracy is not None]
    return Answers(
        images=[result.image.astype(np.float64) for result in results],
        ess=[result.ess for result in results if result.ess is not None],
        log_density=[result.log_density for result in results if result.log_density is not None],
        mode=results[0].diagnostics.mode,
        expected_db=min(known, default=None),
    )


def save(answers: Answers, path: Path) -> None:
    """Write reconstructions to a file, completely or not at all."""
    scratch = path.with_suffix(".new.npz")
    np.savez(
        scratch,
        images=np.stack(answers.images),
        ess=np.stack(answers.ess),
        log_density=np.stack(answers.log_density),
        mode=answers.mode,
        expected_db=np.nan if answers.expected_db is None else answers.expected_db,
    )
    scratch.replace(path)


def read(path: Path) -> Answers:
    """Read reconstructions from a file."""
    with np.load(path, allow_pickle=False) as arrays:
        expected = float(arrays["expected_db"])
        return Answers(
            images=list(arrays["images"]),
            ess=list(arrays["ess"]),
            log_density=list(arrays["log_density"]),
            mode=str(arrays["mode"]),
            expected_db=None if np.isnan(expected) else expected,
        )


def _mode(task: Task) -> str:
    return "exact" if len(task.data.training) <= EXACT_IMAGES else "hybrid"
