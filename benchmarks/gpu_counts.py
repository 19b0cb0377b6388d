"""What mode hybrid of a GPU does: counts, on a GPU or in Triton's interpreter, and times of its kernels."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measures import decibels, timed
from lemmse.estimator import Queries, Reconstructor, SumSpec
from lemmse.estimator.fused import Blocks, FusedKeys
from lemmse.estimator.fused_hybrid import FusedHybrid
from lemmse.estimator.fused_hybrid.group_sums import BLOCK, ClosedSums
from lemmse.estimator.fused_hybrid.visits import PART, Visits
from lemmse.estimator.local import LocalBackend

__all__ = ["counts", "hybrid_of", "kernels"]

_INTERPRETED = Blocks(queries=32, keys=1024, span=1 << 14)
"""Sizes of blocks in Triton's interpreter, where few large ones are the fastest."""
_KERNELS = 15
"""Number of kernels whose times are printed."""


def hybrid_of(lemmse: Reconstructor) -> FusedHybrid:
    """Return mode hybrid of a GPU for the keys of an index; without a GPU in Triton's interpreter."""
    backend = lemmse._backend
    if not isinstance(backend, LocalBackend):
        raise TypeError(f"expected keys in this process, got {type(backend).__name__}")
    return backend.fused_hybrid or FusedHybrid(backend.key_tree, FusedKeys(backend.keys, _INTERPRETED))


class _Counts:
    """What mode hybrid does while this is observed."""

    def __init__(self) -> None:
        self.decisions = 0
        """Pairs of a query and a cell or a group that are decided on."""
        self.lanes = 0
        """The same with what programs have no group or no query for."""
        self.opened: list[Tensor] = []
        """The groups that queries open."""

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Count what is done meanwhile."""
        with ExitStack() as stack:
            for owner, name, note in (
                (ClosedSums, "open_cells", self._decided),
                (ClosedSums, "open_groups", self._decided),
                (Visits, "pairs_at", self._opened),
            ):
                stack.enter_context(patch.object(owner, name, _noted(getattr(owner, name), note)))
            yield

    def _decided(self, arguments: tuple[Any, ...], _opened: Tensor) -> None:
        visits = arguments[2]
        self.decisions += visits.pairs
        self.lanes += len(visits.blocks) * BLOCK * PART

    def _opened(self, _arguments: tuple[Any, ...], pairs: tuple[Tensor, Tensor]) -> None:
        self.opened.append(pairs[1])


def _noted(method: Callable[..., Any], note: Callable[[tuple[Any, ...], Any], None]) -> Callable[..., Any]:
    """Return a method whose arguments and outcome are noted."""

    def noted(*arguments: Any) -> Any:
        outcome = method(*arguments)
        note(arguments, outcome)
        return outcome

    return noted


def _queries(lemmse: Reconstructor, clean: NDArray[np.float32], sigma: float, pixels: int) -> Queries:
    """Return some pixels of an image with noise, at random."""
    backend, rng = lemmse._backend, np.random.default_rng(0)
    y = (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float64)
    n = np.sort(rng.choice(y[..., 0].size, min(pixels, y[..., 0].size), replace=False))
    return Queries.white(backend.whitening.whiten(backend.cut(y[None]).at(n), 0), sigma)


def counts(
    lemmse: Reconstructor, clean: NDArray[np.float32], sigma: float, pixels: int, threshold: float
) -> dict[str, Any]:
    """Return a row of the table: what hybrid does for some pixels of an image, and how it agrees with exact.

    Parameters
    ----------
    lemmse : Reconstructor
        The index, of clean patches with white noise.
    clean : float32, (H, W, C)
        The image.
    sigma : float
        Standard deviation of the noise.
    pixels : int
        Number of pixels at random.
    threshold : float
        Groups with a larger log of their error are opened.
    """
    queries, backend = _queries(lemmse, clean, sigma, pixels), lemmse._backend
    pixels = len(queries)
    hybrid, found = hybrid_of(lemmse), _Counts()
    with found.observed():
        sums = hybrid.sums(queries, SumSpec("hybrid", threshold=threshold))
    groups, keys, opened = hybrid._groups[0], hybrid._key_tree.keys, torch.cat(found.opened)
    means = sums.posterior(keys.t_length).mean
    exact = backend.sums(queries, SumSpec()).posterior(keys.t_length).mean
    spans = torch.bincount(groups.group_of_span, minlength=len(groups.keys))
    squares = (means - exact).square().cpu().numpy()
    return {
        "sigma": sigma,
        "threshold": threshold,
        "keys": keys.count,
        "cells": len(groups.cells),
        "groups": len(groups.groups),
        "pixels": pixels,
        "decisions": found.decisions / pixels,
        "lanes_of_decision": found.lanes / found.decisions,
        "opened": len(opened) / pixels,
        "keys_percent": 100 * float(groups.keys[opened].sum()) / pixels / keys.count,
        "lanes_of_key": hybrid._span * float(spans[opened].sum() / groups.keys[opened].sum()),
        "agreement_db": decibels(squares),
        "but_for_worst_db": decibels(np.delete(squares, squares.sum(axis=1).argmax(), axis=0)),
    }


def kernels(
    lemmse: Reconstructor, clean: NDArray[np.float32], sigma: float, threshold: float, pixels: int = 16_384
) -> list[dict[str, Any]]:
    """Return rows with the time of each kernel of a block of pixels, the longest first; see `counts`.

    The last row is the whole block, with the host and what waits for it.
    """
    queries, hybrid = _queries(lemmse, clean, sigma, pixels), hybrid_of(lemmse)
    spec = SumSpec("hybrid", threshold=threshold)
    on_gpu = queries.u.is_cuda

    def block() -> None:
        hybrid.sums(queries, spec).log_max.cpu()  # waits for the GPU

    block()  # and compile, and make tables
    _, seconds = timed(block)
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        block()
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = sorted(profiled.key_averages(), key=lambda event: -getattr(event, name))
    rows = [
        {"sigma": sigma, "kernel": event.key[:70], "calls": event.count, "ms": getattr(event, name) / 1e3}
        for event in times[:_KERNELS]
    ]
    return [*rows, {"sigma": sigma, "kernel": "all", "calls": None, "ms": 1e3 * seconds}]
