"""What an index holds, and indexes built a few keys at a time."""

from itertools import pairwise

import numpy as np


def few_at_a_time(patched, keys: int) -> None:
    """Limit a build to so many keys at a time."""
    patched.setattr("lemmse.index.building.state.BuildState._capacity", lambda state, channels: keys)


def everything(index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Key, target and id of every training patch."""
    m = index.manifest.keys
    keys = index.keys(0, index.manifest.distinct).repeat(index.multiplicity, axis=0)
    return keys, index.targets(0, m), index.ids(0, m)


def by_cell(index) -> list[set[tuple]]:
    """Keys, targets and ids of the patches of each cell; its leaves are cut by k-means, which rounds."""
    rows = [(*v, *t, *i) for v, t, i in zip(*(array.tolist() for array in everything(index)), strict=True)]
    return [set(rows[start:stop]) for start, stop in pairwise(index.key_patches[index.cell_keys])]
