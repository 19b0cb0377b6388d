"""Correlated noise of a known spectrum: the posterior of the dense covariance, in every mode."""

import numpy as np
import pytest

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index, update
from lemmse.index.building import remove
from tests.support.cases import smooth
from tests.support.oracle import agreement, coloured_oracle, noise_covariance
from tests.support.problem_oracle import convolution_matrix, problem_oracle
from tests.support.quality_oracle import quality_oracle

P = 3
MAPS = ("variance", "ess", "log_density")

pytestmark = pytest.mark.usefixtures("topk_is_searched")


def rows(height: int, width: int) -> np.ndarray:
    """Power of white noise and, with three times the variance, noise that is equal along each row."""
    power = np.ones((height, width))
    power[:, 0] += 3 * width
    return power / power.mean()


def grain(height: int, width: int) -> np.ndarray:
    """Power of white noise after a small blur."""
    kernel = np.zeros((height, width))
    kernel[:2, :2] = [[4, 2], [1, 1]]
    power = np.abs(np.fft.fft2(kernel)) ** 2
    return power / power.mean()


def index_of(folder, training, power, **options):
    """An index of training images for noise of a power (h, w) or (h, w, C)."""
    for k, x in enumerate(training):
        np.save(folder / f"x{k}.npy", x[None])
    if power.ndim == 2:
        np.save(folder / "noise.npy", power)
    else:
        np.savez(folder / "noise.npz", spectrum=power, other=np.ones(3))
    noise = folder / ("noise.npy" if power.ndim == 2 else "noise.npz")
    sources = [folder / f"x{k}.npy" for k in range(len(training))]
    built = build(sources, folder / "index", **({"patch_size": P, "noise": noise} | options))
    noise.unlink()  # an index needs no other file
    return open_index(built)


def images(*shapes) -> list[np.ndarray]:
    return [smooth(seed, *shape) for seed, shape in enumerate(shapes)]


def float64(training) -> list[np.ndarray]:
    return [x.astype(float) for x in training]


GREY = images((6, 7, 1), (8, 5, 1), (5, 5, 1))
COLOUR = images((5, 6, 3), (6, 6, 3))
CASES = {
    "rows": (GREY, rows(8, 9), 1),
    "grain": (GREY, grain(7, 16), 1),
    "channels": (COLOUR, np.stack([rows(8, 8), 0.2 * grain(8, 8), np.full((8, 8), 3.0)], axis=2), 3),
    "colour of one spectrum": (COLOUR, rows(5, 5), 3),
}


class Case:
    def __init__(self, name, folder, **options):
        self.training, power, channels = CASES[name]
        self.lemmse = Reconstructor(index_of(folder, self.training, power, **options), device="cpu")
        power = np.broadcast_to(power if power.ndim == 3 else power[..., None], (*power.shape[:2], channels))
        self.power = power / power.mean()
        self.y = smooth(50, 4, 5, channels) + 0.1 * np.random.default_rng(1).standard_normal((4, 5, channels))

    def expected(self, sigma):
        return coloured_oracle(float64(self.training), self.y, sigma, P, self.power)

    def refined(self, sigma, **setting):
        index = self.lemmse.index
        return quality_oracle(
            float64(self.training),
            self.y,
            np.full(self.y.shape, sigma),
            P,
            mixture=index.mixture,
            noise_covariance=noise_covariance(self.power, (P, P)),
            equivariance=index.manifest.equivariance,
            **setting,
        )


@pytest.fixture(params=CASES, scope="module")
def case(request, tmp_path_factory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("index"))


@pytest.mark.parametrize("sigma", [0.02, 0.2, 1.0])
def test_every_mode_agrees_with_the_dense_covariance(case, sigma):
    expected = case.expected(sigma)
    slack = 1e-4 + 1e-6 / sigma**2
    for options in ({"mode": "exact"}, {"mode": "topk", "k": 10**6}):
        found = case.lemmse.reconstruct(case.y, sigma=sigma, maps=MAPS, **options)
        assert agreement(found.image, expected.image) >= 80
        np.testing.assert_allclose(found.ess, expected.ess, rtol=10 * slack)
        np.testing.assert_allclose(found.variance, expected.variance, rtol=10 * slack, atol=1e-5)
        np.testing.assert_allclose(found.log_density, expected.log_density, rtol=1e-4, atol=10 * slack)
    found = case.lemmse.reconstruct(case.y, sigma=sigma, mode="hybrid", accuracy_db=120, maps=["error"])
    assert found.diagnostics.mode == "hybrid"
    assert agreement(found.image, expected.image) >= 80


REFINEMENTS = {
    "overlap": {"aggregate": "overlap"},
    "bandwidth": {"bandwidth": 0.05},
    "Gaussians": {"gaussian_share": 0.3},
    "all": {"aggregate": "overlap", "gaussian_share": 0.3, "bandwidth": 0.05},
}


