"""Mode auto where times are measured: it is hybrid if that is expected to be faster by a tenth or more."""

import math

import numpy as np
import pytest

from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Outputs, Reconstructor, SumSpec, modes, sampled_calibration
from lemmse.estimator.fused import FusedKeys
from lemmse.estimator.fused_hybrid import FusedHybrid
from lemmse.estimator.image_queries import cut_queries
from lemmse.estimator.observation import Observation
from lemmse.estimator.rate_measurement import measure_times
from lemmse.estimator.rates import LEAST_PIXELS, Times
from lemmse.index import build, open_index
from tests.support.fused import BLOCKS, DEVICE, FEW_THRESHOLDS

SIGMA = 0.25
ALIKE = -4, 50.0, Outputs(variance=True), False
"""What the times of a request for 50 dB at this σ are kept by; the variance is that of the expected error."""
FASTER, SLOWER = Times(1.0, 0.8, 0.0), Times(1.0, 0.95, 0.0)


@pytest.fixture(scope="module")
def y():
    return np.random.default_rng(1).random((4, 4))


@pytest.fixture(scope="module")
def lemmse(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    np.save(folder / "x.npy", np.random.default_rng(0).integers(0, 256, (2, 6, 6)).astype(np.uint8))
    lemmse = Reconstructor(
        open_index(build([folder / "x.npy"], folder / "index", patch_size=3)),
        device=str(DEVICE),
        exact_work=0,
    )
    backend = lemmse._backend
    backend.fused = FusedKeys(backend.keys, BLOCKS)
    backend.fused_hybrid = FusedHybrid(backend.key_tree, backend.fused, 64)
    return lemmse


@pytest.fixture(autouse=True)
def small_images(monkeypatch, lemmse):
    """As if images of some pixels were worth measuring; nothing is measured yet."""
    monkeypatch.setattr(modes, "LEAST_PIXELS", 16)
    monkeypatch.setattr(sampled_calibration, "_THRESHOLDS", FEW_THRESHOLDS)
    lemmse._backend.times.clear()


def test_what_is_expected_to_be_faster():
    times = Times(exact=2.0, hybrid=1.0, calibration=100.0)
    assert not times.favour_hybrid(125)  # 225 seconds, of 250
    assert times.favour_hybrid(126)
    assert not Times(2.0, math.inf, 0.0).favour_hybrid(10**9)
    assert LEAST_PIXELS == 512 * 512


@pytest.mark.parametrize(("times", "mode"), [(FASTER, "hybrid"), (SLOWER, "exact")], ids=["faster", "slower"])
def test_auto_follows_the_times(lemmse, y, times, mode):
    lemmse._backend.times[ALIKE] = times
    assert lemmse.reconstruct(y, sigma=SIGMA).diagnostics.mode == mode
    assert list(lemmse._backend.times) == [ALIKE]  # nothing was measured


@pytest.mark.parametrize(
    "asked",
    [
        {"mask": np.arange(16).reshape(4, 4) > 3},
        {"budget": 10},
        {"maps": ("source",)},
        {"maps": ("error",), "error": "certified"},
    ],
    ids=lambda asked: next(iter(asked)),
)
@pytest.mark.parametrize("mode", ["auto", "hybrid"])
def test_what_hybrid_does_not_compute_is_exact(lemmse, y, asked, mode):
    lemmse._backend.times[ALIKE] = FASTER
    assert lemmse.reconstruct(y, sigma=SIGMA, mode=mode, **asked).diagnostics.mode == "exact"
    assert list(lemmse._backend.times) == [ALIKE]


def test_gaussians_alone_are_exact(lemmse, y):
    assert lemmse.reconstruct(y, sigma=SIGMA, gaussian_share=1.0).diagnostics.mode == "exact"
    assert not lemmse._backend.times


def test_small_images_are_exact_and_answered_together(lemmse, y):
    lemmse._backend.times[ALIKE] = FASTER
    small, large = (Measurement.checked(one, sigma=SIGMA, mask=None) for one in (y[:3], y))
    assert lemmse.reconstruct(y[:3], sigma=SIGMA).diagnostics.mode == "exact"
    assert lemmse.joint_options(small, Options()) == Options(mode="exact")
    assert lemmse.joint_options(large, Options()) is None
    assert lemmse.work(large, Options(mode="hybrid")) == lemmse.work(large, Options(mode="exact"))


@pytest.mark.slow
def test_times_are_measured_once_for_images_alike(lemmse, y):
    times = lemmse._backend.times
    mode = lemmse.reconstruct(y, sigma=SIGMA).diagnostics.mode
    assert list(times) == [ALIKE]
    measured = times[ALIKE]
    assert all(0 < seconds < math.inf for seconds in (measured.exact, measured.hybrid, measured.calibration))
    assert mode == ("hybrid" if measured.favour_hybrid(16) else "exact")
    times[ALIKE] = SLOWER
    assert lemmse.reconstruct(y + 0.01, sigma=1.1 * SIGMA).diagnostics.mode == "exact"
    assert times == {ALIKE: SLOWER}


@pytest.mark.slow
def test_hybrid_that_does_not_reach_the_agreement_is_not_chosen(lemmse, y):
    queries = cut_queries(lemmse._backend, Observation(y[None, :2, :2, None], SIGMA))
    spec = SumSpec("hybrid", outputs=Outputs(error=True))
    assert measure_times(queries, spec, lemmse.index, SIGMA, 900.0).hybrid == math.inf
