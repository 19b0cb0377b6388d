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

    It is cut to a square of rows and columns, or the planes, rows and columns of a volume to a cube; where a
    side is shorter, it stays. Of a volume (D, H, W) columns stay whole, since they may be channels.

    Examples
    --------
    >>> measurement = Measurement.checked(np.zeros((100, 20)), sigma="auto", mask=None)
    >>> middle(measurement, 8000).y.shape
    (50, 20)
    """
    lengths = measurement.y.shape[: max(2, measurement.y.ndim - 1)]
    most = math.prod(lengths) * nbytes / measurement.nbytes
    sides = range(max(lengths), 1, -1)
    side = next((s for s in sides if math.prod(min(s, length) for length in lengths) <= most), 1)
    starts = [max(0, length - side) // 2 for length in lengths]
    spans = [np.arange(start, start + min(side, n)) for start, n in zip(starts, lengths, strict=True)]
    return measurement if measurement.nbytes <= nbytes else measurement.crop(*spans)


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
