"""Mode hybrid: keys that matter are summed one by one, all others by the summary statistics of their groups.

For each query, cells are opened into leaves and leaves into keys where the error a of an unopened group
matters:

- in a group whose log weights vary little (s ≤ s_max), the Gaussian estimate of the mass is off by a factor
  of about e^±s:  a = mass (eˢ − 1) / Σ w;
- in a group whose sum depends on its few nearest keys (s > s_max), a depends on the number of keys that are
  nearer than ρ = √(−2 σ² log Σ w), the distance at which one key outweighs all others. Distances ‖u − v‖ are
  nearly normal, as those with a χ distribution, with mean² = m − τ² and variance τ² = (Σ D d² + ½ Σ D²) / m,
  where m = Σ d² + Σ D and d = u − μ. The expected number is n e^(−x²/2) with x = (mean − ρ) / τ, by chance
  one or none:  a² = n e^(−x²/2). Groups of image patches have more outliers than that: τ² is taken 1.3 times
  as large, x² is replaced by x² / (1 + x²/80), and a is divided by e², so that one threshold means the same
  for cells and leaves, at every σ. The mass is at most a.

A group is opened if log a exceeds a threshold. One threshold serves as the tolerance at every σ: opening the
groups that exceed it, for every query alike, is the least work for a given sum of squared errors over the
image. The second estimate knows no single keys, so cells where a may matter are scanned for them (see
`scan`): there, a leaf is opened if it has such a key, and groups with s > s_max that have none stay closed.
No key is counted twice.
"""

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.cancellation import Cancel, is_due, raise_if_cancelled
from lemmse.estimator.hybrid.pieces import Pieces, Work
from lemmse.estimator.hybrid.probe import ProbeLimits, probe
from lemmse.estimator.hybrid.records import (
    GroupSums,
    KeyArrays,
    KeySums,
    Normalizer,
    OutputFlags,
    Patches,
    Results,
    SumJob,
)
from lemmse.estimator.hybrid.rounding import rounding, widened
from lemmse.estimator.hybrid.sharp_queries import merge_sharp, sharp_arrays, sums_at_resolved_noise
from lemmse.estimator.hybrid.sketch_arrays import Sketches, sketch_arrays
from lemmse.estimator.hybrid.traversal import LARGEST_THRESHOLD, traverse
from lemmse.estimator.hybrid.tree import Tree
from lemmse.estimator.keys import Keys
from lemmse.estimator.queries import LOG2_E, Queries
from lemmse.estimator.sum_spec import NormalizerEstimate, SumSpec
from lemmse.estimator.sums import HEAVIEST, Outputs, PosteriorSums
from lemmse.index.clustering.moments import LEADING, Basis
from lemmse.index.clustering.sketches import ALL, Sketch, sketch_points

__all__ = ["KeyTree", "as_patches", "estimate_log_z", "hybrid_sums"]

_BLOCK = 2048
"""Number of queries processed at once: the more there are, the more of them share a leaf."""
_STRIP = 32
"""Largest number of consecutive queries in one share of work for a thread."""
_POLL = 0.02
"""Time between two polls for cancellation, in seconds."""
_PROBE = ProbeLimits(cells=8, leaves=16, keys=4096, largest_gain=np.float32(2.0))
_ROUNDING = np.float32(1e-5)
"""Upper bound of the relative error of float32 coordinates after rotation."""
_FIRST_STEP = 2.0
"""First increase of the threshold for queries that exceed their budget; further increases double."""
_LARGEST_OF_BOUNDS = np.float32(2.0**20)
"""Largest threshold if groups are opened by an upper bound of their weight, which may be far above Σ w."""
_TOO_HIGH = 8.0
"""An estimate of log Σ w that exceeds what was found by more than this is lowered: to what was found, or by
this amount and then by ever more if nothing was found."""


