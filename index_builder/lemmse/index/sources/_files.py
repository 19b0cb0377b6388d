"""Image files: one, or all in a folder and the folders below it."""

import os
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import tifffile
from numpy.typing import NDArray

from lemmse.index.sources._image import Image, Kind, bad_source, checked, reading

__all__ = ["FILE", "FOLDER"]

_TIFF = (".tif", ".tiff")
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp", *_TIFF)
_ALPHA = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
"""What TIFF calls transparency; channels that it has no name for are as good as any."""
_MODES = ("L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "P", "1")
"""Pillow's names of the forms that mean grey or red, green, blue."""


class _Files:
    """Files below a folder, each one image, of any sizes."""

    def __init__(self, spec: str, folder: Path, names: list[str]) -> None:
        self.spec = spec
        self._folder = folder
        self._names = names

    def __len__(self) -> int:
        """Count the files."""
        return len(self._names)

    def __getitem__(self, k: int) -> Image:
        """Decode file k."""
        path = self._folder / self._names[range(len(self))[k]]
        with reading(str(path)):
            pixels = _read_tiff(path) if path.suffix.lower() in _TIFF else _read(path)
        return checked(pixels, str(path))

    def label(self, k: int) -> str:
        """Give the path below the folder."""
        return self._names[k]


def _open_file(spec: str) -> _Files:
    path = Path(spec)
    return _Files(spec, path.parent, [path.name])


def _open_folder(spec: str) -> _Files:
    folder = Path(spec)
    names = []
    with reading(spec):
        for place, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(place).relative_to(folder)
            names += [(below / name).as_posix() for name in files if _is_image(name)]
    if not names:
        raise bad_source(f"expected images in {folder}, got none (of {' '.join(_SUFFIXES)})")
    return _Files(spec, folder, sorted(names))


def _raise(error: OSError) -> None:
    raise error


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(_SUFFIXES)


def _read(path: Path) -> NDArray[Any]:
    if _is_deep_png(path):
        raise bad_source(f"expected 8 bits a channel, got a 16-bit colour PNG in {path}; save it as TIFF")
    with iio.imopen(path, "r", plugin="pillow") as file:
        mode = file.metadata()["mode"]
        if mode not in _MODES:
            raise bad_source(f"expected a grey or RGB image, got mode {mode} in {path}; convert it first")
        pixels = file.read()
    return _without_alpha(pixels, path) if pixels.ndim == 3 and pixels.shape[2] in (2, 4) else pixels


def _is_deep_png(path: Path) -> bool:
    """Tell whether Pillow would cut the channels to 8 bits, which it does without a word."""
    with path.open("rb") as file:
        header = file.read(26)
    grey = 0
    return len(header) == 26 and header.startswith(b"\x89PNG") and header[24] == 16 and header[25] != grey


def _read_tiff(path: Path) -> NDArray[Any]:
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if len(file.pages) != 1 or page.axes not in ("YX", "YXS", "SYX"):
            raise bad_source(f"expected one picture, got {len(file.pages)} ({file.series[0].axes}) in {path}")
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            kind = tifffile.PHOTOMETRIC(page.photometric).name
            raise bad_source(f"expected a grey or RGB image, got {kind} in {path}; convert it first")
        pixels: NDArray[Any] = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    return _without_alpha(pixels, path) if _ALPHA.intersection(page.extrasamples) else pixels


def _without_alpha(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    """Drop the last channel where it says nothing."""
    alpha = pixels[..., -1]
    if (alpha != (1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max)).any():
        raise bad_source(f"expected an opaque image, got transparent pixels in {path}; flatten it first")
    return pixels[..., :-1]


FILE = Kind(
    f"an image ({' '.join(_SUFFIXES)})",
    lambda spec: _is_image(Path(spec).name) and Path(spec).is_file(),
    _open_file,
)
FOLDER = Kind("a folder of images", lambda spec: Path(spec).is_dir(), _open_folder)
