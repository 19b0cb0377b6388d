"""Compile the kernels into NUMBA_CACHE_DIR while an image is built, so that its containers need not.

A container on another kind of processor than the one that built the image compiles them again.
"""

import tempfile
from pathlib import Path

import numpy as np

from lemmse.client import connect
from lemmse.index import build

MODES = ("exact", "topk", "hybrid")

with tempfile.TemporaryDirectory() as folder:
    images = Path(folder, "images.npy")
    np.save(images, np.random.default_rng(0).random((40, 16, 16), np.float32))
    with connect(build([images], Path(folder, "warm"), patch_size=5)) as lemmse:
        for mode in MODES:
            lemmse.reconstruct(np.zeros((16, 16), np.float32), sigma=0.1, mode=mode)
