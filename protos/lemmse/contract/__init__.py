"""How arrays travel in the messages of `lemmse.v1`: what client and server share.

Sending goes through `split`, which turns a message and its arrays into one message, or a message
followed by chunks; receiving goes through `Incoming`, which checks every byte that arrives before it
becomes an array.
"""

from lemmse.contract.chunks import Incoming, attach, split
from lemmse.contract.errors import MalformedMessage
from lemmse.contract.limits import (
    CHUNK_BYTES,
    INLINE_BYTES,
    MAX_CONTRIBUTORS,
    MESSAGE_BYTES,
    TENSOR_BYTES,
    answer_bytes,
)
from lemmse.contract.names import (
    AGGREGATES,
    ERRORS,
    ESTIMATORS,
    MAPS,
    MODES,
    QUALITIES,
    aggregate_name,
    error_name,
    estimator_name,
    mode_name,
    quality_name,
)
from lemmse.contract.tensors import FloatArray, WireArray

__all__ = [
    "AGGREGATES",
    "CHUNK_BYTES",
    "ERRORS",
    "ESTIMATORS",
    "INLINE_BYTES",
    "MAPS",
    "MAX_CONTRIBUTORS",
    "MESSAGE_BYTES",
    "MODES",
    "QUALITIES",
    "TENSOR_BYTES",
    "FloatArray",
    "Incoming",
    "MalformedMessage",
    "WireArray",
    "aggregate_name",
    "answer_bytes",
    "attach",
    "error_name",
    "estimator_name",
    "mode_name",
    "quality_name",
    "split",
]
