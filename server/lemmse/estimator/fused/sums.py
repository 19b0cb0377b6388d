"""Posterior sums over all keys of a stratum by the fused kernel."""

import logging
from dataclasses import dataclass, replace
from subprocess import SubprocessError
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lemmse.estimator.cancellation import raise_if_cancelled
from lemmse.estimator.device_rows import DeviceRows, longest_span
from lemmse.estimator.fused.fixed_point import Form, forms, planes_of
from lemmse.estimator.fused.stratum_keys import RATIO, SHORTEST, StratumKeys
from lemmse.estimator.keys import Keys
from lemmse.estimator.queries import Queries
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums

if TYPE_CHECKING:
    from lemmse.estimator.fused.launch import Launch

__all__ = ["Blocks", "FusedKeys"]

_LOG = logging.getLogger(__name__)

_OLDEST = 8, 0
"""Least compute capability of a GPU."""
_QUERIES = 128
"""Queries are padded to a multiple of this, the largest block of the kernel."""
_MOST_TARGETS = 31
"""Longest target whose sums fit into the registers."""
_MOST_PATCH = 512
"""Longest key whose whole patches are summed: the scores are computed again for every part of a patch."""
_PAIRS = 1 << 35
"""Most pairs of a query and a key between two polls for cancellation: some 40 ms on a large GPU."""
_BYTES = 1 << 27
"""Most bytes of partial sums between two polls."""
_SPANS = 65_535
"""Most spans between two polls: the most programs that CUDA allows along the second axis of a grid."""
_PROGRAMS = 4
"""Least number of programs for each multiprocessor."""
_BLOCK = 16_384
_BLOCK_ELEMENTS = 1 << 24
"""Most queries that are summed at once, and most coordinates of these."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """The sizes of the blocks of the kernel where they are not tuned: in Triton's interpreter."""

    queries: int
    keys: int
    span: int
    """Number of keys of a program, a multiple of `keys` and of LANES."""


