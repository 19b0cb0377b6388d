"""Transparency: an alpha channel that is opaque everywhere is dropped, any other is refused.

What a transparent pixel shows depends on what is behind it, so it has no intensity.
"""

from typing import Any

from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument

__all__ = ["drop_alpha", "require_opaque"]


def drop_alpha(numbers: NDArray[Any], white: float) -> NDArray[Any]:
    """Return the numbers without their last channel, alpha, which must be `white` everywhere.

    Returns
    -------
    ndarray, (H, W, C), or (H, W) for one channel
    """
    require_opaque(bool((numbers[..., -1] == white).all()))
    colours = numbers[..., :-1]
    return colours[..., 0] if colours.shape[-1] == 1 else colours


def require_opaque(opaque: bool) -> None:
    """Raise InvalidArgument for an image that is not opaque everywhere."""
    if not opaque:
        raise InvalidArgument("expected an opaque image, got transparent pixels; flatten it first")
