"""Training sets and measurements that every mode must answer, with the oracle's answers."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lemmse.index import Index, build, open_index
from tests.support.oracle import Oracle, oracle

SIGMAS = (0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True, eq=False)
class Case:
    training: tuple[np.ndarray, ...]  # float32, (H_k, W_k, C)
    clean: np.ndarray  # float32, (H, W, C)
    p: int
    name: str
    _known: dict[float, Oracle] = field(default_factory=dict)

    def built(self, made_once) -> Index:
        """The index of the training images from the fixture `made_once`, to be read only."""

        def fill(folder: Path) -> None:
            sources = []
            for i, x in enumerate(self.training):
                sources.append(folder / f"{i}.npy")
                np.save(sources[-1], x[None])
            build(sources, folder / "index", patch_size=self.p)

        return open_index(made_once(f"cases/{self.name}", fill) / "index")

    def measurement(self, sigma: float) -> np.ndarray:
        noise = np.random.default_rng(7).standard_normal(self.clean.shape)
        return (self.clean + sigma * noise).astype(np.float32)

    def expected(self, sigma: float) -> Oracle:
        if sigma not in self._known:
            self._known[sigma] = oracle(self.training, self.measurement(sigma), sigma, self.p)
        return self._known[sigma]


def smooth(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    """An image with flat and with busy parts, in steps of 1/255."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-height // 3), -(-width // 3), channels)).repeat(3, 0).repeat(3, 1)
    busy = rng.random((height, width, channels)) * (rng.random((height, width, 1)) < 0.5) * 0.2
    return (np.round(255 * np.clip(coarse[:height, :width] + busy, 0, 1)) / 255).astype(np.float32)


def constant(value: float, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 1), value, np.float32)


def _case(name: str, training: list[np.ndarray], clean: np.ndarray, p: int) -> Case:
    return Case(tuple(training), clean, p, name)


GREY = [smooth(seed, 6, 7, 1) for seed in range(5)]
COLOUR = [smooth(seed, 6, 6, 3) for seed in range(4)]

CASES = [
    _case("grey", GREY, smooth(50, 5, 4, 1), 3),
    _case("colour", COLOUR, smooth(51, 4, 4, 3), 3),
    _case("two channels", [smooth(seed, 5, 5, 2) for seed in range(3)], smooth(52, 4, 3, 2), 3),
    _case("even patch", GREY, smooth(53, 4, 5, 1), 4),
    _case("one pixel patch", GREY, smooth(54, 4, 5, 1), 1),
    _case("patch larger than both images", [smooth(1, 3, 4, 1)], smooth(55, 2, 3, 1), 5),
    _case("one key", [smooth(2, 1, 1, 3)], smooth(56, 3, 3, 3), 3),
    _case("one image", [smooth(3, 6, 6, 1)], smooth(3, 6, 6, 1), 3),
    _case("ties", [GREY[0], GREY[0], GREY[1], GREY[0]], GREY[0][:4, :4], 3),
    _case("constant images", [constant(v, 4, 4) for v in (0.0, 0.2, 0.2, 1.0)], constant(0.2, 3, 3), 3),
    _case("images of unequal size", [smooth(4, 3, 8, 1), smooth(5, 7, 4, 1)], smooth(57, 1, 6, 1), 3),
    _case("white and black", [constant(1.0, 5, 5), constant(0.0, 5, 5), *GREY[:2]], smooth(58, 4, 4, 1), 5),
]
