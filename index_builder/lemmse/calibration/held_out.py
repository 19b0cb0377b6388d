"""Choice of training images to hold out of an index for validation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import TooFewImages
from lemmse.index import Index
from lemmse.index.reading import HeldOutView, file_of, leave_out

__all__ = ["hold_out"]

_SCENES = 4
"""Smallest number of held-out scenes, provided that they include at most half of the images."""
_SCENE_MOST = 64
"""Largest number of images of a file that is one scene; a file with more images is a collection."""


def hold_out(index: Index, rng: np.random.Generator, most: int) -> tuple[HeldOutView, NDArray[np.int64]]:
    """Return a view of an index without some scenes, and the numbers of at most `most` images of them.

    Images of one file (tiles of a photograph, slices of a volume, poses of a person) count as one scene and
    are held out together, since they resemble each other. At most half of all images are held out, and every
    stratum keeps keys.

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
        if np.diff(view.cell_keys[view.stratum_cells]).all():
            return view, images[np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)]
        chosen.pop()
    raise TooFewImages.of("index", "expected training images of which one can be held out, got too few")


def _scenes(labels: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the numbers of the images in each scene; each image of a large file is a scene by itself."""
    files = np.unique([file_of(label) for label in labels], return_inverse=True)[1]
    order = np.argsort(files, kind="stable")
    together = np.split(order, np.flatnonzero(np.diff(files[order])) + 1)
    most = min(_SCENE_MOST, len(labels) // 2)
    return [
        scene for images in together for scene in ([images] if len(images) <= most else images.reshape(-1, 1))
    ]
