"""Mode hybrid: keys that matter are summed one by one, all others by the summary statistics of their groups.

The modules, from the top level down:

- `posterior`: the sums, block by block of queries
- `probe`: the estimate of the normalizing constant Σ w, before any group is opened
- `traversal`: which groups are opened
- `group_sums`: sums over groups by their summary statistics
- `scan`: which leaves have a key near a query, by the sketches of all keys of a cell
- `sketch_arrays`, `leaf_boxes`: these sketches, and boxes around those of each leaf
- `leaf_sums`: sums over keys
- `bounds`: bounds on the sums over groups
- `tree`, `records`: the data structures that these share
- `sharp_queries`, `sharp_sums`, `rounding`: queries whose weights float32 does not resolve
- `numbers`, `simd`, `byte_products`: arithmetic that compiles to vector instructions
"""

from lemmse.estimator.hybrid.posterior import KeyTree, estimate_log_z, hybrid_sums
from lemmse.estimator.hybrid.tree import load_tree

__all__ = ["KeyTree", "estimate_log_z", "hybrid_sums", "load_tree"]
