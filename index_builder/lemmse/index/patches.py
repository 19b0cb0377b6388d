"""The translated training patches of an index, cut and whitened when they are asked for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.index import store
from lemmse.index.errors import InvalidArgument
from lemmse.index.images import Images
from lemmse.index.physics import InverseProblem
from lemmse.index.strata import Strata, find_strata
from lemmse.index.symmetries import SYMMETRIES, apply, origin

__all__ = ["Patches"]


@dataclass(frozen=True, slots=True)
class Patches:
    """The M training patches, numbered by image, symmetry, row and column."""

    clean: Images[np.float32]
    """The training images x, or all symmetric copies of the first, of the second, and so on."""
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
        clean: Images[np.float32],
        p: int,
        boundary: str,
        *,
        equivariance: str,
        augment: str,
    ) -> tuple["Patches", float]:
        """The patches of training images, and the condition number of their noise."""
        symmetries = len(SYMMETRIES) if augment == "dihedral" else 1
        if symmetries > 1:
            clean = Images.stack(apply(clean[k], s) for k in range(len(clean)) for s in range(symmetries))
        for size in np.unique(clean.sizes, axis=0):
            problem.check((*size.tolist(), clean.pixels.shape[1]))
        measured = Images.stack(problem.pre_invert(problem.measure(clean[k])) for k in range(len(clean)))
        n = clean.centres(p, boundary)
        if not len(n):
            height, width = clean.sizes.max(axis=0)
            raise InvalidArgument(
                "boundary", f"expected images of {p}x{p} or more for valid, got at most {height}x{width}"
            )
        strata, stratum, condition = find_strata(problem, clean, n, p, boundary, equivariance)
        return cls(clean, symmetries, measured, n, strata, stratum, p, boundary), condition

    def __len__(self) -> int:
        """Number of patches, M."""
        return len(self.n)

    @property
    def length(self) -> int:
        """Length of a key, P."""
        return int(self.strata.scale.shape[1])

    def keys(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Keys v of patches by number, white, (len(rows), P)."""
        patches = self._cut(rows)
        white = np.empty(patches.shape, np.float32)
        for stratum in np.unique(self.stratum[rows]):
            own = self.stratum[rows] == stratum
            white[own] = self.strata.whiten(patches[own], stratum)
        white += np.float32(0)  # −0 becomes 0, so that equal keys have equal bytes
        return white

    def targets(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Targets t of patches by number, less the level that their keys lost, (len(rows), C)."""
        t: NDArray[np.float32] = self.clean.pixels[self.n[rows]]
        if self.strata.constants is not None:
            for start in range(0, len(rows), store.CHUNK):
                some = rows[start : start + store.CHUNK]
                t[start : start + store.CHUNK] -= self.strata.levels(self._cut(some), 0)
        return t

    def ids(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Training image, row and column of the centres of patches by number, (len(rows), 3)."""
        copy, row, column = self.clean.locate(self.n[rows]).T
        image, symmetry = np.divmod(copy, self.symmetries)
        size = self.clean.sizes[image * self.symmetries]
        return np.stack([image, *origin(symmetry, row, column, size)], axis=1).astype(np.int32)

    def symmetry(self, rows: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Number of the symmetric copy that patches were cut from, (len(rows),)."""
        return (self.clean.locate(self.n[rows])[:, 0] % self.symmetries).astype(np.uint8)

    def _cut(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Patches of B A x by number, (len(rows), P)."""
        return self.measured.patches(self.n[rows], self.p, self.boundary)
