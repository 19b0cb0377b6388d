"""The errors of decoders as errors of ours."""

from collections.abc import Iterator
from contextlib import contextmanager

from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.lines import one_line

__all__ = ["readable"]


@contextmanager
def readable() -> Iterator[None]:
    """Raise InvalidArgument in place of any exception of a decoder in the `with` block."""
    try:
        yield
    except (LemmseError, MemoryError):
        raise
    except Exception as error:  # decoders raise ValueError, SyntaxError, struct.error, …
        reason = one_line(error, type(error).__name__)
        raise InvalidArgument(f"expected an image, but it cannot be read: {reason}") from error
