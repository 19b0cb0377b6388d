"""All translated training patches, M of them, in blocks of images that are read when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lemmse.index.images.stack import Images
from lemmse.index.images.symmetries import SYMMETRIES
from lemmse.index.patches.block import Patches
from lemmse.index.patches.strata import Layout, Strata, lay_out
from lemmse.index.physics import InverseProblem
from lemmse.index.ranges import split_ranges

__all__ = ["Corpus"]


@dataclass(frozen=True)
class Corpus:
    """The training patches, numbered by image, symmetry, row and column."""

    problem: InverseProblem
    read: Callable[[int, int], Images[np.float32]]
    """Reads the training images from one number to before another, as intensities."""
    sizes: NDArray[np.int64]
    """Heights and widths of the training images, (K, 2)."""
    layout: Layout
    symmetries: int
    """How many copies there are of each image: itself, or all."""
    p: int
    boundary: str
    blocks: NDArray[np.int64]
    """First image of each block, and K, (B + 1,)."""

    @classmethod
    def of(
        cls,
        problem: InverseProblem,
        read: Callable[[int, int], Images[np.float32]],
        sizes: NDArray[np.int64],
        channels: int,
        *,
        patch_size: int,
        boundary: str,
        equivariance: str,
        augment: str,
        block: int,
    ) -> "Corpus":
        """Lay out the patches of training images, in blocks of so many patches, or of one image.

        Raises
        ------
        InvalidArgument
            What is asked for does not go with the images.
        """
        symmetries = len(SYMMETRIES) if augment == "dihedral" else 1
        unique = np.unique(sizes, axis=0)
        if symmetries > 1:
            unique = np.unique(np.concatenate([unique, unique[:, ::-1]]), axis=0)
        of_sizes = [(height, width) for height, width in unique.tolist()]
        layout = lay_out(problem, of_sizes, channels, patch_size, boundary, equivariance)
        counts = [symmetries * len(layout.numbers[height, width]) for height, width in sizes.tolist()]
        blocks = [0, *(end for _, end in split_ranges(np.cumsum([0, *counts]), block))]
        return cls(problem, read, sizes, layout, symmetries, patch_size, boundary, np.array(blocks))

    @property
    def strata(self) -> Strata:
        """Their strata."""
        return self.layout.strata

    @property
    def length(self) -> int:
        """Length of a key, P."""
        return int(self.strata.scale.shape[1])

    @cached_property
    def _copies(self) -> NDArray[np.int64]:
        """Heights and widths of all copies of the images, (K·symmetries, 2)."""
        if self.symmetries == 1:
            return self.sizes
        turned = np.arange(self.symmetries) % 2 == 1
        return np.where(turned[:, None], self.sizes[:, None, ::-1], self.sizes[:, None]).reshape(-1, 2)

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """First patch of each copy, and M."""
        counts = [len(self.layout.numbers[height, width]) for height, width in self._copies.tolist()]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def __len__(self) -> int:
        """Number of patches, M."""
        return int(self._first[-1])

    @property
    def rows(self) -> NDArray[np.int64]:
        """First patch of each block, and M, (B + 1,)."""
        return self._first[self.blocks * self.symmetries]

    def block(self, number: int) -> Patches:
        """Read and measure the images of a block."""
        first, end = self.blocks[number : number + 2].tolist()
        images = self.read(first, end)
        return Patches.of(self.problem, images, first, self.layout, self.symmetries, self.p, self.boundary)

    def keys(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Keys v of patches by number, white, (len(rows), P)."""
        v = np.empty((len(rows), self.length), np.float32)
        block = np.searchsorted(self.rows, rows, side="right") - 1
        for number in np.unique(block):
            own = np.flatnonzero(block == number)
            v[own] = self.block(number).keys(rows[own] - self.rows[number])
        return v

    @cached_property
    def _in_strata(self) -> list[list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
        """For each stratum and size: first patches of copies of the size, and which of theirs it holds."""
        sizes, size_of = np.unique(self._copies, axis=0, return_inverse=True)
        firsts = [self._first[:-1][size_of.reshape(-1) == size] for size in range(len(sizes))]
        numbers = [self.layout.numbers[height, width] for height, width in sizes.tolist()]
        return [
            [(first, np.flatnonzero(own == s)) for first, own in zip(firsts, numbers, strict=True)]
            for s in range(len(self.strata))
        ]

    @cached_property
    def counts(self) -> list[int]:
        """Number of patches of each stratum."""
        return [sum(len(first) * len(places) for first, places in own) for own in self._in_strata]

    def sample(self, stratum: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Numbers of patches of a stratum, drawn at random: all, if they are no more; else some fewer."""
        count = self.counts[stratum]
        drawn = np.arange(count) if count <= most else np.unique(rng.integers(count, size=most))
        rows, done = [], 0
        for first, places in self._in_strata[stratum]:
            end = done + len(first) * len(places)
            own = drawn[(drawn >= done) & (drawn < end)] - done
            if len(own):
                copy, place = np.divmod(own, len(places))
                rows.append(first[copy] + places[place])
            done = end
        return np.concatenate(rows)
