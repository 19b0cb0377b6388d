"""Packed rows in the memory of a device."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lemmse.contract.errors import InvalidArgument
from lemmse.index.storage.packing import LANES, Packed

__all__ = ["DeviceRows", "longest_span", "padding_of", "require_memory"]

_CHUNK = 1 << 28
"""Number of bytes that are copied at once."""
_LONGEST_SPAN = 1 << 16
_SPAN_ELEMENTS = 1 << 23
"""Most rows of a span of the fused kernel, and most elements of these."""
_WORK = 3 << 30
"""Memory of a GPU, in bytes, that is left for the sums: scores of products take the most."""


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
    def copied(cls, packed: Packed, device: torch.device, padding: int = 0) -> "DeviceRows":
        """Return rows copied to a device, chunk by chunk, followed by `padding` zeros.

        The parts follow each other without gaps. Rows that are mapped files are never in host memory as a
        whole, except in the page cache.
        """
        lengths = _lengths(packed)
        begins = np.concatenate([[0], np.cumsum(lengths)])
        values = torch.zeros(
            int(begins[-1]) + padding, dtype=torch.from_numpy(packed.values[:0]).dtype, device=device
        )
        step = _CHUNK // packed.values.itemsize
        for source, begin, length in zip(packed.begins, begins, lengths, strict=False):
            for first in range(0, int(length), step):
                stop = min(first + step, int(length))
                part = torch.from_numpy(packed.values[source + first : source + stop])
                values[begin + first : begin + stop].copy_(part)
        return cls(replace(packed, values=packed.values[:0], begins=begins[:-1]), values)

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


def require_memory(device: torch.device, keys: int, nbytes: int) -> None:
    """Raise InvalidArgument unless a GPU has free memory for keys of a size in bytes, and for the sums."""
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    needed = nbytes + _WORK
    if needed > free:
        raise InvalidArgument.of(
            "device",
            f"expected {needed / 1e9:.1f} GB of free memory on {device} for {keys} keys, "
            f"got {free / 1e9:.1f} GB: {(needed - free) / 1e9:.1f} GB are missing; use device cpu, or a "
            f"scheduler whose workers have a GPU each",
        )


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


def _lengths(packed: Packed) -> list[int]:
    """Return the number of elements of each part."""
    return [-(-int(rows) // LANES) * LANES * packed.length for rows in np.diff(packed.first_row)]
