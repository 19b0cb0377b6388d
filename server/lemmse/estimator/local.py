"""The backend for keys in this process."""

import logging
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.backend import DEFAULT_EXACT_WORK, Backend, Extent
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.covariances import Covariances, key_covariances
from lemmse.estimator.exact import exact_sums
from lemmse.estimator.fused import FusedKeys
from lemmse.estimator.fused_hybrid import FusedHybrid
from lemmse.estimator.hybrid import KeyTree, estimate_log_z, hybrid_sums, load_tree
from lemmse.estimator.key_stream import KeyStream, free_memory, resident_edges
from lemmse.estimator.keys import load_keys
from lemmse.estimator.queries import Queries
from lemmse.estimator.stratum_sums import ColouredQueries, sum_over_strata
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums
from lemmse.estimator.topk import Neighbours, topk_sums
from lemmse.index import Index

__all__ = ["LocalBackend", "as_device"]

_LOG = logging.getLogger(__name__)


def as_device(name: str) -> torch.device:
    """Return the device of a name: "auto" is a GPU if torch finds one, otherwise the CPU.

    Raises
    ------
    InvalidArgument
        The device does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InvalidArgument.of(
            "device", f"expected auto, cpu or a GPU that torch sees, got {name!r}"
        ) from error
    return torch.device(name)


class LocalBackend(Backend):
    """Sums over the keys of an index in this process.

    Parameters
    ----------
    index : Index
        The index; its keys are memory-mapped on a CPU and copied to a GPU.
    device : torch.device
        Device of the keys, queries and sums.
    memory : int, optional
        Bytes of the device that keys may take; by default what is free on a GPU but for 3 GiB, and no limit
        on a CPU. If the keys need more, a share of them stays there, and the others are copied for each
        block of queries.
    most_exact_work : float
        As in `Backend`.

    Raises
    ------
    InvalidArgument
        There is not even memory for a share of the keys.
    """

    def __init__(
        self,
        index: Index,
        device: torch.device,
        memory: int | None = None,
        most_exact_work: float = DEFAULT_EXACT_WORK,
    ) -> None:
        super().__init__(index, device, most_exact_work)
        self.keys = self.resident = load_keys(index, device)
        edges = resident_edges(self.keys, free_memory(device) if memory is None else memory)
        self.stream: KeyStream | None = None
        if len(edges) > 1:
            self.stream = KeyStream(self.keys, edges)
            self.resident = self.stream.resident
            self.keys = replace(self.keys, resident=False)
            _LOG.info(
                "%.0f %% of the %d keys of %s stay on %s; the others are copied for each block of pixels",
                100 * self.resident.count / self.keys.count,
                self.keys.count,
                index.name,
                device,
            )
        else:
            self.resident.load()
        self.fused = FusedKeys.of(self.resident)
        self.key_tree = KeyTree(self.keys, load_tree(index), index.basis, index.sketch)
        self.fused_hybrid = None
        if self.fused is not None and self.stream is None:
            self.fused_hybrid = FusedHybrid(self.key_tree, self.fused)

    def prepare(self) -> None:
        """Load the search of topk, and compile what sums."""
        _ = self.neighbours
        self.prepare_sums()

    def prepare_sums(self) -> None:
        """Compile the loops of hybrid on a CPU, and the kernel on a GPU."""
        if self.fused is not None:
            self.fused.prepare()
        if self.compiled_hybrid:
            stratum = int(np.flatnonzero(self.extent.counts)[0])
            hybrid_sums(
                self.key_tree,
                Queries.white(torch.zeros(1, self.keys.p_length), 1.0, stratum),
                SumSpec("hybrid"),
            )

    def close(self) -> None:
        """End the thread that copies keys, if there is one."""
        if self.stream is not None:
            self.stream.close()

    @cached_property
    def neighbours(self) -> Neighbours:
        """The nearest-neighbour search of topk, loaded at its first use."""
        return Neighbours(self.index.neighbours, self.index.quantization, self.index.stratum_cells)

    @cached_property
    def extent(self) -> Extent:
        """Numbers of keys, and range of the targets of all leaves."""
        leaves, strata = self.key_tree.tree.leaves, range(len(self.index.strata))
        # Training patches are counted per leaf; every stratum ends at the end of a leaf.
        ends = np.searchsorted(self.index.leaf_keys, self.keys.strata)
        return Extent(
            weights=tuple(np.diff(self.index.leaf_patches[ends]).tolist()),
            counts=tuple(self.keys.count_in(stratum) for stratum in strata),
            low=torch.from_numpy(leaves.target_low.min(axis=0)).double(),
            high=torch.from_numpy(leaves.target_high.max(axis=0)).double(),
        )

    def sums(self, queries: Queries | ColouredQueries, spec: SumSpec) -> PosteriorSums:
        """Return the posterior sums, in the mode of the specification."""
        if isinstance(queries, ColouredQueries):
            return sum_over_strata(self.index.strata, self.whitening, queries, spec, self.sums)
        keys = self.keys
        if not keys.count_in(queries.stratum):  # some shards of an index may have none of its keys
            return PosteriorSums.empty(len(queries), keys.t_length, keys.p_length, spec.outputs, self.device)
        match spec.mode:
            case "exact" if self.stream is not None:
                return self.stream.sums(queries, spec, self.fused)
            case "exact":
                return exact_sums(keys, queries, spec, self.fused)
            case "topk":
                return topk_sums(keys, self.neighbours, queries, spec)
            case "estimate":
                return estimate_log_z(self.key_tree, queries, spec)
            case _ if self.fused_hybrid is not None:
                return self.fused_hybrid.sums(queries, spec)
            case _:
                return hybrid_sums(self.key_tree, queries, spec)

    @property
    def compiled_hybrid(self) -> bool:
        """Whether mode hybrid sums by its compiled loops, to which calibrations apply."""
        return self.fused_hybrid is None and super().compiled_hybrid

    def hybrid_computes(self, outputs: Outputs, *, white: bool) -> bool:
        """Return whether mode hybrid can compute these outputs."""
        if self.fused_hybrid is not None:
            return white and self.fused_hybrid.computes(outputs)
        return super().hybrid_computes(outputs, white=white)

    def covariances(self, queries: Queries, directions: Tensor, cancelled: Cancel) -> Covariances:
        """Return the covariances over all keys of a stratum."""
        return key_covariances(self.keys, queries, directions, cancelled)