class FusedKeys:
    """Keys that the fused kernel sums.

    Parameters
    ----------
    keys : Keys
        The keys.
    blocks : Blocks, optional
        Sizes of blocks; by default, Triton measures the fastest ones and keeps them on disk. Required in its
        interpreter.
    """

    def __init__(self, keys: Keys, blocks: Blocks | None = None) -> None:
        self.keys = keys
        self._blocks = blocks
        self._lock = Lock()
        self._strata: dict[int, StratumKeys] = {}
        self._longest = longest_span(keys.p_length) if blocks is None else blocks.span
        self._codes = keys.codes
        if keys.device.type == "cpu":  # there they have no padding
            self._codes = DeviceRows.copied(keys.packed, keys.device, self._longest * keys.p_length)

    @classmethod
    def of(cls, keys: Keys) -> "FusedKeys | None":
        """Return keys for the kernel, or None where it does not run: without Triton or a GPU of 2020."""
        if keys.device.type != "cuda" or torch.version.cuda is None:
            return None
        if torch.cuda.get_device_capability(keys.device) < _OLDEST:
            return None
        try:
            from lemmse.estimator.fused.launch import start  # imports Triton

            start()
        except (ImportError, RuntimeError, OSError, SubprocessError) as error:
            _LOG.warning("exact sums on %s take longer, since Triton does not run: %s", keys.device, error)
            return None
        return cls(keys)

    def on(self, keys: Keys) -> "FusedKeys":
        """Return other keys for the kernel, with the same sizes of blocks."""
        return FusedKeys(keys, self._blocks)

    @property
    def query_block(self) -> int:
        """Number of queries to sum at once."""
        return max(_QUERIES, min(_BLOCK, _BLOCK_ELEMENTS // self.keys.p_length))

    def computes(self, outputs: Outputs) -> bool:
        """Return whether the kernel computes these outputs."""
        fits = not outputs.patch or self.keys.p_length <= _MOST_PATCH
        if self.keys.unwhitener is not None:  # the squares of keys are not those of clean patches
            fits = fits and not (outputs.patch and outputs.variance)
        return fits and not outputs.top and self.keys.t_length <= _MOST_TARGETS

    def forms(self, queries: Queries) -> Tensor:
        """Return the form of each query, see `fixed_point`, (Q,); those of Form.NONE are not summed."""
        return forms(queries, self._stratum(queries.stratum).form)

    def place(self, key: int, stratum: int) -> tuple[int, int, int]:
        """Return where the kernel finds a key: the place of its run, the first row of this, and its lane."""
        begin, lane = self._codes.packed.place(key)
        return begin, self._stratum(stratum).row_of(begin, self.keys.p_length), lane

    def launch(self, queries: Queries, outputs: Outputs, form: Form) -> "Launch":
        """Return the request of the kernel for queries of a form, of outputs without errors and bounds."""
        from lemmse.estimator.fused.launch import Launch, widths_of  # imports Triton

        width, chunks, tail = widths_of(self.keys.p_length)
        stratum, blocks = self._stratum(queries.stratum), self._blocks
        return Launch(
            self.keys,
            stratum,
            self._codes.values,
            planes_of(queries, stratum.form, form, chunks * width + tail),
            outputs,
            {} if blocks is None else {"BQ": blocks.queries, "BM": blocks.keys},
        )

    def prepare(self) -> None:
        """Compile the kernel, and choose its blocks, for the usual requests."""
        stratum = int(np.flatnonzero(np.diff(self.keys.strata))[0])
        centre = self.keys.scale(stratum).centre
        for count in (1024, 1):  # for spans of both lengths
            queries = Queries.white(centre.expand(count, -1), 0.1, stratum)
            for outputs in (Outputs(), Outputs(variance=True, ess=True)):
                self.sums(queries, SumSpec(outputs=outputs), Form.PLAIN)

    def sums(self, queries: Queries, spec: SumSpec, form: Form) -> PosteriorSums:
        """Return the posterior sums over all keys of the stratum of the queries.

        Parameters
        ----------
        queries : Queries
            The whitened query patches, (Q, P).
        spec : SumSpec
            Its outputs are used, except errors and bounds, which follow from the others.
        form : Form
            The form of all of them.

        Raises
        ------
        Cancelled
            `spec.cancelled()` was true; it is polled after every 2^35 pairs of a query and a key.
        """
        keys, outputs, blocks = self.keys, replace(spec.outputs, error=False, bounds=False), self._blocks
        stratum = self._stratum(queries.stratum)
        padded = _repeated_to(queries, _QUERIES if blocks is None else blocks.queries)
        launch = self.launch(padded, outputs, form)
        span = self._span(stratum.longest, queries)
        spans = stratum.spans(span, keys.p_length)
        pairs, nbytes = span * len(queries), launch.bytes_of_query * len(queries)
        step = max(1, min(_PAIRS // pairs, _BYTES // nbytes, _SPANS))
        total = PosteriorSums.empty(len(queries), keys.t_length, keys.p_length, outputs, keys.device)
        for some in torch.split(spans, step):
            raise_if_cancelled(spec.cancelled)
            total = total.merge(launch.sums(some, span, len(queries)))
            if keys.device.type == "cuda":  # otherwise all kernels would be queued at once
                torch.cuda.current_stream(keys.device).synchronize()
        return replace(
            total, keys_evaluated=torch.full_like(total.keys_evaluated, keys.count_in(queries.stratum))
        )

    def _stratum(self, stratum: int) -> StratumKeys:
        with self._lock:
            if stratum not in self._strata:
                self._strata[stratum] = StratumKeys.of(self.keys, stratum, self._codes, self._longest)
            return self._strata[stratum]

    def _span(self, longest: int, queries: Queries) -> int:
        """Return the length of spans: shorter ones if there are not enough for all multiprocessors."""
        if self._blocks is not None:
            return longest
        processors = torch.cuda.get_device_properties(self.keys.device).multi_processor_count
        spans = self.keys.count_in(queries.stratum) // longest
        programs = spans * -(-len(queries) // _QUERIES)
        return longest if programs >= _PROGRAMS * processors else max(SHORTEST, longest // RATIO)


def _repeated_to(queries: Queries, block: int) -> Queries:
    """Return the queries, the last one repeated until their number is a multiple of the size of a block."""
    number = torch.arange(-(-len(queries) // block) * block, device=queries.u.device)
    return queries.rows(number.clamp(max=len(queries) - 1))
