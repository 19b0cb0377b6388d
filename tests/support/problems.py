"""The inverse problems of the paper, with their training images, measurements and the oracle's answers."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lemmse.index import Index, build, open_index
from tests.support.cases import smooth
from tests.support.oracle import Oracle
from tests.support.problem_oracle import convolution_matrix, problem_oracle

P = 3
"""The patch size of all."""


def gaussian(std: float) -> np.ndarray:
    radius = 12
    a = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * std**2))
    kernel = np.outer(a, a)
    return kernel / kernel.sum()


def centred_square(shape, side: int) -> np.ndarray:
    mask = np.ones(shape)
    top, left = (length // 2 - side // 2 for length in shape[:2])
    mask[top : top + side, left : left + side] = 0
    return mask


def grid(shape) -> np.ndarray:
    mask = np.ones(shape)
    mask[::2, ::2] = 0
    return mask


def random(shape) -> np.ndarray:
    return np.repeat((np.random.default_rng(5).random(shape[:2]) > 0.3)[..., None], shape[2], 2) * 1.0


def mosaic(shape) -> np.ndarray:
    mask = np.zeros(shape)
    for c in range(shape[2]):
        mask[c % 2 :: 2, (c // 2) % 2 :: 2, c] = 1
    return mask


@dataclass(frozen=True, eq=False)
class Problem:
    name: str
    physics: str
    pre_inverse: str
    shape: tuple[int, int, int] = (6, 6, 1)
    kernel: np.ndarray | None = None
    mask: np.ndarray | None = None
    boundary: str = "circular"
    decibels: float = 80
    steps: int = 255
    """Steps of the training images from 0 to 1; 0 if they are floating-point numbers."""
    stride: int = 1

    @cached_property
    def training(self) -> list[np.ndarray]:
        images = [smooth(seed, *self.shape).astype(float) for seed in range(4)]
        if self.steps == 255:
            return images
        return [np.rint(65535 * 0.9 * x) / 65535 for x in images]

    @cached_property
    def a(self) -> np.ndarray:
        if self.kernel is not None:
            return convolution_matrix(self.kernel, self.shape)
        return np.diag((np.ones(self.shape) if self.mask is None else self.mask).reshape(-1))

    @cached_property
    def b(self) -> np.ndarray:
        name, _, value = self.pre_inverse.partition(":")
        if name == "mask":
            return self.a
        if name == "epsilon":
            return np.diag(np.where(self.mask == 0, float(value), 1.0).reshape(-1))
        if name == "wiener":  # the same diagonal in the Fourier basis: conj(H) / (|H|² + λ)
            return np.linalg.solve(self.a.T @ self.a + float(value) * np.eye(len(self.a)), self.a.T)
        if name == "inverse":
            return np.linalg.inv(self.a + 1e-7 * np.eye(len(self.a)))
        return np.eye(len(self.a))

    def measurement(self, sigma: float) -> np.ndarray:
        clean = smooth(77, *self.shape).astype(float)
        noise = sigma * np.random.default_rng(3).standard_normal(self.shape)
        return (self.a @ clean.reshape(-1)).reshape(self.shape) + noise

    def expected(self, sigma: float) -> Oracle:
        known = self.__dict__.setdefault("_known", {})
        if sigma not in known:
            y = self.measurement(sigma)
            where = {"boundary": self.boundary, "stride": self.stride}
            known[sigma] = problem_oracle(self.training, y, sigma, P, self.a, self.b, **where)
        return known[sigma]

    def build(self, folder: Path) -> Index:
        images = np.stack(self.training)
        if self.steps:
            images = np.rint(self.steps * images).astype(np.min_scalar_type(self.steps))
        np.save(folder / "x.npy", images)
        physics = self.physics
        if physics.endswith("FILE"):
            np.save(folder / "operator.npy", self.mask if self.kernel is None else self.kernel)
            physics = physics.replace("FILE", str(folder / "operator.npy"))
        built = build(
            [folder / "x.npy"],
            folder / "index",
            patch_size=P,
            physics=physics,
            pre_inverse=self.pre_inverse,
            boundary=self.boundary,
            stride=self.stride,
        )
        (folder / "operator.npy").unlink(missing_ok=True)  # an index needs no other file
        return open_index(built)

    def built(self, made_once) -> Index:
        """The same from the fixture `made_once`, to be read only."""
        return open_index(made_once(f"problems/{self.name}", self.build) / "index")


SMALL_BLUR = np.array([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]])


MOTION = np.array([[0.1, 0.2, 0.3, 0.2], [0.0, 0.0, 0.1, 0.1]])


PROBLEMS = [
    Problem("denoise", "identity", "identity"),
    Problem("denoise, reflect", "identity", "identity", boundary="reflect", steps=65535),
    Problem("denoise, valid", "identity", "identity", boundary="valid", steps=0),
    Problem("sixteen channels", "identity", "identity", shape=(4, 4, 16)),
    Problem("blur, agnostic", "blur:gaussian:1.0", "identity", kernel=gaussian(1.0)),
    Problem("blur, wiener", "blur:gaussian:1.0", "wiener:0.05", kernel=gaussian(1.0)),
    Problem("colour blur, wiener", "blur:gaussian:0.7", "wiener:0.02", shape=(5, 5, 3), kernel=gaussian(0.7)),
    Problem("blur by file, inverse", "blur:FILE", "inverse", kernel=SMALL_BLUR, steps=0),
    Problem("motion by file, wiener", "blur:FILE", "wiener:0.1", kernel=MOTION, shape=(5, 6, 1)),
    Problem("square, agnostic", "inpaint:center:3", "identity", mask=centred_square((6, 6, 1), 3)),
    Problem("square, mask", "inpaint:center:5", "mask", (7, 7, 1), mask=centred_square((7, 7, 1), 5)),
    Problem("random, mask", "inpaint:FILE", "mask", mask=random((6, 6, 1))),
    Problem("random colour, mask", "inpaint:FILE", "mask", (5, 5, 3), mask=random((5, 5, 3)), steps=65535),
    Problem("grid, mask", "inpaint:FILE", "mask", mask=grid((6, 6, 1))),
    Problem("grid, mask, reflect", "inpaint:FILE", "mask", mask=grid((6, 6, 1)), boundary="reflect"),
    Problem("mosaic, mask", "inpaint:FILE", "mask", (4, 4, 3), mask=mosaic((4, 4, 3))),
    Problem("random, epsilon", "inpaint:FILE", "epsilon:1e-3", mask=random((6, 6, 1))),
    Problem("grid, epsilon", "inpaint:FILE", "epsilon:0.3", mask=grid((6, 6, 1))),
    Problem(
        "random, epsilon, valid", "inpaint:FILE", "epsilon:0.1", mask=random((6, 6, 1)), boundary="valid"
    ),
]

SAME_SUMS = (
    "motion by file, wiener",
    "square, agnostic",
    "random, mask",
    "grid, mask",
    "grid, mask, reflect",
    "grid, epsilon",
    "random, epsilon, valid",
)
KINDS = [problem for problem in PROBLEMS if problem.name not in SAME_SUMS]
"""One problem of each kind of keys, strata and channels.

The others differ in the operator or the boundary only, which have done their part when the sums begin.
"""
