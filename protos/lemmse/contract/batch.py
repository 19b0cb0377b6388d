"""The measurements of a batch of images, whose noise and masks are common or one for each."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from itertools import repeat
from typing import Any, overload

from numpy.typing import ArrayLike

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.measurement_arguments import AUTO, Gain, Mask, Sigma

__all__ = ["measurements"]

_NOTHING = object()


@overload
def measurements(
    images: Iterable[ArrayLike],
    sigma: Sigma | Iterable[Sigma],
    mask: Mask | Iterable[Mask],
    *,
    gain: Gain | Iterable[Gain] = ...,
    **common: Any,
) -> Iterator[Measurement | InvalidArgument]: ...


@overload
def measurements(
    images: AsyncIterable[ArrayLike],
    sigma: Sigma | Iterable[Sigma],
    mask: Mask | Iterable[Mask],
    *,
    gain: Gain | Iterable[Gain] = ...,
    **common: Any,
) -> AsyncIterator[Measurement | InvalidArgument]: ...


def measurements(
    images: Any,
    sigma: Sigma | Iterable[Sigma],
    mask: Mask | Iterable[Mask],
    *,
    gain: Gain | Iterable[Gain] = AUTO,
    **common: Any,
) -> Iterator[Measurement | InvalidArgument] | AsyncIterator[Measurement | InvalidArgument]:
    """Return an iterator over the measurements of a batch, with an error in place of each invalid one.

    Parameters
    ----------
    images : iterable or asynchronous iterable of arrays
        The images; the iterator is asynchronous if they are.
    sigma, mask, gain
        A number, "auto", None or an array with two or more axes applies to all images; any other iterable,
        including an array with one axis, has one value for each image.
    **common
        Further arguments of `Measurement.checked`, for all images.

    Raises
    ------
    InvalidArgument
        The number of images and the number of sigmas, masks or gains are known and differ. (If they are not
        known, an image without one of them is replaced by an error.)
    """
    given = {"sigma": sigma, "mask": mask, "gain": gain}
    each = {name: _each(name, value, images) for name, value in given.items()}

    def measure(y: ArrayLike) -> Measurement | InvalidArgument:
        own = {name: next(values, _NOTHING) for name, values in each.items()}
        try:
            for name, value in own.items():
                if value is _NOTHING:
                    raise InvalidArgument.of(name, "expected one for each image, got none for this one")
            return Measurement.checked(y, **common, **own)
        except InvalidArgument as error:
            return error

    if isinstance(images, AsyncIterable):
        return (measure(y) async for y in images)
    return map(measure, images)


def _each(argument: str, value: Any, images: Any) -> Iterator[Any]:
    """Return an iterator over the values of an argument, one for each image."""
    if isinstance(value, str) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) != 1:
        return repeat(value)
    if hasattr(value, "__len__") and hasattr(images, "__len__") and len(value) != len(images):
        raise InvalidArgument.of(
            argument, f"expected one for each of the {len(images)} images, got {len(value)}"
        )
    return iter(value)
