"""One request of the kernel: its arguments, and the posterior sums from the partial sums of its programs."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import OutOfResources, driver

from lemmse.estimator.fused.fixed_point import LOWEST, Form, QueryPlanes
from lemmse.estimator.fused.kernel import WEIGHT_BITS, fused_kernel, tuned_kernel
from lemmse.estimator.fused.stratum_keys import FINE_BITS, StratumKeys
from lemmse.estimator.keys import Keys
from lemmse.estimator.queries import LOG2_E
from lemmse.estimator.sums import Outputs, PosteriorSums

__all__ = ["LISTED_BLOCK", "Launch", "find_cache", "start", "starting", "widths_of"]

_PATCH_CHUNK = 64
"""Number of coordinates of whole patches that a program sums."""
LISTED_BLOCK = 64
"""Number of queries in a block of those that are listed for a span."""
_LISTED = [{"BQ": LISTED_BLOCK, "BM": 64, "num_warps": 4, "num_stages": stages} for stages in (3, 2, 1)]
"""How the kernel is started for lists of queries: in the first way for which a GPU has the shared memory."""
_lock = Lock()
"""Held while a kernel is started: the tuner of Triton is not thread-safe."""


def widths_of(p_length: int) -> tuple[int, int, int]:
    """Return how the kernel divides the coordinates: width and number of chunks, and width of a last one.

    Examples
    --------
    >>> widths_of(9), widths_of(75), widths_of(147), widths_of(363)
    ((16, 1, 0), (64, 1, 16), (64, 3, 0), (64, 6, 0))
    """
    whole = -(-p_length // 16) * 16
    if whole > 128:  # what Triton 3.6 compiles of a loop over chunks and a last one is wrong
        return 64, -(-whole // 64), 0
    first = 1 << (whole.bit_length() - 1)
    return first, 1, _power(whole - first) if whole > first else 0


def find_cache() -> None:
    """Have Triton keep what it compiles in a temporary folder if it cannot write to its own."""
    folder = Path(knobs.cache.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        private = tempfile.mkdtemp(prefix="lemmse-kernels-")  # others cannot put code there
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        knobs.cache.dir = private


def start() -> None:
    """Have Triton compile what it starts kernels with, which needs a C compiler and the headers of Python.

    Raises
    ------
    RuntimeError, OSError, subprocess.SubprocessError
        It cannot, or there is no GPU.
    """
    with _lock:
        find_cache()
        driver.active.get_current_device()


@contextmanager
def starting(device: torch.device) -> Iterator[None]:
    """Have Triton start kernels on a device, in one thread at a time."""
    with _lock:
        if device.type != "cuda":
            yield
            return
        with torch.cuda.device(device):  # Triton starts kernels on the current one of this thread
            yield


class Launch:
    """The sums of a block of queries over the keys of a stratum.

    Parameters
    ----------
    keys : Keys
        The keys.
    stratum : StratumKeys
        How those of the stratum are represented.
    codes : Tensor
        The packed keys, on the device.
    queries : QueryPlanes
        The queries, a multiple of the size of a block.
    outputs : Outputs
        The sums to compute.
    blocks : dict of str to int
        Sizes of blocks that are not tuned.
    """

    def __init__(
        self,
        keys: Keys,
        stratum: StratumKeys,
        codes: Tensor,
        queries: QueryPlanes,
        outputs: Outputs,
        blocks: dict[str, int],
    ) -> None:
        self._keys, self._form, self._queries, self._outputs = keys, stratum.form, queries, outputs
        self._rows = outputs.rows(keys.t_length)
        self._columns = stratum.targets.shape[1]
        self._powers = 2 if outputs.variance else 1
        width, chunks, tail = widths_of(keys.p_length)
        self._patch_chunks = -(-keys.p_length // _PATCH_CHUNK) if outputs.patch else 0
        norms = stratum.norms
        if queries.precisions is not None:  # the squares of the keys are among the products
            norms = torch.cat([torch.where(norms[:1] > LOWEST, 0.0, LOWEST), norms[1:]])
        self._inputs = (
            queries.planes,
            queries.planes if queries.precisions is None else queries.precisions,
            queries.scale,
            queries.bias,
            codes,
            norms,
            stratum.targets,
            stratum.form.centre,
            stratum.inverse_unit,
        )
        self._settings: dict[str, Any] = {
            "R": stratum.norms.shape[1],
            "P": keys.p_length,
            "BITS": stratum.bits,
            "SHIFT": stratum.shift,
            "K": width,
            "CHUNKS": chunks,
            "TAIL": tail,
            "PLANES": len(queries.planes),
            "APART": queries.form > Form.PLAIN,
            "WEIGHTED": queries.precisions is not None,
            "REPEATED": stratum.repeated,
            "FINE": stratum.fine and queries.precisions is None,
            "V": self._columns,
            "ESS": outputs.ess,
            "PATCH": _PATCH_CHUNK if outputs.patch else 0,
            "SQUARES": outputs.patch and outputs.variance,
            **blocks,
        }

    @property
    def bytes_of_query(self) -> int:
        """Size of the partial sums of one query over one span."""
        patches = self._patch_chunks * _PATCH_CHUNK * self._powers
        return 4 * (3 + self._columns + patches)

    def no_sums(self) -> PosteriorSums:
        """Return the posterior sums of all queries over no keys."""
        keys, count = self._keys, len(self._queries.scale)
        return PosteriorSums.empty(count, keys.t_length, keys.p_length, self._outputs, keys.device)

    def sums(self, spans: Tensor, span: int, count: int) -> PosteriorSums:
        """Return the posterior sums of the first `count` queries over keys.

        Parameters
        ----------
        spans : int64, (S, 2)
            The spans of the keys, see `kernel`.
        span : int
            Greatest number of lanes of a span.
        count : int
            Number of queries, without the padding.
        """
        nobody = spans.new_empty(0)
        reference, sums, squares, patches = self._run(
            spans, span, len(spans), len(self._queries.scale), nobody, nobody
        )
        log2_w = reference[..., :count].double().sum(dim=1) * self._queries.scale[:count].double()  # (S, Q)
        largest = log2_w.amax(dim=0)
        share = torch.exp2(log2_w - largest)  # (S, Q)
        return self._posterior_sums(
            largest,
            self._moments(torch.einsum("sqv,sq->qv", sums[:, :count].double(), share)),
            (squares[:, :count].double() * share.square()).sum(dim=0),
            torch.einsum("spqv,sq->pqv", patches[:, :, :count].double(), share),
        )

    def listed_sums(self, spans: Tensor, span: int, listed: Tensor, places: Tensor) -> PosteriorSums:
        """Return the posterior sums of all queries, each over the spans that it is listed for.

        Parameters
        ----------
        spans, span
            As for `sums`.
        listed : int64, (N,)
            Numbers of queries, LISTED_BLOCK for each of the places; −1 fills a block that has fewer.
        places : int64, (N / LISTED_BLOCK,)
            Numbers of spans.
        """
        count = len(self._queries.scale)
        reference, sums, squares, patches = (
            part[0] for part in self._run(spans, span, 1, len(listed), listed.clamp(min=0), places)
        )
        some = listed >= 0
        listed = listed.clamp(min=0)
        log2_w = reference.double().sum(dim=0) * self._queries.scale[listed].double()  # (N,)
        log2_w = log2_w.where(some, -torch.inf)
        largest = log2_w.new_full((count,), -torch.inf).scatter_reduce(0, listed, log2_w, "amax")
        # A query may have a thousand rows: in float64, moving them would take longer than summing keys.
        share = torch.exp2(log2_w - largest[listed]).where(some, 0.0).float()

        def added(rows: Tensor) -> Tensor:
            return rows.new_zeros(count, *rows.shape[1:]).index_add_(0, listed, rows).double()

        return self._posterior_sums(
            largest,
            added(self._moments(sums) * share[:, None]),
            added(squares * share.square()),
            torch.stack([added(part * share[:, None]) for part in patches]),
        )

    def _run(
        self, spans: Tensor, span: int, parts: int, rows: int, listed: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Start the kernel, and return its partial sums, each relative to its largest weight."""

        def new(*shape: int) -> Tensor:
            return torch.empty(parts, *shape, device=spans.device)

        outcome = (
            new(2, rows),
            new(rows, self._columns),
            new(rows),
            new(self._powers, rows, self._patch_chunks * _PATCH_CHUNK),
        )
        is_listed = len(places) > 0
        kernel = fused_kernel if is_listed or "BQ" in self._settings else tuned_kernel

        def grid(meta: dict[str, Any]) -> tuple[int, int, int]:
            return rows // meta["BQ"], parts, max(1, self._patch_chunks)

        def run(blocks: dict[str, int]) -> None:
            kernel[grid](
                *self._inputs,
                spans,
                listed,
                places,
                *outcome,
                len(self._queries.scale),
                N=rows,
                LISTED=is_listed,
                SPAN=span,
                **self._settings | blocks,
            )

        *first, last = _LISTED if is_listed else [{}]
        with starting(spans.device):
            for blocks in first:
                try:
                    run(blocks)
                    return outcome
                except OutOfResources:
                    continue
            run(last)
        return outcome

    def _moments(self, sums: Tensor) -> Tensor:
        """Return Σ w, Σ w t and Σ w t² from the columns of the kernel, which have two parts of each."""
        half = self._columns // 2
        fine = 2.0**-FINE_BITS * sums[:, half : half + self._rows]
        return 2.0**-WEIGHT_BITS * (sums[:, : self._rows] + fine)

    def _posterior_sums(
        self, largest: Tensor, moments: Tensor, squares: Tensor, patches: Tensor
    ) -> PosteriorSums:
        """Return posterior sums from those relative to the largest log2 w of each query, (Q,)."""
        outputs, queries, count, weight = self._outputs, self._queries, len(largest), 2.0**-WEIGHT_BITS
        w2 = weight**2 * squares
        # The largest precision is that of the scale, and float32 would round what all keys have in common.
        common = queries.exact_scale * queries.constant
        none = moments[:, :0]
        return PosteriorSums(
            log_max=(largest + common[:count]) / LOG2_E,
            moments=moments,
            patches=self._patches(weight * patches, moments[:, :1]) if outputs.patch else none,
            w2=w2[:, None] if outputs.ess else none,
            error_variance=none,
            bounds=none,
            top_log_w=none,
            top_key=none.long(),
            keys_evaluated=torch.zeros(count, dtype=torch.int64, device=none.device),
        )

    def _patches(self, x: Tensor, w: Tensor) -> Tensor:
        """Return Σ w v and, with the variance, Σ w v², from the sums of x = (v − c) / unit and of x²."""
        form = self._form
        x = x[..., : self._keys.p_length]
        first = form.unit * x[0]
        sums = [self._keys.unwhitened(first + w * form.origin)]
        if self._powers > 1:
            second = form.unit**2 * x[1]
            sums.append(second + 2 * form.origin * first + w * form.origin.square())
        return torch.cat(sums, dim=1)


def _power(number: int) -> int:
    """Return the least power of two that is at least a number >= 1."""
    return 1 << (number - 1).bit_length()
