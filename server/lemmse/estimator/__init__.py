"""The LE-MMSE estimator: arrays in, arrays out.

The modules, in the order of docs/mathematics.md:

- `keys`, `queries`: keys v with their targets t, queries u with their precision λ, and the scores log w
- `sums`, `sum_spec`: the posterior sums and their merge; which sums to compute, and how
- `device_rows`: the rows of keys and targets in the memory of a GPU; `key_stream`: keys that do not fit there
- `fused`: the kernel that computes exact sums on a GPU; `fused_hybrid`: mode hybrid there
- `exact`, `topk`, `hybrid`: three ways to compute them; `heaviest`: the k heaviest keys of a scan
- `covariances`, `gradients`: posterior covariances, and the derivative of a reconstruction
- `stratum_sums`: sums over the strata of a pre-inverse; `whitening`: queries as these compare them with keys
- `gaussians`: sums over the mixture of Gaussians beside the keys; `adaptation`: Gaussians fitted to an image
- `backend`: the backend interface; `local` and `distributed` implement it
- `whole_images`, `training_images`: MMSE and E-MMSE

From a measurement to a result:

- `observation`: the validated measurement with its noise
- `noise_estimate`, `gain_estimate`, `image_noise`: noise that nobody stated
- `signal_noise`: noise whose variance depends on the image
- `refinement`: the prior and the aggregate that the options of a request mean
- `image_queries`: the query patches of a measurement; `image_patches`: how they are cut
- `modes`: the choice of the mode; `planning`: the plan of the sums
- `rates`, `rate_measurement`: the times of modes on a GPU
- `closed_loop`, `sampled_calibration`, `measured_errors`: hybrid as accurate as requested, image by image
- `pixel_posteriors`, `aggregate`: the posteriors of the pixels, and the image made from them
- `half_quadratic`: the aggregate "epll"
- `score`: the error to expect, without the truth
- `contributors`: the training patches that make a pixel
- `answers`: reconstructions, explanations, derivatives, and estimates of noise
- `costs`: the work of a request; `exclusions`: requests that leave training images out
- `reconstructor`: what can be asked of one index
- `registry`: several indexes by name; `best_of`: the best of several
- `cancellation`, `kernels`: what stops work, and what compiles ahead of time
"""

from lemmse.contract.threads import keep_threads_from_spinning

keep_threads_from_spinning()  # before torch is loaded

from lemmse.estimator.exact import exact_sums
from lemmse.estimator.hybrid import hybrid_sums
from lemmse.estimator.keys import Keys, load_keys
from lemmse.estimator.queries import Queries
from lemmse.estimator.reconstructor import Reconstructor
from lemmse.estimator.registry import Registry
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import MEAN_ONLY, Outputs, PosteriorSums
from lemmse.estimator.topk import Neighbours, topk_sums

__all__ = [
    "MEAN_ONLY",
    "Keys",
    "Neighbours",
    "Outputs",
    "PosteriorSums",
    "Queries",
    "Reconstructor",
    "Registry",
    "SumSpec",
    "exact_sums",
    "hybrid_sums",
    "load_keys",
    "topk_sums",
]
