"""Parts of images that do not fit into a message: what explains a pixel, and what shows the noise."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions
from lemmse.contract.results import IndexInfo

__all__ = ["crop", "middle"]


def middle(measurement: Measurement, nbytes: int) -> Measurement:
    """Return the middle of a measurement, as much of it as takes at most `nbytes`.

    Examples
    --------
    >>> measurement = Measurement.checked(np.zeros((100, 40)), sigma="auto", mask=None)
    >>> middle(measurement, 8000).y.shape
    (50, 20)
    """
    share = math.sqrt(min(1.0, nbytes / measurement.nbytes))
    spans = []
    for length in measurement.y.shape[:2]:
        kept = max(1, math.floor(length * share + 1e-9))
        spans.append(np.arange((length - kept) // 2, (length - kept) // 2 + kept))
    return measurement if share == 1 else measurement.crop(*spans)


def crop(
    measurement: Measurement, options: ExplainOptions, index: IndexInfo
) -> tuple[Measurement, ExplainOptions]:
    """Return the part of a measurement that the patch at the pixel covers, and the options for this crop.

    It has the planes of the patch, too, if the pixel is in a volume.

    Beyond its border, the crop is continued in the same way as the image.
    """
    if index.pre_inverse != "identity":
        raise InvalidArgument.of(
            "y",
            f"expected at most {INLINE_BYTES} bytes, since pre-inverse {index.pre_inverse} needs all of it, "
            f"got {measurement.nbytes}; explain it where the index is",
        )
    options.require_axes(2 if index.patch_depth == 1 else 3)
    reaches = (index.patch_depth // 2, index.patch_size // 2, index.patch_size // 2)[-len(options.pixel) :]
    spans: list[NDArray[np.int64]] = []
    pixel: list[int] = []
    for centre, length, reach in zip(options.pixel, measurement.y.shape, reaches, strict=False):
        span = np.arange(centre - reach, centre + reach + 1)
        if index.boundary != "circular":
            # Mirrored pixels are no farther from the edge than the patch extends, so the crop contains them.
            span = span[(span >= 0) & (span < length)]
        spans.append(span % length)
        pixel.append(centre - int(span[0]))
    return measurement.crop(*spans), replace(options, pixel=tuple(pixel))
