"""Keys of which a share stays in the memory of a device: the same sums as over keys that all do."""

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from lemmse.contract.errors import Cancelled, InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Outputs, Reconstructor, SumSpec
from lemmse.estimator import key_stream as module
from lemmse.estimator.fused import FusedKeys, row_bytes
from lemmse.estimator.image_queries import cut_queries
from lemmse.estimator.key_stream import KeyStream, free_memory, resident_edges
from lemmse.estimator.keys import load_keys
from lemmse.estimator.local import LocalBackend
from lemmse.estimator.observation import Observation
from lemmse.index.storage.packing import LANES
from tests.support.fused import BLOCKS, DEVICE
from tests.support.index_cases import CASES
from tests.support.oracle import agreement

CASE = {case.name: case for case in CASES}
SIGMA = 0.1
ALL = Outputs(variance=True, ess=True, patch=True)


def opened(index, memory=None):
    """The backend of an index, which sums by products: kernels take long to tune on a GPU."""
    backend = LocalBackend(index, DEVICE, memory)
    backend.fused = backend.fused_hybrid = None
    return backend


def in_slices(index, rows=32, share=0.4):
    """The backend of an index of which a share stays on the device, the rest in slices of `rows` keys."""
    keys = load_keys(index, DEVICE)
    memory = int(share * (keys.nbytes + row_bytes(keys)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_PLACES", 0)  # which would hold all keys of these
        patched.setattr(module, "_LEAST_SLICE", 0)
        patched.setattr(module, "_SLICE", rows * (keys.nbytes + row_bytes(keys)) // keys.count)
        backend = opened(index, memory)
    assert 0 < backend.resident.count <= share * keys.count
    assert (backend.resident.resident, backend.keys.resident) == (True, False)
    assert len(backend.stream._slices) > 2
    return backend


def sums(backend, y, spec):
    queries = cut_queries(backend, Observation(y[None].astype(float), SIGMA))
    return queries.sums(np.arange(y[..., 0].size), spec)


def require_equal(found, right, outputs, least=110):
    for name in ("mean", "variance", "patch", "patch_variance"):
        ours, theirs = getattr(found, name).cpu().numpy(), getattr(right, name).cpu().numpy()
        assert agreement(ours, theirs) >= least
    np.testing.assert_allclose(found.ess.cpu(), right.ess.cpu(), rtol=1e-3)
    np.testing.assert_allclose(found.log_density.cpu(), right.log_density.cpu(), rtol=1e-6, atol=1e-3)
    if outputs.top:
        np.testing.assert_allclose(found.top_weight.cpu(), right.top_weight.cpu(), rtol=1e-3, atol=1e-5)
        apart = right.top_weight[:, 0] > 1.001 * right.top_weight[:, 1]
        assert apart.any()
        np.testing.assert_array_equal(found.top_key[apart, 0].cpu(), right.top_key[apart, 0].cpu())


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return CASE["grey"].build(tmp_path_factory.mktemp("grey") / "index")


@pytest.fixture(scope="module", params=["several shards", "strata that exclude", "strata", "colour"])
def index(request, tmp_path_factory):
    return CASE[request.param].build(tmp_path_factory.mktemp("stream") / "index")


@pytest.fixture(scope="module")
def y(index):
    shape = index.image_size if index.strata.exclusive else (5, 4)
    return np.random.default_rng(0).random((*shape, index.manifest.channels))


@pytest.mark.parametrize("outputs", [ALL, replace(ALL, top=3)], ids=["maps", "heaviest keys"])
def test_sums_are_those_of_resident_keys(index, y, outputs):
    backend, spec = in_slices(index), SumSpec(outputs=outputs)
    right = sums(opened(index), y, spec)
    for _ in range(2):  # again with what is left in the slices
        found = sums(backend, y, spec)
        assert found.keys_evaluated.tolist() == right.keys_evaluated.tolist()
        require_equal(*(one.posterior(index.manifest.channels) for one in (found, right)), outputs)
    backend.close()


@pytest.mark.parametrize("name", ["several shards", "strata"])
def test_sums_by_the_kernel(name, tmp_path):
    index = CASE[name].build(tmp_path / "index")
    y, spec = np.random.default_rng(0).random((2, 3, 1)), SumSpec(outputs=ALL)
    backend = in_slices(index, rows=64)
    backend.fused = FusedKeys(backend.resident, BLOCKS)
    found, right = sums(backend, y, spec), sums(opened(index), y, spec)
    assert found.keys_evaluated.tolist() == right.keys_evaluated.tolist()
    require_equal(found.posterior(1), right.posterior(1), ALL, least=80)
    backend.close()


def test_images_explanations_and_derivatives(grey):
    y = np.random.default_rng(1).random((6, 6))
    ours, theirs = Reconstructor(grey, device=str(DEVICE)), Reconstructor(grey, device=str(DEVICE))
    ours._backend, theirs._backend = in_slices(grey), opened(grey)
    asked = {"sigma": SIGMA, "maps": ("variance", "source"), "aggregate": "overlap", "gaussian_share": 0.1}
    for mode in ("exact", "topk"):
        found, right = (one.reconstruct(y, mode=mode, **asked) for one in (ours, theirs))
        assert agreement(found.image, right.image) >= 110
        assert agreement(found.variance, right.variance) >= 100
        np.testing.assert_array_equal(found.source, right.source)
    found, right = (one.explain(y, sigma=SIGMA, pixel=(2, 3), top=5).contributors for one in (ours, theirs))
    assert [one.source for one in found] == [one.source for one in right]
    vector = np.random.default_rng(2).random((6, 6)).astype(np.float32)
    products = [
        one.differentiate(Measurement.checked(y, sigma=SIGMA, mask=None), vector, Options())
        for one in (ours, theirs)
    ]
    assert agreement(*products) >= 100
    ours._backend.close()


def test_threads_that_share_the_slices(grey):
    backend, whole = in_slices(grey), opened(grey)
    images = np.random.default_rng(3).random((4, 5, 5, 1))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda y: sums(backend, y, SumSpec()), list(images) * 3))
    for y, one in zip(list(images) * 3, found, strict=True):
        right = sums(whole, y, SumSpec()).posterior(1).mean.cpu().numpy()
        assert agreement(one.posterior(1).mean.cpu().numpy(), right) >= 110
    backend.close()


def test_a_poll_holds_no_slice(grey):
    """Work that waits for its turn in a poll lets the work that has it sum slices; and may be cancelled."""
    backend, y = in_slices(grey), np.random.default_rng(4).random((3, 3, 1))
    right = sums(backend, y, SumSpec()).posterior(1).mean
    others = []

    def other_work_and_then_cancelled():
        others.append(sums(backend, y + 1, SumSpec()) if len(others) < 4 else None)
        return len(others) == 5

    with pytest.raises(Cancelled):
        sums(backend, y, SumSpec(cancelled=other_work_and_then_cancelled))
    assert len(others) == 5
    others.clear()
    spec = SumSpec(cancelled=lambda: len(others) < 4 and bool(others.append(sums(backend, y, SumSpec()))))
    assert torch.equal(sums(backend, y, spec).posterior(1).mean, right)
    backend.close()


def test_slices_cover_the_other_keys_and_begin_runs(index):
    backend = in_slices(index)
    slices, first = backend.stream._slices, backend.keys.packed.first_row
    assert slices[0][0] == backend.resident.count
    assert slices[-1][1] == backend.keys.count
    assert all(a[1] == b[0] for a, b in pairwise(slices))
    assert all((start - first[first <= start][-1]) % LANES == 0 for start, _ in slices)
    backend.close()


def test_a_slice_that_could_not_be_copied_is_copied_again(grey, monkeypatch):
    keys = load_keys(grey, DEVICE)
    stream = KeyStream(keys, [0, 32, keys.count])
    with monkeypatch.context() as patched:
        patched.setattr("lemmse.estimator.device_rows._CHUNK", 0)  # fails
        with pytest.raises(ValueError, match="must not be zero"), stream._copied(1, 0):
            pass
    with stream._copied(1, 0) as part:
        np.testing.assert_array_equal(
            part.coordinates(0, part.count).cpu(), keys.coordinates(32, keys.count).cpu()
        )
    stream.close()


def test_the_log_says_what_stays(grey, caplog):
    with caplog.at_level(logging.INFO, "lemmse.estimator.local"):
        LocalBackend(grey, DEVICE).close()
        assert not caplog.records
        in_slices(grey).close()
    (line,) = caplog.messages
    assert re.match(r"\d\d % of the 864 keys of index stay on (cpu|cuda); the others are copied", line)


def test_memory_that_is_too_short_is_an_error(grey, monkeypatch):
    keys = load_keys(grey, DEVICE)
    needed = keys.nbytes + row_bytes(keys)
    assert resident_edges(keys, None) == resident_edges(keys, needed) == [keys.count]
    for memory in (needed - 1, 0, -(10**9)):  # less than a few slices of the least size
        with pytest.raises(InvalidArgument, match=r"got -?\d\.\d\d: \d\.\d\d GB are missing; use device cpu"):
            resident_edges(keys, memory)


def test_memory_that_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * 2**30, 8 * 2**30))
    assert free_memory(torch.device("cuda")) == 2 * 2**30
    assert free_memory(torch.device("cpu")) is None
