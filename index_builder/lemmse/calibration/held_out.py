"""Choice of training images to hold out of an index for validation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import TooFewImages
from lemmse.index import Index
from lemmse.index.images.volumes import planes_around
from lemmse.index.reading import HeldOutView, file_of, leave_out
from lemmse.index.sources import intensities

__all__ = ["HeldOut", "hold_out", "some_of", "windows"]

_IMAGES = 16
"""Largest number of images to measure on."""
_SCENES = 4
"""Smallest number of held-out scenes, provided that they include at most half of the images."""
_SCENE_MOST = 64
"""Largest number of images of a file that is one scene; a file with more images is a collection."""
_LEAST_SLABS, _SLAB_MOST = 5, 8
"""Parts of a volume that is not one scene: at least so many, of at most so many planes."""


class HeldOut(NamedTuple):
    """An index without some images, and images to measure on."""

    view: HeldOutView
    """The index without the images."""
    numbers: NDArray[np.int64]
    """Numbers of some or all of these images, ascending."""


def hold_out(index: Index, seed: int, most: int = _IMAGES) -> HeldOut:
    """Return a view of an index without some scenes, and the numbers of at most `most` images of them.

    Images of one file (tiles of a photograph, poses of a person) count as one scene and are held out
    together, since they resemble each other. In volumes, a scene is a volume, or some consecutive planes of a
    deep one; with it, all planes are left out whose patches have planes in common with its own. At most half
    of all images are left out, and every stratum keeps keys.

    Raises
    ------
    TooFewImages
        The index has too few images to hold one out.
    """
    rng, manifest, depths = np.random.default_rng(seed), index.manifest, index.depths
    scenes = _scenes(index.labels) if manifest.patch_depth == 1 else _slabs(depths)
    near = planes_around(depths, 4 * (manifest.patch_depth // 2) + 1, manifest.boundary)
    chosen: list[NDArray[np.int64]] = []
    for number in rng.permutation(len(scenes)):
        if sum(map(len, chosen)) >= most and len(chosen) >= _SCENES:
            break
        if len(np.unique(near[np.concatenate([*chosen, scenes[number]])])) <= len(index.labels) // 2:
            chosen.append(scenes[number])
    while chosen:
        images = np.sort(np.concatenate(chosen))
        view = leave_out(index, np.unique(near[images]))
        if np.diff(view.cell_keys[view.stratum_cells]).all():
            return HeldOut(view, some_of(images, most))
        chosen.pop()
    raise TooFewImages.of("index", "expected training images of which one can be held out, got too few")


def some_of(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most `most` of some numbers, evenly spaced."""
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).astype(np.int64)
    return numbers.take(places)


def windows(index: Index, numbers: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Return the planes in which the patches centred in each of some images lie, (p_z, H, W, C) each."""
    stack, manifest = index.images(), index.manifest
    around = planes_around(index.depths, manifest.patch_depth, manifest.boundary)
    return [np.stack([intensities(stack[plane]) for plane in around[k]]) for k in numbers]


def _slabs(depths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the numbers of the planes in each scene: volumes, or a few consecutive planes of deep ones."""
    most = min(_SCENE_MOST, int(depths.sum()) // 2)
    slabs: list[NDArray[np.int64]] = []
    for first, depth in zip(np.cumsum(depths) - depths, depths, strict=True):
        parts = 1 if depth <= most else max(_LEAST_SLABS, -(-int(depth) // _SLAB_MOST))
        slabs += [slab for slab in np.array_split(np.arange(first, first + depth), parts) if len(slab)]
    return slabs


def _scenes(labels: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the numbers of the images in each scene; each image of a large file is a scene by itself."""
    files = np.unique([file_of(label) for label in labels], return_inverse=True)[1]
    order = np.argsort(files, kind="stable")
    together = np.split(order, np.flatnonzero(np.diff(files[order])) + 1)
    most = min(_SCENE_MOST, len(labels) // 2)
    return [
        scene for images in together for scene in ([images] if len(images) <= most else images.reshape(-1, 1))
    ]
