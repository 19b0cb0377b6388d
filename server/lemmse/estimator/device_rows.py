"""Packed rows in the memory of a device."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lemmse.index.storage.packing import LANES, Packed

__all__ = ["DeviceRows", "longest_span", "padding_of"]

_CHUNK = 1 << 25
"""Number of bytes that are copied at once."""
_LONGEST_SPAN = 1 << 16
_SPAN_ELEMENTS = 1 << 23
"""Most rows of a span of the fused kernel, and most elements of these."""


class DeviceRows:
    """Packed rows on a device.

    Parameters
    ----------
    packed : Packed
        Where the rows are in `values`; its own values are not used.
    values : Tensor
        The elements, flat.
    """

    def __init__(self, packed: Packed, values: Tensor) -> None:
        self.packed = packed
        self.values = values

    @classmethod
    def mapped(cls, packed: Packed) -> "DeviceRows":
        """Return rows that stay where they are in host memory."""
        return cls(packed, torch.from_numpy(packed.values))

    @classmethod
    def copied(
        cls, packed: Packed, device: torch.device, padding: int = 0, into: Tensor | None = None
    ) -> "DeviceRows":
        """Return rows copied to a device, followed by `padding` other numbers.

        The parts follow each other without gaps. Rows that are mapped files are never in host memory as a
        whole, except in the page cache.

        Parameters
        ----------
        packed : Packed
            The rows, in host memory.
        device : torch.device
            Where to copy them.
        padding : int
            Number of elements behind the last row.
        into : Tensor, optional
            Where to write the elements, on the device; by default in new memory, filled with zeros.
        """
        lengths = _lengths(packed)
        begins = np.concatenate([[0], np.cumsum(lengths)])
        if into is None:
            into = torch.zeros(
                int(begins[-1]) + padding, dtype=torch.from_numpy(packed.values[:0]).dtype, device=device
            )
        parts = [
            (into[begin : begin + length], torch.from_numpy(packed.values[source : source + length]))
            for source, begin, length in zip(packed.begins, begins, lengths, strict=False)
        ]
        _copy(parts)
        return cls(replace(packed, values=packed.values[:0], begins=begins[:-1]), into)

    def columns(self, start: int, stop: int) -> Tensor:
        """Return rows start … stop − 1, transposed, (L, stop − start)."""
        length = self.packed.length
        blocks = []
        for first, end in self.packed.parts(start, stop):
            begin, lane = self.packed.place(first)
            runs = -(-(lane + end - first) // LANES)
            block = self.values[begin : begin + runs * length * LANES].view(runs, length, LANES)
            blocks.append(block.transpose(0, 1).reshape(length, -1)[:, lane : lane + end - first])
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)

    def of(self, row: Tensor) -> Tensor:
        """Return the rows with the given numbers, (*row.shape, L)."""
        run, lane = self.packed.run_of(row.cpu().numpy())
        first = torch.from_numpy(run + lane).to(self.values.device)
        number = torch.arange(self.packed.length, device=first.device) * LANES
        return self.values[first[..., None] + number]


def longest_span(length: int) -> int:
    """Return the most rows of this length that a program of the fused kernel reads, a power of two.

    Examples
    --------
    >>> longest_span(75), longest_span(363), longest_span(12288)
    (65536, 16384, 512)
    """
    span = _LONGEST_SPAN
    while span * length > _SPAN_ELEMENTS:
        span //= 2
    return span


def padding_of(length: int) -> int:
    """Return the number of elements behind the last row that a program may read: those of one span."""
    return longest_span(length) * length


def _copy(parts: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Copy tensors in host memory to others, (target, source), of one type and device, and wait for the end.

    A GPU fetches what was copied to one of two pinned buffers while the next chunk is copied to the other.
    """
    device, dtype = parts[0][0].device, parts[0][0].dtype
    on_gpu, step = device.type == "cuda", _CHUNK // dtype.itemsize
    longest = min(step, max(len(target) for target, _ in parts))
    buffers = [torch.empty(longest, dtype=dtype, pin_memory=on_gpu) for _ in range(2)]
    fetched = [torch.cuda.Event() for _ in buffers] if on_gpu else []  # type: ignore[no-untyped-call]
    chunks = (
        (target[first : first + step], source[first : first + step])
        for target, source in parts
        for first in range(0, len(target), step)
    )
    for number, (target, source) in enumerate(chunks):
        if on_gpu:
            fetched[number % 2].synchronize()
        buffer = buffers[number % 2][: len(source)].copy_(source)
        target.copy_(buffer, non_blocking=True)
        if on_gpu:
            fetched[number % 2].record(torch.cuda.current_stream(device))
    if on_gpu:
        torch.cuda.current_stream(device).synchronize()


def _lengths(packed: Packed) -> list[int]:
    """Return the number of elements of each part."""
    return [-(-int(rows) // LANES) * LANES * packed.length for rows in np.diff(packed.first_row)]
