"""What the compiled loops of hybrid take and give."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeyArrays", "Near", "Patches", "Results", "Start", "Wanted"]


class Patches(NamedTuple):
    """Q query patches."""

    u: NDArray[np.float32]
    """Along the axes of the groups, filled up with zeros, (Q, P or more)."""
    steps: NDArray[np.float32]
    """Along the pixels, in the steps of keys, (Q, P)."""
    extent: NDArray[np.float32]
    """Leading coordinates, and the norm of the others, (Q, E)."""
    rest: NDArray[np.float32]
    """Norm of the coordinates that sketches do not have, (Q,)."""
    sigma2: np.float32
    """σ² of white noise; 1 where each pixel has a precision."""
    precision: NDArray[np.float32]
    """Precisions λ of the pixels, filled up with zeros, (Q, P or more); (Q, 0) for white noise."""


class KeyArrays(NamedTuple):
    """Keys in L leaves, as the index has packed them."""

    codes: NDArray[Any]
    """Runs of LANES keys, in steps, P numbers of each, flat."""
    moments: NDArray[np.float32]
    """Runs of n, Σ t, Σ t² of the same keys, flat."""
    moment_rows: int
    """How many there are of each key, 1 + 2T."""
    low: np.float32
    """What steps are counted from."""
    step: np.float32
    """What they count."""
    leaf_keys: NDArray[np.int64]
    """First key of each leaf, and the number of keys."""
    leaf_codes: NDArray[np.int64]
    """Where the run of its first key begins in `codes`."""
    leaf_moments: NDArray[np.int64]
    """Where it begins in `moments`."""
    leaf_lane: NDArray[np.int64]
    """Which of its run the first key is."""
    longest: int
    """Keys of the largest leaf."""


class Near(NamedTuple):
    """Where to look first."""

    cells: int
    """This many cells of the largest estimated mass."""
    leaves: int
    """This many leaves of them."""
    keys: int
    """No more than this many keys of these."""
    trust: np.float32
    """What the spread of a cell may add to its log mass before anything was opened: more is guesswork."""


class Start(NamedTuple):
    """What is known before anything is opened, (Q,) each."""

    log_z: NDArray[np.float64]
    """About log Σ w, rather too little than too much."""
    cell: NDArray[np.int64]
    """Cell of the heaviest key known; −1 if there is none."""
    leaf: NDArray[np.int64]
    """Its leaf."""
    touched: NDArray[np.int64]
    """Keys that it took."""


class Wanted(NamedTuple):
    """Which sums beside those of the mean."""

    variance: bool
    ess: bool
    error: bool
    bounds: bool
    patch: bool


class Results(NamedTuple):
    """Sums over the groups and keys of a stratum."""

    log_z: NDArray[np.float64]
    """About log Σ w, as far as is known: it rises where keys are found that weigh more, (Q,)."""
    closed: NDArray[np.float64]
    """Of closed groups, relative to e^log_z: Σ w (1, t, t²), Σ w², Σ a² (1, t, t²), (Q, 3 + 4T)."""
    bounds: NDArray[np.float64]
    """Of closed groups, relative to e^log_z: least Σ w, least and greatest Σ w (t − h), (Q, 1 + 2T)."""
    closed_v: NDArray[np.float64]
    """Of closed groups, relative to e^log_z: Σ w v along the axes of the groups, (Q, P or more, or 0)."""
    opened_max: NDArray[np.float64]
    """What the sums over keys are relative to, as a logarithm, (Q,)."""
    opened: NDArray[np.float64]
    """Of keys: Σ w (1, t, t²), Σ w², (Q, 2 + 2T)."""
    opened_v: NDArray[np.float64]
    """Of keys: Σ w v, (Q, P or 0)."""
    touched: NDArray[np.int64]
    """Keys that were summed, (Q,)."""
