"""The keys v_km and the moments of their targets t_km, laid out for the exact sum.

Squared distances come from a matrix product, ‖u − v‖² = ‖u‖² − 2 u·v + ‖v‖², which loses the digits that
‖u‖² and ‖v‖² have before the difference. So the keys lie in tiles, runs of the index's cell order, each
centred on its own mean c: the product is that of u − c with v − c, and where it matters (u near v, hence
near c) all of its terms are small.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lemmse.index import Index

__all__ = ["TILE", "Keys", "Tile", "load_keys"]

TILE = 2048
"""Keys in a tile: few enough that the scores of a block of queries stay in the processor's cache, and enough
that what is done once for a tile costs little."""
_BLOCK = 64 * TILE


@dataclass(frozen=True, slots=True)
class Tile:
    """A run of m keys."""

    first: int
    """Number of its first key."""
    centre: Tensor
    """Mean c of the keys, float32, (P,)."""
    features: Tensor
    """v − c and −½‖v − c‖², float32, (m, P + 1)."""
    moments: Tensor
    """Of the targets that each key stands for: their number n, Σ t, Σ t², float32, (1 + 2T, m)."""


@dataclass(frozen=True, slots=True)
class Keys:
    """M keys on one device, in tiles; the last tile may be partly filled."""

    count: int
    """Number of keys, M."""
    p_length: int
    """Length of a key, P."""
    t_length: int
    """Length of a target, T."""
    centres: Tensor
    """(tiles, P)."""
    features: Tensor
    """(tiles, tile, P + 1)."""
    moments: Tensor
    """(tiles, 1 + 2T, tile)."""

    @classmethod
    def collect(
        cls,
        blocks: Iterable[tuple[Tensor, Tensor]],
        *,
        count: int,
        p_length: int,
        t_length: int,
        device: torch.device,
        tile: int = TILE,
    ) -> "Keys":
        """Lay out keys v (B, P) and targets t (B, T) that come in blocks.

        Every block but the last fills whole tiles.
        """
        tiles = -(-count // tile)
        keys = cls(
            count=count,
            p_length=p_length,
            t_length=t_length,
            centres=torch.empty(tiles, p_length, device=device),
            features=torch.zeros(tiles, tile, p_length + 1, device=device),
            moments=torch.zeros(tiles, 1 + 2 * t_length, tile, device=device),
        )
        first = 0
        for v, t in blocks:
            for v_tile, t_tile in zip(torch.split(v, tile), torch.split(t, tile), strict=True):
                keys._fill(first // tile, v_tile.to(device), t_tile.to(device))
                first += len(v_tile)
        return keys

    @property
    def tile(self) -> int:
        """Keys in a full tile."""
        return self.features.shape[1]

    def _fill(self, tile: int, v: Tensor, t: Tensor) -> None:
        m = len(v)
        self.centres[tile] = v.mean(dim=0)
        centred = v - self.centres[tile]
        self.features[tile, :m, :-1] = centred
        self.features[tile, :m, -1] = -0.5 * centred.square().sum(dim=1)
        self.moments[tile, :, :m] = torch.cat([torch.ones_like(t[:, :1]), t, t.square()], dim=1).T

    def tiles(self) -> Iterator[Tile]:
        """All tiles in order."""
        for i in range(len(self.centres)):
            m = min(self.tile, self.count - i * self.tile)
            yield Tile(i * self.tile, self.centres[i], self.features[i, :m], self.moments[i, :, :m])

    def moments_of(self, key: Tensor) -> Tensor:
        """Moments of the targets of keys given by number, shape (*key.shape, 1 + 2T)."""
        return self.moments[key // self.tile, :, key % self.tile]


def load_keys(index: Index, device: torch.device) -> Keys:
    """Read all keys and targets of an index."""
    count = index.manifest.keys
    ranges = ((i, min(i + _BLOCK, count)) for i in range(0, count, _BLOCK))
    return Keys.collect(
        ((torch.from_numpy(index.keys(*r)), torch.from_numpy(index.targets(*r))) for r in ranges),
        count=count,
        p_length=index.patch_length,
        t_length=index.manifest.channels,
        device=device,
    )
