"""The settings of lemmse that are compared: how an index is built, and the options of a request.

Indexes are stored. Those for quality best are calibrated, as `lemmse calibrate` does, at the noise levels of
the tables. An index holds at most `NUMBERS_MAX` numbers: an index with more keys per image uses fewer images.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.quality.data import Data
from benchmarks.quality.methods import Method, Opened, Ready, digest
from lemmse.calibration import PICTURE_SIGMAS, calibrate, measure_pictures
from lemmse.client import connect
from lemmse.index import build, open_index

NUMBERS_MAX = 1_000_000_000
"""Largest number of numbers in the training patches of an index: 4 GB."""
WARM_UP = 8
"""Side of the part of an image that is reconstructed before the timing, so that the loops are compiled."""

Build = Mapping[str, Any]
"""Arguments of `lemmse.index.build`."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to build indexes and to send requests to them."""

    label: str
    """Name in the tables and for the option --methods."""
    built: Mapping[int, Sequence[Build]]
    """Arguments of each index, by number of channels."""
    asked: Mapping[str, Any]
    """Arguments of `reconstruct`, besides the image and σ."""

    def builds(self, data: Data) -> Sequence[Build]:
        """Return the arguments of the indexes for a data set."""
        return self.built[data.training.shape[3]]

    def images(self, data: Data) -> int:
        """Return the number of training images in the smallest of the indexes."""
        return min(_images(data, build) for build in self.builds(data))


PAPER = {"patch_size": 5}
# At its border an image is mirrored, and no training patch wraps around.
VALID = {**PAPER, "boundary": "valid"}
OFFSET = {**VALID, "equivariance": "offset"}
DIHEDRAL = {**VALID, "augment": "dihedral"}
OVERLAP = {"aggregate": "overlap"}
EPLL = {"aggregate": "epll", "gaussian_share": 1.0}
BEST = {
    1: [{**VALID, "patch_size": p} for p in (5, 7, 9, 13)],
    3: [{**VALID, "patch_size": 7}, {**OFFSET, "patch_size": 7}],
}


def one(build: Build) -> dict[int, Sequence[Build]]:
    return {1: [build], 3: [build]}


SETTINGS = (
    Setting("paper", one(PAPER), {}),
    Setting("valid", one(VALID), {}),
    Setting("overlap", one(VALID), OVERLAP),
    Setting("offset", one(OFFSET), {}),
    Setting("offset + overlap", one(OFFSET), OVERLAP),
    Setting("bandwidth", one(VALID), {**OVERLAP, "bandwidth": 0.02}),
    Setting("dihedral", one(DIHEDRAL), OVERLAP),
    Setting("Gaussians", one(VALID), {**OVERLAP, "gaussian_share": 0.01}),
    Setting("epll 7", one({**OFFSET, "patch_size": 7}), EPLL),
    Setting("epll 9", one({**OFFSET, "patch_size": 9}), EPLL),
    Setting("best", BEST, {"quality": "best"}),
)


@contextmanager
def ask(data: Data, cache: Path, *, setting: Setting) -> Iterator[Opened]:
    compared = setting.asked.get("quality") == "best"
    with connect(*(prepared(build, data, cache, compared) for build in setting.builds(data))) as lemmse:

        def ready(sigma: float) -> Ready:
            def answer(y: Any) -> Any:
                result = lemmse.reconstruct(y, sigma=sigma, mode="hybrid", accuracy_db=45, **setting.asked)
                return result.image.astype(np.float64)

            answer(np.zeros((WARM_UP, WARM_UP, data.training.shape[3])))
            return Ready(answer)

        yield ready


def prepared(arguments: Build, data: Data, cache: Path, compared: bool) -> Path:
    """Return the index folder, built if it is missing, and calibrated if it is to be compared with others."""
    count = _images(data, arguments)
    training, scenes = data.training[:count], data.scenes[:count]
    folder = cache / f"index-{digest(training, scenes, dict(arguments))}"
    if not folder.exists():
        with TemporaryDirectory(dir=cache) as scratch:
            sources = [Path(scratch) / f"{scene}.npy" for scene in np.unique(scenes)]
            for source in sources:  # images of one file are held out together
                np.save(source, training[scenes == int(source.stem)])
            build(sources, folder, **arguments)
    index = open_index(folder)
    if compared and index.manifest.pictures is None:
        calibration = calibrate(index, sigmas=PICTURE_SIGMAS)
        pictures = measure_pictures(index, calibration)
        replace(index.manifest, calibration=calibration, pictures=pictures).write(index.folder)
    return folder


def _images(data: Data, arguments: Build) -> int:
    """Return the number of training images that an index holds."""
    _, height, width, channels = data.training.shape
    p: int = arguments["patch_size"]
    inside = (height - p + 1) * (width - p + 1) if arguments.get("boundary") == "valid" else height * width
    copies = 8 if arguments.get("augment") == "dihedral" else 1
    return min(len(data.training), int(NUMBERS_MAX // (inside * copies * p * p * channels)))


OURS = tuple(
    Method(
        setting.label,
        partial(ask, setting=setting),
        {"built": dict(setting.built), "asked": dict(setting.asked)},
        setting.images,
    )
    for setting in SETTINGS
)
