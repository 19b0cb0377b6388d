"""Arrays as pictures that a page can show, and the colours of maps."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

__all__ = ["Colours", "as_bytes", "data_url", "outlined", "veil"]

# Colours of equal steps of lightness, dark to bright, that the colour-blind can tell apart: as viridis.
_STOPS = np.array(
    [
        (68, 1, 84),
        (72, 40, 120),
        (62, 74, 137),
        (49, 104, 142),
        (38, 130, 142),
        (31, 158, 137),
        (53, 183, 121),
        (110, 206, 88),
        (181, 222, 43),
        (253, 231, 37),
    ],
    np.float64,
)
_VEIL = (255, 0, 160, 150)
"""Colour and opacity of pixels that were not observed."""


@dataclass(frozen=True, slots=True)
class Colours:
    """The range of a map, and where its values lie between dark and bright."""

    low: float
    """The value of the darkest colour."""
    high: float
    """The value of the brightest colour; larger ones have it too."""
    logarithmic: bool
    """Whether colours are evenly spaced in the logarithm."""

    @classmethod
    def of(cls, name: str, values: NDArray[np.floating]) -> "Colours":
        """Return the range for a map of a result: without the largest hundredth, which is far from the rest.

        Examples
        --------
        >>> Colours.of("ess", np.array([1.0, 100.0]))
        Colours(low=1.0, high=99.01, logarithmic=True)
        """
        finite = values[np.isfinite(values)]
        if not finite.size:
            return cls(0.0, 1.0, False)
        return cls(float(finite.min()), float(np.quantile(finite, 0.99)), name == "ess")

    @property
    def middle(self) -> float:
        """The value of the colour in the middle."""
        return float(np.sqrt(self.low * self.high)) if self.logarithmic else (self.low + self.high) / 2

    def paint(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Return the colours of a map, (H, W, 3)."""
        low, high = self.low, self.high
        if self.logarithmic:
            values, low, high = np.log(values), np.log(low), np.log(high)
        place = np.clip(np.nan_to_num((values - low) / ((high - low) or 1.0)), 0, 1) * (len(_STOPS) - 1)
        below = np.minimum(place.astype(np.int64), len(_STOPS) - 2)
        part = (place - below)[..., None]
        colours = _STOPS[below] * (1 - part) + _STOPS[below + 1] * part
        return np.asarray(np.rint(colours), np.uint8)

    @staticmethod
    def gradient() -> str:
        """Return the colours from dark to bright in CSS."""
        return f"linear-gradient(to right, {', '.join(f'rgb{tuple(map(int, c))}' for c in _STOPS)})"


def as_bytes(intensities: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return an image (H, W, C) in 8 bits, as grey or as colours: of other channels, the first ones."""
    picture = np.asarray(np.rint(np.clip(np.nan_to_num(intensities), 0, 1) * 255), np.uint8)
    return picture[..., :3] if picture.shape[2] >= 3 else picture[..., 0]


def data_url(picture: NDArray[np.uint8]) -> str:
    """Return a picture as the address of an image that is its own content."""
    content = io.BytesIO()
    PIL.Image.fromarray(picture).save(content, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def veil(hidden: NDArray[np.bool_]) -> str:
    """Return a layer, as `data_url` does, that covers pixels and shows the others."""
    return data_url(np.where(hidden[..., None], np.array(_VEIL, np.uint8), np.uint8(0)))


def outlined(image: NDArray[np.float32], row: int, column: int, side: int, *, margin: int, zoom: int) -> str:
    """Return the surroundings of a patch, enlarged, with the patch outlined.

    Parameters
    ----------
    image : ndarray, (H, W, C)
        Intensities.
    row, column : int
        Centre of the patch.
    side : int
        Side of the patch, in pixels.
    margin : int
        Pixels to show on each side of the patch, where the image has them.
    zoom : int
        Screen pixels for each pixel.
    """
    reach = side // 2
    spans = []
    for centre, length in ((row, image.shape[0]), (column, image.shape[1])):
        spans.append((max(0, centre - reach - margin), min(length, centre - reach + side + margin)))
    (top, bottom), (left, right) = spans
    shown = as_bytes(image[top:bottom, left:right])
    if shown.ndim == 2:
        shown = shown[..., None].repeat(3, axis=2)
    large = shown.repeat(zoom, axis=0).repeat(zoom, axis=1)
    edges = [
        (max(0, (centre - reach - start) * zoom), min(stop - start, centre - reach + side - start) * zoom - 1)
        for centre, (start, stop) in ((row, spans[0]), (column, spans[1]))
    ]
    (up, down), (west, east) = edges
    for width, colour in ((0, (255, 255, 255)), (1, (0, 0, 0))):
        rows, columns = slice(up + width, down + 1 - width), slice(west + width, east + 1 - width)
        frame = large[rows, columns]
        frame[0], frame[-1], frame[:, 0], frame[:, -1] = colour, colour, colour, colour
    return data_url(large)
