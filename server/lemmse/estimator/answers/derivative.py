"""The derivative of a reconstruction with respect to y, multiplied by a vector from the left."""

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.options import Options
from lemmse.contract.tensors import FloatArray
from lemmse.estimator.answers.request import Known, Request
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.gradients import vector_jacobian_product
from lemmse.estimator.image_queries import cut_queries

__all__ = ["differentiate"]


def differentiate(
    backend: Backend, known: Known, vector: FloatArray, options: Options, cancelled: Cancel
) -> NDArray[np.float32]:
    """Return a vector times the derivative of LE-MMSE in mode exact, in the shape of y."""
    request = Request.of(backend.index, known, options, cancelled, once=True)
    queries = cut_queries(backend, request.observation, request.refinement)
    g = vector.astype(np.float64).reshape(request.observation.y.shape)
    largest = np.abs(g).max() or 1.0  # the product is linear in g, and computed with numbers within 1
    product = vector_jacobian_product(backend, queries, g / largest, request.refinement.aggregate, cancelled)
    return (largest * product).astype(np.float32).reshape(vector.shape)
