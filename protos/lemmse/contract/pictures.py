"""Results as pictures: in a notebook, and in files. Pillow and tifffile are imported when they are needed."""

import base64
import html
import io
import os
from collections.abc import Callable
from dataclasses import fields, replace
from math import ceil, prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.arrays import as_numpy
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import LARGE_PIXELS
from lemmse.contract.replacing import replacing

if TYPE_CHECKING:
    from lemmse.contract.results import Result

__all__ = ["as_html", "save"]

_SHOWN = 192
"""Height of a picture on a page, at least, in pixels of the page."""


def as_html(result: "Result") -> str:
    """Return the picture of a result, its maps with their ranges, and its diagnostics as a table."""
    pictures = [_figure("image", _bytes(_intensities(result, _shown(result.image))), "")]
    for name, values in result.arrays.items():
        if name != "image":
            values = _shown(values)
            low, high = float(values.min()), float(values.max())
            span = (high - low) or 1.0
            pictures.append(_figure(name, _bytes((values - low) / span), f"{low:.3g} to {high:.3g}"))
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(field.name)}</th>"
        f"<td style='text-align:left'>{html.escape(_text(value))}</td></tr>"
        for field in fields(result.diagnostics)
        if (value := getattr(result.diagnostics, field.name)) is not None
    )
    return f"<div style='display:flex;flex-wrap:wrap;gap:1em'>{''.join(pictures)}<table>{rows}</table></div>"


def save(result: "Result", path: str | os.PathLike[str]) -> None:
    """Write the image of a result; see `Result.save`."""
    target = Path(path)
    write = _WRITERS.get(target.suffix.lower())
    if write is None:
        *most, last = _WRITERS
        raise InvalidArgument.of(
            "path", f"expected a name in {', '.join(most)} or {last}, got {target.name!r}"
        )
    arrays: dict[str, Any] = {
        name: np.asarray(as_numpy(name, values)) for name, values in result.arrays.items()
    }
    result = replace(result, **arrays)
    with replacing(target) as temporary, temporary.open("wb") as file:
        write(result, file)


def _shown(values: NDArray[Any]) -> NDArray[Any]:
    """Return an image or map; of a large one, which may not be in memory, every few rows and columns."""
    step = max(1, ceil(sqrt(prod(values.shape[:2]) / LARGE_PIXELS)))
    return np.asarray(as_numpy("values", values)[::step, ::step])


def _intensities(result: "Result", numbers: NDArray[Any]) -> NDArray[Any]:
    return (numbers - result.black_level) / (result.white_level - result.black_level)


def _bytes(intensities: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(intensities, 0, 1) * 255), np.uint8)


def _png(picture: NDArray[Any], file: BinaryIO) -> None:
    import PIL.Image

    plane = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    if plane.ndim == 3 and (plane.shape[2] != 3 or plane.dtype != np.uint8):
        raise InvalidArgument.of(
            "path",
            f"expected 1 channel or 3 of 8 bits for PNG, got {plane.shape[2]} of {plane.dtype}; use .tif",
        )
    PIL.Image.fromarray(plane).save(file, "PNG")


def _figure(name: str, picture: NDArray[np.uint8], range_: str) -> str:
    """Return a picture with its name; the first three channels, or the first one, if it has others."""
    if picture.ndim == 3 and picture.shape[2] not in (1, 3):
        picture = picture[..., : 3 if picture.shape[2] > 3 else 1]
    content = io.BytesIO()
    _png(picture, content)
    source = base64.b64encode(content.getvalue()).decode()
    height = max(_SHOWN, picture.shape[0])
    return (
        f"<figure style='margin:0'><img alt='{name}' src='data:image/png;base64,{source}' "
        f"style='height:{height}px;image-rendering:pixelated'>"
        f"<figcaption>{name} {range_}</figcaption></figure>"
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_png(result: "Result", file: BinaryIO) -> None:
    if (result.black_level, result.white_level) == (0, 65535):
        _png(np.rint(np.clip(result.image, 0, 65535)).astype(np.uint16), file)
    else:
        _png(_bytes(_intensities(result, result.image)), file)


def _write_tiff(result: "Result", file: BinaryIO) -> None:
    import tifffile

    colour = result.image.ndim == 3 and result.image.shape[2] == 3
    tifffile.imwrite(file, result.image, photometric="rgb" if colour else "minisblack")


_WRITERS: dict[str, Callable[["Result", BinaryIO], Any]] = {
    ".npy": lambda result, file: np.save(file, result.image),
    ".npz": lambda result, file: np.savez(file, **result.arrays),  # type: ignore[arg-type]
    ".png": _write_png,
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
}
