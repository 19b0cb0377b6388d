"""What all keys are sorted by, from samples of them: the cells and the principal axes; and the mixture."""

from dataclasses import dataclass, fields

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index.clustering import cells
from lemmse.index.clustering.distinct import first_equal
from lemmse.index.clustering.mixture import Mixture, fit_mixture
from lemmse.index.clustering.moments import Basis
from lemmse.index.patches.corpus import Corpus
from lemmse.index.progress import Progress
from lemmse.index.ranges import split_ranges
from lemmse.index.storage import zarr_store

__all__ = ["KeyModel", "fit_key_model"]

_BASIS_SAMPLE = 1 << 17
"""Keys that the principal axes are taken from, at most."""
_LEAST_PER_CELL = 39
"""Below, FAISS warns: where memory holds no more keys, there are fewer cells."""


@dataclass(frozen=True, slots=True)
class KeyModel:
    """What must be known of all keys before one is put in its place."""

    centroids: NDArray[np.float32]
    """Of the cells of all strata, (n, P)."""
    strata_cells: NDArray[np.int64]
    """First cell of each stratum, and n, (S + 1,)."""
    basis: Basis
    mixture: Mixture | None

    def write(self, group: zarr.Group) -> None:
        """Store everything."""
        zarr_store.write(group, "cells/centroids", self.centroids)
        zarr_store.write(group, "strata/cells", self.strata_cells)
        for name, part in (("basis", self.basis), ("mixture", self.mixture)):
            if part is not None:
                for field in fields(part):
                    zarr_store.write(group, f"{name}/{field.name}", getattr(part, field.name))

    @classmethod
    def read(cls, group: zarr.Group) -> "KeyModel":
        """What was stored."""
        mixture = zarr_store.read_group(group, "mixture")
        return cls(
            centroids=zarr_store.read_all(group, "cells/centroids"),
            strata_cells=zarr_store.read_all(group, "strata/cells"),
            basis=Basis(**zarr_store.read_group(group, "basis")),
            mixture=Mixture(**mixture) if mixture else None,
        )


def fit_key_model(corpus: Corpus, seed: int, most: int, progress: Progress) -> KeyModel:
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
    wanted = [cells.SAMPLE_PER_CELL * cells.cell_count(count) for count in corpus.counts]
    samples = [corpus.sample(stratum, min(size, most), rng) for stratum, size in enumerate(wanted)]
    centroids: list[NDArray[np.float32]] = []
    progress("fit cells", 0, len(samples))
    for first, end in split_ranges(np.cumsum([0, *map(len, samples)]), most):
        some = samples[first:end]
        parts = np.split(corpus.keys(np.concatenate(some)), np.cumsum([len(rows) for rows in some])[:-1])
        for stratum, v in enumerate(parts, first):
            distinct = _distinct(v)
            count = cells.cell_count(round(corpus.counts[stratum] * len(distinct) / len(v)))
            if wanted[stratum] > most:
                count = min(count, max(1, len(distinct) // _LEAST_PER_CELL))
            centroids.append(cells.fit(distinct, min(count, len(distinct)), seed))
        progress("fit cells", end, len(samples))
    edges = np.cumsum([0, *map(len, centroids)])
    mixture = None
    if corpus.problem.denoises:
        mixture = fit_mixture(corpus, seed, lambda done, total: progress("fit Gaussians", done, total))
    basis = _basis(corpus, rng, min(most, _BASIS_SAMPLE))
    return KeyModel(np.concatenate(centroids), edges, basis, mixture)


def _basis(corpus: Corpus, rng: np.random.Generator, most: int) -> Basis:
    """Principal axes of the distinct keys of all strata, from a sample."""
    rows = np.arange(len(corpus)) if len(corpus) <= most else np.unique(rng.integers(len(corpus), size=most))
    return Basis.of(_distinct(corpus.keys(rows)))


def _distinct(v: NDArray[np.float32]) -> NDArray[np.float32]:
    first = first_equal(v, np.zeros(len(v), np.int64))
    distinct: NDArray[np.float32] = v[first == np.arange(len(v))]
    return distinct
