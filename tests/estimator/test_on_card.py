"""Requests with tensors on a GPU, without one: none meets a tensor in host memory; answers are those of CPUs.

What torch would refuse on a GPU, `tests.support.card` refuses. Kernels run in Triton's interpreter.
"""

import numpy as np
import pytest
import torch

from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Outputs, Reconstructor, SumSpec
from lemmse.estimator.fused import FusedKeys
from lemmse.estimator.fused_hybrid import FusedHybrid
from lemmse.estimator.image_queries import cut_queries
from lemmse.estimator.key_stream import KeyStream
from lemmse.estimator.keys import load_keys
from lemmse.estimator.observation import Observation
from lemmse.index import build, open_index
from tests.support.card import OnCard, fake_card, waits
from tests.support.fused import BLOCKS, FEW_THRESHOLDS, GPU
from tests.support.oracle import agreement
from tests.support.problems import PROBLEMS

pytestmark = pytest.mark.skipif(GPU, reason="torch sees a GPU")
SIGMA = 0.1
MASK = np.arange(9).reshape(3, 3) != 4
WEIGHTED = {"sigma": np.linspace(0.05, 0.3, 9).reshape(3, 3), "mask": MASK}
MAPS = ("variance", "ess", "log_density", "error")
PRIOR = {"bandwidth": 0.02, "gaussian_share": 0.1}


@pytest.fixture(autouse=True)
def card():
    with fake_card():
        yield


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def index(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("on_card")
    np.save(folder / "x.npy", images)
    return open_index(build([folder / "x.npy"], folder / "index", patch_size=3))


@pytest.fixture
def y(images):
    return images[0, :3, :3] / 255 + 0.02


@pytest.fixture(params=["kernel", "products"])
def lemmse(index, request):
    return opened(index, kernel=request.param == "kernel")


def opened(index, *, kernel):
    lemmse = Reconstructor(index, device="cuda")
    backend = lemmse._backend
    assert isinstance(backend.keys.codes.values, OnCard)
    if kernel:
        backend.fused = FusedKeys(backend.keys, BLOCKS)
        backend.fused_hybrid = FusedHybrid(backend.key_tree, backend.fused, 64)
    return lemmse


def on_card(shape=(3,)):
    return torch.ones(shape, device="cuda")


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: on_card() + torch.ones(3),
        lambda: torch.cat([torch.ones(3), on_card()]),
        lambda: torch.ones(3)[on_card().long()],
        lambda: on_card().index_add_(0, torch.arange(3), on_card()),
        lambda: on_card().numpy(),
        lambda: np.asarray(on_card()),
    ],
)
def test_what_torch_refuses_is_refused(mixed):
    with pytest.raises((RuntimeError, TypeError), match=r"same device|can't convert"):
        mixed()


def test_what_torch_allows_is_allowed():
    moved = torch.ones(3).to("cuda")
    assert moved.device.type == on_card()[torch.arange(2)].double().device.type == "cuda"
    assert (moved + torch.tensor(1.0)).cpu().tolist() == [2.0, 2.0, 2.0]
    waits.clear()
    assert float(moved.sum()) == 3
    assert waits == {"__float__": 1}


@pytest.mark.parametrize(
    "asked",
    [
        {"sigma": SIGMA, "maps": MAPS},
        {"sigma": SIGMA, "maps": (*MAPS, "source"), "aggregate": "overlap"},
        {"sigma": 1e-4},
        {"sigma": SIGMA, "aggregate": "overlap", "maps": MAPS, **PRIOR},
        {"sigma": SIGMA, "aggregate": "epll", "gaussian_share": 0.5},
        {"maps": MAPS, "aggregate": "overlap", **WEIGHTED},
        {**PRIOR, **WEIGHTED},
        {"sigma": "auto"},
        {"sigma": 0.02, "noise": "poisson-gaussian", "gain": 0.01},
        {"sigma": SIGMA, "exclude": ("1",)},
    ],
    ids=str,
)
def test_exact(lemmse, index, y, asked):
    found = answered(lemmse, y, asked)
    right = answered(Reconstructor(index, device="cpu"), y, asked)
    assert found.diagnostics.mode == right.diagnostics.mode == "exact"
    assert agreement(found.image, right.image) >= 100
    for name in set(asked.get("maps", ())) - {"source"}:
        np.testing.assert_allclose(getattr(found, name), getattr(right, name), rtol=1e-3, atol=1e-5)


def answered(lemmse, y, asked):
    options = dict(asked)
    measured = {name: options.pop(name) for name in ("sigma", "mask", "noise", "gain") if name in options}
    return lemmse.answer(Measurement.checked(y, **{"mask": None} | measured), Options(**options))


