"""`sample:photos`: tiles of the colour photographs that are distributed with scikit-image.

Some photographs are held out as a whole, so that no tile shows a part of them. All are downsampled by
averaging to about 300 pixels per side, so that textures have a similar scale, and camera noise and
compression artefacts are removed.
"""

from functools import cache
from importlib import resources

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument, NotFound
from lemmse.index.sources._image import Image, SourceKind, bad_source, decoding, scale_of, to_image
from lemmse.index.sources._reading import Reading

__all__ = ["HELD_OUT", "KIND", "photograph"]

HELD_OUT = ("chelsea",)
"""Photographs that are not in `sample:photos`."""

_FILES = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "ihc": "ihc.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
_SHRINK = 2
"""Side of the squares that are averaged to one pixel, in pixels."""
_TILE = 64
"""Side of a tile, in pixels."""


def photograph(name: str) -> NDArray[np.uint8]:
    """Return a photograph of scikit-image, at the scale of the tiles of `sample:photos`.

    Parameters
    ----------
    name : str
        Name of the photograph; those in `HELD_OUT` are not in any tile.

    Returns
    -------
    ndarray, uint8, (H, W, 3)

    Raises
    ------
    NotFound
        No photograph has this name, or scikit-image is not installed.

    Examples
    --------
    >>> photograph("chelsea").shape
    (150, 225, 3)
    """
    if name not in _FILES:
        raise NotFound(f"expected a photograph among {', '.join(_FILES)}, got {name!r}")
    return _read(name).copy()


@cache
def _read(name: str) -> NDArray[np.uint8]:
    try:
        folder = resources.files("skimage.data")
    except ModuleNotFoundError as exc:
        raise NotFound(
            "the photographs come with scikit-image, which is not installed: pip install 'lemmse[demo]'"
        ) from exc
    with (
        decoding(_FILES[name]),
        resources.as_file(folder / _FILES[name]) as path,
        PIL.Image.open(path) as image,
    ):
        pixels: NDArray[np.uint8] = np.asarray(image)
    rows, columns = pixels.shape[0] // _SHRINK, pixels.shape[1] // _SHRINK
    blocks = pixels[: rows * _SHRINK, : columns * _SHRINK].reshape(rows, _SHRINK, columns, _SHRINK, 3)
    averaged: NDArray[np.float64] = np.rint(blocks.mean(axis=(1, 3)))
    return averaged.astype(np.uint8)


class _Photos:
    """The tiles of all photographs except those held out."""

    def __init__(self, spec: str, reading: Reading) -> None:
        self.spec = spec
        self._reading = reading
        self._scale = scale_of(np.dtype(np.uint8), reading.stated, spec)
        self._tiles = [
            (name, row, column)
            for name in _FILES
            if name not in HELD_OUT
            for row in range(0, _read(name).shape[0] - _TILE + 1, _TILE)
            for column in range(0, _read(name).shape[1] - _TILE + 1, _TILE)
        ]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self._tiles)

    def __getitem__(self, k: int) -> Image:
        """Return tile k."""
        name, row, column = self._tiles[k]
        tile = self._reading.crop(_read(name)[row : row + _TILE, column : column + _TILE])
        return to_image(tile.copy(), self._scale, self.label(k))

    def label(self, k: int) -> str:
        """Return the photograph, rows and columns of tile k."""
        name, *corner = self._tiles[k]
        whole = slice(0, _TILE), slice(0, _TILE)
        parts = whole if self._reading.roi is None else self._reading.roi.within(_TILE, _TILE)
        place = (
            f"{start + part.start}:{start + part.stop}" for start, part in zip(corner, parts, strict=True)
        )
        return f"photos/{name}[{', '.join(place)}]"


def _open(spec: str, reading: Reading) -> _Photos:
    if spec != "sample:photos":
        raise bad_source(f"expected sample:photos, the only sample, got {spec}")
    if reading.axes is not None:
        raise InvalidArgument.of(
            "axes", f"expected none for {spec}, whose axes are known, got {reading.axes}"
        )
    return _Photos(spec, reading)


KIND = SourceKind("sample:photos", lambda spec: spec.startswith("sample:"), _open)
