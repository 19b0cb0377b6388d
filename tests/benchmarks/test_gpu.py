"""The benchmark of the kernel for GPUs, on a few keys; without a GPU in Triton's interpreter."""

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.gpu_counts import counts, kernels
from benchmarks.gpu_images import build_index, hybrid_beside_exact, mosaic
from lemmse.estimator import Reconstructor
from lemmse.estimator.fused import FusedKeys
from lemmse.estimator.fused_hybrid import FusedHybrid
from lemmse.index import open_index
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


def test_keys_that_are_copied_for_each_block(monkeypatch):
    monkeypatch.setattr("lemmse.estimator.key_stream._LEAST_SLICE", 0)
    monkeypatch.setattr("lemmse.estimator.key_stream._PLACES", 0)
    monkeypatch.setattr("lemmse.estimator.key_stream._SHARE", 2)
    monkeypatch.setattr(gpu, "QUERIES", (16, 32))
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1)).astype(np.float32) / 255
    problem = gpu.Problem.cut(Images.stack(iter(images)), 3, 256, 16, DEVICE)
    rows = gpu.streamed(problem, FusedKeys(problem.keys, BLOCKS), 0.3, 0.5, 1)
    assert [row["queries"] for row in rows] == [16, 32]
    for row in rows:
        assert 0 < row["resident_percent"] <= 50
        assert row["slices"] > 1
        assert row["agreement_db"] > 90
        assert min(row["resident_ms"], row["streamed_ms"]) > 0


def test_hybrid_beside_exact(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 1)).astype(np.uint8)
    np.save(tmp_path / "source.npy", images)
    index = build_index(str(tmp_path / "source.npy"), 2, tmp_path)
    lemmse = Reconstructor(open_index(index), device=str(DEVICE))
    assert lemmse.index.manifest.images == 2
    if GPU:  # kernels take long to tune
        backend = lemmse._backend
        backend.fused = FusedKeys(backend.keys, BLOCKS)
        backend.fused_hybrid = FusedHybrid(backend.key_tree, backend.fused, 128)
    clean = mosaic(Images.stack(iter(images.astype(np.float32) / 255)), 8)
    np.testing.assert_array_equal(clean[6:, :6], images[3, :2] / np.float32(255))
    row = hybrid_beside_exact(lemmse, clean, 0.3, 1)
    assert (row["pixels"], row["keys"], row["auto"]) == (64, 72, "exact")
    assert row["agreement_db"] > 50
    assert min(row["exact_s"], row["hybrid_s"], row["auto_s"]) > 0


@pytest.mark.skipif(GPU, reason="torch sees a GPU")
def test_it_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu", "--source", "x.npy"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "expected a GPU that torch sees, or --only counts" in capsys.readouterr().err


@pytest.mark.parametrize(("threshold", "share"), [(-1e6, 100.0), (80.0, None)])
def test_counts_of_hybrid(tmp_path, threshold, share):
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 1)).astype(np.uint8)
    np.save(tmp_path / "x.npy", images)
    index = build_index(str(tmp_path / "x.npy"), 2, tmp_path)
    row = counts(
        Reconstructor(open_index(index), device=str(DEVICE)), images[2] / np.float32(255), 0.3, 5, threshold
    )
    assert row["keys"] == 72
    if share:  # all groups are opened
        assert row["keys_percent"] == share
        assert row["opened"] == row["groups"]
        assert row["decisions"] == row["cells"] + row["groups"]
        assert row["agreement_db"] > 80
    else:  # only the one with the largest estimate of each of up to 16 parts of the cells
        assert 0 < row["keys_percent"] < 100
    assert row["lanes_of_decision"] > 1 < row["lanes_of_key"]
    assert row["but_for_worst_db"] >= row["agreement_db"]


@pytest.mark.slow
def test_times_of_kernels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 1)).astype(np.uint8)
    np.save(tmp_path / "x.npy", images)
    lemmse = Reconstructor(open_index(build_index(str(tmp_path / "x.npy"), 2, tmp_path)), device=str(DEVICE))
    *rows, last = kernels(lemmse, images[2] / np.float32(255), 0.3, 3.0, 1)
    times = [row["ms"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert times[0] > 0 < last["ms"]
    if GPU:
        assert {"close_kernel", "fused_kernel"} <= {row["kernel"] for row in rows}
