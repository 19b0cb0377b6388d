"""All M training patches, in blocks of images that are read on demand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.images.stack import Images
from lemmse.index.images.symmetries import SYMMETRIES
from lemmse.index.images.volumes import planes_around, whole
from lemmse.index.patches.block import PatchBlock
from lemmse.index.patches.strata import Strata, TrainingStrata, training_strata
from lemmse.index.physics import InverseProblem
from lemmse.index.ranges import split_ranges

__all__ = ["Corpus"]


@dataclass(frozen=True)
class Corpus:
    """All training patches, numbered by image, symmetry, row and column."""

    problem: InverseProblem
    read: Callable[[NDArray[np.int64]], Images[np.float32]]
    """A callable `read(numbers)` that returns the training images with these numbers, in intensities."""
    numbers: NDArray[np.int64]
    """Numbers of the images in which patches are centred, ascending, (K,)."""
    sizes: NDArray[np.int64]
    """Their heights and widths in pixels, (K, 2)."""
    planes: NDArray[np.int64] | None
    """Numbers of the training images in which their patches lie, (K, p_z); None if that is one image."""
    training_strata: TrainingStrata
    symmetries: int
    """Number of symmetric copies of each image, 1 or 8."""
    p: int
    boundary: str
    blocks: NDArray[np.int64]
    """First image of each block, followed by K, (B + 1,)."""

    @classmethod
    def of(
        cls,
        problem: InverseProblem,
        read: Callable[[NDArray[np.int64]], Images[np.float32]],
        sizes: NDArray[np.int64],
        depths: NDArray[np.int64],
        channels: int,
        *,
        numbers: NDArray[np.integer] | None = None,
        patch_size: int,
        patch_depth: int,
        boundary: str,
        equivariance: str,
        augment: str,
        stride: int,
        block: int,
    ) -> "Corpus":
        """Return the training patches of images, in blocks of one image or of at most `block` pixels.

        Symmetric copies count; without a stride there is a patch for each pixel, or fewer.

        Parameters
        ----------
        problem : InverseProblem
            The inverse problem.
        read : callable
            See `read`.
        sizes : int, (N, 2)
            Heights and widths of all images.
        depths : int, (V,)
            Number of planes of each volume; the images are the planes, in order. Used if patch_depth > 1.
        channels : int
            Number of channels of the images.
        numbers : int, (K,), optional
            Numbers of the images in which patches are centred, ascending; by default all.
        patch_size, patch_depth, boundary, equivariance, augment
            As for `build`.
        block : int
            Largest number of patches in a block of several images.

        Raises
        ------
        InvalidArgument
            The arguments do not fit the images; see `training_strata`.
        """
        symmetries = len(SYMMETRIES) if augment == "dihedral" else 1
        centred = np.arange(len(sizes)) if numbers is None else np.asarray(numbers, np.int64)
        planes = None
        if patch_depth > 1:
            if boundary == "valid":
                centred = np.intersect1d(centred, whole(depths, patch_depth))
                if not len(centred):
                    raise InvalidArgument.of(
                        "boundary",
                        f"expected volumes of {patch_depth} planes or more for valid, got at most "
                        f"{np.max(depths)}",
                    )
            planes = planes_around(depths, patch_depth, boundary)[centred]
        sizes = sizes[centred]
        unique = np.unique(sizes, axis=0)
        if symmetries > 1:
            unique = np.unique(np.concatenate([unique, unique[:, ::-1]]), axis=0)
        all_sizes = [(height, width) for height, width in unique.tolist()]
        strata = training_strata(
            problem, all_sizes, channels, patch_size, boundary, equivariance, stride, patch_depth
        )
        pixels = np.concatenate([[0], np.cumsum(symmetries * sizes.prod(axis=1))])
        blocks = [0, *(end for _, end in split_ranges(pixels, block))]
        return cls(
            problem, read, centred, sizes, planes, strata, symmetries, patch_size, boundary, np.array(blocks)
        )

    @property
    def strata(self) -> Strata:
        """The strata of the patches."""
        return self.training_strata.strata

    @property
    def length(self) -> int:
        """Length of a key, P."""
        return int(self.strata.scale.shape[1])

    @cached_property
    def _copy_sizes(self) -> NDArray[np.int64]:
        """Heights and widths of all copies of the images, (K·symmetries, 2)."""
        if self.symmetries == 1:
            return self.sizes
        turned = np.arange(self.symmetries) % 2 == 1
        return np.where(turned[:, None], self.sizes[:, None, ::-1], self.sizes[:, None]).reshape(-1, 2)

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """First patch of each copy, followed by M, (K·symmetries + 1,)."""
        counts = [
            len(self.training_strata.by_size[height, width]) for height, width in self._copy_sizes.tolist()
        ]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def __len__(self) -> int:
        """Return the number of patches, M."""
        return int(self._first[-1])

    @property
    def rows(self) -> NDArray[np.int64]:
        """First patch of each block, followed by M, (B + 1,)."""
        return self._first[self.blocks * self.symmetries]

    def block(self, number: int) -> PatchBlock:
        """Return the patches of a block, after reading its images and applying A and B."""
        first, end = self.blocks[number : number + 2].tolist()
        own = self.numbers[first:end]
        return PatchBlock.of(
            self.problem,
            self.read(own) if self.planes is None else self._read_around(own, self.planes[first:end]),
            own,
            self.training_strata,
            self.symmetries,
            self.p,
            self.boundary,
        )

    def _read_around(self, own: NDArray[np.int64], around: NDArray[np.int64]) -> Images[np.float32]:
        """Return images followed by the other planes in which their patches lie, `around`, (n, p_z)."""
        read = np.concatenate([own, np.setdiff1d(around, own)])
        order = np.argsort(read)
        return replace(self.read(read), planes=order[np.searchsorted(read, around, sorter=order)])

    def keys(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the whitened keys v of the patches with these numbers, float32, (len(rows), P)."""
        v = np.empty((len(rows), self.length), np.float32)
        block = np.searchsorted(self.rows, rows, side="right") - 1
        for number in np.unique(block):
            own = np.flatnonzero(block == number)
            v[own] = self.block(number).keys(rows[own] - self.rows[number])
        return v

    @cached_property
    def _in_strata(self) -> list[list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
        """First patch of each copy, and patches of the stratum within a copy, for each stratum and size."""
        sizes, size_of = np.unique(self._copy_sizes, axis=0, return_inverse=True)
        firsts = [self._first[:-1][size_of.reshape(-1) == size] for size in range(len(sizes))]
        numbers = [self.training_strata.by_size[height, width] for height, width in sizes.tolist()]
        return [
            [(first, np.flatnonzero(own == s)) for first, own in zip(firsts, numbers, strict=True)]
            for s in range(len(self.strata))
        ]

    @cached_property
    def counts(self) -> list[int]:
        """Number of patches in each stratum."""
        return [sum(len(first) * len(places) for first, places in own) for own in self._in_strata]

    def sample(self, stratum: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the numbers of patches of a stratum: all, or `most` different ones drawn at random."""
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
