"""How large messages and tensors may be."""

from collections.abc import Collection, Sequence
from math import prod

__all__ = ["CHUNK_BYTES", "INLINE_BYTES", "MAX_CONTRIBUTORS", "MESSAGE_BYTES", "TENSOR_BYTES", "answer_bytes"]

MESSAGE_BYTES = 4 << 20
"""Largest message that client and server receive; gRPC's own default, set explicitly on both sides."""

INLINE_BYTES = MESSAGE_BYTES - (64 << 10)
"""Tensor bytes that one message carries; the difference is for its other fields."""

CHUNK_BYTES = 1 << 20
"""Tensor bytes in one chunk of a stream."""

TENSOR_BYTES = 1 << 28
"""Largest tensor (256 MiB): what an announced shape can at most make the receiver hold."""

MAX_CONTRIBUTORS = 4096
"""Contributors that one answer names at most, so that it fits into a message."""

_FLOAT32 = 4


def answer_bytes(shape: Sequence[int], maps: Collection[str]) -> int:
    """Predict the tensor bytes of the answer to a request.

    Parameters
    ----------
    shape : sequence of int
        Shape of the measurement, (H, W) or (H, W, C).
    maps : collection of str
        Maps that are asked for.

    Returns
    -------
    int
        Bytes of the image and the maps, float32.

    Examples
    --------
    >>> answer_bytes((10, 10, 3), {"variance", "ess"})
    2800
    """
    like_image = 1 + ("variance" in maps) + ("error" in maps)
    return _FLOAT32 * (like_image * prod(shape) + (len(maps) - like_image + 1) * prod(shape[:2]))
