"""Sketches of keys and their scan: no key that is near is ever missed, and few others are found."""

from itertools import pairwise

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.estimator import Queries, SumSpec, exact_sums, hybrid_sums
from lemmse.estimator.hybrid import byte_products
from lemmse.estimator.hybrid.leaf_boxes import ZERO, leaf_boxes
from lemmse.estimator.hybrid.posterior import as_patches
from lemmse.estimator.hybrid.scan import allocate_scan, cells_within, scan_cell
from lemmse.estimator.local import LocalBackend
from lemmse.index import build, open_index
from lemmse.index.clustering.sketches import ALL, MIDDLE, NEAR, sketch_points
from lemmse.index.storage.packing import LANES, pack
from tests.support.cases import smooth
from tests.support.oracle import agreement


@pytest.fixture(scope="module", params=["grey", "floats", "offset"])
def local(request, tmp_path_factory):
    """Large keys of a byte, of four and of two for each number, some of them equal."""
    folder = tmp_path_factory.mktemp("sketches")
    colours, p = {"grey": (1, 9), "floats": (3, 3), "offset": (3, 3)}[request.param]
    images = np.stack([smooth(seed, 16, 16, 3)[..., :colours] for seed in range(4)])
    images[0, :8] = 0.25
    if request.param == "floats":
        images *= np.float32(0.9)
    else:
        images = np.rint(255 * images).astype(np.uint8)
    np.save(folder / "images.npy", images)
    offset = {"equivariance": "offset"} if request.param == "offset" else {}
    index = open_index(build([folder / "images.npy"], folder / "index", patch_size=p, **offset))
    assert (
        index.manifest.key_dtype == {"grey": "uint8", "floats": "float32", "offset": "int16"}[request.param]
    )
    return LocalBackend(index, torch.device("cpu"))


def queries_of(local, seed: int, noise: float, n: np.ndarray) -> torch.Tensor:
    """Noisy patches, as keys are stored: without their level where these are."""
    index = local.index
    image = smooth(seed, 16, 16, 3)[..., : index.manifest.channels].astype(np.float64)
    clean = index.strata.whiten(local.patches(image[None], n), 0)
    return torch.from_numpy(clean + noise * np.random.default_rng(seed).standard_normal(clean.shape)).float()


def distances(local, u: torch.Tensor) -> np.ndarray:
    """From each query to the nearest key of each leaf, (Q, L), in float64."""
    v = local.keys.coordinates(0, local.keys.count).T.double()
    of_keys = torch.cdist(u.double(), v, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return np.minimum.reduceat(of_keys, local.key_tree.tree.leaf_keys[:-1], axis=1)


@numba.njit
def compiled_scan_cell(*arguments):
    scan_cell(*arguments)


@numba.njit
def compiled_cells_within(*arguments):
    return cells_within(*arguments)


def scanned(local, u: torch.Tensor, distance: float) -> np.ndarray:
    """Leaves in which a scan of all cells finds a key that may be within a distance, (Q, L)."""
    key_tree, count = local.key_tree, len(u)
    tree, sketches = key_tree.tree, key_tree.sketches
    widest = int(np.diff(tree.cell_blocks).max())
    patches, scan = as_patches(Queries.white(u, 1.0), key_tree), allocate_scan(count, widest)
    radius, queries = np.full(count, distance, np.float32), np.arange(count, dtype=np.int32)
    found = np.zeros((count, len(tree.leaf_keys) - 1), bool)
    for cell, (first, end) in enumerate(pairwise(tree.cell_leaves.tolist())):
        chosen, cells = np.full(count, 6, np.uint32), np.zeros(count, np.uint32)
        words = np.full((count, widest), 2**32 - 1, np.uint32)  # of another cell
        bit = np.uint32(4)
        compiled_scan_cell(radius, cell, patches, queries, chosen, bit, tree, sketches, scan, words, cells)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little", axis=1)[:, : end - first]
        np.testing.assert_array_equal(cells, np.where(bits.any(axis=1), 4, 0))
        found[:, first:end] = bits
    return found


DISTANCES = {"seed": st.integers(0, 2**32 - 1), "noise": st.sampled_from([0.0, 1e-3, 0.03, 0.3, 3.0, 100.0])}


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.01, 1.0), **DISTANCES)
def test_no_leaf_with_a_nearer_key_is_missed(local, seed, noise, share):
    u = queries_of(local, seed % 10, noise, np.random.default_rng(seed).integers(0, 256, 3))
    nearest = distances(local, u)
    distance = float(np.quantile(nearest, share)) * (1 + 1e-6)
    assert not (~scanned(local, u, distance) & (nearest < distance)).any()


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.01, 1.0), **DISTANCES)
def test_no_cell_with_a_nearer_key_is_missed(local, seed, noise, share):
    u = queries_of(local, seed % 10, noise, np.random.default_rng(seed).integers(0, 256, 3))
    key_tree, tree = local.key_tree, local.key_tree.tree
    nearest = np.minimum.reduceat(distances(local, u), tree.cell_leaves[:-1], axis=1)
    distance = float(np.quantile(nearest, share)) * (1 + 1e-6)
    patches, scan = as_patches(Queries.white(u, 1.0), key_tree), allocate_scan(1, 1)
    for q in range(len(u)):
        for number, (first, size) in enumerate(zip(tree.cells.first, tree.cells.size, strict=True)):
            arguments = np.float32(distance), number, patches, q, key_tree.sketches, scan
            bits = int(compiled_cells_within(*arguments))
            missed = [k for k in range(size) if nearest[q, first + k] < distance and not bits >> k & 1]
            assert not missed


