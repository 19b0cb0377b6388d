"""What a network learns and the formula knows: training images, a physics, a pre-inverse, a patch size."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import data
from benchmarks.quality.data import PHOTOGRAPHS_OUT, Data, Image
from benchmarks.quality.methods import digest
from benchmarks.quality.scores import add_noise
from lemmse.contract.errors import InvalidArgument
from lemmse.index.physics import InverseProblem
from lemmse.index.sources import intensities, photograph

NAMED = {"fashion": data.fashion, "faces": data.faces}
"""Data sets that are not a file."""
SEED = 0
"""Seed of the noise that all methods see."""
VERSION = 2
"""Of what is kept of networks and comparisons: another one where either means something else."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A forward operator and a pre-inverse, as `lemmse build` takes them."""

    physics: str
    """Specification of A."""
    pre_inverse: str = "identity"
    """Specification of B."""

    @classmethod
    def parse(cls, text: str) -> "Problem":
        """Read `PHYSICS` or `PHYSICS,PRE-INVERSE`.

        Raises
        ------
        InvalidArgument
            A specification cannot be meant, or the two do not go together.
        """
        problem = cls(*text.split(",", 1))
        InverseProblem.parse(problem.physics, problem.pre_inverse)
        return problem

    @property
    def aware(self) -> bool:
        """Whether the estimator is told the physics."""
        return self.pre_inverse != "identity"

    def __str__(self) -> str:
        return f"{self.physics}, {self.pre_inverse}" if self.aware else self.physics


@dataclass(frozen=True, slots=True)
class Task:
    """One estimation, for the formula and for every network."""

    data: Data
    """Of which all training images are used."""
    problem: Problem
    """What is measured and what is seen of it."""
    patch_size: int
    """Side p of the patch, in pixels."""

    @property
    def operators(self) -> InverseProblem:
        """A and B."""
        return InverseProblem.parse(self.problem.physics, self.problem.pre_inverse)

    @property
    def pooled(self) -> "Task | None":
        """If seen through a mask: the task whose index has clean patches of all positions."""
        return replace(self, problem=Problem("identity")) if self.problem.pre_inverse == "mask" else None

    @property
    def key(self) -> str:
        """Name all that an answer depends on, but for the measurement."""
        return digest(self.data.training, self.operators.digest, self.patch_size)

    def check(self) -> None:
        """Raise InvalidArgument where images of this size cannot be measured or seen so."""
        operators, shape = self.operators, self.data.training.shape[1:]
        operators.check(shape)
        if operators.stationary and not operators.white:
            operators.whitening(shape, self.patch_size)

    def __str__(self) -> str:
        return f"{self.data.name}, {len(self.data.training)} images, {self.problem}, p = {self.patch_size}"


@dataclass(frozen=True, slots=True)
class Measurements:
    """What formula and networks are given."""

    task: Task
    """Of which estimation."""
    kind: str
    """Which images were measured, for people."""
    sigma: float
    """Noise standard deviation, in intensities."""
    clean: Sequence[Image]
    """x, of the training images' size."""
    measured: Sequence[Image]
    """y, which the formula is given."""
    seen: Sequence[Image]
    """B y, which the networks are given."""

    @classmethod
    def of(cls, task: Task, kind: str, clean: Sequence[Image], sigma: float) -> "Measurements":
        """Measure images: of a number and σ the noise is the same in all tasks."""
        operators = task.operators
        measured = [
            add_noise(operators.measure(x), sigma, [SEED, round(sigma * 1e6), number])
            for number, x in enumerate(clean)
        ]
        return cls(task, kind, sigma, clean, measured, [operators.pre_invert(y) for y in measured])

    def key(self, *parts: Any) -> str:
        """Name an answer by all that it depends on, the parts being what answers."""
        return digest(*self.clean, self.task.key, self.sigma, *parts)


def load(name: str, limit: int, images: int, fashion: Path) -> Data:
    """Load a data set of `benchmarks.quality` whose images have one size, or the file .npz that is named.

    Raises
    ------
    InvalidArgument
        It is neither.
    """
    file = Path(name) if name.endswith(".npz") else None
    arguments = argparse.Namespace(limit=limit, images=images, fashion=fashion, colour=file)
    if file:
        return replace(data.colour(arguments), name=file.stem)
    if name not in NAMED:
        raise InvalidArgument.of("data", f"expected {', '.join(NAMED)} or a FILE.npz, got {name!r}")
    return NAMED[name](arguments)


def first(whole: Data, limit: int) -> Data:
    """Keep the first training images only."""
    return replace(whole, training=whole.training[:limit], scenes=whole.scenes[:limit])


def inputs(whole: Data, count: int) -> dict[str, list[Image]]:
    """The images that are measured: some that were trained on, some held out, and two kinds unlike either.

    All have the size of the training images, as masks and filters want it; of each kind there are so many, or
    as many as there are. Where the photograph is smaller than an image, that kind is left out.
    """
    height, width, channels = whole.training.shape[1:]
    chosen = np.random.default_rng(SEED).permutation(len(whole.training))[:count]
    held_out = whole.held_out[:count]
    kinds = {
        "training": [intensities(whole.training[k]).astype(np.float64) for k in chosen],
        "held-out": held_out,
        "inverted": [1 - x for x in held_out],
        "photographic": _tiles(height, width, channels)[:count],
    }
    return {kind: images for kind, images in kinds.items() if images}


def _tiles(height: int, width: int, channels: int) -> list[Image]:
    """Tiles of a photograph that no data set is trained on, the middle rows first."""
    picture: Any = intensities(photograph(PHOTOGRAPHS_OUT[0])).astype(np.float64)
    if channels == 1:
        picture = picture.mean(axis=2, keepdims=True)
    free = picture.shape[0] - height
    tops = sorted(range(free // 2 % height, free + 1, height), key=lambda top: abs(top - free // 2))
    columns = range(0, picture.shape[1] - width + 1, width)
    return [picture[top : top + height, left : left + width] for top in tops for left in columns]
