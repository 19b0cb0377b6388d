"""The backend for keys in this process."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator.backend import Backend, Extent
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.covariances import Covariances, key_covariances
from lemmse.estimator.device_rows import require_memory
from lemmse.estimator.exact import exact_sums
from lemmse.estimator.fused import FusedKeys, row_bytes
from lemmse.estimator.fused_hybrid import FusedHybrid
from lemmse.estimator.hybrid import KeyTree, estimate_log_z, hybrid_sums, load_tree
from lemmse.estimator.keys import load_keys
from lemmse.estimator.queries import Queries
from lemmse.estimator.stratum_sums import ColouredQueries, sum_over_strata
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs, PosteriorSums
from lemmse.estimator.topk import Neighbours, topk_sums
from lemmse.index import Index

__all__ = ["LocalBackend", "as_device"]


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

    Raises
    ------
    InvalidArgument
        The keys do not fit into the memory of the GPU.
    """

    def __init__(self, index: Index, device: torch.device) -> None:
        super().__init__(index, device)
        self.keys = load_keys(index, device)
        if device.type != "cpu":
            require_memory(device, self.keys.count, self.keys.nbytes + row_bytes(self.keys))
            self.keys.load()
        self.fused = FusedKeys.of(self.keys)
        self.key_tree = KeyTree(self.keys, load_tree(index), index.basis, index.sketch)
        self.fused_hybrid = None if self.fused is None else FusedHybrid(self.key_tree, self.fused)

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
        """Do nothing, since no other process holds resources."""

    @cached_property
    def neighbours(self) -> Neighbours:
        """The nearest-neighbour search of topk, loaded at its first use."""
        return Neighbours(self.index.neighbours, self.index.quantization, self.index.stratum_cells)

    @cached_property
    def extent(self) -> Extent:
        """Numbers of keys, and range of the targets of all leaves."""
        leaves, strata = self.key_tree.tree.leaves, range(len(self.index.strata))
        return Extent(
            weights=self.keys.weights,
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
