"""Reconstruct files part by part, many at a time: an error of one file is the outcome of that file.

A part is a plane, or a slab of a volume where the index is of volumes. Parts of all files go through one call
of `reconstruct_many`, so that a client reads ahead across files. The outputs of a file get their names when
all of its parts are written.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client.interface import Client
from lemmse.client.jobs import Job
from lemmse.client.progress import Progress
from lemmse.client.slabs import Slabs, parts
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.lines import one_line
from lemmse.contract.results import RESULT_MAPS, Diagnostics, Result
from lemmse.index.files import Output, Scale, create_output, divisor_hint, open_stack
from lemmse.index.files.outputs import check_output

__all__ = ["Done", "Reading", "run"]

_NOISE = 8.0
"""Largest deviation that counts as noise, in standard deviations."""


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
    mask: NDArray[Any] | None
    """Nonzero where pixels were observed, or None for all: what other pixels hold does not matter."""
    sigma: float
    """Largest standard deviation of the noise, in intensities."""
    slabs: Slabs | None = None
    """How volumes are cut into parts; None if the index is of images."""


@dataclass(frozen=True, slots=True)
class Done:
    """A file that was reconstructed."""

    planes: int
    """Number of its planes."""
    diagnostics: list[Diagnostics]
    """How each of its parts was computed."""


class _Work:
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
        self._outputs: dict[str, Output] = {}
        self.stack = open_stack(
            job.source, axes=reading.axes, stated=reading.stated, volumes=reading.slabs is not None
        )
        try:
            if reading.channels is not None:
                self.stack = self.stack.joined(reading.channels)
            self._check_channels()
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

    def part(self, number: int) -> NDArray[Any]:
        """Return a part in intensities, a plane or a volume; masked where it was not observed."""
        planes = [self._plane(k) for k in self.parts[number].read]
        return planes[0] if self._reading.slabs is None else np.ma.stack(planes)

    def _plane(self, k: int) -> NDArray[Any]:
        """Return plane k in intensities; masked where it was not observed."""
        numbers = self.stack.numbers(k)
        missing = self.stack.missing(numbers)
        y = self.stack.scale.intensities(numbers)
        if self._reading.stated is None and self.stack.scale.dtype.kind == "f":
            observed = np.ones(y.shape, bool) if missing is None else ~missing
            if (mask := self._reading.mask) is not None and mask.shape[:2] == y.shape[:2]:
                observed &= (mask[..., None] if mask.ndim < y.ndim else mask) != 0
            _check_measured(y[observed], self._reading.sigma)
        return y if missing is None else np.ma.masked_array(y, missing)

    def take(self, number: int, outcome: Result | LemmseError) -> None:
        """Write the result of a part; its error, and that of writing, is the error of the file."""
        self.answered += 1
        if not isinstance(outcome, Result):
            self.error = self.error or outcome
        if self.error is not None or not isinstance(outcome, Result):
            return
        self.diagnostics.append(outcome.diagnostics)
        try:
            outputs = self._outputs or self._create()
            arrays: dict[str, NDArray[Any]] = {**outcome.scaled(self._scale.span).arrays}
            arrays["image"] = self._scale.numbers(outcome.image)
            for name in ("image", *self.job.maps):
                for k, place in self.parts[number].planes:
                    outputs[name].put(k, arrays[name] if self._reading.slabs is None else arrays[name][place])
        except Exception as error:  # writers raise exceptions of any class
            self.error = error

    def finish(self) -> Done | Exception:
        """Give the outputs their names, or discard them; return the outcome of the file."""
        outcome: Done | Exception = self.error or Done(len(self.stack), self.diagnostics)
        try:
            if self.error is None:
                for name in [*self.job.maps, "image"]:  # the image last: where it is, its maps are
                    self._outputs[name].commit()
        except Exception as error:  # writers raise exceptions of any class
            outcome = error
        if isinstance(outcome, Exception):
            self.discard()
        self.stack.close()
        return outcome

    def discard(self) -> None:
        """Close the input, and remove what was written."""
        self.stack.close()
        for output in self._outputs.values():
            output.discard()

    def _create(self) -> dict[str, Output]:
        layout, metadata = self.stack.layout, self.stack.metadata
        numbers = Scale.of(np.dtype(np.float32))
        for name, path in self.job.maps.items():
            shape = layout.of_map(per_channel=RESULT_MAPS[name].per_channel)
            self._outputs[name] = create_output(path, shape, numbers, replace(metadata, texts={}))
        self._outputs["image"] = create_output(self.job.image, layout, self._scale, metadata)
        return self._outputs

    def _check_order(self) -> None:
        """Raise InvalidArgument if packed numbers, which are written in order, come in another one."""
        planes = [k for part in self.parts for k, _ in part.planes]
        if planes != sorted(planes) and self._scale.bits != 8 * self._scale.dtype.itemsize:
            raise InvalidArgument(
                f"expected planes that are the last axis beside Y and X for {self._scale.bits} bits, got "
                f"{self.stack.layout.axes}; state --dtype"
            )

    def _check_channels(self) -> None:
        layout, wanted = self.stack.layout, self._reading.channels
        if wanted is not None and layout.channels != wanted:
            raise InvalidArgument(
                f"expected images with {wanted} channels, as the index has, got {layout.channels} "
                f"({layout.axes} {layout.shape}); for a stack, state --axes, such as TYX"
            )


def run(
    client: Client,
    jobs: Sequence[Job],
    reading: Reading,
    *,
    maps: Collection[str],
    progress: Progress,
    begin: Callable[[Job], None] = lambda job: None,
    **options: Any,
) -> Iterator[tuple[Job, Done | Exception]]:
    """Process jobs, and yield each with its outcome, after its files are written or with its error.

    Outcomes are in the order of the jobs, except that errors of files that cannot be read may come earlier.

    Parameters
    ----------
    client : Client
        Reconstructs the parts.
    jobs : sequence of Job
        What to read and write.
    reading : Reading
        How.
    maps : collection of str
        The maps that the jobs write.
    progress : callable
        Told of the parts of a stack.
    begin : callable
        Told of a job before its outputs get their names.
    **options
        Further arguments of `Client.reconstruct_many`.

    Raises
    ------
    LemmseError
        An error of the whole batch, such as a lost connection. What is not finished is discarded.
    """
    reach = 1  # planes of the part that is sent
    over: deque[tuple[Job, Done | Exception]] = deque()
    sent: deque[tuple[_Work, int]] = deque()
    working: list[_Work] = []

    def settle(work: _Work) -> None:
        if work.over and work in working:
            working.remove(work)
            if work.error is None:
                begin(work.job)
            over.append((work.job, work.finish()))

    def for_each_part(value: Any) -> Iterator[Any]:
        """Yield a map, which applies to all planes, with those of the part that is sent."""
        while True:
            yield np.broadcast_to(value, (reach, *np.shape(value)))

    if reading.slabs is not None:
        of_planes = [name for name in ("sigma", "mask") if np.ndim(options.get(name, 0))]
        options |= {name: for_each_part(options[name]) for name in of_planes}

    def images() -> Iterator[NDArray[Any]]:
        nonlocal reach
        for job in jobs:
            try:
                work = _Work(job, reading)
            except (LemmseError, OSError) as error:
                over.append((job, error))
                continue
            working.append(work)
            for number, part in enumerate(work.parts):
                try:
                    y = work.part(number)
                except (LemmseError, OSError) as error:
                    work.error = work.error or error
                if work.error is not None:
                    break
                sent.append((work, number))
                work.sent += 1
                work.sending = number + 1 < len(work.parts)
                reach = len(part.read)
                yield y
            work.sending = False
            settle(work)

    try:
        with closing(client.reconstruct_many(images(), maps=maps, **options)) as outcomes:
            for outcome in outcomes:
                work, number = sent.popleft()
                work.take(number, outcome)
                if len(work.parts) > 1:
                    progress(one_line(work.job.source), number + 1, len(work.parts))
                settle(work)
                while over:
                    yield over.popleft()
        yield from over
    finally:
        for work in working:
            work.discard()


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
