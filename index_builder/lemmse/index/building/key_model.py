"""The key model, fitted to samples of the keys: cells, principal axes and the Gaussian mixture."""

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
"""Largest sample for the principal axes."""
_LEAST_PER_CELL = 39
"""Sampled keys for each cell below which FAISS warns; if memory limits the sample, there are fewer cells."""


@dataclass(frozen=True, slots=True)
class KeyModel:
    """What is fitted to the keys before they are assigned to cells."""

    centroids: NDArray[np.float32]
    """Centroids of the cells of all strata, (n, P)."""
    stratum_cells: NDArray[np.int64]
    """First cell of each stratum, and n, (S + 1,)."""
    basis: Basis
    """Principal axes of the keys."""
    mixture: Mixture | None
    """Gaussian mixture; None unless A = B = I."""

    def write(self, group: zarr.Group) -> None:
        """Write the model into the arrays of a version."""
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
    """Fit the cells of each stratum, the principal axes of all keys and the mixture to samples of the keys.

    Parameters
    ----------
    corpus : Corpus
        The training patches.
    seed : int
        Seed of the samples and the clustering.
    most : int
        Keys to hold in memory.
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
    """Return the principal axes of a sample of the distinct keys of all strata."""
    rows = np.arange(len(corpus)) if len(corpus) <= most else np.unique(rng.integers(len(corpus), size=most))
    return Basis.of(_distinct(corpus.keys(rows)))


def _distinct(v: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the distinct keys of v, in order."""
    first = first_equal(v, np.zeros(len(v), np.int64))
    distinct: NDArray[np.float32] = v[first == np.arange(len(v))]
    return distinct
