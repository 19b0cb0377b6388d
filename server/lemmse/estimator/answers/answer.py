"""The answer to a measurement, by the estimator of the family that its options name."""

from lemmse.contract.options import Options
from lemmse.contract.results import Result
from lemmse.estimator.answers.le_mmse import le_mmse
from lemmse.estimator.answers.mmse import mmse
from lemmse.estimator.answers.request import Known, Request
from lemmse.estimator.backend import Backend
from lemmse.estimator.cancellation import Cancel

__all__ = ["answer"]


def answer(backend: Backend, known: Known, options: Options, cancelled: Cancel) -> Result:
    """Return the reconstruction of a measurement, in the range of its image.

    For LE-MMSE, the keys are those of the images that the options do not exclude.
    """
    request = Request.of(backend.index, known, options, cancelled)
    if options.estimator == "le-mmse":
        return le_mmse(backend, request, cancelled)
    return mmse(backend, request, cancelled)
