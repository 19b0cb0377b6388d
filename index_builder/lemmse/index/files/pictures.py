"""Pictures that Pillow decodes: PNG, JPEG, BMP, PGM, PPM and WebP, as they are displayed.

Palettes are looked up, the orientation of EXIF is applied, alpha follows `lemmse.index.files.alpha`. PNG in
colour with 16 bits, of which Pillow reads 8, is decoded by imagecodecs.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.alpha import drop_alpha, require_opaque
from lemmse.index.files.codecs import require_imagecodecs
from lemmse.index.files.layout import Layout
from lemmse.index.files.limits import MAX_PIXELS, check_size
from lemmse.index.files.orientation import swapped, upright
from lemmse.index.files.scale import Scale
from lemmse.index.files.stack import Metadata, Stack

__all__ = ["PICTURES", "open_picture"]

PICTURES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
"""Suffixes, in lower case, of the formats that this module reads."""

_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
_ORIENTATION = 0x0112
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "I": 1, "I;16": 1, "I;16B": 1, "RGB": 3, "RGBA": 3, "P": 3, "PA": 3}
"""Number of channels without alpha, by Pillow's name of a pixel format."""


def open_picture(path: Path, stated: tuple[float, float] | None = None) -> Stack:
    """Open a picture.

    Raises
    ------
    InvalidArgument
        It is not one grey or RGB image, or is too large.
    """
    with _opened(path) as image:
        mode, deep = image.mode, _is_deep(path)
        if mode not in _CHANNELS:
            raise InvalidArgument(f"expected a grey or RGB image, got mode {mode}; convert it first")
        # Beside its picture, an MPO file has previews and the views of other lenses.
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
            raise InvalidArgument(
                f"expected one picture, got {frames} frames; save each as a file of its own"
            )
        orientation = image.getexif().get(_ORIENTATION, 1)
        channels = 1 if deep == 4 else _CHANNELS[mode]
        width, height = image.size
        check_size(height, width, channels + 1)
        metadata = _metadata(image, swap=swapped(orientation))
    dtype = np.dtype(np.uint16 if deep or mode.startswith("I") else bool if mode == "1" else np.uint8)
    size = (width, height) if swapped(orientation) else (height, width)
    layout = Layout("YX", size) if channels == 1 else Layout("YXS", (*size, channels))
    scale = Scale.of(dtype, stated=stated)
    return Stack(
        layout=layout,
        scale=scale,
        array=_Picture(path, dtype, orientation, bool(deep)),
        metadata=metadata,
    )


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture that is decoded when it is indexed."""

    path: Path
    dtype: np.dtype[Any]
    orientation: int
    deep: bool

    def __getitem__(self, index: Any) -> NDArray[Any]:
        with _opened(self.path) as image:
            transparent = image.info.get("transparency")
            if image.mode in ("P", "PA"):
                image = image.convert("RGB" if transparent is None and image.mode == "P" else "RGBA")
                transparent = None
            numbers = _decode_deep(self.path) if self.deep else np.asarray(image)
        numbers = numbers.astype(self.dtype, copy=False)
        if numbers.ndim == 3 and numbers.shape[2] in (2, 4):
            numbers = drop_alpha(numbers, np.iinfo(self.dtype).max)
        elif transparent is not None:
            colour = np.asarray(transparent, numbers.dtype)
            matches = numbers == colour
            require_opaque(not (matches.all(axis=-1) if numbers.ndim == 3 else matches).any())
        upright_numbers: NDArray[Any] = upright(numbers, self.orientation)[index]
        return upright_numbers


@contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(path, formats=_FORMATS)
    except PIL.UnidentifiedImageError as error:
        raise InvalidArgument(
            f"expected an image, but it cannot be read: not in the format of {', '.join(_FORMATS)}"
        ) from error
    except PIL.Image.DecompressionBombError as error:
        raise InvalidArgument(
            f"expected at most {MAX_PIXELS} pixels in an image, got more; cut it into pieces"
        ) from error
    with image:
        yield image


def _is_deep(path: Path) -> int:
    """Return the colour type of a PNG in colour, or with alpha, of 16 bits a channel; 0 for all else."""
    with path.open("rb") as file:
        header = file.read(26)  # bytes 24 and 25 are the bit depth and the colour type
    deep = len(header) == 26 and header.startswith(b"\x89PNG") and header[24] == 16
    return header[25] if deep else 0


def _decode_deep(path: Path) -> NDArray[Any]:
    codecs = require_imagecodecs("16-bit colour PNG")
    return np.asarray(codecs.png_decode(path.read_bytes()))


def _metadata(image: PIL.Image.Image, *, swap: bool) -> Metadata:
    info = image.info
    exif = image.getexif()
    exif.pop(_ORIENTATION, None)
    x, y = map(float, info.get("dpi", (0, 0)))
    return Metadata(
        resolution=((y, x) if swap else (x, y)) if x > 0 and y > 0 else None,
        icc=info.get("icc_profile"),
        exif=exif.tobytes() if len(exif) else None,
        texts=_texts(info),
    )


def _texts(info: Mapping[Any, Any]) -> dict[str, str]:
    texts = {
        key: str(value) for key, value in info.items() if isinstance(key, str) and isinstance(value, str)
    }
    if isinstance(comment := info.get("comment"), bytes):
        texts["Comment"] = comment.decode("utf-8", "replace")
    return texts
