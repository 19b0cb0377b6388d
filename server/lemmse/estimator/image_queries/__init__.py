"""The query patches of an image, and the posterior of each of its pixels, for LE-MMSE.

The modules, from the top level down:

- `cut`: the query patches of an observation
- `whitened`: those with noise of one σ; `weighted`: those with a precision for each pixel
- `interface`: what both have in common
- `prior`: keys and Gaussians together; `bandwidth`: keys that stand for Gaussians around them
- `image_shape`: the noise and the strata of an image of any shape
"""

from lemmse.estimator.image_queries.cut import cut_queries, require_map
from lemmse.estimator.image_queries.interface import ImageQueries
from lemmse.estimator.image_queries.whitened import WhitenedQueries, joint_sums

__all__ = ["ImageQueries", "WhitenedQueries", "cut_queries", "joint_sums", "require_map"]
