"""Image sets of which indexes are built, with and without the images held out of them."""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import pytest

from lemmse.index import Index, build, open_index
from tests.support.cases import smooth
from tests.support.indexes import few_at_a_time

P = 3
"""The patch size of all."""


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    sizes: tuple[tuple[int, int], ...]
    held_out: tuple[int, ...]
    channels: int = 1
    physics: str = "identity"
    pre_inverse: str = "identity"
    boundary: str = "circular"
    equal: int = 0
    several_shards: bool = False

    @property
    def images(self) -> list[np.ndarray]:
        """The first `equal` of one colour, the upper half of the next as well."""
        images = [smooth(seed, *size, self.channels) for seed, size in enumerate(self.sizes)]
        for image in images[: self.equal]:
            image[:] = 0.25
        if self.equal:
            images[self.equal][: self.sizes[self.equal][0] // 2] = 0.25
        return images

    def build(self, folder, leave_out=()) -> Index:
        folder.mkdir()
        sources = []
        for k, image in enumerate(self.images):
            if k not in leave_out:
                sources.append(folder / f"{k}.npy")
                np.save(sources[-1], image[None])
        options = {"physics": self.physics, "pre_inverse": self.pre_inverse, "boundary": self.boundary}
        with pytest.MonkeyPatch.context() as patched:
            if self.several_shards:
                few_at_a_time(patched, keys=200)
            return open_index(build(sources, folder / "index", patch_size=P, **options))

    def built(self, made_once, leave_out=()) -> Index:
        """The same from the fixture `made_once`, to be read only."""
        name = f"images/{self.name}/{len(leave_out)} left out"
        folder = made_once(name, lambda folder: self.build(folder / "in", leave_out))
        return open_index(folder / "in" / "index")


UNEQUAL = ((12, 9), (7, 10), (16, 16), (5, 3), (9, 9))


CASES = [
    Case("grey", ((12, 12),) * 6, (0, 4)),
    Case("colour", ((9, 9),) * 5, (2,), channels=3),
    Case("images of unequal size", UNEQUAL, (2, 3)),
    Case("cells of several leaves", ((32, 32),) * 7, (1, 2)),
    Case("valid", ((12, 9), (2, 9), (16, 16), (9, 9)), (0,), boundary="valid"),
    Case("an image without keys", ((12, 9), (2, 9), (16, 16), (9, 9)), (1,), boundary="valid"),
    Case("strata that exclude", ((6, 6),) * 5, (0, 3), physics="inpaint:random:20", pre_inverse="mask"),
    Case("strata", ((7, 7),) * 5, (1,), physics="inpaint:center:2", pre_inverse="epsilon:0.1"),
    Case("blur", ((10, 10),) * 4, (3,), physics="blur:gaussian:1.0", pre_inverse="wiener:0.05"),
    Case("equal keys", ((9, 9),) * 6, (0, 4), equal=3),
    Case("equal keys, colour", ((9, 9),) * 4, (1, 2), channels=3, equal=2),
    Case(
        "strata with equal keys",
        ((6, 6),) * 6,
        (0, 3),
        physics="inpaint:random:20",
        pre_inverse="mask",
        equal=3,
    ),
    Case("blur with equal keys", ((10, 10),) * 5, (3,), physics="blur:gaussian:1.0", equal=2),
    Case("all but one", ((8, 8),) * 4, (0, 1, 3)),
    Case("several shards", ((12, 9), (7, 10), (16, 16), (9, 9)), (1,), several_shards=True),
    Case("several shards of equal keys", ((12, 9),) * 6, (0, 4), equal=3, several_shards=True),
    Case(
        "strata in several shards",
        ((6, 6),) * 6,
        (0, 3),
        physics="inpaint:random:20",
        pre_inverse="mask",
        several_shards=True,
    ),
]


def cases(fast: Container[str]):
    """All cases as parameters of a fixture, those that are not `fast` marked slow."""
    return [
        pytest.param(case, id=case.name, marks=[] if case.name in fast else [pytest.mark.slow])
        for case in CASES
    ]
