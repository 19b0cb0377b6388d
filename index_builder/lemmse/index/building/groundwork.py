"""What all keys are sorted by, from samples of them: the cells and the principal axes; and the mixture."""

from dataclasses import dataclass, fields

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index import cells, store
from lemmse.index.corpus import Corpus
from lemmse.index.distinct import first_equal
from lemmse.index.mixture import Mixture, fit_mixture
from lemmse.index.moments import Basis
from lemmse.index.progress import Progress

__all__ = ["Groundwork", "lay_groundwork"]

_BASIS_SAMPLE = 1 << 17
"""Keys that the principal axes are taken from, at most."""
_LEAST_PER_CELL = 39
"""Below, FAISS warns: where memory holds no more keys, there are fewer cells."""


@dataclass(frozen=True, slots=True)
class Groundwork:
    """What must be known of all keys before one is put in its place."""

    centroids: NDArray[np.float32]
    """Of the cells of all strata, (n, P)."""
    strata_cells: NDArray[np.int64]
    """First cell of each stratum, and n, (S + 1,)."""
    basis: Basis
    mixture: Mixture | None

    def write(self, group: zarr.Group) -> None:
        """Store everything."""
        store.write(group, "cells/centroids", self.centroids)
        store.write(group, "strata/cells", self.strata_cells)
        for name, part in (("basis", self.basis), ("mixture", self.mixture)):
            if part is not None:
                for field in fields(part):
                    store.write(group, f"{name}/{field.name}", getattr(part, field.name))

    @classmethod
    def read(cls, group: zarr.Group) -> "Groundwork":
        """What was stored."""
        mixture = store.read_group(group, "mixture")
        return cls(
            centroids=store.read_all(group, "cells/centroids"),
            strata_cells=store.read_all(group, "strata/cells"),
            basis=Basis(**store.read_group(group, "basis")),
            mixture=Mixture(**mixture) if mixture else None,
        )


def lay_groundwork(corpus: Corpus, seed: int, most: int, progress: Progress) -> Groundwork:
    """Group a sample of the keys of each stratum into cells, and find the principal axes of all.

    Parameters
    ----------
    corpus : Corpus
        The training patches.
    seed : int
        Seed of the samples and the clustering.
    most : int
        Keys to hold at a time.
    """
    rng = np.random.default_rng(seed)
    strata = len(corpus.strata)
    centroids: list[NDArray[np.float32]] = []
    for stratum in range(strata):
        count = corpus.count_in(stratum)
        wanted = cells.SAMPLE_PER_CELL * cells.cell_count(count)
        rows = corpus.sample(stratum, min(wanted, most), rng)
        v = _distinct(corpus.keys(rows))
        cell_count = cells.cell_count(round(count * len(v) / len(rows)))
        if wanted > most:
            cell_count = min(cell_count, max(1, len(v) // _LEAST_PER_CELL))
        centroids.append(cells.fit(v, cell_count, seed))
        progress("fit cells", stratum + 1, strata)
    first = np.cumsum([0, *map(len, centroids)])
    mixture = None
    if corpus.problem.denoises:
        mixture = fit_mixture(corpus, seed, lambda done, total: progress("fit Gaussians", done, total))
    return Groundwork(
        np.concatenate(centroids), first, _basis(corpus, rng, min(most, _BASIS_SAMPLE)), mixture
    )


def _basis(corpus: Corpus, rng: np.random.Generator, most: int) -> Basis:
    """Principal axes of the distinct keys of all strata, from a sample."""
    rows = np.arange(len(corpus)) if len(corpus) <= most else np.unique(rng.integers(len(corpus), size=most))
    return Basis.of(_distinct(corpus.keys(rows)))


def _distinct(v: NDArray[np.float32]) -> NDArray[np.float32]:
    first = first_equal(v, np.zeros(len(v), np.int64))
    distinct: NDArray[np.float32] = v[first == np.arange(len(v))]
    return distinct
