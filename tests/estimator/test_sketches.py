"""Sketches of keys: none that may be near is ever ruled out, and few of the others are not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.estimator import Queries, SumSpec, exact_sums, hybrid_sums
from lemmse.estimator.hybrid.leaf_sums import allocate_scratch
from lemmse.estimator.hybrid.posterior import as_patches
from lemmse.estimator.hybrid.sketch_bounds import may_be_nearer
from lemmse.estimator.local import LocalBackend
from lemmse.index import build, open_index
from lemmse.index.clustering.sketches import SKETCHED
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


def ruled_out(local, u: torch.Tensor, distance: float) -> np.ndarray:
    """Leaves that the sketches say have no key nearer than a distance, (Q, L)."""
    key_tree = local.key_tree
    patches = as_patches(Queries.white(u, 1.0), key_tree)
    scratch = allocate_scratch(key_tree.key_arrays, patches.steps.shape[1])
    leaves = range(len(key_tree.tree.leaf_keys) - 1)
    return np.array(
        [
            [
                not may_be_nearer(np.float32(distance), leaf, patches, q, key_tree.sketches, scratch)
                for leaf in leaves
            ]
            for q in range(len(u))
        ]
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.sampled_from([0.0, 1e-3, 0.03, 0.3, 3.0]),
    share=st.floats(0.01, 1.0),
)
def test_no_leaf_with_a_nearer_key_is_ruled_out(local, seed, noise, share):
    u = queries_of(local, seed % 10, noise, np.random.default_rng(seed).integers(0, 256, 3))
    nearest = distances(local, u)
    distance = float(np.quantile(nearest, share)) + 1e-3
    out = ruled_out(local, u, distance)
    assert not (out & (nearest < distance - 1e-5)).any()


def test_most_leaves_beyond_the_nearest_are_ruled_out(local):
    u = queries_of(local, 90, 0.0, np.arange(0, 256, 9))
    nearest = distances(local, u)
    far, out = 0, 0
    for q in range(len(u)):
        distance = nearest[q].min() * 1.05 + 1e-3
        beyond = nearest[q] > 2 * distance
        far += beyond.sum()
        out += ruled_out(local, u[q : q + 1], distance)[0, beyond].sum()
    assert out > 0.9 * far > 0


def test_steps_and_their_error_are_what_the_keys_are(local):
    """Each key's leading coordinates are within `off` of what its sketch says, and its norm is the rest's."""
    sketch, leaf_keys = local.index.sketch, local.key_tree.tree.leaf_keys
    v = local.index.basis.rotate(local.keys.coordinates(0, local.keys.count).T.numpy())
    count, leading = len(v), min(SKETCHED, v.shape[1])
    assert sketch.centre.shape[1] == leading
    leaf = np.repeat(np.arange(len(leaf_keys) - 1), np.diff(leaf_keys))
    seen = sketch.centre[leaf] + sketch.step[leaf][:, None] * sketch.steps.rows(0, count)
    off = np.linalg.norm(v[:, :leading] - seen, axis=1)
    rounding = 2e-6
    assert (off <= sketch.off[leaf] + rounding).all()
    assert (sketch.off <= 0.51 * sketch.step * leading**0.5).all()
    rest = np.linalg.norm(v[:, leading:], axis=1)
    np.testing.assert_allclose(sketch.rest.rows(0, count)[:, 0], rest, atol=rounding + 1e-5)


@pytest.mark.parametrize(("colours", "p"), [(1, 5), (3, 3)])
def test_keys_of_few_bytes_have_none(tmp_path, colours, p):
    images = np.rint(255 * smooth(0, 16, 16, colours)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images[None])
    assert open_index(build([tmp_path / "images.npy"], tmp_path / "index", patch_size=p)).sketch is None


@pytest.mark.parametrize("sigma", [0.001, 0.01, 0.05])
def test_low_noise_agrees_with_all_keys(local, sigma):
    queries = Queries.white(queries_of(local, 91, sigma, np.arange(256)), sigma)
    exact = exact_sums(local.keys, queries).posterior(local.keys.t_length).mean.numpy()
    sums = hybrid_sums(local.key_tree, queries, SumSpec("hybrid", threshold=-6.0))
    assert agreement(sums.posterior(local.keys.t_length).mean.numpy(), exact) >= 60
