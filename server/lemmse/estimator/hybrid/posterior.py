"""The hybrid posterior: keys that matter are summed one by one, all others by the moments of their groups.

Cells are opened into leaves and leaves into keys, per query, where what a group may hide is worth the look:

- in a group whose logits spread little (s ≤ s_max) the Gaussian estimate of its mass is off by a factor of
  about e^±s:  a = mass (eˢ − 1) / Σ w;
- in one whose sum hangs on its few nearest keys (s > s_max), what counts is how many of them are nearer than
  ρ = √(−2 σ² log Σ w), where one key outweighs all others. Distances ‖u − v‖ are nearly normal, as those of
  a χ law are, with mean² = m − τ² and variance τ² = (Σ D d² + ½ Σ D²) / m,  m = Σ d² + Σ D,  d = u − μ; the
  expected number is n e^(−x²/2), x = (mean − ρ) / τ, by chance one or none:  a² = n e^(−x²/2). Patches have
  more outliers than that: τ² is taken 1.3 times as large, x² / (1 + x²/80) for x², and a is divided by e²,
  so that one threshold means the same for cells and leaves, at every σ. No more than a counts as mass.

A group is opened where log a exceeds a threshold. One number is thus the tolerance at every σ: opening what
exceeds it, in any query, is the least work for a given sum of squared errors over the image. No key is
counted twice, and none left out but those of opened leaves that hold next to nothing (see `sketches`).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, never, stop_if
from lemmse.estimator.hybrid.descent import ANYTHING, descend, probe
from lemmse.estimator.hybrid.records import KeyArrays, Near, Patches, Results, Start, Wanted
from lemmse.estimator.hybrid.sketch_bounds import Sketches, arrays_of
from lemmse.estimator.hybrid.tree import Tree
from lemmse.estimator.keys import Keys
from lemmse.estimator.method import Known
from lemmse.estimator.queries import Queries
from lemmse.estimator.sums import HEAVIEST, MEAN_ONLY, PosteriorSums, Want
from lemmse.index.clustering.moments import LEADING, Basis
from lemmse.index.clustering.sketches import Sketch, sketched

__all__ = ["Descent", "as_patches", "first_look", "hybrid_sums"]

_BLOCK = 2048
"""Queries to treat together: the more there are, the more of them share a leaf."""
_STRIP = 32
"""Queries in a row that one thread takes at most."""
_NEAR = Near(cells=8, leaves=16, keys=4096, trust=np.float32(2.0))
_RELAX = 2.0
"""First step of the threshold towards less work, for queries beyond their budget; steps double."""


@dataclass(frozen=True)
class Descent:
    """Keys and their groups on the CPU, ready for the compiled loops."""

    keys: Keys
    tree: Tree
    basis: Basis
    """The principal axes of the tree."""
    sketch: Sketch | None
    """Sketches of the keys, of large ones."""

    @cached_property
    def key_arrays(self) -> KeyArrays:
        """The keys in their leaves."""
        keys, leaf_keys = self.keys, self.tree.leaf_keys
        codes, lane = keys.packed.run_of(leaf_keys[:-1])
        return KeyArrays(
            codes=keys.packed.values,
            moments=keys.packed_moments.values,
            moment_rows=keys.packed_moments.length,
            low=np.float32(keys.quantization.low),
            step=np.float32(keys.quantization.step),
            leaf_keys=leaf_keys,
            leaf_codes=codes,
            leaf_moments=keys.packed_moments.run_of(leaf_keys[:-1])[0],
            leaf_lane=lane,
            longest=int(np.diff(leaf_keys).max()),
        )

    @cached_property
    def sketches(self) -> Sketches:
        """Their sketches, where they have any."""
        return arrays_of(self.sketch, self.tree.leaf_keys)

    @cached_property
    def pixel_tree(self) -> Tree:
        """The tree along the pixels, made when the first mask or noise map comes."""
        return self.tree.along_pixels(self.basis)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="hybrid")

    def share(self, work: Callable[[NDArray[np.int32]], None], count: int) -> None:
        """Call work(queries) for shares of `count` queries, as many at once as there are threads."""
        threads = torch.get_num_threads()
        strip = max(1, min(_STRIP, count // threads))  # neighbours are alike, and as much work
        share = np.arange(count, dtype=np.int32) // strip % threads
        for _ in self._pool.map(work, (np.flatnonzero(share == i).astype(np.int32) for i in range(threads))):
            pass


def hybrid_sums(
    descent: Descent,
    queries: Queries,
    *,
    threshold: float,
    budget: int | None = None,
    known: Known | None = None,
    about: Tensor | None = None,
    stratum: int = 0,
    want: Want = MEAN_ONLY,
    cancelled: Cancel = never,
) -> PosteriorSums:
    """Sum the weights of all keys of a stratum for each query, the unimportant ones by groups.

    Parameters
    ----------
    descent : Descent
        The keys and their groups, on the CPU.
    queries : Queries
        Query patches, (Q, P).
    threshold : float
        Natural logarithm of what a group that stays closed may hide; the lower, the more keys are summed.
    budget : int, optional
        Keys to sum at most for a query, >= 1.
    known : Known, optional
        What a first look found where other keys count beside these, so that groups are opened for what they
        may hide of all; there may be nothing to be found. Its own first look if not given.
    about : float64, (Q, T), optional
        The mean h that bounds are wanted about; needed if they are, and the noise must be white. Groups are
        then opened for what they can hold at most, which takes more keys than what they are likely to hold.
    stratum, want, cancelled
        As for `exact_sums`. The heaviest keys cannot be named, nor is there a variance of whole patches or,
        where the noise is not white, a mean.

    Raises
    ------
    Cancelled
        `cancelled()` was true.
    """
    parts = []
    for start in range(0, len(queries), _BLOCK):
        stop_if(cancelled)
        block = queries.rows(slice(start, start + _BLOCK))
        limits = np.full(len(block), threshold, np.float32)
        centre = None if about is None else about[start : start + _BLOCK]
        of_block = None if known is None else known.of(slice(start, start + _BLOCK))
        sums = _block_sums(descent, block, centre, limits, of_block, budget, stratum, want)
        relax, alone = _RELAX, known is None
        while len(again := torch.nonzero(_amiss(sums, limits, budget, alone))[:, 0]):
            stop_if(cancelled)
            rows = again.numpy()
            limits[rows] += relax
            relax *= 2
            some = None if centre is None else centre[again]
            of_rows = None if of_block is None else of_block.of(rows)
            less = _block_sums(descent, block.rows(again), some, limits[rows], of_rows, budget, stratum, want)
            sums = sums.put(again, less)
        parts.append(sums)
    return PosteriorSums.join(parts)


def first_look(
    descent: Descent,
    queries: Queries,
    *,
    budget: int | None = None,
    stratum: int = 0,
    cancelled: Cancel = never,
) -> PosteriorSums:
    """What `hybrid_sums` takes Σ w for before it opens anything, and a key of the leaf that weighs most.

    There are no other sums. The key is named as the heaviest one.

    Parameters
    ----------
    descent, queries, budget, stratum, cancelled
        As for `hybrid_sums`.
    """
    parts = []
    for first in range(0, len(queries), _BLOCK):
        stop_if(cancelled)
        block = queries.rows(slice(first, first + _BLOCK))
        start = _look(descent, block, as_patches(block, descent), budget, stratum)
        t_length, p_length = descent.keys.t_length, descent.keys.p_length
        sums = PosteriorSums.empty(len(block), t_length, p_length, HEAVIEST, queries.u.device)
        sums.moments[:, 0] = 1
        log_z = torch.from_numpy(start.log_z)
        key = np.where(start.leaf < 0, -1, descent.tree.leaf_keys[start.leaf])
        parts.append(
            replace(
                sums,
                log_max=log_z,
                top_log_w=log_z[:, None],
                top_key=torch.from_numpy(key)[:, None],
                touched=torch.from_numpy(start.touched),
            )
        )
    return PosteriorSums.join(parts)


def _start(tree: Tree, known: Known) -> Start:
    """What is known before anything is opened, where a first look found it already."""
    leaf = np.searchsorted(tree.leaf_keys, known.key, side="right") - 1
    return Start(
        log_z=known.log_z.copy(),
        cell=np.searchsorted(tree.cell_leaves, leaf, side="right") - 1,
        leaf=leaf,
        touched=np.zeros(len(leaf), np.int64),
    )


def _look(descent: Descent, queries: Queries, patches: Patches, budget: int | None, stratum: int) -> Start:
    """What is known before anything is opened."""
    tree, count = _tree(descent, queries), len(queries)
    start = Start(
        log_z=np.empty(count),
        cell=np.full(count, -1),
        leaf=np.full(count, -1),
        touched=np.zeros(count, np.int64),
    )
    near = _NEAR if budget is None else _NEAR._replace(keys=min(_NEAR.keys, budget // 2))
    keys = descent.key_arrays
    descent.share(lambda some: probe(some, patches, tree, stratum, keys, near, start), count)
    return start


def _tree(descent: Descent, queries: Queries) -> Tree:
    """The groups, as queries of that kind see them."""
    return descent.tree if queries.is_white else descent.pixel_tree


def _amiss(sums: PosteriorSums, threshold: NDArray[np.float32], budget: int | None, alone: bool) -> Tensor:
    """Queries that opened too much: more than the budget, or all that there seemed to be, to find nothing.

    Where other keys count beside these, there may be nothing to be found.
    """
    amiss = alone & (sums.moments[:, 0] == 0)
    if budget is not None:
        amiss = amiss | (sums.touched > budget)
    return amiss & torch.from_numpy(threshold < ANYTHING)


def _block_sums(
    descent: Descent,
    queries: Queries,
    about: Tensor | None,
    threshold: NDArray[np.float32],
    known: Known | None,
    budget: int | None,
    stratum: int,
    want: Want,
) -> PosteriorSums:
    tree, keys = _tree(descent, queries), descent.key_arrays
    count, t_length = len(queries), descent.keys.t_length
    patches, sketches = as_patches(queries, descent), descent.sketches
    start = _look(descent, queries, patches, budget, stratum) if known is None else _start(tree, known)
    h = np.zeros((count, t_length)) if about is None else about.numpy()
    wanted = Wanted(want.variance, want.ess, want.error, want.bounds, want.patch)
    results = Results(
        log_z=start.log_z,
        closed=np.zeros((count, 3 + 4 * t_length)),
        bounds=np.zeros((count, 1 + 2 * t_length)),
        closed_v=np.zeros((count, patches.u.shape[1] if want.patch else 0)),
        opened_max=np.full(count, -np.inf),
        opened=np.zeros((count, 2 + 2 * t_length)),
        opened_v=np.zeros((count, want.patch_rows(descent.keys.p_length))),
        touched=start.touched,
    )
    descent.share(
        lambda some: descend(
            some, patches, start, threshold, tree, stratum, keys, sketches, h, wanted, results
        ),
        count,
    )
    return _collected(results, t_length, descent.basis, want, about)


def as_patches(queries: Queries, descent: Descent) -> Patches:
    """Queries as the compiled loops take them, which take them flat."""
    u, basis, quantization = queries.u, descent.basis, descent.keys.quantization
    if queries.is_white:
        # As Basis.rotate, but NumPy's BLAS would leave threads spinning that the compiled loops need.
        rotated = ((u - torch.from_numpy(basis.mean)) @ torch.from_numpy(basis.axes)).numpy()
        rest = np.linalg.norm(rotated[:, LEADING:], axis=1)
        return Patches(
            u=_even(rotated),
            steps=np.ascontiguousarray(quantization.steps(u.numpy())),
            extent=np.column_stack([rotated[:, :LEADING], rest]),
            rest=np.linalg.norm(rotated[:, sketched(rotated.shape[1]) :], axis=1),
            sigma2=np.float32(1 / float(queries.precision)),
            precision=np.empty((len(u), 0), np.float32),
        )
    precision = queries.precision
    u = u.where(precision > 0, 0)  # any number where nothing was observed
    return Patches(
        u=_even(u.numpy()),
        steps=np.ascontiguousarray(quantization.steps(u.numpy())),
        extent=np.empty((len(u), 0), np.float32),
        rest=np.empty(0, np.float32),
        sigma2=np.float32(1),
        precision=_even(precision.numpy()),
    )


def _even(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows and a zero where they are of odd length, as the groups have it."""
    filled = np.pad(values, [(0, 0), (0, values.shape[1] % 2)])
    return np.ascontiguousarray(filled)


