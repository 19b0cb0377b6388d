"""The translated training patches of a block of images, cut and whitened when they are asked for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.index.images.stack import Images, centres
from lemmse.index.images.symmetries import apply, origin
from lemmse.index.patches.strata import Layout, Strata
from lemmse.index.physics import InverseProblem
from lemmse.index.storage import zarr_store

__all__ = ["Patches"]


@dataclass(frozen=True, slots=True)
class Patches:
    """Training patches, numbered by image, symmetry, row and column."""

    first_image: int
    """Number of the first of the images among all."""
    clean: Images[np.float32]
    """The images x, or all symmetric copies of the first, of the second, and so on."""
    symmetries: int
    """How many copies there are of each image: itself, or all."""
    measured: Images[Any]
    """B A x of each."""
    n: NDArray[np.int64]
    """Position of each patch."""
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
        first_image: int,
        layout: Layout,
        symmetries: int,
        p: int,
        boundary: str,
    ) -> "Patches":
        """The patches of some images, of sizes that were laid out."""
        clean = images
        if symmetries > 1:
            clean = Images.stack(apply(images[k], s) for k in range(len(images)) for s in range(symmetries))
        sizes = [(height, width) for height, width in clean.sizes.tolist()]
        own = {size: centres(*size, p, boundary) for size in dict.fromkeys(sizes)}
        return cls(
            first_image=first_image,
            clean=clean,
            symmetries=symmetries,
            measured=Images.stack(problem.pre_invert(problem.measure(clean[k])) for k in range(len(clean))),
            n=np.concatenate([first + own[size] for first, size in zip(clean.first, sizes, strict=False)]),
            strata=layout.strata,
            stratum=np.concatenate([layout.numbers[size] for size in sizes]),
            p=p,
            boundary=boundary,
        )

    def __len__(self) -> int:
        """Number of patches."""
        return len(self.n)

    def keys(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Keys v of patches by number, white, (len(rows), P)."""
        white = np.empty((len(rows), self.strata.scale.shape[1]), np.float32)
        for start in range(0, len(rows), zarr_store.CHUNK):
            some, out = rows[start : start + zarr_store.CHUNK], white[start : start + zarr_store.CHUNK]
            patches, stratum = self._cut(some), self.stratum[some]
            for number in np.unique(stratum):
                own = stratum == number
                out[own] = self.strata.whiten(patches[own], number)
        white += np.float32(0)  # −0 becomes 0, so that equal keys have equal bytes
        return white

    def targets(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Targets t of patches by number, less the level that their keys lost, (len(rows), C)."""
        t: NDArray[np.float32] = self.clean.pixels[self.n[rows]]
        if self.strata.constants is not None:
            for start in range(0, len(rows), zarr_store.CHUNK):
                some = rows[start : start + zarr_store.CHUNK]
                t[start : start + zarr_store.CHUNK] -= self.strata.levels(self._cut(some), 0)
        return t

    def ids(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Training image, row and column of the centres of patches by number, (len(rows), 3)."""
        copy, row, column = self.clean.locate(self.n[rows]).T
        image, symmetry = np.divmod(copy, self.symmetries)
        place = origin(symmetry, row, column, self.clean.sizes[image * self.symmetries])
        return np.stack([self.first_image + image, *place], axis=1).astype(np.int32)

    def symmetry(self, rows: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Number of the symmetric copy that patches were cut from, (len(rows),)."""
        return (self.clean.locate(self.n[rows])[:, 0] % self.symmetries).astype(np.uint8)

    def _cut(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Patches of B A x by number, (len(rows), P)."""
        return self.measured.patches(self.n[rows], self.p, self.boundary)
