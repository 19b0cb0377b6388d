import gzip
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument, NotFound
from lemmse.index.sources import (
    HELD_OUT,
    ImageSource,
    _photos,
    concatenate,
    intensities,
    iterate,
    open_source,
    photograph,
)

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")


def pixels(*shape: int, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if dtype.startswith("f"):
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def read(source: ImageSource) -> list[NDArray[Any]]:
    return [image for image, _ in iterate(source)]


def labels(source: ImageSource) -> list[str]:
    return [source.label(k) for k in range(len(source))]


def write_idx(path: Path, images: NDArray[np.uint8], *, magic: int = 0x803) -> Path:
    content = struct.pack(">4I", magic, *images.shape) + images.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_cifar_pickle(path: Path, data: NDArray[np.uint8]) -> Path:
    path.write_bytes(pickle.dumps({b"labels": [0] * len(data), b"data": data}, protocol=2))
    return path


def python2_pickle(data: NDArray[np.uint8]) -> bytes:
    """The stream that Python 2 and its NumPy write for {'data': data}: byte strings, numpy.core names."""
    n, length = data.shape
    return (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01"
        + b"K"
        + bytes([n])
        + b"M"
        + struct.pack("<H", length)
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T"
        + struct.pack("<i", data.size)
        + data.tobytes()
        + b"tbs."
    )


def planes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour images (N, 32, 32, 3) in CIFAR's order."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


class Bomb:
    """Calls a function when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


class TestArrays:
    @pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5, 4, 1), (3, 5, 4, 3)])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "float16", ">u2", ">f4"])
    def test_npy_gives_the_images_as_stored(self, tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
        stack = pixels(*shape, dtype=np.dtype(dtype).name).astype(dtype)
        np.save(tmp_path / "train.npy", stack)
        source = open_source(tmp_path / "train.npy")
        images = read(source)
        assert labels(source) == ["train.npy[0]", "train.npy[1]", "train.npy[2]"]
        for image, row in zip(images, stack, strict=True):
            assert image.shape == (5, 4, shape[3] if len(shape) == 4 else 1)
            assert image.dtype == (np.dtype(dtype).newbyteorder("=") if "u" in dtype else np.float32)
            np.testing.assert_array_equal(image, row.reshape(image.shape).astype(image.dtype))

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_npz_takes_the_preferred_array(self, tmp_path: Path, save: Callable[..., None]) -> None:
        wanted = pixels(2, 6, 6)
        save(tmp_path / "a.npz", other=pixels(4, 6, 6), x_train=wanted, train=np.arange(4), y=np.arange(2))
        source = open_source(tmp_path / "a.npz")
        np.testing.assert_array_equal(np.stack(read(source))[..., 0], wanted)
        assert source.label(1) == "a.npz[1]"

    def test_npz_takes_the_only_array_of_images(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", pictures=pixels(2, 6, 6), y=np.arange(2))
        assert len(open_source(tmp_path / "a.npz")) == 2

    def test_npz_with_several_arrays_lists_them(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", left=pixels(2, 6, 6), right=pixels(2, 6, 6, dtype="float32"))
        with pytest.raises(
            InvalidArgument, match=r"left \(2, 6, 6\) uint8, right \(2, 6, 6\) float32 in .*a.npz"
        ):
            open_source(tmp_path / "a.npz")

    def test_npz_without_images_lists_what_it_has(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", y=np.arange(2), z=np.arange(3.0))
        with pytest.raises(InvalidArgument, match=r"got y \(2,\) int64, z \(3,\) float64 in .*a.npz"):
            open_source(tmp_path / "a.npz")

    def test_npz_with_one_unfit_array_says_why(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", y=np.zeros((2, 6, 6), int))
        with pytest.raises(InvalidArgument, match=r"a.npz: expected uint8, uint16 or float .*got int64"):
            open_source(tmp_path / "a.npz")

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((8, 8), np.uint8), r"got shape \(8, 8\) in .* one grey image; .* state axes YX"),
            (np.zeros((1, 2, 3, 4, 5), np.uint8), r"got shape \(1, 2, 3, 4, 5\)"),
            (np.zeros((0, 8, 8), np.uint8), r"got shape \(0, 8, 8\)"),
            (np.zeros((2, 0, 8), np.uint8), r"got shape \(2, 0, 8\)"),
            (np.uint8(3), r"got shape \(\)"),
            (
                np.zeros((16, 16, 3), np.uint8),
                r"\(16, 16, 3\) in .*, which looks like one colour image",
            ),
            (
                np.zeros((2, 3, 16, 16), np.uint8),
                r"\(2, 3, 16, 16\) in .*, which looks like channels first",
            ),
            (np.zeros((2, 8, 8), complex), "got complex128"),
            (np.zeros((2, 8, 8), np.int64), "got int64"),
            (np.zeros((2, 8, 8), np.uint32), "got uint32"),
            (np.full((2, 8, 8), "a"), "got <U1"),
            (np.full((2, 8, 8), None), "got object"),
        ],
    )
    def test_an_array_that_holds_no_images_is_refused_at_once(
        self, tmp_path: Path, array: NDArray[Any], message: str
    ) -> None:
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(InvalidArgument, match=rf"SOURCE: .*{message}") as caught:
            open_source(tmp_path / "a.npy")
        assert "a.npy" in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (np.nan, "got NaN or infinity"),
            (np.inf, "got NaN or infinity"),
            (-0.25, "got -0.25 to 1"),
            (1.5, "got 0 to 1.5"),
            (200.0, "got 0 to 200"),
        ],
    )
    def test_a_float_out_of_range_names_its_image(self, tmp_path: Path, value: float, message: str) -> None:
        stack = np.zeros((3, 4, 4), np.float32)
        stack[:, 0, 0] = 1
        stack[1, 2, 3] = value
        np.save(tmp_path / "a.npy", stack)
        source = open_source(tmp_path / "a.npy")
        np.testing.assert_array_equal(source[0][..., 0], stack[0])
        with pytest.raises(InvalidArgument, match=rf"SOURCE: .*{message} in .*a\.npy\[1\]"):
            source[1]

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_a_file_that_is_no_array_is_named(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"a{suffix}").write_text("not an array at all")
        with pytest.raises(InvalidArgument, match=rf"expected a readable file, got .*a{suffix} \("):
            open_source(tmp_path / f"a{suffix}")

    def test_a_truncated_npy_is_named(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", pixels(4, 8, 8))
        content = (tmp_path / "a.npy").read_bytes()
        (tmp_path / "a.npy").write_bytes(content[:-1])
        with pytest.raises(InvalidArgument, match=r"expected a readable file, got .*a\.npy"):
            read(open_source(tmp_path / "a.npy"))

    def test_a_damaged_npz_is_named(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", images=pixels(4, 8, 8))
        content = bytearray((tmp_path / "a.npz").read_bytes())
        with zipfile.ZipFile(tmp_path / "a.npz") as archive:
            content[archive.infolist()[0].header_offset + 250] ^= 1
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InvalidArgument, match=r"expected a readable file, got .*a\.npz \(.*CRC"):
            read(open_source(tmp_path / "a.npz"))

    def test_nothing_is_read_before_it_is_asked_for(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", pixels(4, 8, 8, dtype="float32"))
        source = open_source(tmp_path / "a.npy")
        changed = pixels(4, 8, 8, dtype="float32", seed=1)
        np.save(tmp_path / "a.npy", changed)
        np.testing.assert_array_equal(source[2][..., 0], changed[2])


class TestFiles:
    def test_folders_are_walked_in_order_and_hidden_files_left_out(self, tmp_path: Path) -> None:
        names = [
            "b.png",
            "a/2.PNG",
            "a/10.bmp",
            ".hidden.png",
            ".cache/c.png",
            "a/.x/d.png",
            "z.tif",
            "n.txt",
        ]
        for seed, name in enumerate(names):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            if name.endswith(".txt"):
                (tmp_path / name).write_text("notes")
            else:
                iio.imwrite(tmp_path / name, pixels(3 + seed, 7, seed=seed))
        source = open_source(tmp_path)
        assert labels(source) == ["a/10.bmp", "a/2.PNG", "b.png", "z.tif"]
        for image, label in iterate(source):
            seed = names.index(label)
            np.testing.assert_array_equal(image[..., 0], pixels(3 + seed, 7, seed=seed))

    @pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".tif", ".tiff"])
    def test_one_colour_file(self, tmp_path: Path, suffix: str) -> None:
        image = pixels(5, 6, 3)
        iio.imwrite(tmp_path / f"a{suffix}", image)
        source = open_source(str(tmp_path / f"a{suffix}"))
        assert labels(source) == [f"a{suffix}"]
        np.testing.assert_array_equal(source[0], image)

    @pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
    @pytest.mark.parametrize("shape", [(16, 16), (16, 16, 3)])
    def test_lossy_files(self, tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
        iio.imwrite(tmp_path / f"a{suffix}", np.full(shape, 90, np.uint8))
        image = open_source(tmp_path / f"a{suffix}")[0]
        assert image.shape in ((16, 16, 1), (16, 16, 3))
        np.testing.assert_allclose(image, 90, atol=3)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_sixteen_bits_are_kept(self, tmp_path: Path, suffix: str) -> None:
        image = pixels(5, 6, dtype="uint16")
        iio.imwrite(tmp_path / f"a{suffix}", image)
        found = open_source(tmp_path / f"a{suffix}")[0]
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found[..., 0], image)

    @pytest.mark.parametrize("colour_type", [2, 4, 6])
    def test_a_damaged_colour_png_of_sixteen_bits_is_refused(self, tmp_path: Path, colour_type: int) -> None:
        header = struct.pack(">4s2I5B", b"IHDR", 4, 4, 16, colour_type, 0, 0, 0)
        start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
        (tmp_path / "a.png").write_bytes(start + struct.pack(">I", zlib.crc32(header)))
        with pytest.raises(
            InvalidArgument, match=r"SOURCE: .*a\.png: expected an image, but it cannot be read"
        ):
            open_source(tmp_path)[0]

    @pytest.mark.parametrize("dtype", ["uint16", "float32"])
    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_tiff_in_colour(self, tmp_path: Path, dtype: str, planar: Any) -> None:
        image = pixels(5, 6, 3, dtype=dtype)
        stored = image if planar == "contig" else np.moveaxis(image, -1, 0)
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
        np.testing.assert_array_equal(open_source(tmp_path / "a.tif")[0], image)

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_alpha_is_dropped_only_where_it_is_opaque(self, tmp_path: Path, suffix: str) -> None:
        image = pixels(5, 6, 4)
        image[..., 3] = 255
        options: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
        options = options if suffix == ".tif" else {}
        iio.imwrite(tmp_path / f"a{suffix}", image, **options)
        np.testing.assert_array_equal(open_source(tmp_path / f"a{suffix}")[0], image[..., :3])
        image[2, 2, 3] = 254
        iio.imwrite(tmp_path / f"a{suffix}", image, **options)
        with pytest.raises(InvalidArgument, match=rf"a\{suffix}: .*got transparent pixels; flatten it first"):
            open_source(tmp_path / f"a{suffix}")[0]

    def test_grey_with_opaque_alpha_stays_grey(self, tmp_path: Path) -> None:
        image = np.stack([pixels(5, 6), np.full((5, 6), 255, np.uint8)], axis=-1)
        iio.imwrite(tmp_path / "a.png", image, mode="LA")
        np.testing.assert_array_equal(open_source(tmp_path / "a.png")[0], image[..., :1])

    def test_palettes_are_looked_up(self, tmp_path: Path) -> None:
        image = np.zeros((4, 4, 3), np.uint8)
        image[:2] = (200, 100, 50)
        PIL.Image.fromarray(image).convert("P", palette=PIL.Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
        np.testing.assert_array_equal(open_source(tmp_path / "a.png")[0], image)

    def test_other_colour_spaces_are_refused(self, tmp_path: Path) -> None:
        iio.imwrite(tmp_path / "a.jpg", np.zeros((8, 8, 4), np.uint8), mode="CMYK")
        tifffile.imwrite(tmp_path / "b.tif", pixels(8, 8, 4), photometric="separated")
        source = open_source(tmp_path)
        with pytest.raises(InvalidArgument, match=r"a\.jpg: .*got mode CMYK; convert it"):
            source[0]
        with pytest.raises(InvalidArgument, match=r"b\.tif: .*got SEPARATED; convert it"):
            source[1]

    def test_black_and_white_files(self, tmp_path: Path) -> None:
        iio.imwrite(tmp_path / "a.png", np.eye(8, dtype=bool))
        np.testing.assert_array_equal(open_source(tmp_path)[0][..., 0], np.eye(8, dtype=np.uint8) * 255)

    @pytest.mark.parametrize("options", [{}, {"imagej": True}, {"imagej": True, "truncate": True}])
    def test_a_stack_gives_an_image_for_each_plane(self, tmp_path: Path, options: dict[str, Any]) -> None:
        stack = pixels(3, 8, 9, dtype="uint16")
        tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **options)
        iio.imwrite(tmp_path / "b.png", pixels(5, 5))
        source = open_source(tmp_path)
        assert labels(source) == ["a.tif[0]", "a.tif[1]", "a.tif[2]", "b.png"]
        np.testing.assert_array_equal(np.stack([source[k][..., 0] for k in (2, 0, 1)]), stack[[2, 0, 1]])

    def test_frames_of_an_animation_are_refused(self, tmp_path: Path) -> None:
        frames = [PIL.Image.fromarray(pixels(4, 32, seed=seed)) for seed in range(4)]
        frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
        with pytest.raises(InvalidArgument, match=r"a\.png: expected one picture, got 4 frames"):
            open_source(tmp_path)[0]

    def test_names_that_are_not_utf8_are_escaped(self, tmp_path: Path) -> None:
        path = os.fsencode(tmp_path / "caf") + b"\xe9.png"
        with open(path, "wb") as file:
            PIL.Image.fromarray(pixels(4, 4)).save(file, "PNG")
        source = open_source(tmp_path)
        assert labels(source) == ["caf\\xe9.png"]
        np.testing.assert_array_equal(source[0][..., 0], pixels(4, 4))

    def test_folders_are_walked_once_through_links(self, tmp_path: Path) -> None:
        (tmp_path / "in/sub").mkdir(parents=True)
        (tmp_path / "other").mkdir()
        iio.imwrite(tmp_path / "in/sub/a.png", pixels(4, 4))
        iio.imwrite(tmp_path / "other/b.png", pixels(4, 4))
        (tmp_path / "in/sub/loop").symlink_to(tmp_path / "in")
        (tmp_path / "in/again").symlink_to("sub")
        (tmp_path / "in/linked").symlink_to(tmp_path / "other")
        assert labels(open_source(tmp_path / "in")) == ["linked/b.png", "sub/a.png"]

    def test_pixels_marked_as_nodata_are_refused(self, tmp_path: Path) -> None:
        image = pixels(4, 4, dtype="float32")
        image[1, 2] = -9999
        tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(42113, "s", 0, "-9999", True)])
        with pytest.raises(
            InvalidArgument, match=r"expected all pixels in .*a\.tif, got some marked as nodata"
        ):
            open_source(tmp_path)[0]

    def test_values_next_to_one_are_rounding(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([[[1.0000001, 0.5], [-1e-7, 0]]]))
        np.testing.assert_array_equal(
            open_source(tmp_path / "a.npy")[0][..., 0], np.float32([[1, 0.5], [0, 0]])
        )

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
    @pytest.mark.parametrize("keep", [0, 20, 0.5, -40])
    def test_a_truncated_file_is_named(self, tmp_path: Path, suffix: str, keep: float) -> None:
        path = tmp_path / f"a{suffix}"
        iio.imwrite(path, pixels(40, 40, 3))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep) if keep == 0.5 else int(keep)])
        with pytest.raises(
            InvalidArgument, match=rf"SOURCE: .*a{suffix}: expected an image, but it cannot be read: "
        ) as caught:
            open_source(tmp_path)[0]
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tiff"])
    def test_a_text_with_the_name_of_an_image_is_named(self, tmp_path: Path, suffix: str) -> None:
        (tmp_path / f"a{suffix}").write_text("not an image")
        with pytest.raises(InvalidArgument, match=rf"a{suffix}: expected an image, but it cannot be read"):
            open_source(tmp_path)[0]

    def test_a_float_tiff_out_of_range_is_named(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", np.full((4, 4), 7.0, np.float32))
        with pytest.raises(InvalidArgument, match=r"in \[0, 1\], got 7 to 7 in .*a\.tif"):
            open_source(tmp_path)[0]

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("nothing here")
        with pytest.raises(InvalidArgument, match=r"SOURCE: expected images in .*, got none"):
            open_source(tmp_path)


class TestIdx:
    @pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "a.idx3-ubyte.gz", "a.idx", "A.UBYTE"])
    def test_written_images(self, tmp_path: Path, name: str) -> None:
        images = pixels(3, 7, 5)
        source = open_source(write_idx(tmp_path / name, images))
        np.testing.assert_array_equal(np.stack(read(source))[..., 0], images)
        assert source.label(2) == f"{name}[2]"

    if FASHION_MNIST.exists():

        def test_fashion_mnist(self) -> None:
            source = open_source(FASHION_MNIST)
            assert len(source) == 10_000
            stored = np.frombuffer(gzip.decompress(FASHION_MNIST.read_bytes()), np.uint8)[16:]
            np.testing.assert_array_equal(source[9_999][..., 0], stored.reshape(-1, 28, 28)[-1])

        def test_labels_are_not_images(self) -> None:
            with pytest.raises(InvalidArgument, match=r"magic 0x00000803\), got magic 0x00000801 in"):
                open_source(FASHION_MNIST.with_name("t10k-labels-idx1-ubyte.gz"))

    def test_a_bad_magic_number(self, tmp_path: Path) -> None:
        path = write_idx(tmp_path / "a-ubyte", pixels(2, 4, 4), magic=0x0D03)
        with pytest.raises(InvalidArgument, match=r"got magic 0x00000d03 in .*a-ubyte"):
            open_source(path)

    @pytest.mark.parametrize("content", [b"", b"\x00\x00\x08", b"\x00\x00\x08\x03\x00\x00"])
    def test_a_short_header(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a-ubyte").write_bytes(content)
        with pytest.raises(InvalidArgument, match=r"got \d in .*a-ubyte, which is cut short"):
            open_source(tmp_path / "a-ubyte")

    def test_no_images(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match=r"got shape \(0, 4, 4\)"):
            open_source(write_idx(tmp_path / "a-ubyte", pixels(0, 4, 4)))

    @pytest.mark.parametrize(("change", "found"), [(slice(None, -1), 31), (slice(None, -32), 0)])
    def test_short_data(self, tmp_path: Path, change: slice, found: int) -> None:
        path = write_idx(tmp_path / "a-ubyte", pixels(2, 4, 4))
        path.write_bytes(path.read_bytes()[change])
        with pytest.raises(InvalidArgument, match=rf"expected 32 bytes .*got {found} in .*a-ubyte"):
            open_source(path)[0]

    def test_data_past_the_end(self, tmp_path: Path) -> None:
        path = write_idx(tmp_path / "a-ubyte", pixels(2, 4, 4))
        path.write_bytes(path.read_bytes() + b"\x00")
        with pytest.raises(InvalidArgument, match="expected 32 bytes after the header, got 33"):
            open_source(path)[0]

    def test_a_truncated_or_false_gzip(self, tmp_path: Path) -> None:
        path = write_idx(tmp_path / "a-ubyte.gz", pixels(20, 40, 40))
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(InvalidArgument, match=r"expected a readable file, got .*a-ubyte\.gz"):
            open_source(path)[0]
        path.write_bytes(b"plain")
        with pytest.raises(InvalidArgument, match=r"expected a readable file, got .*a-ubyte\.gz"):
            open_source(path)


class TestCifar:
    def test_a_folder_of_pickles_gives_the_training_batches(self, tmp_path: Path) -> None:
        images = pixels(5, 32, 32, 3)
        write_cifar_pickle(tmp_path / "data_batch_2", planes(images[3:]))
        write_cifar_pickle(tmp_path / "data_batch_1", planes(images[:3]))
        write_cifar_pickle(tmp_path / "test_batch", planes(pixels(4, 32, 32, 3, seed=1)))
        (tmp_path / "batches.meta").write_bytes(b"names")
        source = open_source(tmp_path)
        np.testing.assert_array_equal(np.stack(read(source)), images)
        assert labels(source)[2:4] == ["data_batch_1[2]", "data_batch_2[0]"]

    def test_a_pickle_of_python_2(self, tmp_path: Path) -> None:
        images = pixels(5, 32, 32, 3)
        (tmp_path / "test_batch").write_bytes(python2_pickle(planes(images)))
        np.testing.assert_array_equal(np.stack(read(open_source(tmp_path / "test_batch"))), images)

    def test_binary_batches(self, tmp_path: Path) -> None:
        images = pixels(5, 32, 32, 3)
        records = np.concatenate([np.full((5, 1), 9, np.uint8), planes(images)], axis=1)
        (tmp_path / "data_batch_1.bin").write_bytes(records[:4].tobytes())
        (tmp_path / "data_batch_2.bin").write_bytes(records[4:].tobytes())
        np.testing.assert_array_equal(np.stack(read(open_source(tmp_path))), images)
        assert len(open_source(tmp_path / "data_batch_2.bin")) == 1

    def test_a_pickle_that_calls_a_function_does_not_get_to_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Bomb()}, protocol=2))
        with pytest.raises(InvalidArgument, match=r"got .*data_batch_1 \(.*print is no part of an array"):
            open_source(tmp_path)
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        "content", [{b"fine_labels": [1]}, {b"data": np.zeros((2, 7), np.uint8)}, {b"data": "text"}, [1, 2]]
    )
    def test_another_pickle(self, tmp_path: Path, content: object) -> None:
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(InvalidArgument, match=r"expected a CIFAR-10 batch .*data_batch_1"):
            open_source(tmp_path)

    def test_a_truncated_pickle(self, tmp_path: Path) -> None:
        path = write_cifar_pickle(tmp_path / "data_batch_1", planes(pixels(2, 32, 32, 3)))
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InvalidArgument, match=r"expected a readable file, got .*data_batch_1"):
            open_source(tmp_path)

    @pytest.mark.parametrize("size", [0, 3072, 3074])
    def test_a_binary_batch_of_another_size(self, tmp_path: Path, size: int) -> None:
        (tmp_path / "data_batch_1.bin").write_bytes(bytes(size))
        with pytest.raises(InvalidArgument, match=rf"records of 3073 bytes, got {size} bytes in .*1\.bin"):
            open_source(tmp_path)


class TestZarr:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 3)])
    def test_arrays_in_chunks(self, tmp_path: Path, zarr_format: Any, shape: tuple[int, ...]) -> None:
        images = pixels(*shape, dtype="uint16")
        array = zarr.create_array(
            tmp_path / "a.zarr", shape=shape, chunks=(2, *shape[1:]), dtype="uint16", zarr_format=zarr_format
        )
        array[:] = images
        source = open_source(tmp_path / "a.zarr")
        assert labels(source) == [f"a.zarr[{k}]" for k in range(5)]
        for k in (4, 0, 1, 3, 2, 0):
            np.testing.assert_array_equal(source[k], images[k].reshape(6, 7, -1))

    def test_a_group_lists_its_arrays(self, tmp_path: Path) -> None:
        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        group.create_array("images", data=pixels(2, 6, 6))
        group.create_array("labels", data=np.arange(2))
        with pytest.raises(
            InvalidArgument, match=r"SOURCE: .*a\.zarr: .* a group with images, labels; name the array"
        ):
            open_source(tmp_path / "a.zarr")
        assert len(open_source(tmp_path / "a.zarr" / "images")) == 2

    def test_another_dtype_or_rank(self, tmp_path: Path) -> None:
        zarr.create_array(tmp_path / "a.zarr", data=np.zeros((2, 6, 6), np.int32))
        with pytest.raises(InvalidArgument, match=r"a\.zarr: .*got int32"):
            open_source(tmp_path / "a.zarr")
        zarr.create_array(tmp_path / "b.zarr", data=np.zeros((6, 6), np.uint8))
        with pytest.raises(InvalidArgument, match=r"got shape \(6, 6\) in .*b\.zarr"):
            open_source(tmp_path / "b.zarr")

    def test_damage_is_named(self, tmp_path: Path) -> None:
        zarr.create_array(tmp_path / "a.zarr", data=pixels(2, 6, 6))
        (tmp_path / "a.zarr/c/0/0/0").write_bytes(b"not compressed")
        with pytest.raises(InvalidArgument, match=r"expected a readable file, got .*a\.zarr"):
            open_source(tmp_path / "a.zarr")[0]
        (tmp_path / "a.zarr/zarr.json").write_text("{")
        with pytest.raises(InvalidArgument, match=r"expected a readable file, got .*a\.zarr"):
            open_source(tmp_path / "a.zarr")


class TestPhotos:
    def test_tiles_show_what_their_labels_say(self) -> None:
        source = open_source("sample:photos")
        assert len(set(labels(source))) == len(source) >= 50
        for image, label in iterate(source):
            assert image.shape == (64, 64, 3)
            assert image.dtype == np.uint8
            name, place = label.removeprefix("photos/").rstrip("]").split("[")
            rows, columns = (slice(*map(int, axis.split(":"))) for axis in place.split(", "))
            np.testing.assert_array_equal(image, photograph(name)[rows, columns])

    def test_held_out_photographs_are_in_no_tile(self) -> None:
        shown = {label.split("/")[1].split("[")[0] for label in labels(open_source("sample:photos"))}
        assert HELD_OUT
        assert shown.isdisjoint(HELD_OUT)
        for name in HELD_OUT:
            assert photograph(name).shape[2] == 3

    def test_a_photograph_can_be_changed_without_harm(self) -> None:
        before = photograph("chelsea")
        photograph("chelsea")[:] = 0
        open_source("sample:photos")[0][:] = 0
        np.testing.assert_array_equal(photograph("chelsea"), before)
        assert open_source("sample:photos")[0].any()

    def test_another_sample_or_photograph(self) -> None:
        with pytest.raises(InvalidArgument, match=r"expected sample:photos, .*got sample:paintings"):
            open_source("sample:paintings")
        with pytest.raises(NotFound, match=r"expected a photograph among astronaut, .*got 'lena'"):
            photograph("lena")

    def test_scikit_image_missing_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "skimage.data", None)
        _photos._read.cache_clear()
        with pytest.raises(NotFound, match=r"pip install 'lemmse\[demo\]'"):
            open_source("sample:photos")


class TestOpen:
    @pytest.mark.parametrize(
        "name", ["missing", "missing.npy", "missing.png", "missing-ubyte.gz", "data_batch_1"]
    )
    def test_a_missing_path(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(NotFound, match=rf"SOURCE: no such file or folder: '.*{name}'"):
            open_source(tmp_path / name)

    def test_an_empty_name_is_not_the_working_folder(self) -> None:
        with pytest.raises(InvalidArgument, match="got an empty name"):
            open_source("")

    def test_an_unknown_kind_lists_the_known(self, tmp_path: Path) -> None:
        (tmp_path / "a.mat").write_bytes(b"")
        with pytest.raises(InvalidArgument, match=r"SOURCE: .*\.npy.*idx-ubyte.*Zarr.*; got .*a\.mat"):
            open_source(tmp_path / "a.mat")

    @pytest.mark.parametrize("k", [3, 4, -4])
    def test_an_index_out_of_range(self, tmp_path: Path, k: int) -> None:
        np.save(tmp_path / "a.npy", pixels(3, 8, 8))
        for seed in range(3):
            iio.imwrite(tmp_path / f"{seed}.png", pixels(8, 8))
        for source in (open_source(tmp_path / "a.npy"), open_source(tmp_path)):
            with pytest.raises(IndexError):
                source[k]
            with pytest.raises(IndexError):
                concatenate([source])[k]


class TestConcatenation:
    def test_images_and_labels_follow_each_other(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", pixels(2, 8, 8))
        (tmp_path / "f").mkdir()
        iio.imwrite(tmp_path / "f/x.png", pixels(9, 5))
        parts = [open_source(tmp_path / "f"), open_source(tmp_path / "a.npy"), open_source(tmp_path / "f")]
        joined = concatenate(parts)
        assert labels(joined) == ["x.png", "a.npy[0]", "a.npy[1]", "x.png"]
        assert joined.spec == " ".join(part.spec for part in parts)
        for found, expected in zip(
            read(joined), [image for part in parts for image in read(part)], strict=True
        ):
            np.testing.assert_array_equal(found, expected)

    def test_nothing_to_join(self) -> None:
        with pytest.raises(InvalidArgument, match="expected at least one source of images, got none"):
            concatenate([])

    def test_mixed_sources_are_found_before_they_are_read(self, tmp_path: Path) -> None:
        np.save(tmp_path / "grey.npy", pixels(2, 8, 8))
        np.save(tmp_path / "colour.npy", pixels(2, 8, 8, 3))
        sources = [open_source(tmp_path / name) for name in ("grey.npy", "grey.npy", "colour.npy")]
        with pytest.raises(
            InvalidArgument, match=r"1 in grey\.npy\[0\] and 3 in colour\.npy\[0\] \(mixed grey"
        ):
            concatenate(sources)

    def test_a_mixed_folder_is_found_at_the_first_image_that_differs(self, tmp_path: Path) -> None:
        for name, shape in {"a.png": (8, 8, 3), "b.png": (5, 5, 3), "c.png": (8, 8), "d.png": (8, 8)}.items():
            iio.imwrite(tmp_path / name, pixels(*shape))
        images = iterate(open_source(tmp_path))
        assert [label for _, label in (next(images), next(images))] == ["a.png", "b.png"]
        with pytest.raises(
            InvalidArgument, match=r"got 3 in a\.png and 1 in c\.png .*convert or separate them"
        ):
            next(images)


class TestIntensities:
    @pytest.mark.parametrize(("dtype", "largest"), [("uint8", 255), ("uint16", 65535)])
    def test_the_largest_integer_is_one(self, dtype: str, largest: int) -> None:
        scaled = intensities(np.array([0, 1, largest], dtype))
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(scaled, [0, 1 / largest, 1], rtol=1e-7)

    def test_floats_stay(self) -> None:
        image = pixels(4, 4, 3, dtype="float32")
        np.testing.assert_array_equal(intensities(image), image)

    @given(hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=3, max_dims=3)))
    def test_integers_come_back(self, image: NDArray[Any]) -> None:
        scaled = intensities(image)
        assert ((scaled >= 0) & (scaled <= 1)).all()
        largest = np.iinfo(image.dtype).max
        np.testing.assert_array_equal(np.rint(scaled.astype(np.float64) * largest), image)
