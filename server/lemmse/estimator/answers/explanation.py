"""The training patches with the largest weights at a pixel of LE-MMSE."""

import numpy as np

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.options import ExplainOptions
from lemmse.contract.results import Explanation
from lemmse.estimator.answers.request import Known
from lemmse.estimator.answers.result import diagnostics_of
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.contributors import contributors
from lemmse.estimator.image_queries import cut_queries
from lemmse.estimator.observation import observe
from lemmse.estimator.planning import SumPlan
from lemmse.estimator.sum_spec import SumSpec
from lemmse.estimator.sums import Outputs

__all__ = ["explain"]


def explain(backend: Backend, known: Known, options: ExplainOptions, cancelled: Cancel) -> Explanation:
    """Return the training patches with the largest weights at a pixel of a measurement, in mode exact."""
    index, manifest = backend.index, backend.index.manifest
    observation = observe(index, known.measurement, cancelled)
    top = min(options.top, manifest.keys)
    _require_small(options.context, top, manifest.patch_size, manifest.channels)
    spec = SumSpec(outputs=Outputs(top=min(top, manifest.distinct)), cancelled=cancelled)
    options.require_axes(manifest.axes)
    place = (0, *options.pixel)[-3:]  # an image is plane 0
    n = np.array([np.ravel_multi_index(place, observation.y.shape[:3])])
    sums = cut_queries(backend, observation).sums(n, spec)
    posterior = sums.posterior(manifest.channels)
    keys, weights = posterior.top_key[0].cpu().numpy(), posterior.top_weight[0].cpu().numpy()
    heaviest = contributors(index, keys, weights, top, options.context, cancelled)
    diagnostics = diagnostics_of(index, known, SumPlan(spec), float(sums.keys_evaluated[0]))
    white, black = known.measurement.white_level, known.measurement.black_level
    return Explanation(tuple(one.scaled(white, black) for one in heaviest), diagnostics)


def _require_small(context: int | None, top: int, patch_size: int, channels: int) -> None:
    """Raise InvalidArgument if the crops of an explanation do not fit into a message."""
    if context is None:
        return
    side = patch_size + 2 * context
    nbytes = top * side**2 * channels * np.dtype(np.float32).itemsize
    if nbytes > INLINE_BYTES:
        raise InvalidArgument.of(
            "context",
            f"expected crops of at most {INLINE_BYTES} bytes, got {top} of {side}x{side} pixels: {nbytes} "
            "bytes; ask for fewer contributors, or for less context",
        )