@dataclass(frozen=True)
class KeyTree:
    """Keys and the tree of their groups in host memory, in the form that the compiled loops need."""

    keys: Keys
    tree: Tree
    """The groups, with summary statistics along the principal axes."""
    basis: Basis
    """The PCA basis."""
    sketch: Sketch
    """Sketches of the keys."""

    @cached_property
    def key_arrays(self) -> KeyArrays:
        """The keys in the form that the compiled loops need."""
        keys, leaf_keys = self.keys, self.tree.leaf_keys
        codes, lane = keys.packed.run_of(leaf_keys[:-1])
        return KeyArrays(
            codes=keys.packed.values,
            moments=keys.packed_moments.values,
            moment_rows=keys.packed_moments.length,
            low=np.float32(keys.quantization.low),
            step=np.float32(keys.quantization.step),
            exact_low=np.float64(keys.quantization.low),
            exact_step=np.float64(keys.quantization.step),
            leaf_keys=leaf_keys,
            leaf_codes=codes,
            leaf_moments=keys.packed_moments.run_of(leaf_keys[:-1])[0],
            leaf_lane=lane,
            longest=int(np.diff(leaf_keys).max()),
        )

    @cached_property
    def sketches(self) -> Sketches:
        """The sketches in the form that the compiled loops need."""
        return sketch_arrays(self.sketch, self.tree)

    @cached_property
    def _pixel_tree(self) -> Tree:
        return self.tree.along_pixels(self.basis)

    def tree_for(self, queries: Queries) -> Tree:
        """Return the tree along the principal axes for white noise, along the pixels for other noise."""
        return self.tree if queries.is_white else self._pixel_tree

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="hybrid")

    def run(self, work: Work, count: int, cancelled: Cancel, blocks: int = 1) -> None:
        """Process the queries 0 … count − 1 and some blocks of cells, in as many threads as torch uses.

        Parameters
        ----------
        work : callable
            Called for shares of the queries, with some blocks at a time.
        count, blocks : int
            Numbers of queries and of blocks.
        cancelled : callable
            Polled by this thread; if it is a Turn, only while no thread works.

        Raises
        ------
        Cancelled
            `cancelled()` was true.
        """
        threads = torch.get_num_threads()
        strip = max(1, min(_STRIP, count // threads))  # neighbours are similar, also in work
        share = np.arange(count, dtype=np.int32) // strip % threads
        shares = [
            Pieces(np.flatnonzero(share == i).astype(np.int32), blocks) for i in range(min(threads, count))
        ]
        while left := [pieces for pieces in shares if not pieces.done]:
            stopped = Event()
            running = [self._pool.submit(pieces.run, work, stopped) for pieces in left]
            try:
                while wait(running, timeout=_POLL).not_done and not is_due(cancelled):
                    pass
            finally:
                stopped.set()
                wait(running)
            for done in running:
                done.result()
            raise_if_cancelled(cancelled)


def hybrid_sums(key_tree: KeyTree, queries: Queries, spec: SumSpec) -> PosteriorSums:
    """Return the posterior sums over all keys of the stratum of the queries, in mode hybrid.

    Parameters
    ----------
    key_tree : KeyTree
        The keys and their groups.
    queries : Queries
        The query patches, (Q, P).
    spec : SumSpec
        Its threshold, budget, normalizer and outputs are used, and its reference mean if the outputs include
        bounds. Without a normalizer, these keys are assumed to be all that contribute to Σ w. The outputs
        cannot include the heaviest keys or variances of whole patches; with a precision for each pixel, they
        cannot include bounds or whole patches either.

    Raises
    ------
    Cancelled
        `spec.cancelled()` was true.
    """
    scale = key_tree.keys.scale(queries.stratum)

    def sums(rows: Tensor, some: Queries, ratio: float) -> PosteriorSums:
        how = spec.rows(rows.numpy())
        # Without the other keys, more is opened than needed; their estimate is for other noise.
        how = how if ratio == 1 else replace(how, normalizer=None)
        blocks = (slice(start, start + _BLOCK) for start in range(0, len(some), _BLOCK))
        return PosteriorSums.join(
            [_sums_within_budget(key_tree, some.rows(block), how.rows(block), ratio) for block in blocks]
        )

    found = sums_at_resolved_noise(queries, scale, sums)
    return replace(found, patches=key_tree.keys.unwhitened(found.patches)) if spec.outputs.patch else found


def _sums_within_budget(key_tree: KeyTree, queries: Queries, spec: SumSpec, ratio: float) -> PosteriorSums:
    """Return the sums for a block of queries; those that opened too much are repeated with less work."""
    raise_if_cancelled(spec.cancelled)
    threshold, lowered = np.full(len(queries), spec.threshold, np.float32), np.zeros(len(queries))
    largest = _LARGEST_OF_BOUNDS if spec.outputs.bounds else LARGEST_THRESHOLD
    sums, excess = _block_sums(key_tree, queries, spec, threshold, lowered, ratio, scans=True)
    step = _FIRST_STEP
    while True:
        over = np.zeros(len(queries), bool)
        if spec.budget is not None:
            over = (sums.keys_evaluated.numpy() > spec.budget) & (threshold < largest)
        # Groups and keys that count may have been omitted, and bounds may have vanished, relative to an
        # estimate of Σ w that is too high. With a normalizer, other keys may count instead.
        high = (excess > _TOO_HIGH) & ~over & (spec.normalizer is None)
        rows = np.flatnonzero(over | high)
        if len(rows) == 0:
            return sums
        raise_if_cancelled(spec.cancelled)
        threshold[over] += step
        step *= 2
        lowered[high] += np.where(np.isfinite(excess), excess, _TOO_HIGH + lowered)[high]
        again = torch.from_numpy(rows)
        some = queries.rows(again), spec.rows(rows), threshold[rows], lowered[rows], ratio
        # What a scan finds does not decrease as the threshold rises, nor if the estimate of Σ w is lowered.
        new, excess[rows] = _block_sums(key_tree, *some, scans=False)
        sums = sums.put(again, new)


def estimate_log_z(key_tree: KeyTree, queries: Queries, spec: SumSpec) -> PosteriorSums:
    """Return the estimate of log Σ w that `hybrid_sums` makes before it opens any group.

    Parameters
    ----------
    key_tree, queries
        As for `hybrid_sums`.
    spec : SumSpec
        Its budget is used.

    Returns
    -------
    PosteriorSums
        Sums with the outputs HEAVIEST: Σ w is the estimate, the heaviest key is some key of the leaf with the
        largest weight, and there are no other sums.
    """

    def estimate(rows: Tensor, some: Queries, ratio: float) -> PosteriorSums:
        sums = _estimate_log_z(key_tree, some, spec)
        return replace(sums, log_max=ratio * sums.log_max, top_log_w=ratio * sums.top_log_w)

    return sums_at_resolved_noise(queries, key_tree.keys.scale(queries.stratum), estimate)


def _estimate_log_z(key_tree: KeyTree, queries: Queries, spec: SumSpec) -> PosteriorSums:
    parts = []
    for start in range(0, len(queries), _BLOCK):
        raise_if_cancelled(spec.cancelled)
        block = queries.rows(slice(start, start + _BLOCK))
        normalizer = _probe(key_tree, block, as_patches(block, key_tree), spec)
        t_length, p_length = key_tree.keys.t_length, key_tree.keys.p_length
        sums = PosteriorSums.empty(len(block), t_length, p_length, HEAVIEST, queries.u.device)
        sums.moments[:, 0] = 1
        log_z = torch.from_numpy(normalizer.log_z)
        key = np.where(normalizer.leaf < 0, -1, key_tree.tree.leaf_keys[normalizer.leaf])
        parts.append(
            replace(
                sums,
                log_max=log_z,
                top_log_w=log_z[:, None],
                top_key=torch.from_numpy(key)[:, None],
                keys_evaluated=torch.from_numpy(normalizer.evaluated),
            )
        )
    return PosteriorSums.join(parts)


def _probe(key_tree: KeyTree, queries: Queries, patches: Patches, spec: SumSpec) -> Normalizer:
    """Return the estimate of Σ w over these keys alone."""
    tree, keys, count = key_tree.tree_for(queries), key_tree.key_arrays, len(queries)
    normalizer = Normalizer(
        log_z=np.empty(count),
        cell=np.full(count, -1),
        leaf=np.full(count, -1),
        evaluated=np.zeros(count, np.int64),
    )
    limits = _PROBE if spec.budget is None else _PROBE._replace(keys=min(_PROBE.keys, spec.budget // 2))

    def probe_some(some: NDArray[np.int32], first: int, end: int) -> None:
        probe(some, patches, tree, queries.stratum, keys, limits, normalizer)

    key_tree.run(probe_some, count, spec.cancelled)
    return normalizer


def _located(tree: Tree, estimate: NormalizerEstimate) -> Normalizer:
    """Return a given estimate of Σ w, with its heaviest key located in the tree."""
    leaf = np.searchsorted(tree.leaf_keys, estimate.key, side="right") - 1
    return Normalizer(
        log_z=estimate.log_z.copy(),
        cell=np.searchsorted(tree.cell_leaves, leaf, side="right") - 1,
        leaf=leaf,
        evaluated=np.zeros(len(leaf), np.int64),
    )


def _block_sums(
    key_tree: KeyTree,
    queries: Queries,
    spec: SumSpec,
    threshold: NDArray[np.float32],
    lowered: NDArray[np.float64],
    ratio: float,
    *,
    scans: bool,
) -> tuple[PosteriorSums, NDArray[np.float64]]:
    """Return the sums for a block of queries, and how far log Σ w is below its estimate, (Q,).

    `threshold` and what is subtracted from the estimate of log Σ w are given for each, (Q,); `ratio` is that
    of the variance to the given one, more than 1 if the queries are sharp. `scans` is whether cells may be
    scanned.
    """
    tree, outputs, patches = key_tree.tree_for(queries), spec.outputs, as_patches(queries, key_tree)
    scale = key_tree.keys.scale(queries.stratum)
    if spec.normalizer is None:
        normalizer = _probe(key_tree, queries, patches, spec)
    else:
        normalizer = _located(tree, spec.normalizer)
    normalizer.log_z[:] -= lowered
    count, t_length = len(queries), key_tree.keys.t_length
    job = SumJob(
        patches=patches,
        tree=tree,
        stratum=queries.stratum,
        keys=key_tree.key_arrays,
        sketches=key_tree.sketches,
        normalizer=normalizer,
        threshold=threshold,
        reference=np.zeros((count, t_length)) if spec.reference is None else spec.reference.numpy(),
        rounding=rounding(queries, scale, ratio),
        sharp=sharp_arrays(queries, ratio, scale),
        scans=scans and queries.is_white and not outputs.bounds,
        outputs=OutputFlags(outputs.variance, outputs.ess, outputs.error, outputs.bounds, outputs.patch),
        results=_empty_results(normalizer, t_length, key_tree.keys.p_length, patches.u.shape[1], outputs),
    )
    start, stop = tree.strata_blocks[queries.stratum : queries.stratum + 2]

    def traverse_some(some: NDArray[np.int32], first: int, end: int) -> None:
        blocks = start + np.array([first, end])
        traverse(some, job._replace(tree=tree._replace(strata_blocks=blocks), stratum=0))

    key_tree.run(traverse_some, count, spec.cancelled, int(stop - start))
    groups, keys = _posterior_sums(job.results, key_tree.basis, spec)
    keys = keys.with_exact_errors(t_length, outputs, spec.reference)
    if outputs.bounds and spec.reference is not None:
        keys = widened(keys, spec.reference, job.rounding)
    if ratio > 1:
        return merge_sharp(groups, keys, job.results.log_z, job.sharp, ratio)
    sums = groups.merge(keys)
    return sums, job.results.log_z - (sums.log_max + sums.moments[:, 0].log()).numpy()


def _empty_results(
    normalizer: Normalizer, t_length: int, p_length: int, axes: int, outputs: Outputs
) -> Results:
    count = len(normalizer.log_z)

    def zeros(*columns: int) -> NDArray[np.float64]:
        return np.zeros((count, *columns))

    t = t_length
    groups = GroupSums(
        w=zeros(), wt=zeros(t), wt2=zeros(t), w2=zeros(), a2=zeros(), a2t=zeros(t), a2t2=zeros(t),
        least_w=zeros(), low=zeros(t), high=zeros(t), wv=zeros(axes * outputs.patch),
    )  # fmt: skip
    keys = KeySums(
        log_max=np.full(count, -np.inf), w=zeros(), wt=zeros(t), wt2=zeros(t), w2=zeros(),
        wv=zeros(outputs.patch_rows(p_length)),
    )  # fmt: skip
    return Results(normalizer.log_z, groups, keys, normalizer.evaluated)


def as_patches(queries: Queries, key_tree: KeyTree) -> Patches:
    """Return queries in the form that the compiled loops need: C-contiguous arrays, which they index flat."""
    u, basis, quantization = queries.u.float(), key_tree.basis, key_tree.keys.quantization
    log2_w_of_step = -0.5 * LOG2_E * quantization.step**2
    if queries.is_white:
        # Like Basis.rotate, but with torch: the threads of NumPy's BLAS would keep spinning on cores that the
        # compiled loops need.
        rotated = ((u - torch.from_numpy(basis.mean)) @ torch.from_numpy(basis.axes)).numpy()
        rest = np.linalg.norm(rotated[:, LEADING:], axis=1)
        return Patches(
            u=_padded(rotated),
            steps=np.ascontiguousarray(quantization.steps(u.numpy())),
            extent=np.column_stack([rotated[:, :LEADING], rest]),
            points=sketch_points(rotated),
            rounding=_ROUNDING * (1 + np.linalg.norm(rotated, axis=1)),
            precision=np.float32(queries.precision),
            weights=np.empty((len(u), 0), np.float32),
            score_scale=np.float32(log2_w_of_step * float(queries.precision)),
        )
    precision = queries.precision.float()
    u = u.where(precision > 0, 0)  # the value is arbitrary where nothing was observed
    return Patches(
        u=_padded(u.numpy()),
        steps=np.ascontiguousarray(quantization.steps(u.numpy())),
        extent=np.empty((len(u), 0), np.float32),
        points=np.empty((0, ALL), np.float32),
        rounding=np.empty(0, np.float32),
        precision=np.float32(1),
        weights=_padded(precision.numpy()),
        score_scale=np.float32(log2_w_of_step),
    )


def _padded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows padded with zeros to an even length, which the arrays of the groups have."""
    padded = np.pad(values, [(0, 0), (0, values.shape[1] % 2)])
    return np.ascontiguousarray(padded)


def _posterior_sums(results: Results, basis: Basis, spec: SumSpec) -> tuple[PosteriorSums, PosteriorSums]:
    """Return the requested sums over unopened groups and over keys."""
    outputs, t_length = spec.outputs, results.keys.wt.shape[1]
    count, p_length = len(results.log_z), len(basis.mean)
    empty = PosteriorSums.empty(count, t_length, p_length, outputs, torch.device("cpu"))
    of_groups, of_keys = results.groups, results.keys
    bounds = _columns(of_groups.least_w, of_groups.low, of_groups.high)
    any_closed = torch.from_numpy(of_groups.w > 0) | (bounds != 0).any(dim=1)
    groups = replace(
        empty,
        log_max=torch.from_numpy(results.log_z).where(any_closed, -torch.inf),
        moments=_moments(of_groups, outputs),
        patches=_along_pixels(of_groups, basis) if outputs.patch else empty.patches,
        w2=_columns(of_groups.w2) if outputs.ess else empty.w2,
        error_variance=(
            _columns(of_groups.a2, of_groups.a2t, of_groups.a2t2) if outputs.error else empty.error_variance
        ),
        bounds=bounds if outputs.bounds else empty.bounds,
    )
    keys = replace(
        empty,
        log_max=torch.from_numpy(of_keys.log_max),
        moments=_moments(of_keys, outputs),
        patches=torch.from_numpy(of_keys.wv),
        w2=_columns(of_keys.w2) if outputs.ess else empty.w2,
        keys_evaluated=torch.from_numpy(results.evaluated),
    )
    return groups, keys


def _moments(sums: GroupSums | KeySums, outputs: Outputs) -> Tensor:
    """Return Σ w, Σ w t and, if requested, Σ w t², (Q, 1 + T or 1 + 2T)."""
    return _columns(sums.w, sums.wt, sums.wt2) if outputs.variance else _columns(sums.w, sums.wt)


def _columns(*parts: NDArray[np.float64]) -> Tensor:
    """Return arrays (Q,) and (Q, n) side by side."""
    return torch.from_numpy(np.column_stack(parts))


def _along_pixels(sums: GroupSums, basis: Basis) -> Tensor:
    """Return Σ w v along the pixels, (Q, P)."""
    axes, mean = (torch.from_numpy(values).double() for values in (basis.axes, basis.mean))
    return torch.from_numpy(sums.wv)[:, : len(mean)] @ axes.T + _columns(sums.w) * mean
