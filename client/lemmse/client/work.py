"""A job at work: its opened input, read in intensities, and its outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client.jobs import Job
from lemmse.client.slabs import Slabs, parts
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.limits import LARGE_PIXELS
from lemmse.contract.results import RESULT_MAPS, Diagnostics, Result
from lemmse.index.files import Output, Plane, Scale, Stack, create_output, divisor_hint, open_stack
from lemmse.index.files.outputs import check_output

__all__ = ["Done", "Reading", "Work", "read_plane", "read_planes", "with_channels"]

_NOISE = 8.0
"""Largest deviation that counts as noise, in standard deviations."""
_WHOLE = (slice(None), slice(None))
"""The rows and columns of a plane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How inputs are read and outputs written."""

    axes: str | None
    """Letters of the axes, or None for those that the files state."""
    stated: tuple[float, float] | None
    """The numbers that encode intensities 0 and 1, or None for those of the element type."""
    dtype: np.dtype[Any] | None
    """Element type of the outputs, or None for that of the inputs."""
    channels: int | None
    """Number of channels of the index, or None where indexes differ in it."""
    mask: NDArray[Any] | Plane | None
    """Nonzero where pixels were observed, or None for all: what other pixels hold does not matter."""
    sigma: float
    """Largest standard deviation that the noise may have, in intensities."""
    slabs: Slabs | None = None
    """How volumes are cut into parts; None if the index is of images."""


@dataclass(frozen=True, slots=True)
class Done:
    """A file that was reconstructed."""

    planes: int
    """Number of its planes."""
    diagnostics: list[Diagnostics]
    """How each of its parts was computed."""


class Work:
    """A job at work: its opened input, and its outputs.

    Parameters
    ----------
    job : Job
        What to read and write.
    reading : Reading
        How.

    Raises
    ------
    LemmseError
        The input cannot be read, or the output cannot hold it.
    """

    def __init__(self, job: Job, reading: Reading) -> None:
        self.job = job
        self.error: Exception | None = None
        self.sent = self.answered = 0
        """Numbers of parts."""
        self.sending = True
        """Whether parts may follow."""
        self.diagnostics: list[Diagnostics] = []
        self._reading = reading
        self.outputs: dict[str, Output] = {}
        """By the names of image and maps."""
        self.stack = open_stack(
            job.source, axes=reading.axes, stated=reading.stated, volumes=reading.slabs is not None
        )
        try:
            self.stack = with_channels(self.stack, reading.channels)
            self.parts = list(parts(self.stack.layout, reading.slabs))
            self._scale = _output_scale(self.stack.scale, reading.dtype)
            check_output(job.image.suffix.lower(), self.stack.layout, self._scale)
            self._check_order()
        except BaseException:
            self.stack.close()
            raise

    @property
    def over(self) -> bool:
        """Whether all parts that were sent are answered, and none follows."""
        return not self.sending and self.sent == self.answered

    @property
    def large(self) -> bool:
        """Whether the planes are reconstructed tile by tile; volumes are not."""
        return self._reading.slabs is None and prod(self.stack.layout.plane_shape[:2]) > LARGE_PIXELS

    def part(self, number: int) -> NDArray[Any]:
        """Return a part in intensities, a plane or a volume; masked where it was not observed."""
        read = self.parts[number].read
        if self._reading.slabs is None:
            return read_plane(self.stack, read[0], self._reading)
        return self.planes(read)

    def planes(self, numbers: Sequence[int]) -> NDArray[Any]:
        """Return some planes of a volume in intensities, see `read_planes`."""
        return read_planes(self.stack, numbers, self._reading)

    def intensities(self, numbers: NDArray[Any], place: tuple[slice, slice]) -> NDArray[Any]:
        """Return numbers of some rows and columns of a plane in intensities; see `intensities`."""
        return intensities(self.stack, numbers, place, self._reading)

    def take(self, number: int, outcome: Result | LemmseError) -> None:
        """Write the result of a part; its error, and that of writing, is the error of the file."""
        self.answered += 1
        if not isinstance(outcome, Result):
            self.error = self.error or outcome
        if self.error is not None or not isinstance(outcome, Result):
            return
        self.diagnostics.append(outcome.diagnostics)
        try:
            self.create()
            for name in ("image", *self.job.maps):
                values = getattr(outcome, name)
                for k, place in self.parts[number].planes:
                    self.put(name, k, values if self._reading.slabs is None else values[place], _WHOLE)
        except Exception as error:  # writers raise exceptions of any class
            self.error = error

    def put(self, name: str, k: int, values: NDArray[Any], place: tuple[slice, slice]) -> None:
        """Write the image or a map, in intensities, at the rows and columns of plane k."""
        if name == "image":
            numbers = self._scale.numbers(values)
        else:
            numbers = values * np.float32(self._scale.span ** RESULT_MAPS[name].power)
        self.outputs[name].put(k, numbers, *place)

    def finish(self) -> Done | Exception:
        """Give the outputs their names, or discard them; return the outcome of the file."""
        outcome: Done | Exception = self.error or Done(len(self.stack), self.diagnostics)
        try:
            if self.error is None:
                for name in [*self.job.maps, "image"]:  # the image last: where it is, its maps are
                    self.outputs[name].commit()
        except Exception as error:  # writers raise exceptions of any class
            outcome = error
        if isinstance(outcome, Exception):
            self.discard()
        self.stack.close()
        return outcome

    def discard(self) -> None:
        """Close the input, and remove what was written."""
        self.stack.close()
        for output in self.outputs.values():
            output.discard()

    def keep(self) -> None:
        """Close the input, and leave what was written for a later job, where its format allows that."""
        self.stack.close()
        for output in self.outputs.values():
            output.keep()

    def create(self, temporaries: Mapping[str, Path] | None = None) -> None:
        """Create the outputs unless they are there; or go on with what an earlier job kept of them."""
        if self.outputs:
            return
        kept = temporaries or {}
        layout, metadata = self.stack.layout, self.stack.metadata
        numbers = Scale.of(np.dtype(np.float32))
        for name, path in self.job.maps.items():
            shape = layout.of_map(per_channel=RESULT_MAPS[name].per_channel)
            self.outputs[name] = create_output(
                path, shape, numbers, replace(metadata, texts={}), temporary=kept.get(name)
            )
        self.outputs["image"] = create_output(
            self.job.image, layout, self._scale, metadata, temporary=kept.get("image")
        )

    def _check_order(self) -> None:
        """Raise InvalidArgument if packed numbers, which are written in order, come in another one."""
        planes = [k for part in self.parts for k, _ in part.planes]
        if planes != sorted(planes) and self._scale.bits != 8 * self._scale.dtype.itemsize:
            raise InvalidArgument(
                f"expected planes that are the last axis beside Y and X for {self._scale.bits} bits, got "
                f"{self.stack.layout.axes}; state --dtype"
            )


def with_channels(stack: Stack, channels: int | None) -> Stack:
    """Return a stack with the channels of an index, which are not known if indexes differ in them.

    Raises
    ------
    InvalidArgument
        The stack has others.
    """
    if channels is None:
        return stack
    stack = stack.joined(channels)
    layout = stack.layout
    if layout.channels != channels:
        raise InvalidArgument(
            f"expected images with {channels} channels, as the index has, got {layout.channels} "
            f"({layout.axes} {layout.shape}); for a stack, state --axes, such as TYX"
        )
    return stack


def read_plane(stack: Stack, k: int, reading: Reading) -> NDArray[Any]:
    """Return plane k of a stack in intensities; masked where it was not observed.

    Raises
    ------
    InvalidArgument
        The numbers cannot be intensities.
    """
    return intensities(stack, stack.numbers(k), _WHOLE, reading)


def read_planes(stack: Stack, numbers: Sequence[int], reading: Reading) -> NDArray[Any]:
    """Return planes of a stack as a volume, like `read_plane`."""
    return np.ma.stack([read_plane(stack, k, reading) for k in numbers])


def intensities(
    stack: Stack, numbers: NDArray[Any], place: tuple[slice, slice], reading: Reading
) -> NDArray[Any]:
    """Return numbers of some rows and columns of a plane in intensities; masked where not observed.

    Raises
    ------
    InvalidArgument
        They cannot be intensities.
    """
    missing = stack.missing(numbers)
    y = stack.scale.intensities(numbers)
    if reading.stated is None and stack.scale.dtype.kind == "f":
        observed = np.ones(y.shape, bool) if missing is None else ~missing
        mask = reading.mask
        if mask is not None and mask.shape[:2] == stack.layout.plane_shape[:2]:
            part = mask[place]
            observed &= (part[..., None] if part.ndim < y.ndim else part) != 0
        _check_measured(y[observed], reading.sigma)
    return y if missing is None else np.ma.masked_array(y, missing)


def _output_scale(scale: Scale, dtype: np.dtype[Any] | None) -> Scale:
    """Return the scale of the output: another element type has its own, in all of its range."""
    return scale if dtype is None or dtype == scale.dtype else Scale.of(dtype)


def _check_measured(y: NDArray[Any], sigma: float) -> None:
    """Raise InvalidArgument for floats that cannot be intensities of [0, 1] with noise."""
    finite = y[np.isfinite(y)]
    if finite.size == 0:
        return
    low, high = finite.min(), finite.max()
    margin = 1 + _NOISE * min(sigma, 1.0)
    if low < -margin or high > 1 + margin:
        raise InvalidArgument(
            f"expected floats in [0, 1], up to noise, got {low:.9g} to {high:.9g}; {divisor_hint(high)}, "
            "or state --range"
        )
