"""The benchmark of the kernel for GPUs, on a few keys; without a GPU in Triton's interpreter."""

import numpy as np
import pytest

from benchmarks import gpu
from lemmse.estimator.fused import FusedKeys
from lemmse.index.images.stack import Images
from tests.support.fused import BLOCKS, DEVICE, GPU


def test_all_methods_agree_with_float64():
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1)).astype(np.float32) / 255
    problem = gpu.Problem.cut(Images.stack(iter(images)), 3, 100, 16, DEVICE)
    assert problem.v.shape == (100, 9)
    row = gpu.measure(problem, FusedKeys(problem.keys, BLOCKS), 0.3, 1)
    assert min(row["fused_db"], row["fused_maps_db"], row["products_db"], row["cdist_db"]) > 90
    assert row["half_db"] > 40
    assert all(row[f"{name}_ms"] > 0 for name in ("fused", "fused_maps", "products", "cdist", "half", "bare"))


@pytest.mark.skipif(GPU, reason="torch sees a GPU")
def test_it_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--source", "x.npy"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "expected a GPU that torch sees" in capsys.readouterr().err
