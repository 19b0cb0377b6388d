"""The task of network and formula: training images, physics, pre-inverse, patch size."""

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
"""Data sets with a name; others are files."""
SEED = 0
"""Seed of the noise, the same for all methods."""
VERSION = 2
"""Version of stored networks and comparisons, to be raised when their meaning changes."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A forward operator and a pre-inverse, as `lemmse build` takes them."""

    physics: str
    """Specification of A."""
    pre_inverse: str = "identity"
    """Specification of B."""

    @classmethod
    def parse(cls, text: str) -> "Problem":
        """Parse `PHYSICS` or `PHYSICS,PRE-INVERSE`.

        Raises
        ------
        InvalidArgument
            A specification is invalid, or the two do not go together.
        """
        problem = cls(*text.split(",", 1))
        InverseProblem.parse(problem.physics, problem.pre_inverse)
        return problem

    @property
    def aware(self) -> bool:
        """Whether the estimator is physics-aware."""
        return self.pre_inverse != "identity"

    def __str__(self) -> str:
        return f"{self.physics}, {self.pre_inverse}" if self.aware else self.physics


@dataclass(frozen=True, slots=True)
class Task:
    """One estimation problem, for the formula and for every network."""

    data: Data
    """The data set; all of its training images are used."""
    problem: Problem
    """Physics and pre-inverse."""
    patch_size: int
    """Side p of the patch, in pixels."""

    @property
    def operators(self) -> InverseProblem:
        """Return A and B."""
        return InverseProblem.parse(self.problem.physics, self.problem.pre_inverse)

    @property
    def pooled(self) -> "Task | None":
        """If the pre-inverse is a mask: the task whose index has clean patches of all positions."""
        return replace(self, problem=Problem("identity")) if self.problem.pre_inverse == "mask" else None

    @property
    def key(self) -> str:
        """Return a digest of everything that a result depends on, except the measurement."""
        return digest(self.data.training, self.operators.digest, self.patch_size)

    def check(self) -> None:
        """Raise InvalidArgument if A or B does not apply to images of this size."""
        operators, shape = self.operators, self.data.training.shape[1:]
        operators.check(shape)
        if operators.stationary and not operators.white:
            operators.whitening(shape, self.patch_size)

    def __str__(self) -> str:
        return f"{self.data.name}, {len(self.data.training)} images, {self.problem}, p = {self.patch_size}"


@dataclass(frozen=True, slots=True)
class Measurements:
    """Inputs of formula and networks."""

    task: Task
    """The task that they belong to."""
    kind: str
    """Kind of the images, as text."""
    sigma: float
    """Noise standard deviation, in intensities."""
    clean: Sequence[Image]
    """Clean images x, of the training images' size."""
    measured: Sequence[Image]
    """Measurements y, the input of the formula."""
    seen: Sequence[Image]
    """B y, the input of the networks."""

    @classmethod
    def of(cls, task: Task, kind: str, clean: Sequence[Image], sigma: float) -> "Measurements":
        """Measure images; the noise of an image depends only on its number and σ, not on the task."""
        operators = task.operators
        measured = [
            add_noise(operators.measure(x), sigma, [SEED, round(sigma * 1e6), number])
            for number, x in enumerate(clean)
        ]
        return cls(task, kind, sigma, clean, measured, [operators.pre_invert(y) for y in measured])

    def key(self, *parts: Any) -> str:
        """Return a digest of everything that a result depends on; the parts identify the method."""
        return digest(*self.clean, self.task.key, self.sigma, *parts)


def load(name: str, limit: int, images: int, fashion: Path) -> Data:
    """Load a data set of `benchmarks.quality` whose images have one size, or a file .npz.

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
    """Return the data set with its first training images only."""
    return replace(whole, training=whole.training[:limit], scenes=whole.scenes[:limit])


def inputs(whole: Data, count: int) -> dict[str, list[Image]]:
    """Return the images to measure: some training images, some held-out ones, and two kinds unlike either.

    All have the size of the training images, as masks and filters need it; of each kind there are `count`, or
    as many as exist. If the photograph is smaller than an image, that kind is left out.
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
    """Return tiles of a photograph that is in no training set, the middle rows first."""
    picture: Any = intensities(photograph(PHOTOGRAPHS_OUT[0])).astype(np.float64)
    if channels == 1:
        picture = picture.mean(axis=2, keepdims=True)
    free = picture.shape[0] - height
    tops = sorted(range(free // 2 % height, free + 1, height), key=lambda top: abs(top - free // 2))
    columns = range(0, picture.shape[1] - width + 1, width)
    return [picture[top : top + height, left : left + width] for top in tops for left in columns]
