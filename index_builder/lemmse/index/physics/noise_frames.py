"""The spectrum of noise from a file: stored there, or estimated from frames.

A .npy with two axes, (h, w), and an array `spectrum` of an .npz, (h, w) or (h, w, C), are power spectra.
Everything else is frames, sources of images (`lemmse.index.sources`) whose floats may be negative. What is no
noise is subtracted from them: the mean of all frames, and from each segment the plane that fits it best. In a
region that is flat in each of the frames, the plane is enough, and so is one frame.

The spectrum is the mean of the periodograms of segments that overlap by half, under a Hann window (P. D.
Welch, IEEE Transactions on Audio and Electroacoustics 15, 1967).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument, NotFound
from lemmse.index.callbacks import Notice, ignored
from lemmse.index.files import readable
from lemmse.index.files.arrays import npz_headers, read_header
from lemmse.index.physics.spectrum import Spectrum
from lemmse.index.sources import ImageSource, Reading, Region, intensities, iterate, open_source

__all__ = ["read_spectrum"]

_SEGMENT = 512
"""Largest side of a segment, in pixels."""
_MOST = 1 << 26
"""Largest number of elements of a stored spectrum."""
_LEAST = 1e-7
"""Least standard deviation of noise, in intensities: less is rounding."""
_STORED = "spectrum"
"""Name of the array of an .npz that is a power spectrum."""


def read_spectrum(
    source: str | os.PathLike[str], roi: str | None = None, notice: Notice = ignored
) -> Spectrum:
    """Return the spectrum in a file, or that of the noise in frames.

    Parameters
    ----------
    source : str or path
        A file or folder, see this module.
    roi : str, optional
        A region that is flat in all frames, as two slices of rows and columns: "0:64,-64:".
    notice : callable
        Told of the standard deviation of the noise, if it is estimated.

    Raises
    ------
    NotFound
        There is no such file or folder.
    InvalidArgument
        It has no spectrum, or no frames of one size without NaN; without a region, fewer than two frames.
    """
    name = os.fspath(source)
    with _naming(name):
        shape = _array_shape(Path(name))
        if shape is not None and roi is None:
            return Spectrum.of(name, _stored(Path(name), shape))
        region = None if roi is None else _region(roi)
        axes = "YX" if shape is not None and Path(name).suffix.lower() == ".npy" else None
        frames = open_source(name, Reading(axes=axes, roi=region, bounded=False))
        if region is None and len(frames) < 2:
            raise InvalidArgument(
                f"expected 2 frames or more, or a region that is flat, got 1 frame in {name}"
            )
        power = _estimated(frames, flat=region is not None)
    if power.mean() < _LEAST**2:
        raise InvalidArgument.of("noise", f"expected noise, got frames that do not differ in {name}")
    sigmas = np.sqrt(power.mean(axis=(0, 1)))
    channels = f" ({', '.join(f'{sigma:.3g}' for sigma in sigmas)} by channel)" if len(sigmas) > 1 else ""
    notice(
        f"the noise in {name} has a standard deviation of {np.sqrt(power.mean()):.3g} in intensities of "
        f"[0, 1]{channels}"
    )
    return Spectrum.of(name if region is None else f"{name}[{region}]", power)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the argument `noise` in errors about a source, and the file in those of a decoder."""
    try:
        with readable(lambda reason: InvalidArgument(f"expected a readable file, got {name} ({reason})")):
            yield
    except NotFound as error:
        raise NotFound(f"noise: {str(error).removeprefix('SOURCE: ')}") from error
    except InvalidArgument as error:
        if error.argument.startswith("noise"):
            raise
        raise InvalidArgument.of("noise", error.expected) from error


def _region(text: str) -> Region:
    try:
        return Region.parse(text)
    except InvalidArgument as error:
        raise InvalidArgument.of("noise-roi", error.expected) from error


def _array_shape(path: Path) -> tuple[int, ...] | None:
    """Return the shape of the array that a file has if that may be a power spectrum, otherwise None."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz") or not path.is_file():
        return None
    if suffix == ".npz":
        headers = npz_headers(path)
        return headers[_STORED].shape if _STORED in headers else None
    with path.open("rb") as file:
        shape = read_header(file).shape
    return shape if len(shape) == 2 else None


def _stored(path: Path, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Return the power spectrum in a file, (h, w, C) or (h, w, 1)."""
    if len(shape) not in (2, 3) or not 0 < np.prod(shape, dtype=object) <= _MOST:
        raise InvalidArgument(
            f"expected a power spectrum (h, w) or (h, w, C) of at most {_MOST} numbers, got {shape} in {path}"
        )
    loaded = np.load(path, allow_pickle=False)
    power: NDArray[np.floating] = loaded if isinstance(loaded, np.ndarray) else loaded[_STORED]
    if power.dtype.kind not in "fiu":
        raise InvalidArgument(f"expected real numbers for a power spectrum, got {power.dtype} in {path}")
    return power if power.ndim == 3 else power[..., None]


def _estimated(frames: ImageSource, *, flat: bool) -> NDArray[np.float64]:
    """Return the power spectrum of the noise in frames, (h, w, C), whose mean is the variance."""
    shape = frames[0].shape
    mean = 0.0 if flat else sum(_all(frames, shape)) / len(frames)
    height, width = (min(side, _SEGMENT) for side in shape[:2])
    window = np.outer(_hann(height), _hann(width))[..., None]
    total, count = np.zeros((height, width, shape[2])), 0
    for frame in _all(frames, shape):
        for segment in _segments(frame - mean, height, width):
            total += np.abs(np.fft.fft2(window * _level(segment), axes=(0, 1))) ** 2
            count += 1
    lost = 1.0 if flat else (len(frames) - 1) / len(frames)
    power: NDArray[np.float64] = total / (count * np.square(window).sum() * lost)
    return power


def _all(frames: ImageSource, shape: tuple[int, ...]) -> Iterator[NDArray[np.float64]]:
    """Yield all frames, which must be of one shape, in intensities."""
    for frame, label in iterate(frames):
        if frame.shape != shape:
            raise InvalidArgument(
                f"expected frames of one size, got {shape[0]}x{shape[1]} and, in {label}, "
                f"{frame.shape[0]}x{frame.shape[1]}"
            )
        yield intensities(frame).astype(np.float64)


def _hann(length: int) -> NDArray[np.float64]:
    """Return a Hann window without zeros, (length,)."""
    return np.hanning(length + 2)[1:-1]


def _segments(frame: NDArray[np.float64], height: int, width: int) -> Iterator[NDArray[np.float64]]:
    """Yield the segments of a frame; neighbours overlap by half or more, and all pixels are in one."""

    def starts(side: int, length: int) -> list[int]:
        count = 1 - (length - side) // max(1, length // 2)
        return [round(start) for start in np.linspace(0, side - length, count).tolist()]

    for top in starts(frame.shape[0], height):
        for left in starts(frame.shape[1], width):
            yield frame[top : top + height, left : left + width]


def _level(segment: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a segment minus the plane that fits it best."""
    residual: NDArray[np.float64] = segment - segment.mean(axis=(0, 1))
    for axis in (0, 1):
        length = segment.shape[axis]
        ramp = np.expand_dims(np.arange(length) - (length - 1) / 2, (1, 2) if axis == 0 else (0, 2))
        slope = (residual * ramp).mean(axis=(0, 1)) / max(np.square(ramp).mean(), 1.0)
        residual = residual - slope * ramp
    return residual
