"""The key model, fitted to samples of the keys: cell centroids, PCA basis and mixture of Gaussians."""

from dataclasses import dataclass, fields

import numpy as np
import zarr
from numpy.typing import NDArray

from lemmse.index.callbacks import Progress
from lemmse.index.clustering import cells
from lemmse.index.clustering.distinct import first_equal
from lemmse.index.clustering.mixture import Mixture, fit_mixture
from lemmse.index.clustering.moments import Basis
from lemmse.index.patches.corpus import Corpus
from lemmse.index.ranges import split_ranges
from lemmse.index.storage import zarr_store

__all__ = ["KeyModel", "fit_key_model"]

_BASIS_SAMPLE = 1 << 17
"""Largest sample for the PCA basis."""
_LEAST_PER_CELL = 39
"""Least number of sampled keys per cell, without a warning of FAISS; a smaller sample gets fewer cells."""


@dataclass(frozen=True, slots=True)
class KeyModel:
    """The models that are fitted to a sample of the keys before the keys are assigned to cells."""

    centroids: NDArray[np.float32]
    """Centroids of the cells of all strata, (n, P)."""
    stratum_cells: NDArray[np.int64]
    """First cell of each stratum, followed by n, (S + 1,)."""
    basis: Basis
    """The PCA basis of the keys."""
    mixture: Mixture | None
    """Mixture of Gaussians; None unless A = B = I."""

    def write(self, group: zarr.Group) -> None:
        """Write the model to the arrays of a version."""
        zarr_store.write(group, "cells/centroids", self.centroids)
        zarr_store.write(group, "strata/cells", self.stratum_cells)
        for name, part in (("basis", self.basis), ("mixture", self.mixture)):
            if part is not None:
                for field in fields(part):
                    zarr_store.write(group, f"{name}/{field.name}", getattr(part, field.name))

    @classmethod
    def read(cls, group: zarr.Group) -> "KeyModel":
        """Read the model from the arrays of a version."""
        mixture = zarr_store.read_group(group, "mixture")
        return cls(
            centroids=zarr_store.read_all(group, "cells/centroids"),
            stratum_cells=zarr_store.read_all(group, "strata/cells"),
            basis=Basis(**zarr_store.read_group(group, "basis")),
            mixture=Mixture(**mixture) if mixture else None,
        )


def fit_key_model(corpus: Corpus, seed: int, most: int, progress: Progress) -> KeyModel:
    """Return the key model: cells of each stratum, PCA basis and mixture, fitted to samples of the keys.

    Parameters
    ----------
    corpus : Corpus
        The training patches.
    seed : int
        Seed of the samples and the clustering.
    most : int
        Largest number of keys in memory.
    """
    rng = np.random.default_rng(seed)
    wanted = [cells.SAMPLE_PER_CELL * cells.cell_count(count) for count in corpus.counts]
    samples = [corpus.sample(stratum, min(size, most), rng) for stratum, size in enumerate(wanted)]
    centroids: list[NDArray[np.float32]] = []
    progress("fit cells", 0, len(samples))
    for first, end in split_ranges(np.cumsum([0, *map(len, samples)]), most):
        rows = samples[first:end]
        keys = np.split(corpus.keys(np.concatenate(rows)), np.cumsum([len(own) for own in rows])[:-1])
        for stratum, v in enumerate(keys, first):
            distinct = _distinct(v)
            count = cells.cell_count(round(corpus.counts[stratum] * len(distinct) / len(v)))
            if wanted[stratum] > most:
                count = min(count, max(1, len(distinct) // _LEAST_PER_CELL))
            centroids.append(cells.fit(distinct, min(count, len(distinct)), seed))
        progress("fit cells", end, len(samples))
    stratum_cells = np.cumsum([0, *map(len, centroids)])
    mixture = None
    if corpus.problem.denoises:
        mixture = fit_mixture(corpus, seed, lambda done, total: progress("fit Gaussians", done, total))
    basis = _basis(corpus, rng, min(most, _BASIS_SAMPLE))
    return KeyModel(np.concatenate(centroids), stratum_cells, basis, mixture)


def _basis(corpus: Corpus, rng: np.random.Generator, most: int) -> Basis:
    """Return the PCA basis of a sample of the distinct keys of all strata."""
    rows = np.arange(len(corpus)) if len(corpus) <= most else np.unique(rng.integers(len(corpus), size=most))
    return Basis.of(_distinct(corpus.keys(rows)))


def _distinct(v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distinct keys of v, in the order of their first occurrence."""
    first = first_equal(v, np.zeros(len(v), np.int64))
    distinct: NDArray[np.float32] = v[first == np.arange(len(v))]
    return distinct