@pytest.mark.parametrize("setting", REFINEMENTS.values(), ids=REFINEMENTS)
def test_refinements_are_the_posterior_of_their_models(case, setting):
    for sigma in (0.02, 0.2):
        slack = 1e-4 + 1e-6 / sigma**2
        expected = case.refined(sigma, **setting)
        for options in ({"mode": "exact"}, {"mode": "topk", "k": 10**6}):
            found = case.lemmse.reconstruct(case.y, sigma=sigma, maps=MAPS, **options, **setting)
            assert agreement(found.image, expected.image) >= 80
            np.testing.assert_allclose(found.variance, expected.variance, rtol=10 * slack, atol=1e-5)
            np.testing.assert_allclose(found.ess, expected.ess, rtol=10 * slack)
            np.testing.assert_allclose(found.log_density, expected.log_density, rtol=1e-4, atol=10 * slack)
        found = case.lemmse.reconstruct(case.y, sigma=sigma, mode="hybrid", accuracy_db=120, **setting)
        assert found.diagnostics.mode == "hybrid"
        assert agreement(found.image, expected.image) >= 80


def test_refinements_of_patches_without_their_level(tmp_path):
    case = Case("channels", tmp_path, equivariance="offset")
    for name, setting in REFINEMENTS.items():
        expected = case.refined(0.1, **setting)
        for mode in ("exact", "hybrid"):
            found = case.lemmse.reconstruct(
                case.y, sigma=0.1, mode=mode, accuracy_db=120, maps=["variance"], **setting
            )
            assert agreement(found.image, expected.image) >= 80, name
            np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-2, atol=2e-5)


def test_explain_names_the_heaviest_patches(case):
    expected = case.expected(0.1)
    weights = dict(zip(expected.ids, expected.weights[1, 2], strict=True))
    named = case.lemmse.explain(case.y, sigma=0.1, pixel=(1, 2), top=5).contributors
    np.testing.assert_allclose(
        [c.weight for c in named], sorted(weights.values(), reverse=True)[: len(named)], rtol=1e-2, atol=1e-9
    )
    for c in named:
        assert c.weight == pytest.approx(weights[c.image, c.row, c.column], rel=1e-2, abs=1e-9)


def test_a_flat_spectrum_is_white_noise(tmp_path):
    (tmp_path / "white").mkdir()
    flat = index_of(tmp_path, GREY, np.full((6, 4), 7.0))
    white = index_of(tmp_path / "white", GREY, np.ones((6, 4)), noise=None)
    y = smooth(51, 4, 5, 1)
    answers = [Reconstructor(one, device="cpu").reconstruct(y, sigma=0.2, maps=MAPS) for one in (flat, white)]
    for name in ("image", *MAPS):
        np.testing.assert_allclose(*(getattr(answer, name) for answer in answers), rtol=1e-4, atol=1e-6)


def test_the_level_of_a_patch_is_found_by_generalized_least_squares(tmp_path):
    training, power, _ = CASES["rows"]
    index = index_of(tmp_path, training, power, equivariance="offset")
    y = smooth(52, 4, 5, 1) + 0.3
    expected = coloured_oracle(float64(training), y, 0.1, P, power[..., None], offset=True)
    for mode in ("exact", "hybrid"):
        found = Reconstructor(index, device="cpu").reconstruct(y, sigma=0.1, mode=mode, accuracy_db=120)
        assert agreement(found.image, expected.image) >= 80


def test_a_pre_inverse_filters_the_noise(tmp_path):
    shape = (6, 6, 1)
    training = images(*[shape] * 3)
    kernel = np.array([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]])
    np.save(tmp_path / "kernel.npy", kernel)
    problem = {"physics": f"blur:{tmp_path / 'kernel.npy'}", "pre_inverse": "wiener:0.1"}
    index = index_of(tmp_path, training, rows(6, 6), **problem)
    a = convolution_matrix(kernel, shape)
    b = np.linalg.solve(a.T @ a + 0.1 * np.eye(len(a)), a.T)
    values, vectors = np.linalg.eigh(noise_covariance(rows(6, 6)[..., None], (6, 6)))
    y = (a @ smooth(53, *shape).reshape(-1).astype(float)).reshape(shape)
    for sigma in (0.05, 0.5):
        expected = problem_oracle(
            float64(training), y, sigma, P, a, b, root=vectors * np.sqrt(np.maximum(values, 0))
        )
        found = Reconstructor(index, device="cpu").reconstruct(y, sigma=sigma, mode="exact", maps=MAPS)
        assert agreement(found.image, expected.image) >= 80
        np.testing.assert_allclose(found.log_density, expected.log_density, rtol=1e-4, atol=1e-2)


