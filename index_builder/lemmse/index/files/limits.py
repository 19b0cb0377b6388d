"""Limits on decoded pixels, checked before anything is decoded: a small file may decode to terabytes."""

from math import prod

from lemmse.contract.errors import InvalidArgument

__all__ = ["MAX_PIXELS", "MAX_SAMPLES", "check_size"]

MAX_PIXELS = 1 << 27
"""Largest number of pixels of one image, 134 217 728, which is below the limit of Pillow."""

MAX_SAMPLES = 1 << 29
"""Largest number of values of one image: pixels times channels."""


def check_size(height: int, width: int, channels: int = 1) -> None:
    """Raise InvalidArgument for an image that is too large to be decoded.

    Examples
    --------
    >>> check_size(14_000, 14_000)
    Traceback (most recent call last):
    ...
    lemmse.contract.errors.InvalidArgument: expected at most 134217728 pixels and 536870912 values in an
    image, got 14000 × 14000 × 1; cut it into pieces
    """
    if height * width > MAX_PIXELS or prod((height, width, channels)) > MAX_SAMPLES:
        raise InvalidArgument(
            f"expected at most {MAX_PIXELS} pixels and {MAX_SAMPLES} values in an image, "
            f"got {height} × {width} × {channels}; cut it into pieces"
        )
