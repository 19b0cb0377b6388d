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
    clean = index.strata.whiten(local.patches(image, n), 0)
    return torch.from_numpy(clean + noise * np.random.default_rng(seed).standard_normal(clean.shape)).float()


def distances(local, u: torch.Tensor) -> np.ndarray:
    """From each query to the nearest key of each leaf, (Q, L), in float64."""
    v = local.keys.coordinates(0, local.keys.count).T.double()
    of_keys = torch.cdist(u.double(), v, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return np.minimum.reduceat(of_keys, local.key_tree.tree.leaf_keys[:-1], axis=1)


def scanned(local, u: torch.Tensor, distance: float) -> np.ndarray:
    """Leaves in which a scan of all cells finds a key that may be within a distance, (Q, L)."""
    key_tree = local.key_tree
    tree, sketches, scan = key_tree.tree, key_tree.sketches, allocate_scan()
    patches = as_patches(Queries.white(u, 1.0), key_tree)
    words = np.zeros((1, 1, int(np.diff(tree.cell_blocks).max())), np.uint32)
    found = np.zeros((len(u), len(tree.leaf_keys) - 1), bool)
    for q in range(len(u)):
        for cell, (first, end) in enumerate(pairwise(tree.cell_leaves.tolist())):
            radius = np.float32(distance)
            any_found = scan_cell(radius, cell, patches, q, tree, sketches, scan, words, 0, 0)
            bits = np.unpackbits(words[0, 0].view(np.uint8), bitorder="little")[: end - first]
            assert any_found == bits.any()
            found[q, first:end] = bits
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
    patches, scan = as_patches(Queries.white(u, 1.0), key_tree), allocate_scan()
    for q in range(len(u)):
        for number, (first, size) in enumerate(zip(tree.cells.first, tree.cells.size, strict=True)):
            bits = int(cells_within(np.float32(distance), number, patches, q, key_tree.sketches, scan))
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


@pytest.mark.parametrize("instruction", ["avx512vnni", "avx2", "none"])
def test_products_of_bytes_are_those_of_integers(monkeypatch, instruction):
    if instruction != "none" and not llvm.get_host_cpu_features().get(instruction):
        pytest.skip("this processor has no such instruction")
    monkeypatch.setattr(byte_products, "INSTRUCTION", instruction)
    rng = np.random.default_rng(0)
    keys, query = rng.integers(0, 256, (2, LANES, 16), np.uint8), rng.integers(-128, 128, 32).astype(np.int8)
    bias = rng.integers(-(2**20), 0, (2, LANES, 1)).astype(np.int32)
    near, more = (
        pack(np.hstack([own_bias, own.view(np.int32)])).reshape(-1)
        for own_bias, own in zip(bias, keys, strict=True)
    )

    @numba.njit
    def lanes(near, more, a, shift, limit):
        first = byte_products.near_lanes(near, 0, a[0], a[1], a[2], a[3], shift, limit)
        return first, byte_products.nearer_lanes(
            near, 0, more, 0, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], shift, limit
        )

    products = np.einsum("lkc,lc->lk", keys.astype(int), query.astype(int).reshape(2, 16))
    for shift in (0, 3):
        first = (products[0] << shift) + bias[0, :, 0]
        both = (products.sum(axis=0) << shift) + bias[1, :, 0]
        for limit in (int(np.median(first)), int(np.median(both)), int(both.max())):
            found = lanes(near, more, query.view(np.int32), np.int32(shift), np.int32(limit))
            for bits, total in zip(found, (first, both), strict=True):
                assert [int(bits) >> k & 1 for k in range(LANES)] == (total > limit).astype(int).tolist()


@pytest.mark.parametrize("sigma", [0.001, 0.01, 0.05])
def test_low_noise_agrees_with_all_keys(local, sigma):
    queries = Queries.white(queries_of(local, 91, sigma, np.arange(256)), sigma)
    exact = exact_sums(local.keys, queries).posterior(local.keys.t_length).mean.numpy()
    sums = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=-6.0))
    assert agreement(sums.posterior(local.keys.t_length).mean.numpy(), exact) >= 60
