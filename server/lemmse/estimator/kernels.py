"""Compile the loops of hybrid ahead of time, for example when the image of a container is made.

    python -m lemmse.estimator.kernels

They are compiled for the processor at hand, and kept in the folder that NUMBA_CACHE_DIR names, or beside
their source. A process that may not write there copies them to a temporary folder when it starts.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.estimator.reconstructor import Reconstructor
from lemmse.index import build, open_index

__all__ = ["compile_all"]


def compile_all() -> None:
    """Compile the loops for each type of stored keys, and for each kind of request."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 16, 16, 1)).astype(np.uint8)
    kinds: dict[str, tuple[NDArray[Any], str]] = {
        "uint8": (images, "none"),
        "int16": (images, "offset"),
        "float32": ((images / 256).astype(np.float32), "none"),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (source, equivariance) in kinds.items():
            np.save(Path(folder, "images.npy"), source)
            sources = [Path(folder, "images.npy")]
            index = open_index(build(sources, Path(folder, name), patch_size=3, equivariance=equivariance))
            _ask(Reconstructor(index, device="cpu"), source[0].astype(np.float32) / source.max())


def _ask(lemmse: Reconstructor, y: NDArray[np.float32]) -> None:
    """Ask for all that hybrid computes."""
    lemmse.prepare()
    lemmse.reconstruct(y, sigma=0.1, mode="hybrid", maps=["variance", "ess", "error"])
    lemmse.reconstruct(y, sigma=0.1, mode="hybrid", maps=["error"], error="certified")
    lemmse.reconstruct(y, sigma=0.1, mode="hybrid", aggregate="overlap")
    lemmse.reconstruct(y, sigma=0.1, mode="hybrid", budget=10)
    lemmse.reconstruct(y, sigma=1e-4, mode="hybrid")
    if lemmse.index.strata.constants is None:
        mask = np.ones(y.shape[:2], bool)
        mask[0, 0] = False
        lemmse.reconstruct(y, sigma=0.1, mode="hybrid", mask=mask)


if __name__ == "__main__":
    compile_all()
