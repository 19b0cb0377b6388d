"""The mixture of Gaussians of an index: what EM finds, and to which patches it is fitted."""

from dataclasses import fields

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from lemmse.index import build, open_index
from lemmse.index.clustering import cells
from lemmse.index.clustering.mixture import Mixture
from lemmse.index.reading.held_out_view import leave_out
from tests.support.cases import smooth

pytestmark = pytest.mark.slow

WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[0.0, 0.0, 0.0], [6.0, -4.0, 5.0]])
COVARIANCES = np.array(
    [
        [[1.0, 0.6, 0.0], [0.6, 0.5, 0.1], [0.0, 0.1, 0.3]],
        [[0.2, 0.0, -0.1], [0.0, 0.8, 0.2], [-0.1, 0.2, 0.4]],
    ]
)


def sample(count, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    which = rng.choice(2, count, p=WEIGHTS)
    root = np.linalg.cholesky(COVARIANCES)
    points = MEANS[which] + np.einsum("nij,nj->ni", root[which], rng.standard_normal((count, 3)))
    return points.astype(np.float32)


def covariances(mixture) -> np.ndarray:
    """Σ of each Gaussian, (G, P, P), in float64."""
    axes = mixture.axes.astype(np.float64)
    return np.einsum("gpr,gr,gqr->gpq", axes, mixture.variances.astype(np.float64), axes)


def log_likelihood(points, weights, means, covariances) -> float:
    """Mean over the points, by the definition."""
    densities = []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        d = points.astype(np.float64) - mean
        squared = (d * np.linalg.solve(covariance, d.T).T).sum(axis=1)
        log_p = -0.5 * (squared + np.linalg.slogdet(2 * np.pi * covariance)[1])
        densities.append(np.log(weight) + log_p)
    return float(np.logaddexp.reduce(densities).mean())


def assert_sound(mixture) -> None:
    assert {getattr(mixture, field.name).dtype for field in fields(Mixture)} == {np.dtype(np.float32)}
    assert mixture.weights.sum() == pytest.approx(1, abs=1e-5)
    assert (mixture.weights > 0).all()
    assert (mixture.variances > 0).all()
    gram = np.einsum("gpr,gps->grs", mixture.axes, mixture.axes)
    np.testing.assert_allclose(gram, np.tile(np.eye(gram.shape[1]), (len(gram), 1, 1)), atol=1e-5)
    assert np.isfinite(mixture.means).all()


def assert_equal(one, other) -> None:
    for field in fields(Mixture):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def index_of(folder, images, **options):
    sources = []
    folder.mkdir(exist_ok=True)
    for k, image in enumerate(images):
        sources.append(folder / f"{k}.npy")
        np.save(sources[-1], image[None])
    return open_index(build(sources, folder / "index", patch_size=3, **options))


def test_two_gaussians_that_are_far_apart_are_found():
    count = 20_000
    found = Mixture.fit(sample(count), components=2, seed=0)
    assert_sound(found)
    order = np.argsort(found.weights)
    # Five standard deviations of what a sample of that size tells.
    n = count * WEIGHTS
    np.testing.assert_allclose(found.weights[order], WEIGHTS, atol=5 * np.sqrt(0.3 * 0.7 / count))
    for g, mean, covariance, size in zip(order, MEANS, COVARIANCES, n, strict=True):
        variances = np.diag(covariance)
        assert (np.abs(found.means[g] - mean) <= 5 * np.sqrt(variances / size)).all()
        spread = np.sqrt((np.outer(variances, variances) + covariance**2) / size)
        assert (np.abs(covariances(found)[g] - covariance) <= 5 * spread).all()


def test_axes_are_those_of_the_covariance_and_variances_those_along_them():
    found = Mixture.fit(sample(5000)[:, :2], components=1, seed=0)
    points = sample(5000)[:, :2].astype(np.float64)
    np.testing.assert_allclose(found.means[0], points.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(covariances(found)[0], np.cov(points.T, bias=True), atol=2e-5)
    assert_sound(found)


def overlapping(seed) -> np.ndarray:
    """Five Gaussians in two coordinates that no clustering tells apart."""
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((5, 2, 2)) * 0.2
    which = rng.integers(5, size=3000)
    noise = rng.standard_normal((3000, 2))
    points = rng.random((5, 2))[which] + np.einsum("nij,nj->ni", roots[which], noise)
    return points.astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_fits_better_than_the_cells_it_starts_from_and_than_one_gaussian(seed):
    points = overlapping(seed)
    one, five = (Mixture.fit(points, components=count, seed=0) for count in (1, 5))
    assert_sound(five)
    reached = log_likelihood(points, five.weights, five.means, covariances(five))
    assert reached > log_likelihood(points, one.weights, one.means, covariances(one)) + 0.01
    cell = cells.nearest(points, cells.fit(points[: 5 * cells.SAMPLE_PER_CELL], 5, seed=0))
    parts = [points[cell == g].astype(np.float64) for g in range(5)]
    hard = (
        [len(part) / len(points) for part in parts],
        [part.mean(axis=0) for part in parts],
        [np.cov(part.T, bias=True) + 1e-5 * np.eye(2) for part in parts],
    )
    assert reached > log_likelihood(points, *hard)


def test_tells_how_far_it_is():
    told = []
    Mixture.fit(sample(500), components=2, seed=0, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, len(told) - 1) for done in range(len(told))]
    assert len(told) > 1


def test_the_same_seed_gives_the_same_mixture(tmp_path):
    images = [smooth(seed, 24, 24, 1) for seed in range(4)]
    one, other = (index_of(tmp_path / name, images, seed=3).mixture for name in "ab")
    assert len(one.weights) > 10
    assert_equal(one, other)
    third = index_of(tmp_path / "c", images, seed=4).mixture
    assert not np.array_equal(one.means, third.means)


def test_an_index_has_the_mixture_of_its_patches(tmp_path):
    """Mean and covariance of a mixture that EM fitted are those of its sample, here all patches."""
    index = index_of(tmp_path, [smooth(seed, 12, 12, 3) for seed in range(6)])
    mixture = index.mixture
    assert_sound(mixture)
    assert len(mixture.weights) == index.manifest.gaussians > 1
    assert mixture.means.shape == mixture.variances.shape == (index.manifest.gaussians, 27)
    weights = mixture.weights.astype(np.float64)
    mean = weights @ mixture.means
    apart = mixture.means - mean
    covariance = np.einsum("g,gpq->pq", weights, covariances(mixture)) + (weights * apart.T) @ apart
    keys = index.keys(0, index.manifest.distinct).repeat(index.multiplicity, axis=0).astype(np.float64)
    np.testing.assert_allclose(mean, keys.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(covariance, np.cov(keys.T, bias=True), atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_offset_leaves_out_the_constants(tmp_path, channels):
    index = index_of(tmp_path, [smooth(k, 12, 12, channels) for k in range(4)], equivariance="offset")
    mixture = index.mixture
    assert_sound(mixture)
    assert mixture.axes.shape[1:] == (9 * channels, 8 * channels)
    constants = np.tile(np.eye(channels), (9, 1))
    np.testing.assert_allclose(mixture.means @ constants, 0, atol=1e-5)
    np.testing.assert_allclose(np.einsum("gpr,pc->grc", mixture.axes, constants), 0, atol=1e-5)


@pytest.mark.parametrize("equivariance", ["none", "offset"])
@pytest.mark.parametrize("values", [(0.5,), (0.0, 0.5, 1.0)])
def test_equal_patches(tmp_path, values, equivariance):
    images = [np.full((20, 20, 1), value, np.float32) for value in values]
    index = index_of(tmp_path, images, equivariance=equivariance)
    assert index.manifest.gaussians >= 1
    assert_sound(index.mixture)
    keys = index.keys(0, index.manifest.distinct)
    nearest = np.abs(index.mixture.means[:, None] - keys).max(axis=2).min(axis=1)
    np.testing.assert_allclose(nearest, 0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"equivariance": "offset"}, {"augment": "dihedral"}, {"boundary": "valid"}],
    ids=["plain", "offset", "dihedral", "valid"],
)
def test_without_some_images_it_is_that_of_the_others(tmp_path, options):
    images = [smooth(seed, 12, 12, 1) for seed in range(5)]
    whole = index_of(tmp_path / "whole", images, **options)
    left = [image for k, image in enumerate(images) if k not in (1, 3)]
    fresh = index_of(tmp_path / "fresh", left, **options)
    found = leave_out(whole, np.array([1, 3])).mixture
    assert_equal(found, fresh.mixture)
    assert not np.array_equal(found.weights, whole.mixture.weights)


def test_without_one_image_of_many_it_stays(tmp_path):
    whole = index_of(tmp_path, [smooth(seed, 4, 4, 1) for seed in range(50)])
    assert leave_out(whole, np.array([7])).mixture is whole.mixture
    assert leave_out(whole, np.array([7, 8])).mixture is not whole.mixture


@pytest.mark.parametrize(
    ("physics", "pre_inverse"),
    [
        ("blur:gaussian:0.6", "identity"),
        ("blur:gaussian:0.6", "wiener:0.1"),
        ("inpaint:center:2", "mask"),
        ("inpaint:center:2", "identity"),
    ],
)
def test_patches_of_other_problems_have_none(tmp_path, physics, pre_inverse):
    images = [smooth(seed, 8, 8, 1) for seed in range(2)]
    index = index_of(tmp_path, images, physics=physics, pre_inverse=pre_inverse)
    assert (index.manifest.gaussians, index.mixture) == (0, None)
    assert leave_out(index, np.array([0])).mixture is None


def test_products_of_the_fit_use_one_thread():
    """Threads of a BLAS that wait for the next small product hold the cores of others."""

    def threads():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    during = []
    patches = np.random.default_rng(0).random((100, 9), np.float32)
    with threadpool_limits(2, user_api="blas"):
        Mixture.fit(patches, components=2, seed=0, progress=lambda done, total: during.append(threads()))
        assert during[1:] == [{1}] * 6
        assert threads() == {2}
