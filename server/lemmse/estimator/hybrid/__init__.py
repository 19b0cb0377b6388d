"""The hybrid posterior: keys that matter one by one, all others by the moments of their groups.

From the whole to its parts:

- `posterior`: the sums, block by block of queries
- `probe`: the estimate of the normalizing constant Σ w, before any group is opened
- `traversal`: which groups are opened
- `group_sums`: sums over groups by their moments
- `sketch_bounds`: which leaves may hold a near key
- `leaf_sums`: sums over keys
- `bounds`: bounds on the sums over groups
- `tree`, `records`: the data that these share
- `numbers`, `simd`: their arithmetic
"""

from lemmse.estimator.hybrid.posterior import KeyTree, estimate_log_z, hybrid_sums
from lemmse.estimator.hybrid.tree import load_tree

__all__ = ["KeyTree", "estimate_log_z", "hybrid_sums", "load_tree"]
