"""Image files keep their format and depth, and what would be lost is refused."""

import struct
import zlib

import hypothesis.extra.numpy as hnp
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from hypothesis import given

from lemmse.client.errors import InvalidArgument, NotFound
from lemmse.index.images.files import as_stored, read, read_array, write


@pytest.mark.parametrize(
    ("suffix", "dtype", "shape"),
    [
        (".png", np.uint8, (5, 7)),
        (".png", np.uint8, (5, 7, 3)),
        (".png", np.uint16, (5, 7)),
        *(
            (suffix, dtype, shape)
            for suffix in (".tif", ".tiff", ".TIFF", ".npy")
            for dtype in (np.uint8, np.uint16, np.float32)
            for shape in ((5, 7), (5, 7, 3), (3, 3))
        ),
    ],
)
def test_round_trip(tmp_path, suffix, dtype, shape):
    stored = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    path = tmp_path / "folder" / f"image{suffix}"
    write(path, stored)
    result = read(path)
    assert result.dtype == stored.dtype
    np.testing.assert_array_equal(result, stored)
    assert list(path.parent.iterdir()) == [path]


@given(hnp.arrays(np.dtype(np.uint16), (4, 4)) | hnp.arrays(np.dtype(np.uint8), (4, 4)))
def test_integers_are_rounded_and_clipped(stored):
    np.testing.assert_array_equal(as_stored(np.float32(stored) + np.float32(0.4), stored.dtype), stored)
    beyond = np.array([-3, np.iinfo(stored.dtype).max + 9], np.float32)
    np.testing.assert_array_equal(as_stored(beyond, stored.dtype), [0, np.iinfo(stored.dtype).max])


def test_floats_stay_as_they_are():
    image = np.array([[-0.5, 2.0]], np.float32)
    assert as_stored(image, np.dtype(np.float32)) is image


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floats_become_float32(tmp_path, dtype):
    np.save(tmp_path / "image.npy", np.array([[0.5]], dtype))
    assert read(tmp_path / "image.npy").dtype == np.float32


def png(depth, colour, channels):
    """A 2 × 2 PNG of zeros, by hand: the libraries at hand write no 16-bit colour."""

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes(2 * channels * depth // 8)
    head = struct.pack(">IIBBBBB", 2, 2, depth, colour, 0, 0, 0)
    parts = part(b"IHDR", head) + part(b"IDAT", zlib.compress(2 * row)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_png_depths(tmp_path):
    for depth, colour, channels, dtype in [(8, 2, 3, np.uint8), (16, 0, 1, np.uint16)]:
        (tmp_path / "image.png").write_bytes(png(depth, colour, channels))
        assert read(tmp_path / "image.png").dtype == dtype
    for colour, channels in [(2, 3), (4, 2), (6, 4)]:
        (tmp_path / "image.png").write_bytes(png(16, colour, channels))
        with pytest.raises(InvalidArgument, match="got a 16-bit colour PNG; save it as TIFF"):
            read(tmp_path / "image.png")


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy"])
def test_damaged_files(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    with pytest.raises(NotFound):
        read(path)
    write(path, np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))
    content = path.read_bytes()
    for damaged in (b"", b"text, not an image", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InvalidArgument, match="expected an image, but it cannot be read") as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert "uri" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photometric": "miniswhite"}, "got MINISWHITE; convert"),
        ({"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, "got PALETTE; convert"),
    ],
)
def test_tiffs_whose_numbers_are_no_intensities(tmp_path, options, words):
    tifffile.imwrite(tmp_path / "image.tiff", np.zeros((8, 8), np.uint8), **options)
    with pytest.raises(InvalidArgument, match=f"expected a grey or RGB image, {words}"):
        read(tmp_path / "image.tiff")


def test_tiffs_of_several_pictures(tmp_path):
    for shape in [(2, 8, 9), (2, 8, 9, 3)]:
        photometric = "rgb" if len(shape) == 4 else "minisblack"
        tifffile.imwrite(tmp_path / "image.tiff", np.zeros(shape, np.uint8), photometric=photometric)
        with pytest.raises(InvalidArgument, match="expected one picture, got 2"):
            read(tmp_path / "image.tiff")


def test_tiffs_with_a_plane_for_each_channel(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (3, 8, 9), np.uint8)
    tifffile.imwrite(tmp_path / "image.tiff", stored, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read(tmp_path / "image.tiff"), np.moveaxis(stored, 0, -1))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_dropped_where_it_is_opaque(tmp_path, suffix, channels):
    path = tmp_path / f"image{suffix}"
    stored = np.random.default_rng(0).integers(0, 255, (8, 9, channels + 1), np.uint8)
    stored[..., -1] = 255

    def save() -> None:
        if suffix == ".png":
            iio.imwrite(path, stored)
        else:
            photometric = "rgb" if channels == 3 else "minisblack"
            tifffile.imwrite(path, stored, photometric=photometric, extrasamples=["unassalpha"])

    save()
    np.testing.assert_array_equal(read(path), stored[..., :channels])
    stored[2, 3, -1] = 254
    save()
    with pytest.raises(InvalidArgument, match="expected an opaque image"):
        read(path)


@pytest.mark.parametrize("array", [np.zeros((2, 2), int), np.zeros((2, 2), bool), np.array([["a"]])])
def test_other_element_types(tmp_path, array):
    np.save(tmp_path / "image.npy", array)
    with pytest.raises(InvalidArgument, match=f"got {array.dtype}"):
        read(tmp_path / "image.npy")
    np.testing.assert_array_equal(read_array(tmp_path / "image.npy"), array)


def test_pickles_are_not_loaded(tmp_path):
    np.save(tmp_path / "image.npy", np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(InvalidArgument, match="cannot be read"):
        read(tmp_path / "image.npy")


def test_one_bit_png(tmp_path):
    iio.imwrite(tmp_path / "image.png", np.eye(8, dtype=bool))
    with pytest.raises(InvalidArgument, match="got bool"):
        read(tmp_path / "image.png")
    np.testing.assert_array_equal(read_array(tmp_path / "image.png"), np.eye(8, dtype=bool))


def test_a_name_of_no_format(tmp_path):
    (tmp_path / "image.jpg").touch()
    with pytest.raises(InvalidArgument, match=r"expected a name in \.npy.*, got 'image\.jpg'"):
        read(tmp_path / "image.jpg")


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="as PNG"):
        write(tmp_path / "image.png", np.zeros((2, 2), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_tiff_maps_of_any_channel_count(tmp_path):
    for shape in [(4, 5, 2), (4, 5, 4), (3, 4, 5)]:
        stored = np.random.default_rng(0).random(shape, np.float32)
        write(tmp_path / "map.tiff", stored)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "map.tiff"), stored)
        np.testing.assert_array_equal(read(tmp_path / "map.tiff"), stored)
