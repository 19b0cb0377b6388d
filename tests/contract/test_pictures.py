"""Results as pictures: in files and in notebooks."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from lemmse.client import Client
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.results import Result

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def grey(embedded: Client) -> Result:
    return embedded.reconstruct(RNG.random((5, 7)), sigma=0.1, maps=["variance", "ess"], mode="exact")


def as_type(embedded: Client, dtype: type) -> Result:
    y = RNG.integers(0, np.iinfo(dtype).max, (5, 7), endpoint=True).astype(dtype)
    return embedded.reconstruct(y, sigma=0.1)


def read_png(file: Path | io.BytesIO) -> np.ndarray:
    with PIL.Image.open(file) as picture:
        return np.asarray(picture)


def colour(grey: Result) -> Result:
    return Result(image=RNG.random((4, 5, 3), np.float32), diagnostics=grey.diagnostics)


def test_floats_are_saved_as_they_are(grey: Result, tmp_path: Path) -> None:
    for name in ("a.npy", "a.tif", "a.TIFF"):
        grey.save(tmp_path / name)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), grey.image)
    for name in ("a.tif", "a.TIFF"):
        np.testing.assert_array_equal(tifffile.imread(tmp_path / name), grey.image)


def test_npz_has_the_maps(grey: Result, tmp_path: Path) -> None:
    grey.save(str(tmp_path / "all.npz"))
    with np.load(tmp_path / "all.npz") as file:
        assert set(file) == {"image", "variance", "ess"}
        for name, array in grey.arrays.items():
            np.testing.assert_array_equal(file[name], array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_has_the_bits_of_y(dtype: type, embedded: Client, tmp_path: Path) -> None:
    result = as_type(embedded, dtype)
    result.save(tmp_path / "a.png")
    found = read_png(tmp_path / "a.png")
    np.testing.assert_array_equal(found, np.rint(result.image).astype(dtype))


@pytest.mark.parametrize(("black", "white"), [(100, 4100), (-5, 65535)])
def test_png_is_from_black_to_white(black: int, white: int, embedded: Client, tmp_path: Path) -> None:
    y = np.linspace(black, white, 35).reshape(5, 7).astype(np.int32)
    result = embedded.reconstruct(y, sigma=0.1, range=(black, white))
    result.save(tmp_path / "a.png")
    intensities = ((result.image - black) / (white - black)).clip(0, 1)
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), np.rint(255 * intensities))
    content = re.search(r"base64,([^']*)'", result._repr_html_())[1]
    shown = read_png(io.BytesIO(base64.b64decode(content)))
    np.testing.assert_array_equal(shown, np.rint(255 * intensities))


def test_png_of_floats_and_colours(grey: Result, tmp_path: Path) -> None:
    for name, result in {"grey.png": grey, "colour.png": colour(grey)}.items():
        result.save(tmp_path / name)
        found = read_png(tmp_path / name)
        np.testing.assert_array_equal(found, np.rint(result.image.clip(0, 1) * 255))
    colour(grey).save(tmp_path / "colour.tif")
    with tifffile.TiffFile(tmp_path / "colour.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.RGB


def test_what_cannot_be_saved_leaves_nothing(grey: Result, tmp_path: Path) -> None:
    many = Result(image=np.zeros((4, 5, 2), np.float32), diagnostics=grey.diagnostics)
    deep = Result(image=np.zeros((4, 5, 3), np.float32), diagnostics=grey.diagnostics, white_level=65535)
    with pytest.raises(InvalidArgument, match=r"path: expected a name in .npy, .*, got 'a.jpg'"):
        grey.save(tmp_path / "a.jpg")
    for result in (many, deep):
        with pytest.raises(InvalidArgument, match=r"path: expected 1 channel or 3 of 8 bits for PNG"):
            result.save(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        grey.save(tmp_path / "missing" / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_picture_maps_and_numbers(grey: Result) -> None:
    page = grey._repr_html_()
    pictures = [
        read_png(io.BytesIO(base64.b64decode(content))) for content in re.findall(r"base64,([^']*)'", page)
    ]
    ess = grey.ess
    assert ess is not None
    np.testing.assert_array_equal(pictures[0], np.rint(grey.image.clip(0, 1) * 255))
    np.testing.assert_array_equal(pictures[2], np.rint((ess - ess.min()) / np.ptp(ess) * 255))
    assert f"ess {ess.min():.3g} to {ess.max():.3g}" in page
    assert ">exact</td>" in page
    assert f">{grey.diagnostics.version}</td>" in page
    assert "certified" not in page  # it was not requested


def test_a_notebook_shows_any_number_of_channels(grey: Result) -> None:
    for channels in (1, 2, 3, 5):
        many = Result(image=RNG.random((3, 3, channels), np.float32), diagnostics=grey.diagnostics)
        assert "<img alt='image'" in many._repr_html_()
