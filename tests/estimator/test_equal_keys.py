"""Equal keys are stored once: every answer is that of the oracle, which knows of no such thing."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lemmse.contract.measurement import Measurement
from lemmse.estimator import Outputs, Queries, Reconstructor, SumSpec, exact_sums, hybrid_sums
from lemmse.estimator.image_queries import WhitenedQueries
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.observation import as_observation
from lemmse.index import build, open_index
from tests.support.cases import constant, smooth
from tests.support.oracle import Oracle, agreement
from tests.support.problem_oracle import problem_oracle

P = 3
SHAPE = (6, 6, 1)
SIGMAS = (0.05, 0.3, 1.0)
MAPS = ("variance", "ess", "log_density")
MODES = ("exact", "topk", "hybrid", "auto")


def flat() -> list[np.ndarray]:
    """Some images of few greys, one with a flat part, and one twice."""
    half = smooth(3, *SHAPE)
    half[:4] = 0.2
    return [constant(v, 6, 6) for v in (0.0, 0.2, 0.2, 0.2, 1.0)] + [
        half,
        smooth(4, *SHAPE),
        smooth(4, *SHAPE),
    ]


def grid() -> np.ndarray:
    mask = np.ones(SHAPE)
    mask[::2, ::2] = 0
    return mask


def alike() -> list[np.ndarray]:
    """Images that differ only where the grid masks them: equal keys of unequal targets."""
    rng = np.random.default_rng(1)
    first, second = smooth(5, *SHAPE), smooth(6, *SHAPE)
    hidden = [np.where(grid() == 0, rng.random(SHAPE), x) for x in (first, first, first, second, second)]
    return [x.astype(np.float32) for x in hidden]


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    training: list[np.ndarray]
    mask: np.ndarray
    clean: np.ndarray
    masked: bool = False

    def measurement(self, sigma: float) -> np.ndarray:
        noise = sigma * np.random.default_rng(3).standard_normal(SHAPE)
        return (self.mask * self.clean + noise).astype(np.float32)

    def expected(self, sigma: float) -> Oracle:
        a = np.diag(self.mask.reshape(-1))
        b = a if self.masked else np.eye(a.shape[0])
        training = [x.astype(float) for x in self.training]
        return problem_oracle(training, self.measurement(sigma).astype(float), sigma, P, a, b)


CASES = [
    Case("flat images", flat(), np.ones(SHAPE), 0.5 * constant(0.3, 6, 6) + 0.5 * smooth(4, *SHAPE)),
    Case("unequal targets", alike(), grid(), smooth(5, *SHAPE), masked=True),
    Case("unequal targets, one stratum", alike(), grid(), smooth(5, *SHAPE)),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def lemmse(case, tmp_path_factory) -> Reconstructor:
    folder = tmp_path_factory.mktemp("equal")
    np.save(folder / "x.npy", np.stack(case.training))
    np.save(folder / "mask.npy", case.mask)
    problem = {"physics": "identity"} if case.mask.all() else {"physics": f"inpaint:{folder / 'mask.npy'}"}
    pre_inverse = "mask" if case.masked else "identity"
    built = build([folder / "x.npy"], folder / "index", patch_size=P, pre_inverse=pre_inverse, **problem)
    return Reconstructor(open_index(built), device="cpu")


def test_the_case_has_equal_keys(case, lemmse):
    manifest = lemmse.index.manifest
    assert manifest.keys == len(case.training) * 36
    assert manifest.distinct < manifest.keys / 1.3
    ids = lemmse.index.ids(0, manifest.keys)
    assert len(np.unique(ids, axis=0)) == len(ids) == manifest.keys
    if case.name != "flat images":
        targets = lemmse.index.targets(0, manifest.keys)
        spread = [
            np.ptp(targets[a:b])
            for a, b in zip(lemmse.index.key_patches, lemmse.index.key_patches[1:], strict=False)
        ]
        assert max(spread) > 0.1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_mean_is_that_of_the_oracle(case, lemmse, sigma, mode):
    result = lemmse.reconstruct(case.measurement(sigma), sigma=sigma, mode=mode, k=10**6, accuracy_db=120)
    assert agreement(result.image, case.expected(sigma).image) >= 80


@pytest.mark.parametrize("mode", ["exact", "topk", "auto"])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_maps_are_those_of_the_oracle(case, lemmse, sigma, mode):
    y, expected = case.measurement(sigma), case.expected(sigma)
    result = lemmse.reconstruct(y, sigma=sigma, mode=mode, k=10**6, maps=MAPS)
    np.testing.assert_allclose(result.variance, expected.variance, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(result.ess, expected.ess, rtol=1e-3)
    np.testing.assert_allclose(result.log_density, expected.log_density, rtol=1e-4, atol=1e-3)
    assert result.diagnostics.keys == lemmse.index.manifest.keys
    assert result.diagnostics.keys_touched <= lemmse.index.manifest.distinct


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_maps_of_hybrid_are_those_of_the_oracle_where_all_is_opened(case, lemmse, sigma):
    local = LocalBackend(lemmse.index, torch.device("cpu"))
    image_queries = WhitenedQueries(
        local, as_observation(Measurement.checked(case.measurement(sigma), sigma=sigma, mask=None), 1)
    )
    spec = SumSpec("hybrid", threshold=-1e4, outputs=Outputs(variance=True, ess=True))
    sums = image_queries.sums(np.arange(36), spec)
    posterior, expected = sums.posterior(1), case.expected(sigma)
    np.testing.assert_allclose(posterior.mean.reshape(SHAPE), expected.image, atol=1e-4)
    np.testing.assert_allclose(posterior.variance.reshape(SHAPE), expected.variance, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(posterior.ess.reshape(6, 6), expected.ess, rtol=1e-3)
    np.testing.assert_allclose(
        posterior.log_density.reshape(6, 6), expected.log_density, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("threshold", [1e4, 0, -3])
def test_every_patch_counts_once_in_groups(case, lemmse, threshold):
    """At overwhelming noise every weight is 1, so that they add up to the number of patches."""
    local = LocalBackend(lemmse.index, torch.device("cpu"))
    for stratum in range(len(lemmse.index.strata)):
        queries = torch.randn(5, P * P, generator=torch.Generator().manual_seed(0))
        outputs = Outputs(ess=True)
        white = Queries.white(queries, 1e4, stratum)
        posterior = hybrid_sums(
            local.key_tree, white, SumSpec("hybrid", threshold=threshold, outputs=outputs)
        ).posterior(1)
        exact = exact_sums(local.keys, white, SumSpec(outputs=outputs)).posterior(1)
        np.testing.assert_allclose(posterior.log_density.exp(), local.extent.weights[stratum], rtol=1e-5)
        np.testing.assert_allclose(exact.log_density.exp(), local.extent.weights[stratum], rtol=1e-5)
        np.testing.assert_allclose(posterior.ess, local.extent.weights[stratum], rtol=1e-4)
        np.testing.assert_allclose(posterior.mean, exact.mean, atol=1e-5)


@pytest.mark.parametrize("accuracy_db", [20, 50])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_certified_error_cannot_be_exceeded(case, lemmse, sigma, accuracy_db):
    asked = {"mode": "hybrid", "accuracy_db": accuracy_db, "maps": ["error"], "error": "certified"}
    result = lemmse.reconstruct(case.measurement(sigma), sigma=sigma, **asked)
    assert (np.abs(result.image - case.expected(sigma).image) <= result.error + 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize("top", [1, 7, 1000])
def test_explain_names_each_patch_on_its_own(case, lemmse, top):
    expected = case.expected(0.3)
    for pixel in ((1, 1), (2, 4)):
        weights = dict(zip(expected.ids, expected.weights[pixel], strict=True))
        heaviest = sorted((w for w in weights.values() if w > 0), reverse=True)[:top]
        named = lemmse.explain(case.measurement(0.3), sigma=0.3, pixel=pixel, top=top).contributors
        assert len({(c.image, c.row, c.column) for c in named}) == len(named) == len(heaviest)
        np.testing.assert_allclose([c.weight for c in named], heaviest, rtol=1e-3)
        for c in named:
            assert c.weight == pytest.approx(weights[c.image, c.row, c.column], rel=1e-3)
            np.testing.assert_array_equal(c.value, case.training[c.image][c.row, c.column])


def test_keys_of_one_hash_that_differ_stay_apart(tmp_path, monkeypatch):
    """A hash that is the same for all keys: only those equal to the first are found, and no key is lost."""
    np.save(tmp_path / "x.npy", np.stack(flat()))
    found = open_index(build([tmp_path / "x.npy"], tmp_path / "found", patch_size=P))
    monkeypatch.setattr(
        "lemmse.index.clustering.distinct._hashes",
        lambda patches, progress: np.zeros(len(patches), np.uint64),
    )
    index = open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=P))
    assert found.manifest.distinct < index.manifest.distinct < index.manifest.keys
    y = smooth(9, *SHAPE)
    expected, result = (Reconstructor(i).reconstruct(y, sigma=0.2, maps=MAPS) for i in (found, index))
    for name in ("image", *MAPS):
        np.testing.assert_allclose(getattr(result, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
