"""TIFF files as they are displayed: pictures, pages, ImageJ hyperstacks and OME-TIFF.

Planes are decoded one by one. Orientation is applied, min-is-white is inverted, palettes are looked up, alpha
follows `lemmse.index.files.alpha`. One exception: in a file of single bits that tifffile wrote as
min-is-white, 1 is white, since tifffile writes booleans so without inverting them, and 1 stands for True.
"""

import importlib.util
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import LARGE_PIXELS
from lemmse.contract.lines import one_line
from lemmse.index.files.alpha import drop_alpha
from lemmse.index.files.codecs import missing_codec
from lemmse.index.files.layout import Layout
from lemmse.index.files.limits import MAX_SAMPLES, check_size
from lemmse.index.files.mapped import forget
from lemmse.index.files.ome import ome_details
from lemmse.index.files.orientation import swapped, upright
from lemmse.index.files.scale import Scale
from lemmse.index.files.stack import Metadata, Stack
from lemmse.index.files.tiff_parts import JPEG, check_parts
from lemmse.index.files.zarrs import import_zarr

__all__ = ["TIFF", "open_tiff"]

TIFF = (".tif", ".tiff")
"""Suffixes of TIFF files, in lower case."""

_PHOTOMETRIC = tifffile.PHOTOMETRIC
_SHOWN = (_PHOTOMETRIC.MINISBLACK, _PHOTOMETRIC.MINISWHITE, _PHOTOMETRIC.RGB, _PHOTOMETRIC.PALETTE)
_ALPHA = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
"""TIFF's names for transparency; channels without a name count as image channels."""
_NODATA = 42113
_KEPT_TAGS = (
    *(269, 271, 272, 306, 315, 33432),  # document, maker, model, date and time, artist, copyright
    *(33550, 33922, 34264, 34735, 34736, 34737),  # georeference
)


def open_tiff(path: Path, stated: tuple[float, float] | None = None) -> Stack:
    """Open a TIFF file.

    Raises
    ------
    InvalidArgument
        It contains images of several shapes, its numbers are not intensities, or an image is too large.
    """
    file = tifffile.TiffFile(path)
    try:
        with _whole(), decoding_tiff():
            return _open(file, path, stated)
    except BaseException:
        file.close()
        raise


