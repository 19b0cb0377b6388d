"""Keys in few bytes: what comes back is what went in, or is off by no more than is said."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.index import build, open_index
from lemmse.index.sources import intensities
from lemmse.index.storage.packing import LANES, Packed, pack
from lemmse.index.storage.quantization import quantizations
from tests.support.cases import smooth


def coding_of(v, pixels: int):
    return next(quantization for quantization in quantizations(pixels) if quantization.fits(v))


@pytest.mark.parametrize(("pixels", "stored"), [(np.uint8, "uint8"), (np.uint16, "int16")])
def test_pixels_are_kept_bit_for_bit(pixels, stored):
    v = intensities(np.arange(np.iinfo(pixels).max + 1).astype(pixels))[:, None]
    quantization = coding_of(v, 1)
    assert quantization.dtype == stored
    np.testing.assert_array_equal(quantization.decode(quantization.encode(v)), v)


@given(seed=st.integers(0, 2**32 - 1), p=st.integers(2, 11), channels=st.sampled_from([1, 3]))
@settings(max_examples=30, deadline=None)
def test_pixels_less_their_mean_take_two_bytes(seed, p, channels):
    x = np.random.default_rng(seed).integers(0, 256, (50, p * p, channels))
    x[0], x[1], x[1, 0] = 255, 0, 255
    x = intensities(x.astype(np.uint8)).astype(np.float64)
    v = (x - x.mean(axis=1, keepdims=True)).reshape(50, -1).astype(np.float32)
    quantization = coding_of(v, p * p)
    assert quantization.dtype == np.int16
    np.testing.assert_allclose(quantization.decode(quantization.encode(v)), v, rtol=0, atol=2e-7)


@pytest.mark.parametrize("low", [0.0, -0.3])
def test_other_keys_are_kept_as_they_are(low):
    v = np.float32(low + np.random.default_rng(0).random((100, 4)))
    quantization = coding_of(v, 4)
    assert quantization.dtype == np.float32
    assert quantization.encode(v) is v


@pytest.mark.parametrize("quantization", quantizations(9), ids=str)
def test_steps_are_what_is_stored_before_it_is_rounded(quantization):
    v = np.float32(np.random.default_rng(0).random((100, 4)))
    np.testing.assert_allclose(quantization.decode(quantization.steps(v)), v, rtol=0, atol=2e-7)
    assert np.abs(quantization.encode(v) - quantization.steps(v)).max() <= 0.51


@given(data=st.data(), sizes=st.lists(st.integers(1, 100), min_size=1, max_size=4), length=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_rows_of_several_parts_come_back(data, sizes, length):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 1000, (sum(sizes), length))
    edges = np.cumsum([0, *sizes])
    gaps = [data.draw(st.integers(0, 3)) for _ in sizes]
    values, begins = np.zeros(0, np.int64), []
    for (start, stop), gap in zip(pairwise(edges), gaps, strict=True):
        begins.append(len(values))
        values = np.concatenate([values, pack(rows[start:stop]).reshape(-1), np.full(gap, -1)])
    packed = Packed(values, length, edges, np.array(begins))
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    np.testing.assert_array_equal(packed.rows(start, stop), rows[start:stop])
    run, lane = packed.run_of(np.arange(len(rows)))
    found = packed.values[(run + lane)[:, None] + LANES * np.arange(length)]
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize(
    ("options", "dtype", "stored"),
    [
        ({}, np.uint8, "uint8"),
        ({}, np.uint16, "int16"),
        ({}, np.float32, "float32"),
        ({"physics": "inpaint:center:3", "pre_inverse": "mask"}, np.uint8, "uint8"),
        ({"physics": "blur:gaussian:1.0"}, np.uint8, "float32"),
        ({"equivariance": "offset"}, np.uint8, "int16"),
        ({"equivariance": "offset"}, np.uint16, "float32"),
    ],
    ids=["8 bits", "16 bits", "floats", "masked", "blurred", "without level", "16 bits without level"],
)
def test_an_index_stores_keys_in_as_few_bytes_as_they_take(tmp_path, options, dtype, stored):
    images = 0.9 * np.stack([smooth(seed, 6, 6, 1) for seed in range(3)])
    if dtype != np.float32:
        images = np.rint(images * np.iinfo(dtype).max).astype(dtype)
    np.save(tmp_path / "x.npy", images.astype(dtype))
    index = open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=3, **options))
    assert index.manifest.key_dtype == stored
    assert index.packed_keys.values.dtype == np.dtype(stored)