def _collected(
    results: Results, t_length: int, basis: Basis, want: Want, about: Tensor | None
) -> PosteriorSums:
    """The sums over closed groups and over keys, of which what is wanted."""
    rows, error_rows = want.rows(t_length), 1 + 2 * t_length
    empty = PosteriorSums.empty(len(results.log_z), t_length, len(basis.mean), want, torch.device("cpu"))
    closed, bounds, opened = map(torch.from_numpy, (results.closed, results.bounds, results.opened))
    something = (closed[:, 0] > 0) | (bounds != 0).any(dim=1)
    of_groups = replace(
        empty,
        log_max=torch.from_numpy(results.log_z).where(something, -torch.inf),
        moments=closed[:, :rows],
        patches=_along_pixels(results.closed_v, closed[:, :1], basis) if want.patch else empty.patches,
        w2=closed[:, error_rows : error_rows + want.ess],
        doubt=closed[:, 1 + error_rows :][:, : error_rows * want.error],
        bounds=bounds[:, : error_rows * want.bounds],
    )
    of_keys = replace(
        empty,
        log_max=torch.from_numpy(results.opened_max),
        moments=opened[:, :rows],
        patches=torch.from_numpy(results.opened_v),
        w2=opened[:, error_rows : error_rows + want.ess],
        touched=torch.from_numpy(results.touched),
    )
    return of_groups.merge(of_keys.certain(t_length, want, about))


def _along_pixels(closed_v: NDArray[np.float64], w: Tensor, basis: Basis) -> Tensor:
    """Σ w v along the pixels, (Q, P), from that along the axes and Σ w, (Q, 1)."""
    axes, mean = (torch.from_numpy(values).double() for values in (basis.axes, basis.mean))
    return torch.from_numpy(closed_v)[:, : len(mean)] @ axes.T + w * mean
