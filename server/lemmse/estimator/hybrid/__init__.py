"""The hybrid posterior: keys that matter one by one, all others by the moments of their groups.

From the whole to its parts: `sums` (the posterior, block by block of queries), `descent` (which groups are
opened), `blocks` (what the moments of groups say), `sketches` (which keys may be near), `leaves` (sums over
keys) and `bounds` (what cannot be exceeded); `tree` and `records` are the data they share, `numbers` and
`lemmse.estimator.hybrid.simd` their arithmetic.
"""

from lemmse.estimator.hybrid.posterior import Descent, first_look, hybrid_sums
from lemmse.estimator.hybrid.tree import load_tree

__all__ = ["Descent", "first_look", "hybrid_sums", "load_tree"]
