"""Inpainting: some pixels are missing, the same in all images of one size."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument
from lemmse.index.physics._operators import Diagonal, Shape
from lemmse.index.physics._spec import PhysicsKind, Read, Spec, is_file

__all__ = ["PHYSICS", "Centre", "Inpaint", "Random", "Stored"]

_FORMS = ("inpaint:center:SIDE", "inpaint:random:PERCENT[:SEED]", "inpaint:FILE")


class Inpaint(Diagonal):
    """The operator that sets missing pixels to 0."""

    __slots__ = ()

    @abstractmethod
    def observed(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return a mask that is True where pixels are observed, (H, W), (H, W, 1) or (H, W, C)."""

    def diagonal(self, shape: Shape) -> NDArray[np.float64]:
        """Return 1 where observed, 0 where missing."""
        mask = self.observed(*shape[:2])
        mask = mask[..., None] if mask.ndim == 2 else mask
        return np.broadcast_to(mask, shape).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Centre(Inpaint):
    """Inpainting of a square in the middle of the image, placed as in the paper."""

    side: int
    """Side of the square, in pixels."""

    def observed(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return a mask that is False in `side` rows from ⌊H/2⌋ − ⌊side/2⌋, and likewise for columns.

        Examples
        --------
        >>> np.flatnonzero(~Centre(15).observed(32, 32)[16])[[0, -1]]
        array([ 9, 23])
        """
        mask = np.ones((height, width), np.bool_)
        top, left = (length // 2 - self.side // 2 for length in (height, width))
        mask[top : top + self.side, left : left + self.side] = False
        return mask

    def check(self, shape: Shape) -> None:
        """Raise InvalidArgument unless the square fits in the image."""
        if self.side > min(shape[:2]):
            raise InvalidArgument.of(
                "physics",
                f"expected SIDE <= {min(shape[:2])} for an image of {shape[0]} × {shape[1]} pixels, "
                f"got 'inpaint:center:{self.side}'",
            )


@dataclass(frozen=True, slots=True)
class Random(Inpaint):
    """Inpainting of pixels chosen at random; all channels of a pixel are missing together."""

    percent: float
    """Percentage of missing pixels, rounded to whole pixels of the image."""
    seed: int
    """Seed of the random choice."""

    def observed(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask for images of this size, (H, W)."""
        # NumPy guarantees that raw draws, but not permutations, are the same in all versions.
        order = np.argsort(np.random.PCG64(self.seed).random_raw(height * width), kind="stable")
        mask = np.ones(height * width, np.bool_)
        mask[order[: round(self.percent * height * width / 100)]] = False
        return mask.reshape(height, width)


@dataclass(frozen=True, slots=True, eq=False)
class Stored(Inpaint):
    """Inpainting where a mask is False, for images of the size of the mask."""

    mask: NDArray[np.bool_]
    """The mask, True where observed, (H, W) or (H, W, C)."""

    def observed(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask."""
        return self.mask

    def check(self, shape: Shape) -> None:
        """Raise InvalidArgument unless the image has the size of the mask, and its channels if several."""
        expected = self.mask.shape
        if expected[:2] != shape[:2] or expected[2:] not in ((), (1,), shape[2:]):
            raise InvalidArgument.of(
                "physics", f"expected an image of the mask's shape {expected}, got an image of shape {shape}"
            )


def _parse(spec: Spec, read: Read) -> Inpaint:
    match spec.words[1:]:
        case ["center", word] if not is_file(word):
            return Centre(spec.count(word, "SIDE", least=1))
        case ["random", word, *rest] if len(rest) <= 1 and not is_file(spec.text):
            percent = spec.number(word, "PERCENT", at_most=100)
            return Random(percent, spec.count(rest[0], "SEED", least=0) if rest else 0)
        case words if is_file(path := ":".join(words)):
            mask = read("mask", path) != 0
            if mask.ndim not in (2, 3):
                raise spec.error(f"a mask of shape (H, W) or (H, W, C), found shape {mask.shape}")
            return Stored(mask)
    raise spec.error(f"one of {', '.join(_FORMS)}, FILE being a .npy or .png")


PHYSICS = PhysicsKind(_FORMS, _parse)
