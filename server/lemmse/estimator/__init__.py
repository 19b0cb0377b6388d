"""The LE-MMSE estimator: arrays in, arrays out.

The modules in the order of the mathematics: `keys` holds v and t, `sums` what the weights add up to and how
sums merge, `exact`, `topk` and `hybrid` three ways to compute them, `mixture` those of the Gaussians that may
stand beside the keys, `training` what all that is asked of, with the keys here, in `local`, or on workers, in
`spread`, `views` a measurement as queries, `aggregate` the image of their posteriors,
`reconstructor` the way from y to x̂ and its maps, `catalogue` several indexes.
"""

from lemmse.contract.threads import keep_threads_from_spinning

keep_threads_from_spinning()  # before torch is loaded

from lemmse.estimator.arguments import AGGREGATES, ERRORS, ESTIMATORS, MAPS, MODES, QUALITIES
from lemmse.estimator.cancellation import Cancel, never
from lemmse.estimator.exact import exact_sums
from lemmse.estimator.hybrid import Descent, hybrid_sums
from lemmse.estimator.keys import Keys, load_keys
from lemmse.estimator.method import DEFAULT_K, DEFAULT_NPROBE
from lemmse.estimator.queries import Queries
from lemmse.estimator.reconstructor import DEFAULT_ACCURACY_DB, DEFAULT_EXACT_WORK, Reconstructor
from lemmse.estimator.registry import Registry
from lemmse.estimator.results import Contributor, Diagnostics, Explanation, Reconstruction
from lemmse.estimator.sums import MEAN_ONLY, Posterior, PosteriorSums, Want
from lemmse.estimator.topk import Neighbours, topk_sums

__all__ = [
    "AGGREGATES",
    "DEFAULT_ACCURACY_DB",
    "DEFAULT_EXACT_WORK",
    "DEFAULT_K",
    "DEFAULT_NPROBE",
    "ERRORS",
    "ESTIMATORS",
    "MAPS",
    "MEAN_ONLY",
    "MODES",
    "QUALITIES",
    "Cancel",
    "Contributor",
    "Descent",
    "Diagnostics",
    "Explanation",
    "Keys",
    "Neighbours",
    "Posterior",
    "PosteriorSums",
    "Queries",
    "Reconstruction",
    "Reconstructor",
    "Registry",
    "Want",
    "exact_sums",
    "hybrid_sums",
    "load_keys",
    "never",
    "topk_sums",
]