@pytest.mark.parametrize("asked", [{"sigma": SIGMA}, {"aggregate": "overlap", **WEIGHTED}], ids=str)
def test_topk(lemmse, index, y, asked):
    asked |= {"mode": "topk", "k": 10, "maps": ("variance", "ess", "source")}
    found, right = (answered(one, y, asked) for one in (lemmse, Reconstructor(index, device="cpu")))
    assert found.diagnostics.mode == right.diagnostics.mode == "topk"
    assert agreement(found.image, right.image) >= 100
    np.testing.assert_array_equal(found.source, right.source)


@pytest.mark.parametrize("aggregate", ["centre", "overlap"])
def test_hybrid(index, y, aggregate):
    lemmse = opened(index, kernel=True)
    y, n = Observation(y[None], SIGMA), np.arange(9)
    outputs = Outputs(error=True, patch=True) if aggregate == "overlap" else Outputs(True, True, error=True)
    waits.clear()
    found = cut_queries(lemmse._backend, y).sums(n, SumSpec("hybrid", threshold=-9.0, outputs=outputs))
    assert waits.total() <= 30  # each takes some 30 µs
    assert all(isinstance(part, OnCard) for part in (found.log_max, found.moments, found.keys_evaluated))
    exact = cut_queries(lemmse._backend, y).sums(n, SumSpec(outputs=outputs))
    ours, theirs = found.posterior(3), exact.posterior(3)
    name = "patch" if outputs.patch else "mean"
    assert agreement(getattr(ours, name).cpu().numpy(), getattr(theirs, name).cpu().numpy()) >= 60


@pytest.mark.slow
def test_auto_measures_and_calibrates(index, y, monkeypatch):
    monkeypatch.setattr("lemmse.estimator.modes.LEAST_PIXELS", 4)
    monkeypatch.setattr("lemmse.estimator.sampled_calibration._THRESHOLDS", FEW_THRESHOLDS)
    lemmse = opened(index, kernel=True)
    assert answered(lemmse, y[:2, :2], {"sigma": 0.3}).diagnostics.mode in ("exact", "hybrid")
    assert len(lemmse._backend.times) == 1


def test_explanations_and_derivatives(lemmse, index, y):
    cpu = Reconstructor(index, device="cpu")
    found, right = (one.explain(y, sigma=SIGMA, pixel=(1, 2), top=4) for one in (lemmse, cpu))
    assert [one.weight for one in found.contributors] == pytest.approx(
        [one.weight for one in right.contributors]
    )
    for measured in ({"sigma": SIGMA, "mask": None}, WEIGHTED):
        options = Options(aggregate="overlap", **PRIOR)
        measurement = Measurement.checked(y, **measured)
        products = [one.differentiate(measurement, np.ones(y.shape), options) for one in (lemmse, cpu)]
        assert agreement(*products) >= 100


@pytest.mark.parametrize("estimator", ["mmse", "e-mmse"])
def test_whole_images(index, images, estimator):
    y, asked = images[0] / 255, {"sigma": 0.5, "estimator": estimator, "maps": ("variance", "source")}
    found, right = (answered(Reconstructor(index, device=on), y, asked) for on in ("cuda", "cpu"))
    assert agreement(found.image, right.image) >= 100


@pytest.mark.parametrize("number", [6, 12])
def test_strata(number, tmp_path):
    problem = PROBLEMS[number]
    index, y = problem.build(tmp_path), np.random.default_rng(6).random(problem.shape)
    asked = {"sigma": SIGMA, "maps": MAPS[:3]}
    right = answered(Reconstructor(index, device="cpu"), y, asked)
    for kernel in (True, False):
        assert agreement(answered(opened(index, kernel=kernel), y, asked).image, right.image) >= 80


def test_levels(images, tmp_path):
    np.save(tmp_path / "x.npy", images)
    built = build([tmp_path / "x.npy"], tmp_path / "index", patch_size=3, equivariance="offset")
    y, asked = images[0, :3, :3] / 255, {"sigma": SIGMA, "aggregate": "overlap", "maps": MAPS}
    index = open_index(built)
    right = answered(Reconstructor(index, device="cpu"), y, asked)
    for kernel in (True, False):
        assert agreement(answered(opened(index, kernel=kernel), y, asked).image, right.image) >= 80


@pytest.mark.parametrize("kernel", [True, False])
def test_streams(index, y, kernel):
    lemmse = opened(index, kernel=kernel)
    backend, keys = lemmse._backend, load_keys(index, torch.device("cuda"))
    right = cut_queries(backend, Observation(y[None], SIGMA)).sums(np.arange(9), SumSpec())
    backend.stream = KeyStream(keys, [64, 128, keys.count])
    if kernel:
        backend.fused = FusedKeys(backend.stream.resident, BLOCKS)
    found = cut_queries(backend, Observation(y[None], SIGMA)).sums(np.arange(9), SumSpec())
    means = [one.posterior(3).mean.cpu().numpy() for one in (found, right)]
    assert agreement(*means) >= 100
    backend.close()
