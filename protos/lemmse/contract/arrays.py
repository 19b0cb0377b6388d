"""Arrays of other libraries: what they hold as arrays of NumPy, and results as arrays of their kind.

Known are torch, CuPy, Dask and the other libraries of the array API standard, and xarray. None of them is
imported here before an array of it comes.
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_array_api_obj,
    is_cupy_array,
    is_dask_array,
    is_numpy_array,
    is_torch_array,
    to_device,
)
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.lines import one_line

__all__ = ["Restore", "as_numpy", "is_foreign", "require_aligned", "restorer"]

Restore = Callable[[NDArray[Any], str], Any]
"""Returns the image or a map of a result, of this name, as an array of the kind of y."""


def as_numpy(argument: str, value: Any) -> Any:
    """Return an array that is in memory, of another library, as one of NumPy; anything else as it is.

    Floats of less than 32 bits, for some of which NumPy has no type, become float32.

    Parameters
    ----------
    argument : str
        Name of the argument, for the error.
    value : array or any object
        What a caller gave. Lists, files, xarray's and lazy arrays are returned as they are.

    Raises
    ------
    InvalidArgument
        The library does not give the numbers, as torch those of a tensor that needs a gradient.
    """
    if not is_foreign(value):
        return value
    try:
        if is_torch_array(value) and value.is_floating_point() and value.element_size() <= 2:
            value = value.float()
        if is_torch_array(value) or is_cupy_array(value):
            value = to_device(value, "cpu")
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgument.of(
            argument, f"expected an array, got a {type(value).__name__}: {one_line(error)}"
        ) from error


def is_foreign(value: Any) -> bool:
    """Return whether an object is an array in memory of another library than NumPy, such as a tensor."""
    return is_array_api_obj(value) and not is_numpy_array(value) and not is_dask_array(value)


def restorer(y: Any) -> Restore | None:
    """Return what makes arrays of the kind of y from those of NumPy; None if y is of NumPy, a list or a file.

    The arrays are on the device of y, of the chunks of y, or have the dimensions and coordinates of y.
    """
    if _is_xarray(y):
        return lambda values, name: _with_coordinates(values, name, y)
    if is_dask_array(y):
        return lambda values, name: _in_chunks(values, y)
    if not is_foreign(y):
        return None
    namespace, place = array_namespace(y), device(y)
    return lambda values, name: namespace.asarray(values, device=place)


def require_aligned(argument: str, value: Any, y: Any) -> None:
    """Raise InvalidArgument unless a map has the dimensions and coordinates of y, if xarray knows them."""
    if not _is_xarray(value) or not _is_xarray(y) or value.ndim == 0:
        return
    wanted = y.dims[: value.ndim]
    if value.dims != wanted:
        raise InvalidArgument.of(argument, f"expected the dimensions of y, {wanted}, got {value.dims}")
    try:
        sys.modules["xarray"].align(y, value, join="exact", copy=False)
    except ValueError as error:
        raise InvalidArgument.of(argument, f"expected the coordinates of y: {one_line(error)}") from error


def _is_xarray(value: Any) -> bool:
    return isinstance(value, getattr(sys.modules.get("xarray"), "DataArray", ()))


def _in_chunks(values: NDArray[Any], y: Any) -> Any:
    import dask.array as da

    known = not math.isnan(y.size)
    return da.from_array(values, y.chunks[: values.ndim] if known else "auto")  # type: ignore[no-untyped-call]


def _with_coordinates(values: NDArray[Any], name: str, y: Any) -> Any:
    """Return a result with the coordinates of y, and if it is the image also with its name and attributes."""
    if values.ndim < y.ndim:
        channel = y.dims[-1]
        of_channels = [key for key, coordinate in y.coords.items() if channel in coordinate.dims]
        y = y.drop_vars(of_channels).isel({channel: 0})
    like = y.copy(data=values).drop_encoding()  # that of y may state integers for its file
    if name != "image":
        like.name, like.attrs = name, {}
    return like if y.chunks is None else like.chunk(dict(zip(y.dims, y.chunks, strict=True)))
