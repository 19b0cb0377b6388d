"""Offset equivariance: keys, queries and targets without their level, against the definition in float64."""

import math

import numpy as np
import pytest
import torch

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator import Outputs, Queries, Reconstructor, SumSpec, exact_sums, load_keys
from lemmse.index import build, open_index
from tests.support.cases import smooth
from tests.support.oracle import Oracle
from tests.support.problem_oracle import convolution_matrix, patch_indices

pytestmark = pytest.mark.slow

P = 3
KERNEL = np.array([[0.0, 0.1, 0.0], [0.1, 0.5, 0.1], [0.0, 0.2, 0.0]])
PROBLEMS = {
    "white": ("identity", "identity"),
    "blur": ("blur", "identity"),
    "blur, wiener": ("blur", "wiener:0.1"),
}
SHAPES = [(6, 5, 1), (5, 5, 3)]


def operators(name, shape) -> tuple[np.ndarray, np.ndarray]:
    """A and B as matrices."""
    physics, pre_inverse = PROBLEMS[name]
    one = np.eye(math.prod(shape))
    a = convolution_matrix(KERNEL, shape) if physics == "blur" else one
    b = np.linalg.solve(a.T @ a + 0.1 * one, a.T) if pre_inverse != "identity" else one
    return a, b


def offset_oracle(training, y, sigma, a, b) -> Oracle:
    """Weights of the patch less its level, least squares under the noise's covariance; targets likewise."""
    shape = y.shape
    channels = shape[2]
    positions = list(np.ndindex(shape[:2]))
    rows = [patch_indices(shape, i, j, P) for i, j in positions]
    q = b[rows[0]]
    s = q @ q.T
    response = (b @ a @ np.ones(y.size))[rows[0]]
    e = np.stack([response * (np.arange(len(response)) % channels == c) for c in range(channels)], axis=1)
    level = np.linalg.solve(e.T @ np.linalg.solve(s, e), np.linalg.solve(s, e).T)  # (C, P)
    rest = np.eye(len(s)) - e @ level
    vectors, values, _ = np.linalg.svd(rest @ s @ rest.T)
    rank = len(s) - channels
    white = (vectors[:, :rank] / np.sqrt(values[:rank])).T @ rest
    log_norm = -0.5 * (np.log(values[:rank]).sum() + rank * math.log(2 * math.pi * sigma**2))
    z = b @ y.reshape(-1)
    patches = [
        ((b @ a @ x.reshape(-1))[r], x[m]) for x in training for m, r in zip(positions, rows, strict=True)
    ]
    targets = np.array([t - level @ v for v, t in patches])
    result = Oracle.empty(shape, [(k, *m) for k in range(len(training)) for m in positions])
    for n, pixel in enumerate(positions):
        u = z[rows[n]]
        log_w = np.array([-0.5 * sum((white @ (u - v)) ** 2) / sigma**2 + log_norm for v, _ in patches])
        result.put(pixel, slice(None), log_w, targets + level @ u)
    return result


def training(shape) -> list[np.ndarray]:
    return [smooth(seed, *shape) for seed in range(4)]


def index_of(folder, images, name="white", **options):
    np.save(folder / "kernel.npy", KERNEL)
    np.save(folder / "x.npy", np.stack(images))
    physics, pre_inverse = PROBLEMS[name]
    options = {"patch_size": P, "equivariance": "offset"} | options
    physics = physics.replace("blur", f"blur:{folder / 'kernel.npy'}")
    built = build([folder / "x.npy"], folder / "index", physics=physics, pre_inverse=pre_inverse, **options)
    return open_index(built)


