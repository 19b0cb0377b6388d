"""Choice of training images to hold out of an index for validation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import TooFewImages
from lemmse.index import Index
from lemmse.index.reading import HeldOutView, leave_out

__all__ = ["HeldOut", "hold_out", "some_of"]

_IMAGES = 16
"""Largest number of images to measure on."""
_SCENES = 4
"""Smallest number of held-out scenes, provided that they include at most half of the images."""
_SCENE_MOST = 64
"""Largest number of images of a file that is one scene; a file with more images is a collection."""


class HeldOut(NamedTuple):
    """An index without some images, and images to measure on."""

    view: HeldOutView
    """The index without the images."""
    numbers: NDArray[np.int64]
    """Numbers of some or all of these images, ascending."""


def hold_out(index: Index, seed: int, most: int = _IMAGES) -> HeldOut:
    """Return a view of an index without some scenes, and the numbers of at most `most` images of them.

    Images of one file (tiles of a photograph, slices of a volume, poses of a person) count as one scene and
    are held out together, since they resemble each other. At most half of all images are held out, and every
    stratum keeps keys.

    Raises
    ------
    TooFewImages
        The index has too few images to hold one out.
    """
    rng, scenes = np.random.default_rng(seed), _scenes(index.labels)
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
        if np.diff(view.cell_keys[view.stratum_cells]).all():
            return HeldOut(view, some_of(images, most))
        chosen.pop()
    raise TooFewImages.of("index", "expected training images of which one can be held out, got too few")


def some_of(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most `most` of some numbers, evenly spaced."""
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).astype(np.int64)
    return numbers.take(places)


def _scenes(labels: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the numbers of the images in each scene; each image of a large file is a scene by itself."""
    named = [label[: label.rindex("[")] if label.endswith("]") else label for label in labels]
    files = np.unique(named, return_inverse=True)[1]
    order = np.argsort(files, kind="stable")
    together = np.split(order, np.flatnonzero(np.diff(files[order])) + 1)
    most = min(_SCENE_MOST, len(labels) // 2)
    return [
        scene for images in together for scene in ([images] if len(images) <= most else images.reshape(-1, 1))
    ]