def test_knowing_the_spectrum_gains_decibels(tmp_path):
    training = images(*[(24, 24, 1)] * 6)
    (tmp_path / "white").mkdir()
    coloured = index_of(tmp_path, training, rows(24, 24), patch_size=5)
    white = index_of(tmp_path / "white", training, rows(24, 24), noise=None, patch_size=5)
    known, unknown = (Reconstructor(one, device="cpu") for one in (coloured, white))
    rng, gains = np.random.default_rng(2), []
    for x in training:
        y = x + 0.3 * coloured.problem.sample_noise(x.shape, rng)
        found = [agreement(one.reconstruct(y, sigma=0.3).image, x) for one in (known, unknown)]
        gains.append(found[0] - found[1])
    assert np.mean(gains) > 3


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Reconstructor:
    return Reconstructor(index_of(tmp_path_factory.mktemp("coloured"), GREY, rows(8, 8)), device="cpu")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sigma": np.full((6, 5), 0.1)}, "sigma: a noise map .* needs an index .* with correlated noise$"),
        ({"mask": np.eye(6, 5)}, "mask: a noise map or a mask .* needs .* with correlated noise$"),
        ({"estimator": "mmse"}, "estimator: expected le-mmse for an index of correlated noise, got mmse$"),
        (
            {"estimator": "e-mmse"},
            "estimator: expected le-mmse for an index of correlated noise, got e-mmse$",
        ),
    ],
)
def test_what_needs_white_noise_is_refused(coloured, asked, message):
    with pytest.raises(InvalidArgument, match=f"^{message}"):
        coloured.reconstruct(smooth(54, 6, 5, 1), **({"sigma": 0.1} | asked))


def test_the_estimate_of_sigma_and_its_error_are_right(tmp_path):
    """Also where channels have noise of different variance, of which σ² is the mean."""
    power = np.stack([rows(16, 16), 3 * grain(16, 16)], axis=2)
    training = [smooth(k, 16, 16, 2) for k in range(8)]
    lemmse = Reconstructor(index_of(tmp_path, training, power), device="cpu")
    rng, found = np.random.default_rng(3), []
    for k in range(8):
        x = smooth(60 + k, 32, 32, 2)
        y = x + 0.2 * lemmse.index.problem.sample_noise(x.shape, rng)
        estimate = lemmse.estimate_noise(Measurement.checked(y, sigma="auto", mask=None))
        ((sigma,), (error,)) = estimate.sigma, estimate.sigma_error
        found.append((sigma / 0.2 - 1, error / 0.2))
    off, error = np.array(found).T
    assert np.sqrt(np.square(off).mean()) < 0.08
    # The error does not know that patches of a row share noise even if they do not overlap.
    assert 0.4 < np.sqrt(np.square(off / error).mean()) < 2.2
    result = lemmse.reconstruct(y, sigma="auto")
    assert result.diagnostics.sigma == estimate.sigma
    np.testing.assert_array_equal(result.image, lemmse.reconstruct(y, sigma=sigma).image)
    holes = Measurement.checked(y, sigma="auto", mask=rng.random((32, 32)) < 0.7)
    with pytest.raises(InvalidArgument, match=r"^mask: .* with correlated noise$"):
        lemmse.estimate_noise(holes)
    counts = Measurement.checked(y, sigma=0.1, mask=None, noise="poisson-gaussian", gain=0.1)
    with pytest.raises(
        InvalidArgument, match=r"^noise: poisson-gaussian noise needs .* with correlated noise$"
    ):
        lemmse.answer(counts, Options())


def test_an_index_without_gaussians_says_so(tmp_path):
    """As one that was built before those of correlated noise had any; here patches are nothing but level."""
    index = index_of(tmp_path, GREY, rows(8, 8), patch_size=1, equivariance="offset")
    lemmse, y = Reconstructor(index, device="cpu"), smooth(56, 4, 5, 1)
    assert index.manifest.gaussians == 0
    for asked in ({"sigma": "auto"}, {"sigma": 0.1, "gaussian_share": 0.5}):
        with pytest.raises(InvalidArgument, match=r"Gaussians.* one of shorter patches, or built again, may"):
            lemmse.reconstruct(y, **asked)
    np.testing.assert_allclose(lemmse.reconstruct(y, sigma=0.1, aggregate="overlap").image, y, atol=1e-5)


def test_an_update_and_a_removal_keep_the_noise(tmp_path):
    index = index_of(tmp_path, GREY[:2], rows(8, 9))
    np.save(tmp_path / "more.npy", GREY[2][None])
    y = smooth(55, 4, 5, 1)

    def answer():
        return Reconstructor(open_index(tmp_path / "index"), device="cpu").reconstruct(
            y, sigma=0.1, mode="exact"
        )

    update([tmp_path / "more.npy"], tmp_path / "index")
    every = answer()
    assert (
        agreement(every.image, coloured_oracle(float64(GREY), y, 0.1, P, rows(8, 9)[..., None]).image) >= 80
    )
    for options in ({}, {"refit": True}):
        remove(["x1.npy"] if not options else [], tmp_path / "index", **options)
        left = coloured_oracle(float64([GREY[0], GREY[2]]), y, 0.1, P, rows(8, 9)[..., None])
        assert agreement(answer().image, left.image) >= 80
    assert (
        open_index(tmp_path / "index").manifest.noise == index.manifest.noise == str(tmp_path / "noise.npy")
    )
