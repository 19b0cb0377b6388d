"""The exact sum as one kernel on a GPU: what is computed for a pair of a query and a key stays on the chip.

The modules, from the top level down:

- `sums`: the posterior sums, span by span of keys
- `launch`: the arguments of the kernel, and the merge of its partial sums
- `kernel`: the kernel, in Triton; it and `launch` are imported only where it runs
- `stratum_keys`: format and norms of the keys of a stratum
- `fixed_point`: keys and queries as sums of float16 numbers
"""

from lemmse.estimator.fused.fixed_point import Form
from lemmse.estimator.fused.stratum_keys import row_bytes
from lemmse.estimator.fused.sums import Blocks, FusedKeys

__all__ = ["Blocks", "Form", "FusedKeys", "row_bytes"]
