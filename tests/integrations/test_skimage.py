"""The functions in the style of scikit-image."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from skimage.restoration import calibrate_denoiser

from lemmse.client import Client, connect
from lemmse.contract.errors import FailedPrecondition, InvalidArgument
from lemmse.index import build
from lemmse.integrations.skimage import deconvolve_lemmse, denoise_lemmse, inpaint_lemmse

RNG = np.random.default_rng(5)
GREY = RNG.random((7, 9), np.float32)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colour")
    np.save(folder / "images.npy", RNG.random((2, 6, 6, 3), np.float32))
    return build([folder / "images.npy"], folder / "colour", patch_size=3)


@pytest.fixture(scope="module")
def blurred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blurred")
    np.save(folder / "images.npy", RNG.random((2, 6, 6), np.float32))
    return build(
        [folder / "images.npy"],
        folder / "blurred",
        patch_size=3,
        physics="blur:gaussian:1.0",
        pre_inverse="wiener:0.1",
    )


def test_is_the_clients_answer(embedded: Client) -> None:
    expected = embedded.reconstruct(GREY, sigma=0.1, mode="exact").image
    np.testing.assert_array_equal(denoise_lemmse(GREY, embedded, sigma=0.1, mode="exact"), expected)


def test_connects_for_one_call(tiny_index: Path, embedded: Client) -> None:
    expected = embedded.reconstruct(GREY, sigma=0.1).image
    np.testing.assert_array_equal(denoise_lemmse(GREY, tiny_index, sigma=0.1), expected)
    embedded.list_indexes()  # a client that was given stays open


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_channel_axis(axis: int, colour: Path) -> None:
    image = RNG.random((5, 6, 3), np.float32)
    with connect(colour) as client:
        expected = client.reconstruct(image, sigma=0.2).image
        found = denoise_lemmse(np.moveaxis(image, -1, axis), client, sigma=0.2, channel_axis=axis)
        mask = RNG.random((5, 6)) < 0.3
        observed = client.reconstruct(image, sigma=0.2, mask=~mask).image
        filled = inpaint_lemmse(
            np.moveaxis(image, -1, axis), mask, client, sigma=0.2, channel_axis=axis, name="colour"
        )
    np.testing.assert_array_equal(np.moveaxis(found, axis, -1), expected)
    np.testing.assert_array_equal(np.moveaxis(filled, axis, -1), observed)


@pytest.mark.parametrize(
    ("dtype", "white", "result"),
    [
        (np.uint8, 255, np.float64),
        (np.uint16, 65535, np.float64),
        (np.float64, 1, np.float64),
        (np.float32, 1, np.float32),
        (np.float16, 1, np.float32),
        (np.bool_, 1, np.float64),
    ],
)
def test_ranges_and_types(dtype: type, white: int, result: type, embedded: Client) -> None:
    image = np.round(GREY * white).astype(dtype) if white > 1 else (GREY > 0.5).astype(dtype)
    intensities = image.astype(np.float64) / white
    expected = embedded.reconstruct(intensities, sigma=0.1).image
    unit = denoise_lemmse(image, embedded, sigma=0.1)
    own = denoise_lemmse(image, embedded, sigma=0.1 * white, preserve_range=True)
    assert unit.dtype == own.dtype == result
    np.testing.assert_allclose(unit, expected, atol=1e-6)
    np.testing.assert_allclose(own, expected * white, atol=1e-6 * white)


def test_true_in_a_mask_is_missing(embedded: Client) -> None:
    missing = RNG.random(GREY.shape) < 0.3
    image = np.where(missing, np.nan, GREY)
    expected = embedded.reconstruct(GREY, sigma=0.1, mask=~missing).image
    np.testing.assert_allclose(inpaint_lemmse(image, missing, embedded, sigma=0.1), expected, atol=1e-6)


def test_deconvolves_with_an_index_for_a_blur(blurred: Path, embedded: Client) -> None:
    with connect(blurred) as client:
        image = GREY[:6, :6]
        expected = client.reconstruct(image, sigma=0.1).image
        np.testing.assert_array_equal(deconvolve_lemmse(image, client, sigma=0.1), expected)
    with pytest.raises(FailedPrecondition, match=r"expected an index built with --physics blur:…, got tiny"):
        deconvolve_lemmse(GREY, embedded, sigma=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(denoise_lemmse, np.zeros((4, 4, 3))), r"image: expected 2 axes, got 3; say channel_axis"),
        (partial(denoise_lemmse, np.zeros((4, 4)), channel_axis=2), r"image: expected 3 axes, got 2"),
        (partial(denoise_lemmse, np.zeros((4, 4, 3)), channel_axis=3), r"channel_axis: expected an axis"),
        (partial(inpaint_lemmse, GREY, np.zeros((3, 3), bool)), r"mask: expected shape"),
    ],
)
def test_says_what_is_wrong(call: Callable[..., object], message: str, embedded: Client) -> None:
    with pytest.raises(InvalidArgument, match=message):
        call(index=embedded, sigma=0.1)


def test_works_in_calibrate_denoiser(embedded: Client) -> None:
    denoise = calibrate_denoiser(GREY, partial(denoise_lemmse, index=embedded), {"sigma": [0.1, 0.3]})
    assert denoise.keywords["denoiser_kwargs"]["sigma"] in (0.1, 0.3)
    assert denoise(GREY).shape == GREY.shape
