"""Take images out of an index that are new to what is left of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import TooFewImages
from lemmse.index import Index
from lemmse.index.reading.held_out_view import HeldOutView, leave_out

__all__ = ["hold_out"]

_SCENES = 4
"""Scenes that are taken out at least, where there are as many more."""
_SCENE_MOST = 64
"""Images of one file up to which they are taken for one scene: a file of more is a collection."""


def hold_out(index: Index, rng: np.random.Generator, most: int) -> tuple[HeldOutView, NDArray[np.int64]]:
    """Return the index without some scenes, and the numbers of images of these, at most so many.

    Images of one file (tiles of a photograph, slices of a volume, poses of a person) are taken for one scene
    and leave together: an image is not new where its neighbour is known. At most half of all images leave,
    and only as many as leave keys in every stratum.

    Raises
    ------
    TooFewImages
        The index has too few images to hold one out.
    """
    scenes = _scenes(index.labels)
    chosen: list[NDArray[np.int64]] = []
    for number in rng.permutation(len(scenes)):
        taken = sum(map(len, chosen))
        if taken >= most and len(chosen) >= _SCENES:
            break
        if taken + len(scenes[number]) <= len(index.labels) // 2:
            chosen.append(scenes[number])
    while chosen:
        images = np.sort(np.concatenate(chosen))
        view = leave_out(index, images)
        if np.diff(view.cells[view.strata_cells]).all():
            return view, images[np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)]
        chosen.pop()
    raise TooFewImages.of("index", "expected training images of which one can be held out, got too few")


def _scenes(labels: Sequence[str]) -> list[NDArray[np.int64]]:
    """Numbers of the images of each scene; a file whose images are too many for one is as many scenes."""
    named = [label[: label.rindex("[")] if label.endswith("]") else label for label in labels]
    files = np.unique(named, return_inverse=True)[1]
    order = np.argsort(files, kind="stable")
    together = np.split(order, np.flatnonzero(np.diff(files[order])) + 1)
    most = min(_SCENE_MOST, len(labels) // 2)
    return [
        scene for images in together for scene in ([images] if len(images) <= most else images.reshape(-1, 1))
    ]