class _Complaints(logging.Handler):
    """What tifffile logs in this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == threading.get_ident():
            self.texts.append(record.getMessage())


@contextmanager
def _whole() -> Iterator[None]:
    """Raise InvalidArgument where tifffile leaves out pages that it cannot find, which it only logs."""
    complaints = _Complaints()
    logger = logging.getLogger("tifffile")
    logger.addHandler(complaints)
    try:
        yield
    finally:
        logger.removeHandler(complaints)
    for text in complaints.texts:
        if "corrupted" in text or "invalid" in text:
            raise InvalidArgument(f"expected an image, but it cannot be read: {one_line(text)}")


@contextmanager
def decoding_tiff() -> Iterator[None]:
    """Name the extra in place of the errors of tifffile for codecs that it lacks."""
    try:
        yield
    except (ImportError, ValueError, RuntimeError, KeyError) as error:
        if "imagecodecs" not in str(error):
            raise
        raise missing_codec("this TIFF") from error


def _open(file: tifffile.TiffFile, path: Path, stated: tuple[float, float] | None) -> Stack:
    found = [series for series in file.series if not series.keyframe.is_reduced]
    if len(found) != 1:
        shapes = ", ".join(f"{series.axes} {series.shape}" for series in found)
        raise InvalidArgument(f"expected one picture or one stack, got {len(found)} ({shapes})")
    series, page = found[0], found[0].keyframe
    meaning = _Meaning.of(page)
    orientation = _value(page, 274, 1)
    lead = series.axes[: len(series.axes) - len(page.axes)]
    in_page = page.axes
    sizes = dict(zip(series.axes, series.shape, strict=True))
    height, width = sizes["Y"], sizes["X"]
    plain = meaning.plain and orientation == 1 and in_page in ("YX", "YXS")
    divisible = plain and height * width > LARGE_PIXELS
    if divisible and series.dataoffset is not None:
        array: Any = _Mapped(path, series, file.byteorder)
    elif divisible and importlib.util.find_spec("zarr") is not None:
        array = _Parts(series)
    elif len(series.pages) != prod(series.shape[: len(lead)]) or not series.axes.endswith(page.axes):
        divisible = False
        # ImageJ writes large stacks with one page for all.
        lead, in_page = series.axes[: -len(_plane(series.axes))], _plane(series.axes)
        if series.axes[len(lead) :] != in_page or series.dataoffset is None or not meaning.plain:
            raise InvalidArgument(f"expected pages that are images, got {series.axes} {series.shape} in one")
        array = _Mapped(path, series, file.byteorder)
    else:
        divisible = False
        array = _Pages(series, len(lead), in_page, meaning, orientation)
    samples = sizes["S"] if "S" in in_page else 0
    if not divisible:
        _check_page(page)
        check_size(height, width, samples or 1)
    if swapped(orientation):
        height, width = width, height
    inner = "".join(letter for letter in in_page if letter not in "YXS")
    axes = lead + inner + "YX"
    shape = (*(sizes[letter] for letter in lead + inner), height, width)
    if (channels := meaning.channels(samples)) > 0:
        axes, shape = axes + "S", (*shape, channels)
    return Stack(
        layout=Layout.checked(axes, shape),
        scale=Scale.of(meaning.dtype, bits=meaning.bits, stated=stated),
        array=array,
        metadata=_metadata(file, page, swap=swapped(orientation)),
        nodata=_nodata(page),
        divisible=divisible,
        close=file.close,
    )


def _plane(axes: str) -> str:
    """Return the last axes of a series that make a plane."""
    return "YXS" if axes.endswith("YXS") else "YX"


def _check_page(page: Any) -> None:
    """Raise InvalidArgument for a page that would take too much memory to decode."""
    depth = prod(n for letter, n in zip(page.axes, page.shape, strict=True) if letter not in "YXS")
    sizes = dict(zip(page.axes, page.shape, strict=True))
    check_size(depth * sizes.get("Y", 1), sizes.get("X", 1), sizes.get("S", 1))
    if page.is_tiled:
        _check_chunks(page)


def _check_chunks(page: Any) -> None:
    if prod(page.chunks) > MAX_SAMPLES:
        raise InvalidArgument(f"expected tiles of at most {MAX_SAMPLES} values, got {page.chunks}")


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What the numbers of a page mean."""

    photometric: int
    dtype: np.dtype[Any]
    bits: int
    alpha: bool
    colours: NDArray[Any] | None
    """The palette, (3, n), or None."""
    inverted: bool

    @classmethod
    def of(cls, page: Any) -> "_Meaning":
        photometric, dtype, bits = page.photometric, np.dtype(page.dtype), page.bitspersample
        if page.dtype is None or not isinstance(bits, int):
            raise InvalidArgument(f"expected channels of one number of bits, got {bits}")
        if dtype == np.bool_ and page.samplesperpixel > 1:  # tifffile decodes no such rows
            raise InvalidArgument("expected one channel of single bits, got several; convert it first")
        shown = photometric in _SHOWN or (photometric == _PHOTOMETRIC.YCBCR and page.compression in JPEG)
        if not shown:
            name = _PHOTOMETRIC(photometric).name
            raise InvalidArgument(f"expected a grey or RGB image, got {name}; convert it first")
        inverted = photometric == _PHOTOMETRIC.MINISWHITE
        if inverted and dtype == np.bool_ and page.software.startswith("tifffile"):
            inverted = False
        if inverted and dtype.kind not in "bu":
            raise InvalidArgument(f"expected unsigned integers where the least is white, got {dtype}")
        colours = np.asarray(page.colormap) if photometric == _PHOTOMETRIC.PALETTE else None
        if colours is not None:
            dtype, bits = np.dtype(np.uint16), 16
            if (colours % 257 == 0).all():  # 8 bits, as most programs write it
                dtype, bits, colours = np.dtype(np.uint8), 8, (colours // 257).astype(np.uint8)
        return cls(photometric, dtype, bits, bool(_ALPHA.intersection(page.extrasamples)), colours, inverted)

    @property
    def plain(self) -> bool:
        """Whether the numbers are those that are displayed."""
        return not (self.alpha or self.inverted or self.colours is not None)

    def channels(self, samples: int) -> int:
        """Return the number of channels that are left; 0 for a plane without an axis of channels."""
        if self.colours is not None:
            return 3
        left = samples - self.alpha
        return 0 if samples == 0 or (self.alpha and left == 1) else left

    def shown(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers of a plane as they are displayed."""
        if self.colours is not None:
            return np.moveaxis(self.colours[:, numbers], 0, -1)
        if self.inverted:
            white = numbers.dtype.type(2**self.bits - 1) if self.dtype != np.bool_ else True
            numbers = numbers ^ white  # all bits are ones in white: the same as white − numbers
        if self.alpha:
            numbers = drop_alpha(numbers, 1 if self.dtype.kind == "f" else self._largest)
        return numbers

    @property
    def _largest(self) -> int:
        return 2**self.bits - 1 if self.dtype.kind == "u" else int(np.iinfo(self.dtype).max)


@dataclass(frozen=True, slots=True)
class _Pages:
    """The pages of a series, each decoded when it is indexed."""

    series: Any
    lead: int
    """Number of axes that number pages."""
    page_axes: str
    meaning: _Meaning
    orientation: int

    def __getitem__(self, index: Any) -> NDArray[Any]:
        for i, part in enumerate(index[: self.lead]):
            if isinstance(part, slice):
                each = [self[(*index[:i], n, *index[i + 1 :])] for n in range(self.series.shape[i])]
                return np.stack(each)
        shape = self.series.shape[: self.lead]
        page = self.series.pages[int(np.ravel_multi_index(index[: self.lead], shape)) if shape else 0]
        if page is None:
            raise InvalidArgument(f"expected all planes, got none at {index[: self.lead]}")
        with decoding_tiff():
            check_parts(page)
            numbers = page.asarray()
        inner = [letter for letter in self.page_axes if letter not in "YXS"]
        if inner:  # a page of several planes: those axes come first, as in the layout
            order = [*inner, "Y", "X", *("S" if "S" in self.page_axes else "")]
            numbers = numbers.transpose([self.page_axes.index(letter) for letter in order])
            numbers = numbers[index[self.lead : self.lead + len(inner)]]
        elif self.page_axes == "SYX":
            numbers = np.moveaxis(numbers, 0, -1)
        return upright(self.meaning.shown(numbers), self.orientation)


class _Mapped:
    """A series whose numbers are stored one after the other, mapped into memory."""

    def __init__(self, path: Path, series: Any, byteorder: str) -> None:
        dtype = np.dtype(series.dtype).newbyteorder(byteorder)
        self._numbers = np.memmap(path, dtype, "r", offset=series.dataoffset, shape=series.shape)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        numbers = np.array(self._numbers[index])
        forget(self._numbers)
        return numbers


class _Parts:
    """A series whose tiles or strips are decoded one by one."""

    def __init__(self, series: Any) -> None:
        _check_chunks(series.keyframe)
        self._series = series
        self._numbers = import_zarr().open(series.aszarr(level=0), mode="r")
        self._checked = False

    def __getitem__(self, index: Any) -> NDArray[Any]:
        with decoding_tiff():
            if not self._checked:
                for page in filter(None, self._series.pages):
                    check_parts(page)
                self._checked = True
            return np.asarray(self._numbers[index])


def _value(page: Any, code: int, otherwise: Any) -> Any:
    tag = page.tags.get(code)
    return otherwise if tag is None else tag.value


def _nodata(page: Any) -> float | None:
    text = _value(page, _NODATA, None)
    try:
        return None if text is None else float(str(text).strip(" \0"))
    except ValueError as error:
        raise InvalidArgument(f"expected a number in the tag for nodata, got {text!r}") from error


def _metadata(file: tifffile.TiffFile, page: Any, *, swap: bool) -> Metadata:
    kind, details = "", {}
    if file.is_imagej:
        kind, details = "imagej", dict(file.imagej_metadata or {})
    elif file.is_ome:
        kind, details = "ome", ome_details(file.ome_metadata or "")
    description = page.description if not kind and not file.is_shaped else ""
    return Metadata(
        resolution=_resolution(page, swap=swap),
        unit=int(_value(page, 296, 2)),
        icc=_value(page, 34675, None),
        texts={"Description": description} if description else {},
        tags=tuple(
            (tag.code, int(tag.dtype), tag.count, tag.value, True)
            for tag in (page.tags.get(code) for code in _KEPT_TAGS)
            if tag is not None
        ),
        kind=kind,
        details=details,
        compression=int(page.compression),
    )


def _resolution(page: Any, *, swap: bool) -> tuple[float, float] | None:
    """Return pixels per unit in x and y, or None if the file states none."""
    pair = [_value(page, code, (0, 1)) for code in (282, 283)]
    x, y = (above / below if below else 0.0 for above, below in pair)
    stated = x > 0 and y > 0 and (x, y) != (1, 1)
    return ((y, x) if swap else (x, y)) if stated else None