def test_most_leaves_beyond_the_nearest_are_ruled_out(local):
    u = queries_of(local, 90, 0.0, np.arange(0, 256, 9))
    nearest = distances(local, u)
    far, out = 0, 0
    for q in range(len(u)):
        distance = nearest[q].min() * 1.05 + 1e-3
        beyond = nearest[q] > 2 * distance
        far += beyond.sum()
        out += (~scanned(local, u[q : q + 1], distance))[0, beyond].sum()
    assert out > 0.9 * far > 0


def test_sketches_are_near_their_points(local):
    """Both levels hold the rounded points of the keys, within `off`, and −½ of their squares, rounded up."""
    sketch, tree = local.index.sketch, local.key_tree.tree
    v = local.index.basis.rotate(local.keys.coordinates(0, local.keys.count).T.numpy())
    count, points = len(v), sketch_points(v)
    leading = min(ALL - 2, v.shape[1])
    columns = [i if i < NEAR - 1 else i + 1 for i in range(leading)]
    np.testing.assert_array_equal(points[:, columns], v[:, :leading])
    for norm, first in ((NEAR - 1, NEAR - 1), (ALL - 1, ALL - 2)):
        np.testing.assert_allclose(points[:, norm], np.linalg.norm(v[:, first:], axis=1), atol=1e-6)
    cell = np.repeat(np.arange(len(sketch.step)), np.diff(tree.leaf_keys[tree.cell_leaves]))
    near, more = (packed.rows(0, count) for packed in (sketch.near, sketch.more))
    steps = np.hstack([near[:, 1:], more[:, 1:]]).copy().view(np.uint8).astype(np.float64) - MIDDLE
    exact = (points - sketch.centre[cell]) / sketch.step[cell].astype(np.float64)
    every = np.arange(ALL)
    for level, (used, half) in enumerate(((every < NEAR, near[:, 0]), (every != NEAR - 1, more[:, 0]))):
        off = np.linalg.norm((exact - steps)[:, used], axis=1)
        assert (off <= sketch.off[cell, level] + 1e-3).all()
        assert (sketch.off[:, level] <= 0.51 * used.sum() ** 0.5).all()
        np.testing.assert_array_equal(half, -np.floor(np.square(steps[:, used]).sum(axis=1) / 2))


def test_boxes_of_leaves_contain_the_points_of_their_keys(local):
    key_tree = local.key_tree
    tree, sketch = key_tree.tree, key_tree.sketch
    points = sketch_points(local.index.basis.rotate(local.keys.coordinates(0, local.keys.count).T.numpy()))
    boxes = np.ascontiguousarray(leaf_boxes(sketch, tree).transpose(0, 3, 2, 1))  # (B, LANES, 2, NEAR / 2)
    corners = boxes.view(np.uint16).astype(np.float64) - ZERO
    low, high = corners[np.arange(LANES) < tree.leaves.size[:, None]].swapaxes(0, 1)  # (L, NEAR)
    cell = np.repeat(np.arange(len(sketch.step)), np.diff(tree.cell_leaves))
    for leaf, (first, end) in enumerate(pairwise(tree.leaf_keys.tolist())):
        own = points[first:end, :NEAR].astype(np.float64) - sketch.centre[cell[leaf], :NEAR]
        near = 1e-4 / max(sketch.step[cell[leaf], 0], 1e-4 / 2**14)  # rounding of float32, in steps
        least, most = own.min(axis=0) / sketch.step[cell[leaf]], own.max(axis=0) / sketch.step[cell[leaf]]
        assert (low[leaf] <= least + near).all()
        assert (high[leaf] >= most - near).all()
        leading = slice(0, min(NEAR - 1, local.keys.p_length))
        assert (low[leaf, leading] >= least[leading] - 1 - near).all()
        assert (high[leaf, leading] <= most[leading] + 1 + near).all()