@pytest.mark.parametrize("shape", SHAPES, ids=["grey", "colour"])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("sigma", [0.03, 0.3])
def test_the_posterior_is_that_of_the_definition(tmp_path, name, shape, sigma):
    index = index_of(tmp_path, training(shape), name)
    a, b = operators(name, shape)
    noise = sigma * np.random.default_rng(3).standard_normal(shape)
    y = (a @ smooth(77, *shape).reshape(-1).astype(float)).reshape(shape) + 0.7 + noise
    expected = offset_oracle([x.astype(float) for x in training(shape)], y, sigma, a, b)
    z = (b @ y.reshape(-1)).reshape(-1)
    u = np.stack([z[patch_indices(shape, i, j, P)] for i, j in np.ndindex(shape[:2])])
    queries = Queries.white(torch.from_numpy(index.strata.whiten(u, 0)), sigma)
    keys = load_keys(index, torch.device("cpu"))
    posterior = exact_sums(keys, queries, SumSpec(outputs=Outputs(variance=True, ess=True))).posterior(
        shape[2]
    )
    found = posterior.mean.numpy().reshape(shape) + index.strata.levels(u, 0).reshape(shape)
    slack = 1e-4 + 1e-6 / sigma**2
    np.testing.assert_allclose(found, expected.image, atol=slack)
    np.testing.assert_allclose(
        posterior.variance.reshape(shape), expected.variance, rtol=10 * slack, atol=1e-6
    )
    np.testing.assert_allclose(posterior.ess.reshape(shape[:2]), expected.ess, rtol=10 * slack)
    maps = Reconstructor(index, device="cpu").reconstruct(y, sigma=sigma, mode="exact", maps=["log_density"])
    np.testing.assert_allclose(maps.log_density, expected.log_density, rtol=1e-4, atol=10 * slack)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_level_has_the_variance_that_it_is_said_to_have(tmp_path, name):
    shape = (8, 8, 3)
    index = index_of(tmp_path, training(shape), name)
    _, b = operators(name, shape)
    q = b[patch_indices(shape, 4, 4, P)]
    of_noise = index.strata.levels(q.T, 0)  # the level is linear: what each pixel of the noise adds
    np.testing.assert_allclose(np.square(of_noise).sum(axis=0), index.strata.level_variance, rtol=1e-9)
    if name == "white":
        np.testing.assert_allclose(index.strata.level_variance, 1 / P**2)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_constant_added_to_the_images_changes_no_key_and_no_target(tmp_path, name):
    images = np.stack(training((6, 5, 3)))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    before = index_of(tmp_path / "a", 0.5 * images, name)
    after = index_of(tmp_path / "b", 0.5 * images + np.float32([0.125, 0.5, 0.25]), name)
    m = before.manifest.keys
    stored = []
    for index in (before, after):
        order = np.lexsort(index.ids(0, m).T[::-1])
        stored.append((index.keys(0, m)[order], index.targets(0, m)[order]))
    for a, b in zip(*stored, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 if name == "blur, wiener" else 3e-7)


def test_keys_have_no_mean_in_any_channel(tmp_path):
    index = index_of(tmp_path, training((6, 5, 3)))
    keys = index.keys(0, index.manifest.distinct).reshape(-1, P * P, 3).astype(float)
    np.testing.assert_allclose(keys.mean(axis=1), 0, atol=6e-8)
    assert index.manifest.equivariance == "offset"
    assert index.strata.rank.tolist() == [P * P * 3 - 3]


def test_equal_pixels_leave_nothing(tmp_path):
    index = index_of(tmp_path, [np.full((4, 4, 1), v, np.float32) for v in (0.1, 0.3, 0.7)])
    assert not index.keys(0, index.manifest.distinct).any()
    assert not index.targets(0, index.manifest.keys).any()


def test_without_offset_there_are_no_levels(tmp_path):
    index = index_of(tmp_path, training((6, 5, 1)), equivariance="none")
    assert index.strata.constants is None
    with pytest.raises(TypeError, match="expected strata whose patches are without their level"):
        index.strata.levels(np.zeros((1, P * P)), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"physics": "inpaint:center:2"},
            r"equivariance: expected physics identity or blur for offset, got 'inpaint:center:2'",
        ),
        (
            {"physics": "inpaint:center:2", "pre_inverse": "mask"},
            r"equivariance: expected physics identity or blur for offset, got 'inpaint:center:2'",
        ),
    ],
)
def test_what_does_not_commute_with_offsets_is_refused(tmp_path, options, message):
    np.save(tmp_path / "x.npy", np.stack(training((6, 5, 1))))
    with pytest.raises(InvalidArgument, match=message):
        build([tmp_path / "x.npy"], tmp_path / "index", patch_size=P, equivariance="offset", **options)
    with pytest.raises(InvalidArgument, match="equivariance: expected one of none, offset, got 'scale'"):
        build([tmp_path / "x.npy"], tmp_path / "index", patch_size=P, equivariance="scale")
