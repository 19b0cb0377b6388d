"""Calibrate an index and store the result in its manifest."""

from dataclasses import replace

from lemmse.calibration.held_out import hold_out
from lemmse.calibration.hybrid import calibrate
from lemmse.calibration.pictures import measure_pictures
from lemmse.contract.errors import Aborted
from lemmse.index import Index
from lemmse.index.callbacks import Progress, silent
from lemmse.index.storage import Calibration, Manifest, Pictures
from lemmse.index.storage.folder import about_index

__all__ = ["calibrate_index"]


def calibrate_index(
    index: Index, *, seed: int = 0, progress: Progress = silent
) -> tuple[Calibration, Pictures | None]:
    """Calibrate an index, write the result to its manifest, and return it.

    Parameters
    ----------
    index : Index
        The index; its manifest on disk is replaced.
    seed : int
        Seed of the choice of images and patches, and of the noise.
    progress : callable
        Called as `progress(stage, done, total)`.

    Returns
    -------
    calibration : Calibration
        Accuracy and cost of mode hybrid.
    pictures : Pictures or None
        The best refinements; None unless physics and pre-inverse are identity.

    Raises
    ------
    TooFewImages
        The index has too few images to hold one out.
    Aborted
        Another index has taken its place in its folder.
    DataLoss
        Its manifest is no longer there.
    """
    held_out = hold_out(index, seed)
    calibration = calibrate(index, held_out=held_out, seed=seed, progress=progress)
    pictures = None
    if index.problem.denoises:
        pictures = measure_pictures(index, calibration, held_out=held_out, seed=seed, progress=progress)
    with about_index(index.name, index.version):
        if Manifest.read(index.folder).files != index.manifest.files:
            raise Aborted(f"index {index.name!r}: another took its place while it was calibrated; try again")
    replace(index.manifest, calibration=calibration, pictures=pictures).write(index.folder)
    return calibration, pictures
