"""Sketches of keys: none that may be near is ever ruled out, and few of the others are not."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.estimator import Queries, exact_sums, hybrid_sums
from lemmse.estimator.hybrid.leaves import scratch_of
from lemmse.estimator.hybrid.sketches import SKETCHED, may_be_nearer
from lemmse.estimator.hybrid.sums import as_patches
from lemmse.estimator.local import Local
from lemmse.index import build, open_index
from tests.estimator.cases import smooth
from tests.oracle import agreement


@pytest.fixture(scope="module", params=[1, 3, 5])
def local(request, tmp_path_factory):
    """Keys of length 3, 27 and 75, of which some, all but few and a third of the coordinates are sketched."""
    folder = tmp_path_factory.mktemp("sketches")
    images = np.stack([smooth(seed, 16, 16, 3) for seed in range(4)])
    images[0, :8] = 0.25  # equal keys
    np.save(folder / "images.npy", images)
    index = open_index(build([folder / "images.npy"], folder / "index", patch_size=request.param))
    return Local(index, torch.device("cpu"))


def distances(local, u: torch.Tensor) -> np.ndarray:
    """From each query to the nearest key of each leaf, (Q, L), in float64."""
    v = local.keys.coordinates(0, local.keys.count).T.double()
    of_keys = torch.cdist(u.double(), v, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    return np.minimum.reduceat(of_keys, local.descent.tree.leaf_keys[:-1], axis=1)


def ruled_out(local, u: torch.Tensor, distance: float) -> np.ndarray:
    """Leaves that the sketches say have no key nearer than a distance, (Q, L)."""
    descent = local.descent
    patches = as_patches(Queries.white(u, 1.0), descent)
    scratch = scratch_of(descent.key_arrays, patches.steps.shape[1])
    leaves = range(len(descent.tree.leaf_keys) - 1)
    return np.array(
        [
            [
                not may_be_nearer(np.float32(distance), leaf, patches, q, descent.sketches, scratch)
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
    rng = np.random.default_rng(seed)
    clean = local.patches(smooth(seed % 10, 16, 16, 3).astype(np.float64), rng.integers(0, 256, 3))
    u = torch.from_numpy((clean + noise * rng.standard_normal(clean.shape)).astype(np.float32))
    nearest = distances(local, u)
    distance = float(np.quantile(nearest, share)) + 1e-3
    out = ruled_out(local, u, distance)
    assert not (out & (nearest < distance - 1e-5)).any()


def test_most_leaves_beyond_the_nearest_are_ruled_out(local):
    u = torch.from_numpy(local.patches(smooth(90, 16, 16, 3).astype(np.float64), np.arange(0, 256, 9)))
    u = u.float()
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
    sketches, leaf_keys = local.descent.sketches, local.descent.tree.leaf_keys
    v = local.descent.basis.rotate(local.keys.coordinates(0, local.keys.count).T.numpy())
    leading = sketches.centre.shape[1]
    assert leading == min(SKETCHED, v.shape[1] - v.shape[1] % 2)
    for leaf, (start, stop) in enumerate(pairwise(leaf_keys)):
        runs = slice(sketches.first[leaf], sketches.first[leaf + 1])
        steps = np.moveaxis(sketches.steps[runs], 1, 2).reshape(-1, leading)[: stop - start]
        seen = sketches.centre[leaf] + sketches.step[leaf] * steps
        off = np.linalg.norm(v[start:stop, :leading] - seen, axis=1)
        assert off.max() <= sketches.off[leaf] + 1e-6
        assert sketches.off[leaf] <= 0.51 * sketches.step[leaf] * leading**0.5
        rest = sketches.rest[runs].reshape(-1)
        np.testing.assert_allclose(
            rest[: stop - start], np.linalg.norm(v[start:stop, leading:], axis=1), atol=1e-5
        )
        assert (rest[stop - start :] > 1e9).all()


@pytest.mark.parametrize("sigma", [0.001, 0.01, 0.05])
def test_low_noise_agrees_with_all_keys(local, sigma):
    rng = np.random.default_rng(5)
    clean = local.patches(smooth(91, 16, 16, 3).astype(np.float64), np.arange(256))
    u = torch.from_numpy((clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32))
    queries = Queries.white(u, sigma)
    exact = exact_sums(local.keys, queries).posterior(3).mean.numpy()
    sums = hybrid_sums(local.descent, queries, threshold=-6.0)
    assert agreement(sums.posterior(3).mean.numpy(), exact) >= 60
