"""The summary statistics of groups of keys by their definition, and those that an index holds."""

from dataclasses import fields
from itertools import pairwise

import numpy as np

from lemmse.index.clustering.groups import Groups
from lemmse.index.clustering.moments import LEADING, Moments

EPS = float(np.finfo(np.float32).eps)


def moments_of(groups: Groups, p: int) -> dict[str, np.ndarray]:
    """The moments that groups of keys of p numbers hold, one after the other; all p are leading ones."""
    assert groups.leading.shape[1] in (p, p + 1)
    assert groups.others.shape[1] == 0
    there = np.arange(groups.n.shape[1]) < groups.size[:, None]
    assert (groups.n[~there] == 0).all()
    of_group = {
        name: np.moveaxis(getattr(groups, name), -1, 1)[there]
        for name in ("leading", "target", "target_variance", "cross")
    }
    leading = of_group.pop("leading")[:, :p]
    extent = {name: getattr(groups, name) for name in ("low", "high", "target_low", "target_high")}
    means = {"mean": leading[:, :, 0], "variance": leading[:, :, 1]}
    return of_group | extent | means | {"cross": of_group["cross"][:, :, :p]}


def moments_oracle(v, t, edges) -> dict[str, np.ndarray]:
    """The moments by their definition, of groups of rotated keys v and targets t."""
    found = {field.name: [] for field in fields(Moments)}
    for start, stop in pairwise(edges):
        own_v, own_t = v[start:stop].astype(float), t[start:stop].astype(float)
        n = stop - start
        mean, target = sum(own_v) / n, sum(own_t) / n
        found["mean"].append(mean)
        found["target"].append(target)
        found["variance"].append(sum((x - mean) ** 2 for x in own_v) / n)
        found["target_variance"].append(sum((x - target) ** 2 for x in own_t) / n)
        pairs = zip(own_t, own_v, strict=True)
        found["cross"].append(sum(np.outer(y - target, x - mean) for y, x in pairs) / n)
        extent = np.array([[*x[:LEADING], np.sqrt(sum(x[LEADING:] ** 2))] for x in own_v])
        found["low"].append(extent.min(axis=0))
        found["high"].append(extent.max(axis=0))
        found["target_low"].append(own_t.min(axis=0))
        found["target_high"].append(own_t.max(axis=0))
    return {name: np.array(rows) for name, rows in found.items()}
