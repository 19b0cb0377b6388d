"""Limits on messages and tensors."""

__all__ = ["CHUNK_BYTES", "INLINE_BYTES", "LARGE_PIXELS", "MAX_CONTRIBUTORS", "MESSAGE_BYTES", "TENSOR_BYTES"]

MESSAGE_BYTES = 4 << 20
"""Largest message that client and server accept, in bytes: gRPC's default, set explicitly on both sides."""

INLINE_BYTES = MESSAGE_BYTES - (64 << 10)
"""Largest total size of the tensors in one message, in bytes; the remainder is for its other fields."""

CHUNK_BYTES = 1 << 20
"""Largest size of a chunk of a tensor in a stream, in bytes."""

TENSOR_BYTES = 1 << 28
"""Largest tensor, in bytes (256 MiB): a limit on the memory that a shape can make the receiver allocate."""

LARGE_PIXELS = 1 << 22
"""Number of pixels above which an image is read, reconstructed and written in parts."""

MAX_CONTRIBUTORS = 4096
"""Largest number of contributors in one answer, so that it fits into a message."""
