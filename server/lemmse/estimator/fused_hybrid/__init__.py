"""Mode hybrid on a GPU: groups that matter are summed by the fused kernel, all others by their moments.

The modules, from the top level down:

- `sums`: the posterior sums, block by block of queries
- `groups`: the groups of keys, with their moments and their spans
- `scores`: squared distances of queries to groups, by matrix products
- `group_sums`: the estimate of Σ w, which groups are opened, and the sums over the others
- `group_kernel`: what these compute for a pair of a query and a group, in Triton; imported only where it runs
- `lists`: the queries that open each span
"""

from lemmse.estimator.fused_hybrid.groups import KeyGroups
from lemmse.estimator.fused_hybrid.sums import FusedHybrid

__all__ = ["FusedHybrid", "KeyGroups"]
