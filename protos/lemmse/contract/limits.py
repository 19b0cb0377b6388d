"""Limits on messages and tensors."""

__all__ = ["CHUNK_BYTES", "INLINE_BYTES", "MAX_CONTRIBUTORS", "MESSAGE_BYTES", "TENSOR_BYTES"]

MESSAGE_BYTES = 4 << 20
"""Largest message that client and server receive; gRPC's own default, set explicitly on both sides."""

INLINE_BYTES = MESSAGE_BYTES - (64 << 10)
"""Tensor bytes that one message carries; the difference is for its other fields."""

CHUNK_BYTES = 1 << 20
"""Tensor bytes in one chunk of a stream."""

TENSOR_BYTES = 1 << 28
"""Largest tensor (256 MiB): the most memory that a shape can make the receiver allocate."""

MAX_CONTRIBUTORS = 4096
"""Contributors that one answer names at most, so that it fits into a message."""
