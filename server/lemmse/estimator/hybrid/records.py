"""The arguments and results of the compiled loops of hybrid."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.hybrid.sketch_arrays import Sketches
from lemmse.estimator.hybrid.tree import Tree

__all__ = [
    "GroupSums",
    "KeyArrays",
    "KeySums",
    "Normalizer",
    "OutputFlags",
    "Patches",
    "Results",
    "Sharp",
    "SumJob",
]


class Patches(NamedTuple):
    """Q query patches."""

    u: NDArray[np.float32]
    """Patches along the axes of the groups, padded with zeros to an even length, (Q, P or P + 1)."""
    steps: NDArray[np.float32]
    """Patches along the pixels, in quantization steps of the keys, (Q, P)."""
    extent: NDArray[np.float32]
    """Leading PCA coordinates, and the norm of the others, (Q, E)."""
    points: NDArray[np.float32]
    """Points of the sketches, (Q, ALL); (0, ALL) unless the noise is white."""
    rounding: NDArray[np.float32]
    """Upper bound of the rounding error of the points, (Q,)."""
    precision: np.float32
    """λ = 1/σ² for white noise; 1 if each pixel has its own precision."""
    weights: NDArray[np.float32]
    """Precisions λ of the pixels, padded with zeros like u, (Q, P or P + 1); (Q, 0) for white noise."""
    score_scale: np.float32
    """Ratio of log2 w to Σ (u_i − v_i)², which is in quantization steps and weighted if there are weights.

    All loops must use the same number: log w may be −10⁹, where one unit in the last place is a factor e^±64.
    """


class KeyArrays(NamedTuple):
    """Keys in L leaves, packed as in the index."""

    codes: NDArray[Any]
    """Quantized keys: runs of LANES keys, P numbers of each, flat."""
    moments: NDArray[np.float32]
    """n, Σ t and Σ t² of the targets of each key: runs of LANES keys, flat."""
    moment_rows: int
    """Number of moments of a key, 1 + 2T."""
    low: np.float32
    """The value that code 0 represents."""
    step: np.float32
    """Quantization step."""
    exact_low: np.float64
    """The value that code 0 represents, in float64."""
    exact_step: np.float64
    """Quantization step, in float64."""
    leaf_keys: NDArray[np.int64]
    """First key of each leaf, followed by the number of keys, (L + 1,)."""
    leaf_codes: NDArray[np.int64]
    """Start in `codes` of the run of each leaf's first key, (L,)."""
    leaf_moments: NDArray[np.int64]
    """Start in `moments` of the run of each leaf's first key, (L,)."""
    leaf_lane: NDArray[np.int64]
    """Place of each leaf's first key in its run, (L,)."""
    longest: int
    """Number of keys of the largest leaf."""


class Normalizer(NamedTuple):
    """The estimate of the normalizing constant of each query, before any group is opened, (Q,) each."""

    log_z: NDArray[np.float64]
    """Estimate of log Σ w, more often too low than too high."""
    cell: NDArray[np.int64]
    """Cell of the heaviest key found; −1 if there is none."""
    leaf: NDArray[np.int64]
    """Its leaf."""
    evaluated: NDArray[np.int64]
    """Number of keys evaluated for the estimate."""


class OutputFlags(NamedTuple):
    """The sums to compute in addition to those for the mean; see `Outputs`."""

    variance: bool
    ess: bool
    error: bool
    bounds: bool
    patch: bool


class GroupSums(NamedTuple):
    """Sums over unopened groups, relative to e^log_z; a is the standard error of a group's Σ w."""

    w: NDArray[np.float64]
    """Σ w, (Q,)."""
    wt: NDArray[np.float64]
    """Σ w t, (Q, T)."""
    wt2: NDArray[np.float64]
    """Σ w t², (Q, T)."""
    w2: NDArray[np.float64]
    """Σ w², (Q,)."""
    a2: NDArray[np.float64]
    """Σ a², (Q,)."""
    a2t: NDArray[np.float64]
    """Σ a² t, (Q, T)."""
    a2t2: NDArray[np.float64]
    """Σ a² t², (Q, T)."""
    least_w: NDArray[np.float64]
    """Lower bound of Σ w, (Q,)."""
    low: NDArray[np.float64]
    """Lower bound of Σ w (t − h) for the reference mean h, (Q, T)."""
    high: NDArray[np.float64]
    """Upper bound of Σ w (t − h), (Q, T)."""
    wv: NDArray[np.float64]
    """Σ w v along the axes of the groups, (Q, P or P + 1), or (Q, 0) if not requested."""


class KeySums(NamedTuple):
    """Sums over keys, relative to e^log_max."""

    log_max: NDArray[np.float64]
    """Largest log w, (Q,)."""
    w: NDArray[np.float64]
    """Σ w, (Q,)."""
    wt: NDArray[np.float64]
    """Σ w t, (Q, T)."""
    wt2: NDArray[np.float64]
    """Σ w t², (Q, T)."""
    w2: NDArray[np.float64]
    """Σ w², (Q,)."""
    wv: NDArray[np.float64]
    """Σ w v along the pixels, (Q, P), or (Q, 0) if not requested."""


class Results(NamedTuple):
    """Sums over the unopened groups and the evaluated keys of a stratum."""

    log_z: NDArray[np.float64]
    """Estimate of log Σ w; it is raised if the keys evaluated so far have a larger sum, (Q,)."""
    groups: GroupSums
    keys: KeySums
    evaluated: NDArray[np.int64]
    """Number of keys evaluated, (Q,)."""


class Sharp(NamedTuple):
    """Sharp queries in float64, see `sharp_queries`; no rows if the queries are not sharp."""

    scaled: NDArray[np.float64]
    """λ (u − c) along the pixels, (Q, P)."""
    precision: NDArray[np.float64]
    """Precisions λ of the pixels, (Q, P)."""
    centre: NDArray[np.float64]
    """The centre c, (P,)."""
    common: NDArray[np.float64]
    """−½ Σ λ (u − c)², which is added to log w at the end, (Q,)."""
    heaviest: NDArray[np.float64]
    """log w of the heaviest key that was read, at the noise of the traversal; −∞ if there is none, (Q,)."""


class SumJob(NamedTuple):
    """A block of Q queries, and the data needed to sum over the keys of a stratum for them."""

    patches: Patches
    tree: Tree
    stratum: int
    keys: KeyArrays
    sketches: Sketches
    normalizer: Normalizer
    threshold: NDArray[np.float32]
    """Natural logarithm of the error, relative to Σ w, above which a group is opened, (Q,)."""
    reference: NDArray[np.float64]
    """Reference mean h of the bounds, (Q, T)."""
    rounding: NDArray[np.float32]
    """Largest error of log w in float32, by which bounds on weights are widened, (Q,)."""
    sharp: Sharp
    scans: bool
    """Whether cells are scanned for keys that count; otherwise the statistics of groups must do."""
    outputs: OutputFlags
    results: Results
