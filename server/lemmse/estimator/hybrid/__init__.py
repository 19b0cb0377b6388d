"""Mode hybrid: keys that matter are summed one by one, all others by the summary statistics of their groups.

The modules, from the top level down:

- `posterior`: the sums, block by block of queries
- `probe`: the estimate of the normalizing constant Σ w, before any group is opened
- `traversal`: which groups are opened
- `group_sums`: sums over groups by their summary statistics
- `sketch_bounds`: which leaves may contain a near key
- `leaf_sums`: sums over keys
- `bounds`: bounds on the sums over groups
- `tree`, `records`: the data structures that these share
- `numbers`, `simd`: arithmetic that compiles to vector instructions
"""

from lemmse.estimator.hybrid.posterior import KeyTree, estimate_log_z, hybrid_sums
from lemmse.estimator.hybrid.tree import load_tree

__all__ = ["KeyTree", "estimate_log_z", "hybrid_sums", "load_tree"]
