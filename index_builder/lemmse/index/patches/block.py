"""The training patches of a block of images, extracted and whitened on demand."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.index.images.stack import Images
from lemmse.index.images.symmetries import apply, origin
from lemmse.index.patches.strata import Strata, TrainingStrata
from lemmse.index.physics import InverseProblem
from lemmse.index.ranges import row_slices

__all__ = ["PatchBlock"]


@dataclass(frozen=True, slots=True)
class PatchBlock:
    """The training patches of some images, numbered by image, symmetry, row and column."""

    images: NDArray[np.int64]
    """Numbers of the images in which patches are centred, among all training images."""
    clean: Images[np.float32]
    """The images x, or all symmetric copies of the first image, then of the second, and so on; in volumes
    followed by the other planes in which patches lie."""
    symmetries: int
    """Number of symmetric copies of each image, 1 or 8."""
    measured: Images[Any]
    """B A x for each image x."""
    n: NDArray[np.int64]
    """Position of the centre of each patch in the stack of images."""
    strata: Strata
    stratum: NDArray[np.int64]
    """Stratum of each patch."""
    p: int
    boundary: str

    @classmethod
    def of(
        cls,
        problem: InverseProblem,
        images: Images[np.float32],
        numbers: NDArray[np.int64],
        strata: TrainingStrata,
        symmetries: int,
        p: int,
        boundary: str,
    ) -> "PatchBlock":
        """Return the patches of images, whose sizes must be in `strata.by_size`.

        Patches are centred in the first of the images, those with these numbers, and lie in `images.planes`.
        """
        clean, planes = images, images.planes
        if symmetries > 1:
            copies = (apply(images[k], s) for k in range(len(images)) for s in range(symmetries))
            if planes is not None:
                planes = planes[:, None] * symmetries + np.arange(symmetries)[:, None]  # (n, S, p_z)
                planes = planes.reshape(-1, planes.shape[2])
            clean = Images.stack(copies, planes)
        sizes = [(height, width) for height, width in clean.sizes[: len(numbers) * symmetries].tolist()]
        return cls(
            images=numbers,
            clean=clean,
            symmetries=symmetries,
            measured=Images.stack(
                (problem.pre_invert(problem.measure(clean[k])) for k in range(len(clean))), planes
            ),
            n=np.concatenate(
                [first + strata.centres[size] for first, size in zip(clean.first, sizes, strict=False)]
            ),
            strata=strata.strata,
            stratum=np.concatenate([strata.by_size[size] for size in sizes]),
            p=p,
            boundary=boundary,
        )

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self.n)

    @property
    def pixels(self) -> int:
        """Number of pixels of a patch, p_z·p²."""
        return int(self.strata.scale.shape[1]) // int(self.clean.pixels.shape[1])

    def keys(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the whitened keys v of the patches with these numbers, float32, (len(rows), P)."""
        white = np.empty((len(rows), self.strata.scale.shape[1]), np.float32)
        for chunk in row_slices(len(rows)):
            some, out = rows[chunk], white[chunk]
            patches, stratum = self._cut(some), self.stratum[some]
            for number in np.unique(stratum):
                own = stratum == number
                out[own] = self.strata.whiten(patches[own], number)
        white += np.float32(0)  # turns −0 into 0: equal keys must have equal bytes
        return white

    def targets(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the targets t of the patches with these numbers, minus their levels, (len(rows), C)."""
        t: NDArray[np.float32] = self.clean.pixels[self.n[rows]]
        if self.strata.constants is not None:
            for chunk in row_slices(len(rows)):
                t[chunk] -= self.strata.levels(self._cut(rows[chunk]), 0)
        return t

    def ids(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Return training image, row and column of the centres of patches, (len(rows), 3)."""
        copy, row, column = self.clean.locate(self.n[rows]).T
        image, symmetry = np.divmod(copy, self.symmetries)
        place = origin(symmetry, row, column, self.clean.sizes[image * self.symmetries])
        return np.stack([self.images[image], *place], axis=1).astype(np.int32)

    def symmetry(self, rows: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return the symmetries of the copies from which patches were taken, (len(rows),)."""
        return (self.clean.locate(self.n[rows])[:, 0] % self.symmetries).astype(np.uint8)

    def _cut(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Return the patches of B A x with these numbers, (len(rows), P)."""
        return self.measured.patches(self.n[rows], self.p, self.boundary)