@pytest.fixture(params=["avx512vnni", "avx2", "none"])
def instruction(request, monkeypatch):
    if request.param != "none" and not llvm.get_host_cpu_features().get(request.param):
        pytest.skip("this processor has no such instruction")
    monkeypatch.setattr(byte_products, "INSTRUCTION", request.param)


@pytest.mark.usefixtures("instruction")
def test_products_of_bytes_are_those_of_integers():
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 256, (2, LANES, NEAR), np.uint8)
    bias = rng.integers(-(2**20), 0, (2, LANES, 1)).astype(np.int32)
    near, more = (
        pack(np.hstack([own_bias, own.view(np.int32)])).reshape(-1)
        for own_bias, own in zip(bias, keys, strict=True)
    )
    codes = rng.integers(-128, 128, (4, 4 * byte_products.ROW)).astype(np.int8)
    queries, shift = codes.view(np.int32), np.array([0, 3, 0, 1])
    first, both = codes[:, :NEAR].astype(int), codes[:, NEAR : NEAR + ALL].astype(int)
    sums = (keys[0] @ first.T).T, (np.concatenate([keys[0], keys[1]], axis=1) @ both.T).T
    sums = [(own << shift[:, None]) + own_bias[:, 0] for own, own_bias in zip(sums, bias, strict=True)]
    queries[:, byte_products.SHIFT] = shift
    queries[:, byte_products.LIMIT] = np.median(sums[0], axis=1)
    queries[2, byte_products.LIMIT] = sums[0][2].max()
    queries[:, byte_products.NEXT_LIMIT] = np.median(sums[1], axis=1)
    own, rows = 0b0111111111111010, np.array([3, 2, 0])

    @numba.njit
    def lists(near, more, queries, place, hits, lanes, next_hits, next_lanes):
        count = byte_products.near_keys(near, place, queries, rows, 3, np.uint32(own), hits, lanes)
        next_hits[:], next_lanes[:] = hits, lanes
        return count, byte_products.nearer_keys(
            near, place, more, place, queries, next_hits, count, next_lanes
        )

    for half in range(2):
        some = slice(half * LANES // 2, (half + 1) * LANES // 2)
        counts = np.array([own >> k & 1 for k in range(LANES // 2)], bool)
        above = counts & (sums[0][:, some] > queries[:, [byte_products.LIMIT]])
        nearer = above & (sums[1][:, some] > queries[:, [byte_products.NEXT_LIMIT]])
        arrays = [np.zeros(4, kind) for kind in (np.int64, np.uint32, np.int64, np.uint32)]
        lengths = lists(near, more, queries, half * LANES // 2, *arrays)
        for length, hits, lanes, expected in zip(
            lengths, arrays[::2], arrays[1::2], (above, nearer), strict=True
        ):
            assert hits[:length].tolist() == [row for row in rows if expected[row].any()]
            bits = [[bits >> k & 1 for k in range(LANES // 2)] for bits in lanes[:length].tolist()]
            assert bits == expected[hits[:length]].astype(int).tolist()


@pytest.mark.usefixtures("instruction")
def test_distances_of_boxes_are_those_of_integers():
    @numba.njit
    def bits(boxes, number, pairs, limit):
        return byte_products.near_boxes(boxes, number, pairs, 0, np.int32(limit))

    rng = np.random.default_rng(0)
    for largest in (2, 127, 1 << 12):
        corners = rng.integers(-largest, largest + 1, (2, 3, LANES, NEAR))
        low, high = corners.min(axis=0), corners.max(axis=0)
        point = rng.integers(-largest, largest + 1, NEAR)
        words = np.stack([low, high], axis=1) + ZERO  # (3, 2, LANES, NEAR)
        boxes = np.ascontiguousarray(words.astype(np.uint16).view(np.int32).transpose(0, 3, 1, 2))
        pairs = (point + ZERO).astype(np.uint16).view(np.int32)
        squares = np.square(np.maximum(0, np.maximum(low - point, point - high))).sum(axis=2)
        for number in range(3):
            for limit in (*np.quantile(squares[number], [0, 0.5], method="lower"), squares.min() - 1):
                near = int(bits(boxes, number, pairs, limit))
                assert [near >> k & 1 for k in range(LANES)] == (squares[number] <= limit).tolist()


@pytest.mark.parametrize("sigma", [0.001, 0.01, 0.05])
def test_low_noise_agrees_with_all_keys(local, sigma):
    queries = Queries.white(queries_of(local, 91, sigma, np.arange(256)), sigma)
    exact = exact_sums(local.keys, queries).posterior(local.keys.t_length).mean.numpy()
    sums = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=-6.0))
    assert agreement(sums.posterior(local.keys.t_length).mean.numpy(), exact) >= 60
