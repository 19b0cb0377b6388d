"""The settings of lemmse that are compared: how an index is built, and what is asked of it.

Indexes are kept, and calibrated as `lemmse build` does it. An index holds `KEYS_MAX` training patches at
most: a setting that makes more of each image takes fewer images.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.data import Data
from benchmarks.quality.methods import Method, Opened, Ready, digest
from lemmse.builder.calibrate import calibrate
from lemmse.builder.pictures import measure_pictures
from lemmse.client import connect
from lemmse.index import build, open_index
from lemmse.index.errors import InvalidArgument

KEYS_MAX = 12_000_000
WARM_UP = 8
"""Side of the part of an image that is reconstructed before time is taken, for what is compiled once."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to build an index and to ask it."""

    label: str
    """For people, and for the option --methods."""
    built: Mapping[str, Any]
    """Arguments of `lemmse.index.build`."""
    asked: Mapping[str, Any]
    """Arguments of `reconstruct`, beside the image and σ."""

    def images(self, data: Data) -> int:
        """How many training images the index holds."""
        count, height, width, _ = data.training.shape
        copies = 8 if self.built.get("augment") == "dihedral" else 1
        return min(int(count), KEYS_MAX // int(height * width * copies))


PAPER = {"patch_size": 5}
# Around its border the reconstruction reads what it mirrors, and no training patch wraps around.
VALID = {**PAPER, "boundary": "valid"}
OFFSET = {**VALID, "equivariance": "offset"}
DIHEDRAL = {**OFFSET, "augment": "dihedral"}
OVERLAP = {"aggregate": "overlap"}

SETTINGS = (
    Setting("paper", PAPER, {}),
    Setting("valid", VALID, {}),
    Setting("overlap", VALID, OVERLAP),
    Setting("offset", OFFSET, {}),
    Setting("offset + overlap", OFFSET, OVERLAP),
    Setting("bandwidth", OFFSET, {**OVERLAP, "bandwidth": 0.04}),
    Setting("dihedral", DIHEDRAL, OVERLAP),
    Setting("best", DIHEDRAL, {"quality": "best"}),
)


@contextmanager
def ask(data: Data, cache: Path, *, setting: Setting) -> Iterator[Opened]:
    with connect(prepared(setting, data, cache)) as lemmse:

        def ready(sigma: float) -> Ready:
            def answer(y: Any) -> Any:
                return lemmse.reconstruct(y, sigma=sigma, **setting.asked).image.astype(np.float64)

            answer(np.zeros((WARM_UP, WARM_UP, data.training.shape[3])))
            return Ready(answer)

        yield ready


def prepared(setting: Setting, data: Data, cache: Path) -> Path:
    """The index folder: the one that is there, or a new one."""
    count = setting.images(data)
    folder = cache / f"index-{digest(data.training[:count], setting.built)}"
    if not folder.exists():
        training = cache / f"{folder.name}.npy"
        np.save(training, data.training[:count])
        index = open_index(build([training], folder, **setting.built))
        training.unlink()
        with suppress(InvalidArgument):  # there are too few images to hold one out
            calibration = calibrate(index)
            pictures = measure_pictures(index, calibration)
            replace(index.manifest, calibration=calibration, pictures=pictures).write(index.folder)
    return folder


OURS = tuple(
    Method(
        setting.label,
        partial(ask, setting=setting),
        {"built": dict(setting.built), "asked": dict(setting.asked)},
        setting.images,
    )
    for setting in SETTINGS
)
