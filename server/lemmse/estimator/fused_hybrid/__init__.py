"""Mode hybrid on a GPU: groups that matter are summed by the fused kernel, all others by their moments.

The modules, from the top level down:

- `sums`: the posterior sums, block by block of queries
- `group_sums`: the estimate of Σ w, which groups are opened, and the sums over the others
- `group_kernel`: what these compute for a pair of a query and a group, in Triton; imported only where it runs
- `visits`: lists of the queries that visit cells and groups, and of those that open each span
- `tables`: groups and queries as the kernels read them
- `groups`: cells and groups of keys, with their moments and their spans
"""

from lemmse.estimator.fused_hybrid.groups import KeyGroups
from lemmse.estimator.fused_hybrid.sums import FusedHybrid

__all__ = ["FusedHybrid", "KeyGroups"]
