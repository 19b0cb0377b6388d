"""The distinct keys v_km and the moments of their targets t_km, in the packed format of the index.

The exact sum computes squared distances with a matrix product, ‖u − v‖² = ‖u‖² − 2 u·v + ‖v‖², which loses
digits to cancellation if ‖u‖² and ‖v‖² are large compared with the difference. Therefore the keys are summed
in tiles, which are ranges in the leaf order of the index, each centred on its own mean c: the product is that
of u − c and v − c, and where precision matters (u near v, hence near c) all terms are small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.estimator.device_rows import DeviceRows, padding_of
from lemmse.index import Index
from lemmse.index.clustering.moments import key_moments
from lemmse.index.storage.packing import Packed
from lemmse.index.storage.quantization import Quantization, quantizations

__all__ = ["TILE", "Keys", "Scale", "Tile", "load_keys"]

TILE = 2048
"""Number of keys in a tile: small enough that the scores of a block of queries stay in the cache, and large
enough that the overhead per tile is small."""
_SAMPLE = 1024
"""Number of keys from which the scale of a stratum is computed."""
_GPU_TILE = 32 * TILE
"""Number of keys in a tile on a GPU, where launching a kernel takes long."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A range of m keys, centred on their mean or on a given point."""

    first: int
    """Number of the first key."""
    centre: Tensor
    """Mean c of the keys, or a given point, float32 or float64, (P,)."""
    features: Tensor
    """v − c and −½‖v − c‖², of the type of c, (P + 1, m)."""
    moments: Tensor
    """n, Σ t and Σ t² over the n targets of each key, of the type of c, (1 + 2T, m)."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Where the keys of a stratum lie, and how widely."""

    centre: Tensor
    """Mean key, float64, (P,)."""
    variance: float
    """Mean variance of the coordinates of the keys."""


