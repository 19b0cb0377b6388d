"""The distinct keys v_km and the moments of the targets t_km that have them, laid out for the exact sum.

Squared distances come from a matrix product, ‖u − v‖² = ‖u‖² − 2 u·v + ‖v‖², which loses the digits that
‖u‖² and ‖v‖² have before the difference. So the keys lie in tiles, runs of the index's leaf order, each
centred on its own mean c: the product is that of u − c with v − c, and where it matters (u near v, hence
near c) all of its terms are small.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from lemmse.estimator.lanes import LANES
from lemmse.index import Index

__all__ = ["TILE", "Keys", "Tile", "load_keys"]

TILE = 2048
"""Keys in a tile: few enough that the scores of a block of queries stay in the processor's cache, and enough
that what is done once for a tile costs little."""
_GPU_TILE = 32 * TILE
"""The same on a GPU, where the start of the work on a tile takes long."""
_BLOCK = 64 * TILE


@dataclass(frozen=True, slots=True)
class Tile:
    """A run of m keys."""

    first: int
    """Number of its first key."""
    centre: Tensor
    """Mean c of the keys, float32, (P,)."""
    features: Tensor
    """v − c and −½‖v − c‖², float32, (P + 1, m)."""
    moments: Tensor
    """Of the targets that each key stands for: their number n, Σ t, Σ t², float32, (1 + 2T, m)."""


@dataclass(frozen=True, slots=True)
class Keys:
    """U distinct keys on one device, in tiles that keep to one stratum each."""

    t_length: int
    """Length of a target, T."""
    edges: tuple[int, ...]
    """Tile i holds the keys edges[i] … edges[i + 1] − 1."""
    first_tile: tuple[int, ...]
    """First tile of each stratum, and the number of tiles."""
    centres: Tensor
    """(tiles, P)."""
    offsets: tuple[int, ...]
    """Where the features of each tile begin, and where the last ones end."""
    features: Tensor
    """Features of all tiles, one after another, and zeros enough to read past the last ones."""
    moments: Tensor
    """(1 + 2T, U + LANES), zeros in the last columns."""
    weights: tuple[int, ...]
    """Training patches that have the keys of each stratum."""

    @classmethod
    def collect(
        cls,
        blocks: Iterable[tuple[Tensor, Tensor, Tensor]],
        *,
        strata: Sequence[int],
        p_length: int,
        t_length: int,
        device: torch.device,
        tile: int = TILE,
    ) -> "Keys":
        """Lay out keys that come in blocks.

        A block is keys v, float32, (B, P), the number of training patches that have each, int, (B,), and
        the targets t of these, float32, (their number, T). `strata` has the first key of each stratum, and
        the number of keys U.
        """
        edges = [0]
        first_tile = [0]
        for start, stop in pairwise(strata):
            if start < stop:
                edges += [*range(start + tile, stop, tile), stop]
            first_tile.append(len(edges) - 1)
        sizes = [(p_length + 1) * row_stride(stop - start) for start, stop in pairwise(edges)]
        offsets = (0, *accumulate(sizes))
        features = torch.zeros(offsets[-1] + row_stride(tile) + LANES, device=device)
        moments = torch.zeros(1 + 2 * t_length, strata[-1] + LANES, device=device)
        weights = np.zeros(len(strata) - 1, np.int64)
        keys = cls(
            t_length=t_length,
            edges=tuple(edges),
            first_tile=tuple(first_tile),
            centres=torch.empty(len(edges) - 1, p_length, device=device),
            offsets=offsets,
            features=features,
            moments=moments,
            weights=(),
        )
        first = 0
        for v, n, t in blocks:
            stop = first + len(v)
            moments[:, first:stop] = _moments(n, t).to(device)
            weights += [int(n[max(0, a - first) : max(0, b - first)].sum()) for a, b in pairwise(strata)]
            for i in range(bisect_right(edges, first) - 1, bisect_left(edges, stop)):
                start, end = max(first, edges[i]), min(stop, edges[i + 1])
                columns = keys._tile(i).features[:-1, start - edges[i] : end - edges[i]]
                columns[:] = v[start - first : end - first].T
            first = stop
        for i in range(len(edges) - 1):
            keys.centres[i] = _centre(keys._tile(i).features)
        return replace(keys, weights=tuple(weights.tolist()))

    @property
    def count(self) -> int:
        """Number of distinct keys, U."""
        return self.edges[-1]

    @property
    def weight(self) -> int:
        """Number of training patches, M."""
        return sum(self.weights)

    @property
    def p_length(self) -> int:
        """Length of a key, P."""
        return self.centres.shape[1]

    def count_in(self, stratum: int) -> int:
        """Number of distinct keys of a stratum."""
        return self.edges[self.first_tile[stratum + 1]] - self.edges[self.first_tile[stratum]]

    def weight_in(self, stratum: int) -> int:
        """Number of training patches of a stratum."""
        return self.weights[stratum]

    def longest_tile(self, stratum: int) -> int:
        """Keys in the largest tile of a stratum."""
        edges = self.edges[self.first_tile[stratum] : self.first_tile[stratum + 1] + 1]
        return max(stop - start for start, stop in pairwise(edges))

    def tiles(self, stratum: int = 0) -> Iterator[Tile]:
        """The tiles of a stratum."""
        return map(self._tile, range(self.first_tile[stratum], self.first_tile[stratum + 1]))

    def _tile(self, i: int) -> Tile:
        start, stop = self.edges[i : i + 2]
        rows = self.features[self.offsets[i] : self.offsets[i + 1]].view(self.p_length + 1, -1)
        return Tile(start, self.centres[i], rows[:, : stop - start], self.moments[:, start:stop])

    def parts(self, start: int, stop: int) -> Iterator[Tile]:
        """The keys start … stop − 1, as the tiles that they lie in have them."""
        for i in range(bisect_right(self.edges, start) - 1, bisect_left(self.edges, stop)):
            tile = self._tile(i)
            first, last = max(start, self.edges[i]), min(stop, self.edges[i + 1])
            columns = slice(first - tile.first, last - tile.first)
            yield Tile(first, tile.centre, tile.features[:, columns], tile.moments[:, columns])

    def run(self, start: int, stop: int) -> Tile:
        """The keys start … stop − 1 as a tile of their own."""
        features = self.features.new_empty(self.p_length + 1, stop - start)
        for part in self.parts(start, stop):
            columns = features[:-1, part.first - start :][:, : part.features.shape[1]]
            torch.add(part.features[:-1], part.centre[:, None], out=columns)
        return Tile(start, _centre(features), features, self.moments[:, start:stop])

    def patches_of(self, key: Tensor) -> Tensor:
        """Keys v given by number, shape (*key.shape, P)."""
        edges, offsets = (torch.tensor(numbers, device=key.device) for numbers in (self.edges, self.offsets))
        tile = torch.bucketize(key, edges, right=True) - 1
        stride = offsets.diff() // (self.p_length + 1)
        row = torch.arange(self.p_length, device=key.device)
        place = (offsets[:-1] - edges[:-1])[tile] + key
        return self.features[place[..., None] + stride[tile][..., None] * row] + self.centres[tile]

    def moments_of(self, key: Tensor) -> Tensor:
        """Moments of the targets of keys given by number, shape (*key.shape, 1 + 2T)."""
        return self.moments[:, key].movedim(0, -1)


def row_stride(m: int) -> int:
    """From one row of the features of m keys to the next.

    It is an odd number of cache lines: rows that all start in one set of the cache would displace each other.
    """
    return m + -m % 32 + 16


def _centre(features: Tensor) -> Tensor:
    """Turn v into the features of a tile, in place; gives the mean c."""
    v = features[:-1]
    centre = v.mean(dim=1)
    v -= centre[:, None]
    features[-1] = -0.5 * v.square().sum(dim=0)
    return centre


def _moments(n: Tensor, t: Tensor) -> Tensor:
    """n, Σ t and Σ t² of keys that n training patches each have, from the targets of all, (1 + 2T, B)."""
    key = torch.repeat_interleave(torch.arange(len(n)), n)
    t = t.double()  # a float32 sum of many equal numbers drifts
    sums = torch.zeros(len(n), 2 * t.shape[1], dtype=torch.float64)
    sums.index_add_(0, key, torch.cat([t, t.square()], dim=1))
    return torch.cat([n[:, None].double(), sums], dim=1).T.float()


def load_keys(index: Index, device: torch.device) -> Keys:
    """Read all keys and targets of an index."""

    def block(start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        targets = index.targets(int(index.copies[start]), int(index.copies[stop]))
        counts = np.diff(index.copies[start : stop + 1])
        return torch.from_numpy(index.keys(start, stop)), torch.from_numpy(counts), torch.from_numpy(targets)

    count = index.manifest.distinct
    return Keys.collect(
        (block(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)),
        strata=index.cells[index.strata_cells].tolist(),
        p_length=index.patch_length,
        t_length=index.manifest.channels,
        device=device,
        tile=TILE if device.type == "cpu" else _GPU_TILE,
    )
