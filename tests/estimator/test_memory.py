"""Memory that the exact sum needs beside the index, whatever the size of the data."""

import sys
from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.memory import peak_beyond
from lemmse.estimator import Keys, Outputs, Queries, Reconstructor, SumSpec, exact_sums
from lemmse.index import build, open_index

LIMIT = 512 * 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the Linux kernel's accounting")


@pytest.mark.slow
def test_many_keys():
    m, p = 2**17, 75
    v = np.random.default_rng(0).random((m, p), np.float32)
    keys = Keys.of(v, np.ones(m, np.int64), v[:, :3], strata=[0, m], device=torch.device("cpu"))
    queries = Queries.white(torch.from_numpy(v[:4096]), 0.3)
    spec = SumSpec(outputs=Outputs(variance=True, ess=True, top=16))
    assert peak_beyond(partial(exact_sums, keys, queries, spec)) < LIMIT / 4


@pytest.mark.slow
def test_many_queries(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((1, 8, 8, 3)))
    lemmse = Reconstructor(open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=11)))
    y = np.random.default_rng(1).random((700, 700, 3))
    for mode in ("exact", "topk"):
        assert peak_beyond(partial(lemmse.reconstruct, y, sigma=0.1, mode=mode)) < LIMIT