@dataclass(frozen=True)
class Keys:
    """U distinct keys on one device."""

    quantization: Quantization
    """The quantization of the keys."""
    packed: Packed
    """The quantized keys, in host memory."""
    packed_moments: Packed
    """n, Σ t and Σ t² over the targets of each key, float32, in host memory."""
    strata: tuple[int, ...]
    """First key of each stratum, followed by U."""
    device: torch.device
    tile: int
    """Keys in a tile."""
    resident: bool = True
    """Whether they stay on the device; if not, those that are needed are copied each time."""
    into: tuple[Tensor, Tensor] | None = None
    """Where on the device to copy the keys and their moments; by default to new memory, if it is a GPU."""
    unwhitener: Tensor | None = None
    """W⁻¹, float64, (P, P), of keys that are whitened clean patches; None if they are not whitened."""

    @classmethod
    def of(
        cls,
        v: NDArray[np.float32],
        n: NDArray[np.integer],
        t: NDArray[np.float32],
        *,
        strata: Sequence[int],
        device: torch.device,
        tile: int = TILE,
    ) -> "Keys":
        """Return keys from arrays, without quantization.

        Parameters
        ----------
        v : float32, (U, P)
            The keys.
        n : int, (U,)
            Multiplicity of each key: the number of training patches that equal it.
        t : float32, (Σ n, T)
            The targets of these training patches, in the order of the keys.
        strata : sequence of int
            First key of each stratum, followed by U.
        device : torch.device
            Device on which to sum.
        tile : int
            Number of keys in a tile.
        """
        *_, plain = quantizations(1)
        patches = np.concatenate([[0], np.cumsum(n)])
        return cls(
            quantization=plain,
            packed=Packed.of([plain.encode(v)]),
            packed_moments=Packed.of([key_moments(t, patches)]),
            strata=tuple(strata),
            device=device,
            tile=tile,
        )

    def load(self) -> None:
        """Copy the keys to the device now, instead of at their first use."""
        _ = self.codes, self.moments

    @cached_property
    def codes(self) -> DeviceRows:
        """The quantized keys on the device."""
        return self._on_device(self.packed, 0)

    @cached_property
    def moments(self) -> DeviceRows:
        """The moments of their targets on the device."""
        return self._on_device(self.packed_moments, 1)

    def _on_device(self, packed: Packed, number: int) -> DeviceRows:
        if self.into is not None:
            return DeviceRows.copied(packed, self.device, into=self.into[number])
        if self.device.type == "cpu" or not self.resident:
            return DeviceRows.mapped(packed)
        return DeviceRows.copied(packed, self.device, padding_of(packed.length))

    def section(self, start: int, stop: int, into: tuple[Tensor, Tensor] | None = None) -> "Keys":
        """Return keys start … stop − 1, of which the first begins a run, as keys of their own.

        Parameters
        ----------
        start, stop : int
            Range of the keys.
        into : (Tensor, Tensor), optional
            Where on the device to copy them and their moments.
        """
        return replace(
            self,
            packed=self.packed.section(start, stop),
            packed_moments=self.packed_moments.section(start, stop),
            strata=tuple(min(max(first, start), stop) - start for first in self.strata),
            into=into,
        )

    @property
    def count(self) -> int:
        """Number of distinct keys, U."""
        return self.strata[-1]

    @property
    def p_length(self) -> int:
        """Length of a key, P."""
        return self.packed.length

    @property
    def t_length(self) -> int:
        """Length of a target, T."""
        return self.packed_moments.length // 2

    @property
    def nbytes(self) -> int:
        """Size of the keys and their moments, in bytes."""
        both = self.packed, self.packed_moments
        return self.count * sum(rows.length * rows.values.itemsize for rows in both)

    def count_in(self, stratum: int) -> int:
        """Return the number of distinct keys of a stratum."""
        return self.strata[stratum + 1] - self.strata[stratum]

    def longest_tile(self, stratum: int) -> int:
        """Return the number of keys in the largest tile of a stratum."""
        return min(self.tile, self.count_in(stratum))

    def tiles(self, stratum: int = 0, centre: Tensor | None = None) -> Iterator[Tile]:
        """Yield the tiles of a stratum, see `run`."""
        start, stop = self.strata[stratum : stratum + 2]
        for first, end in pairwise([*range(start, stop, self.tile), stop]):
            yield self.run(first, end, centre)

    def run(self, start: int, stop: int, centre: Tensor | None = None) -> Tile:
        """Return keys start … stop − 1 as a tile, in float64 if its centre is given, float64, (P,)."""
        v = self.coordinates(start, stop, torch.float32 if centre is None else torch.float64)
        features = v.new_empty(len(v) + 1, stop - start)
        if centre is None:
            centre = v.mean(dim=1)
        torch.sub(v, centre[:, None], out=features[:-1])
        torch.sum(features[:-1].square(), dim=0, out=features[-1]).mul_(-0.5)
        return Tile(start, centre, features, self.moments.columns(start, stop).to(v))

    def coordinates(self, start: int, stop: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return keys start … stop − 1, transposed, (P, stop − start)."""
        return self._decoded(self.codes.columns(start, stop), dtype)

    def patches_of(self, key: Tensor) -> Tensor:
        """Return the keys with the given numbers, float32, (*key.shape, P)."""
        return self._decoded(self.codes.of(key), torch.float32)

    @cached_property
    def _scales(self) -> dict[int, "Scale"]:
        return {}

    def scale(self, stratum: int) -> "Scale":
        """Return where the keys of a stratum lie and how widely, from a sample of them."""
        if stratum not in self._scales:
            start, stop = self.strata[stratum : stratum + 2]
            sample = torch.from_numpy(np.linspace(start, stop - 1, min(stop - start, _SAMPLE)).astype(int))
            v = self.patches_of(sample).double()
            centre = v.mean(dim=0)
            self._scales[stratum] = Scale(centre, float((v - centre).square().mean()))
        return self._scales[stratum]

    def unwhitened(self, v: Tensor) -> Tensor:
        """Return what is linear in clean patches, (…, P), from the same of their keys."""
        return v if self.unwhitener is None else v @ self.unwhitener.T.to(v.dtype)

    def moments_of(self, key: Tensor) -> Tensor:
        """Return the target moments of the keys with the given numbers, float32, (*key.shape, 1 + 2T)."""
        return self.moments.of(key).to(self.device)

    def _decoded(self, q: Tensor, dtype: torch.dtype) -> Tensor:
        q = q.to(self.device)
        if q.is_floating_point():
            return q.to(dtype)
        return q.to(dtype).mul_(self.quantization.step).add_(self.quantization.low)


def load_keys(index: Index, device: torch.device) -> Keys:
    """Return the keys of an index; on a CPU they are memory-mapped and read at their first use."""
    unwhitener = index.strata.unwhitener if index.problem.denoises else None
    return Keys(
        quantization=index.quantization,
        packed=index.packed_keys,
        packed_moments=index.packed_moments,
        strata=tuple(index.cell_keys[index.stratum_cells].tolist()),
        device=device,
        tile=TILE if device.type == "cpu" else _GPU_TILE,
        unwhitener=None if unwhitener is None else torch.from_numpy(unwhitener).to(device),
    )
