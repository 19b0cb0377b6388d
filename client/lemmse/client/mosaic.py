"""The reconstruction of an image tile by tile, for images beyond memory. Nothing here connects.

`Mosaic` cuts the measurement of each tile out of the image, its map of sigma and its mask, and puts the
answers into the outputs. What an index decides for an image as a whole is decided once, by the answer to
`probe`.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client.tiles import Span, Tile, Tiling, halo_of, tile_side
from lemmse.contract.arrays import as_numpy, is_foreign, require_aligned, restorer
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.limits import LARGE_PIXELS, TENSOR_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.contract.measurement_arguments import AUTO, GAUSSIAN, POISSON_GAUSSIAN, Gain, Range, require_fit
from lemmse.contract.options import Options
from lemmse.contract.results import (
    RESULT_MAPS,
    Diagnostics,
    IndexInfo,
    NoiseEstimate,
    Result,
    combined,
    with_estimate,
)

__all__ = ["Mosaic", "is_large", "settled"]

_SAMPLED = 512
"""Side of the part of an image in which noise is estimated, in pixels."""

Progress = Callable[[int, int], None]
"""A callable `progress(done, total)`, in pixels."""


def is_large(y: Any) -> bool:
    """Return whether an image, or what may be one, has more pixels than are sent at once."""
    shape = getattr(y, "shape", ())
    return hasattr(y, "dtype") and len(shape) in (2, 3) and math.prod(shape[:2]) > LARGE_PIXELS


class Mosaic:
    """An image, its sigma and mask, and the outputs, all of which may be beyond memory.

    Parameters
    ----------
    y : array, (H, W) or (H, W, C)
        The image, as in `Client.reconstruct`: anything with a shape and an element type that takes slices.
    sigma : float, array or "auto"
        A number, or a map (H, W) or (H, W, C), likewise; or to be estimated.
    noise, gain
        As in `Client.reconstruct`.
    mask : array, optional
        Mask (H, W) or (H, W, C), likewise.
    nan, range
        As in `Client.reconstruct`.
    maps : collection of str
        Names of the requested maps.
    out : array, mapping of str to array, or None
        Where to put the image, or image and maps by name: anything with a shape that takes assignments to
        slices. For what is not given, arrays are made.
    progress : callable, optional
        Told of the pixels.
    masked : bool
        Whether some of the tiles of y will be masked arrays.
    side : (int, int), optional
        Height and width of a tile; by default they follow from the chunks of the output, or of the image.
    finished : mapping of int to Diagnostics
        Numbers of the tiles that are in the outputs already, and how they were computed.
    put : callable, optional
        Told of the number and the diagnostics of each tile that is put into the outputs.

    Raises
    ------
    InvalidArgument
        The shape of an array differs from that of the image.
    """

    def __init__(
        self,
        y: Any,
        *,
        sigma: Any,
        noise: str = GAUSSIAN,
        gain: Gain = AUTO,
        mask: Any,
        nan: str = "error",
        range: Range = None,
        maps: Collection[str],
        out: Any = None,
        progress: Progress | None = None,
        masked: bool = False,
        side: tuple[int, int] | None = None,
        finished: Mapping[int, Diagnostics] = MappingProxyType({}),
        put: Callable[[int, Diagnostics], None] = lambda number, diagnostics: None,
    ) -> None:
        self._restore = restorer(y)
        self._y = _with_slices("y", y)
        self._shape = shape = tuple(map(int, self._y.shape))
        if len(shape) not in (2, 3) or 0 in shape:
            raise InvalidArgument.of(
                "y",
                f"expected an image of shape (H, W) or (H, W, C) with out or progress, got {shape}; send a "
                "volume without them",
            )
        require_aligned("sigma", sigma, y)
        require_aligned("mask", mask, y)
        self._sigma = _sliced("sigma", sigma, shape)
        self._mask = _sliced("mask", mask, shape)
        self._masked = mask is None and (masked or np.ma.is_masked(y) or nan == "mask")
        self._noise = {"noise": noise, "gain": gain}
        self._nan, self._range = nan, range
        self._estimate: NoiseEstimate | None = None
        self._maps = maps
        self._out = {"image": out} if out is not None and not isinstance(out, Mapping) else dict(out or {})
        self._given = frozenset(self._out)
        self._check_outputs()
        if side is None and math.prod(shape[:2]) > LARGE_PIXELS:
            side = tile_side(self._out.get("image", self._y))
        self._side = side or (shape[0], shape[1])
        self._tiling: Tiling | None = None
        self._finished, self._put, self._progress = finished, put, progress
        self._sent: deque[tuple[int, Tile]] = deque()
        self._done = 0
        self._diagnostics: list[tuple[Diagnostics, int]] = []
        self._white_level, self._black_level = 1.0, 0.0

    @property
    def _counts(self) -> bool:
        """Whether the noise is Poisson-Gaussian."""
        return self._noise["noise"] == POISSON_GAUSSIAN

    @property
    def sample(self) -> Measurement | None:
        """The middle of an image whose noise is to be estimated; None if it is known."""
        if not isinstance(self._sigma, str) and not (self._counts and isinstance(self._noise["gain"], str)):
            return None
        spans = [
            Span.of((length - side) // 2, (length + side) // 2, length=length, halo=0, circular=False)
            for length in self._shape[:2]
            for side in [min(length, _SAMPLED)]
        ]
        return self._measure(Tile(*spans))

    def settle(self, estimate: NoiseEstimate) -> None:
        """Take an estimate of the noise in the sample as that of all of the image."""
        self._estimate = estimate

    @property
    def probe(self) -> Measurement:
        """An image of one pixel with the noise of all of the image, for which an index decides the same."""
        dtype = self._y.dtype if self._y.dtype.kind == "f" else np.dtype(np.float32)
        y = np.zeros((1, 1, *self._shape[2:]), dtype)
        mask = None if self._mask is None and not self._masked else np.ones(y.shape, bool)
        sigma = self._sigma
        if not isinstance(sigma, (int, float, str)) and hasattr(sigma, "shape"):
            sigma = np.full(y.shape, self._rms_sigma())
        one = self._with_noise(Measurement.checked(y, sigma=sigma, mask=mask, **self._noise))
        if one.gain is None:
            return one
        return one.with_noise_at(np.full(y.shape, self._mean_intensity()), 1)

    def begin(self, index: IndexInfo, options: Options) -> None:
        """Determine the tiles, for an index and the options that are sent.

        Raises
        ------
        InvalidArgument
            The image cannot be divided: an answer for a part of it would not be that for all of it; or the
            index is of volumes.
        """
        if index.patch_depth > 1:
            raise InvalidArgument.of(
                "y",
                f"expected an image, which may be divided into tiles, and index {index.name} is of volumes; "
                f"send volumes (D, H, W) without out and progress, as slabs of planes with D·H of at most "
                f"{LARGE_PIXELS}",
            )
        halo = halo_of(index.patch_size // 2, aggregate=options.aggregate or "centre", counts=self._counts)
        shape = self._shape[0], self._shape[1]
        side = self._side
        if side != shape and (index.pre_inverse != "identity" or options.estimator != "le-mmse"):
            if 8 * math.prod(self._shape) > TENSOR_BYTES:
                whole = (
                    f"pre-inverse {index.pre_inverse}"
                    if options.estimator == "le-mmse"
                    else f"estimator {options.estimator}"
                )
                raise InvalidArgument.of(
                    "y",
                    f"expected at most {TENSOR_BYTES // 8} values, since {whole} needs all of the image at "
                    f"once, got {self._shape}; cut it into pieces",
                )
            side = shape
        self._tiling = Tiling(shape, side, halo, circular=index.boundary == "circular")
        self._diagnostics = [
            (self._finished[number], tile.pixels)
            for number, tile in enumerate(self._tiling)
            if number in self._finished
        ]
        self._done = sum(pixels for _, pixels in self._diagnostics)
        self._tell()

    def measurements(self) -> Iterator[Measurement | InvalidArgument]:
        """Yield the measurements of the tiles that are not finished."""
        for number, tile in enumerate(self._tiling or ()):
            if number in self._finished:
                continue
            self._sent.append((number, tile))
            yield self._measure(tile)

    def take(self, outcome: Result | LemmseError) -> None:
        """Put the answer for the next tile into the outputs; raise the error if it is one."""
        number, tile = self._sent.popleft()
        if isinstance(outcome, LemmseError):
            raise outcome
        for name in ("image", *self._maps):
            out = self._output(name)
            out[tile.place] = _converted(tile.core(getattr(outcome, name)), out)
        self._diagnostics.append((outcome.diagnostics, tile.pixels))
        self._white_level, self._black_level = outcome.white_level, outcome.black_level
        self._put(number, outcome.diagnostics)
        self._done += tile.pixels
        self._tell()

    def result(self) -> Result:
        """Return the outputs, with the diagnostics of all tiles."""
        diagnostics = with_estimate(combined(self._diagnostics), self._estimate)
        if self._restore is not None:
            self._out |= {
                name: self._restore(self._out[name], name) for name in self._out.keys() - self._given
            }
        return Result(
            diagnostics=diagnostics, white_level=self._white_level, black_level=self._black_level, **self._out
        )

    def _with_noise(self, measurement: Measurement) -> Measurement:
        return measurement if self._estimate is None else measurement.with_noise(self._estimate)

    def _measure(self, tile: Tile) -> Measurement:
        y = tile.read(self._y)
        mask = None if self._mask is None else tile.read(self._mask)
        if self._masked:
            # All tiles have a mask, or none has: the sums of a tile without one are rounded in another way.
            mask = ~np.ma.getmaskarray(y)
        sigma = tile.read(self._sigma) if hasattr(self._sigma, "shape") else self._sigma
        return self._with_noise(
            Measurement.checked(y, sigma=sigma, mask=mask, nan=self._nan, range=self._range, **self._noise)
        )

    def _mean_intensity(self) -> float:
        """Return the mean of y over the observed pixels; 0 if there are none, or it is not finite."""
        total, count = 0.0, 0
        for tile in Tiling((self._shape[0], self._shape[1]), self._side, 0, circular=False):
            seen = self._measure(tile).observed
            total += float(seen.sum(dtype=np.float64))
            count += seen.size
        return total / count if count and math.isfinite(total) else 0.0

    def _rms_sigma(self) -> float:
        """Return the root mean square of a map of sigma over the observed pixels; 1 if there are none."""
        total, count = 0.0, 0
        for tile in Tiling((self._shape[0], self._shape[1]), self._side, 0, circular=False):
            sigma = tile.read(self._sigma).astype(np.float64)
            if self._mask is not None:
                observed = tile.read(self._mask) != 0
            elif self._masked:
                observed = ~np.ma.getmaskarray(tile.read(self._y))
            else:
                observed = np.ones(sigma.shape, bool)
            height, width = sigma.shape[:2]
            sigma, observed = np.broadcast_arrays(
                sigma.reshape(height, width, -1), observed.reshape(height, width, -1)
            )
            total += float(np.square(sigma[observed]).sum())
            count += int(observed.sum())
        return math.sqrt(total / count) if count else 1.0

    def _check_outputs(self) -> None:
        for name, array in self._out.items():
            if name != "image" and name not in self._maps:
                raise InvalidArgument.of("out", f"expected image and the requested maps, got {name!r}")
            if is_foreign(array):
                raise InvalidArgument.of(
                    "out",
                    f"expected an array of NumPy or of a file for {name}, got a {type(array).__name__}; "
                    "without it results are of the kind of y",
                )
            shape = self._output_shape(name)
            if tuple(getattr(array, "shape", ())) != shape or not hasattr(array, "__setitem__"):
                raise InvalidArgument.of(
                    "out",
                    f"expected an array of shape {shape} for {name} that can be written to, got "
                    f"{getattr(array, 'shape', type(array).__name__)}",
                )

    def _output_shape(self, name: str) -> tuple[int, ...]:
        return self._shape if name == "image" or RESULT_MAPS[name].per_channel else self._shape[:2]

    def _output(self, name: str) -> Any:
        if name not in self._out:
            self._out[name] = np.empty(self._output_shape(name), np.float32)
        return self._out[name]

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._done, math.prod(self._shape[:2]))


def settled(answer: Result, options: Options) -> tuple[str, Options]:
    """Return the index that answered a probe, and the options with what it decided."""
    decided = answer.diagnostics
    return decided.index, replace(
        options,
        aggregate=decided.aggregate,
        bandwidth=decided.bandwidth,
        gaussian_share=decided.gaussian_share,
    )


def _sliced(argument: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return a number or None as it is, and a map as what takes slices, if it fits an image of this shape."""
    if isinstance(value, np.number):
        return value.item()  # it has a shape, too
    if value is None or isinstance(value, (int, float, str)):
        return value
    array = _with_slices(argument, value)
    if len(array.shape) == 0:
        return float(array)
    require_fit(argument, tuple(array.shape), shape)
    return array


def _with_slices(argument: str, value: Any) -> Any:
    """Return an array of a file, a lazy one or one of NumPy as it is, anything else as one of NumPy."""
    array = as_numpy(argument, value)
    return array if hasattr(array, "shape") and hasattr(array, "dtype") else np.asanyarray(array)


def _converted(values: NDArray[np.float32], out: Any) -> NDArray[Any]:
    """Return values in the element type of an output; integers are rounded and clipped."""
    dtype = np.dtype(getattr(out, "dtype", np.float32))
    if dtype.kind not in "iu":
        return values
    limits = np.iinfo(dtype)
    return np.rint(np.clip(values, limits.min, limits.max)).astype(dtype)
