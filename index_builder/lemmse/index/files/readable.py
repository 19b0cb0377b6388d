"""The errors of decoders as errors of ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.lines import one_line

__all__ = ["readable"]


def _no_image(reason: str) -> InvalidArgument:
    return InvalidArgument(f"expected an image, but it cannot be read: {reason}")


@contextmanager
def readable(refusal: Callable[[str], InvalidArgument] = _no_image) -> Iterator[None]:
    """Raise InvalidArgument in place of any exception of a decoder in the `with` block.

    Parameters
    ----------
    refusal : callable
        Returns the error for a reason, which is on one line.
    """
    try:
        yield
    except (LemmseError, MemoryError):
        raise
    except Exception as error:  # decoders raise ValueError, SyntaxError, struct.error, …
        raise refusal(one_line(error, type(error).__name__)) from error
