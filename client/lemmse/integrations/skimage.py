"""Restoration functions in the style of `skimage.restoration`.

They take and return images as scikit-image does: integers become floats in [0, 1] unless `preserve_range` is
true, `channel_axis` says where the channels are, a `mask` is true where pixels are missing. scikit-image
itself is not needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemmse.client import Client, connect
from lemmse.contract.errors import FailedPrecondition, InvalidArgument

__all__ = ["deconvolve_lemmse", "denoise_lemmse", "inpaint_lemmse"]

FloatImage = NDArray[np.floating]


def denoise_lemmse(
    image: ArrayLike,
    index: Client | str | PathLike[str],
    *,
    sigma: float | None = None,
    channel_axis: int | None = None,
    preserve_range: bool = False,
    name: str | None = None,
    **options: Any,
) -> FloatImage:
    """Return a denoised image: the posterior mean given the training images of an index.

    Parameters
    ----------
    image : array, (M, N) or with an axis of channels, bool, uint8, uint16 or float
        The noisy image; floats are intensities with black 0 and white 1.
    index : Client, str or path
        A client of `lemmse.client.connect`, or what to connect to for this call. Of several calls, as in
        `skimage.restoration.calibrate_denoiser`, a client opens the index once.
    sigma : float, optional
        Noise standard deviation, in the units of the returned image. It is estimated if it is not given.
    channel_axis : int, optional
        The axis of the channels; by default the image has none.
    preserve_range : bool
        Whether the result is in the range of the image: up to 255 for uint8, 65535 for uint16. By default it
        is in [0, 1].
    name : str, optional
        Name of the index, if the client has several.
    **options
        Further arguments of `lemmse.client.Client.reconstruct`, such as mode or quality.

    Returns
    -------
    array of the image's shape
        float32 if the image is float16 or float32, otherwise float64.

    Raises
    ------
    LemmseError
        The image cannot be denoised; the class of the error gives the reason.

    Examples
    --------
    >>> from functools import partial
    >>> from skimage.restoration import calibrate_denoiser
    >>> def calibrated(image, client):
    ...     denoise = partial(denoise_lemmse, index=client)
    ...     return calibrate_denoiser(image, denoise, {"sigma": [0.05, 0.1, 0.2]})(image)
    """
    view = _View(image, channel_axis, preserve_range)
    with _client(index) as client:
        return view.restored(client, sigma, None, options | {"index": name})


def inpaint_lemmse(
    image: ArrayLike,
    mask: ArrayLike,
    index: Client | str | PathLike[str],
    *,
    sigma: float | None = None,
    channel_axis: int | None = None,
    preserve_range: bool = False,
    name: str | None = None,
    **options: Any,
) -> FloatImage:
    """Return an image with its missing pixels filled in, and the noise of the others removed.

    Parameters
    ----------
    image, index, sigma, channel_axis, preserve_range, name, **options
        As in `denoise_lemmse`; the image may be anything where pixels are missing, also NaN.
    mask : array, (M, N) or the image's shape
        True or nonzero where a pixel is missing.

    Returns
    -------
    array of the image's shape
        As in `denoise_lemmse`.

    Raises
    ------
    LemmseError
        The image cannot be restored; the class of the error gives the reason.
    """
    view = _View(image, channel_axis, preserve_range)
    with _client(index) as client:
        return view.restored(client, sigma, view.observed(mask), options | {"index": name})


def deconvolve_lemmse(
    image: ArrayLike,
    index: Client | str | PathLike[str],
    *,
    sigma: float | None = None,
    channel_axis: int | None = None,
    preserve_range: bool = False,
    name: str | None = None,
    **options: Any,
) -> FloatImage:
    """Return a blurred, noisy image without its blur and noise; the index is one that was built for the blur.

    Parameters
    ----------
    image, index, sigma, channel_axis, preserve_range, name, **options
        As in `denoise_lemmse`.

    Returns
    -------
    array of the image's shape
        As in `denoise_lemmse`.

    Raises
    ------
    FailedPrecondition
        The index was not built with `--physics blur:…`.
    LemmseError
        The image cannot be restored; the class of the error gives the reason.
    """
    view = _View(image, channel_axis, preserve_range)
    with _client(index) as client:
        for info in client.list_indexes() if name is None else [client.get_index(name)]:
            if not info.physics.startswith("blur:"):
                raise FailedPrecondition(
                    f"expected an index built with --physics blur:…, got {info.name} with {info.physics}"
                )
        return view.restored(client, sigma, None, options | {"index": name})


@contextmanager
def _client(index: Client | str | PathLike[str]) -> Iterator[Client]:
    """Yield a client: the given one, or one that is closed afterwards."""
    if isinstance(index, Client):
        yield index
    else:
        with connect(index) as client:
            yield client


class _View:
    """An image as scikit-image has it, and as the client takes it.

    Parameters
    ----------
    image, channel_axis, preserve_range
        As in `denoise_lemmse`.

    Raises
    ------
    InvalidArgument
        The image does not have the axes that are said.
    """

    def __init__(self, image: ArrayLike, channel_axis: int | None, preserve_range: bool) -> None:
        array = np.asanyarray(image)
        axes = 2 if channel_axis is None else 3
        if array.ndim != axes:
            hint = "; say channel_axis" if (axes, array.ndim) == (2, 3) else ""
            raise InvalidArgument.of("image", f"expected {axes} axes, got {array.ndim}{hint}")
        if channel_axis is not None and not -axes <= channel_axis < axes:
            raise InvalidArgument.of("channel_axis", f"expected an axis of the image, got {channel_axis}")
        self._axis = channel_axis
        self._type = np.float32 if array.dtype in (np.float16, np.float32) else np.float64
        white = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
        self._own = 1 if preserve_range else 1 / white  # one step of the client's result in the own one
        self._unit = white if preserve_range else 1  # an intensity of 1 in the own result
        self._y = self._channels_last(array.astype(np.float32) if array.dtype == np.bool_ else array)

    def observed(self, missing: ArrayLike) -> NDArray[np.bool_]:
        """Return the client's mask, which is True where a pixel was observed."""
        mask = np.asarray(missing, dtype=bool)
        return ~(self._channels_last(mask) if mask.ndim == self._y.ndim else mask)

    def restored(
        self,
        client: Client,
        sigma: float | None,
        observed: NDArray[np.bool_] | None,
        options: dict[str, Any],
    ) -> FloatImage:
        """Return the client's answer in the axes, the range and the type of scikit-image."""
        own_sigma = "auto" if sigma is None else sigma / self._unit
        found = client.reconstruct(self._y, sigma=own_sigma, mask=observed, **options).image
        image = found if self._axis is None else np.moveaxis(found, -1, self._axis)
        return np.multiply(image, self._own, dtype=self._type)

    def _channels_last(self, array: NDArray[Any]) -> NDArray[Any]:
        return array if self._axis is None else np.moveaxis(array, self._axis, -1)
