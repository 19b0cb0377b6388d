"""The same training images through every kind of source, and what the user states about sources."""

import gzip
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from lemmse.contract.errors import FailedPrecondition, InvalidArgument, LemmseError, NotFound
from lemmse.index.building.ingest import ingest
from lemmse.index.callbacks import silent
from lemmse.index.sources import ImageSource, Reading, Region, open_source
from lemmse.index.sources._chunks import Chunked
from tests.support.processes import run_process

Writer = Callable[[Path, NDArray[Any]], object]


def images(*shape: int, dtype: str = "uint8") -> NDArray[Any]:
    rng = np.random.default_rng(len(shape))
    if dtype == "float32":
        return rng.random(shape, np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def read(source: ImageSource) -> NDArray[Any]:
    return np.stack([source[k] for k in range(len(source))])


def digest(source: ImageSource) -> str:
    return ingest(source, len(source), None, silent).digest


def npy(path: Path, stack: NDArray[Any]) -> object:
    np.save(path / "a.npy", stack)
    return path / "a.npy"


def npy_by_columns(path: Path, stack: NDArray[Any]) -> object:
    return npy(path, np.asfortranarray(stack))


def npz(path: Path, stack: NDArray[Any]) -> object:
    np.savez_compressed(path / "a.npz", images=stack, labels=np.arange(len(stack)))
    return path / "a.npz"


def npz_by_columns(path: Path, stack: NDArray[Any]) -> object:
    return npz(path, np.asfortranarray(stack))


def zarr_array(path: Path, stack: NDArray[Any]) -> object:
    chunks = (2, 5, *stack.shape[2:])
    zarr.create_array(path / "a.zarr", data=stack, chunks=chunks)
    return path / "a.zarr"


def zarr_2(path: Path, stack: NDArray[Any]) -> object:
    zarr.create_array(path / "a.zarr", data=stack, zarr_format=2)
    return path / "a.zarr"


def ome_zarr(path: Path, stack: NDArray[Any], *, version: str = "0.4", axes: str = "") -> object:
    axes = axes or ("tyx" if stack.ndim == 3 else "tyxs")
    content = {
        "version": version,
        "axes": [{"name": axis, "type": "time" if axis == "t" else "space"} for axis in axes],
        "datasets": [{"path": "0"}, {"path": "1"}],
    }
    attributes = {"multiscales": [content]} if version == "0.4" else {"ome": {"multiscales": [content]}}
    zarr_format: Any = 2 if version == "0.4" else 3
    group = zarr.open_group(path / "a.zarr", mode="w", zarr_format=zarr_format, attributes=attributes)
    group.create_array("0", data=stack)
    group.create_array("1", data=np.ascontiguousarray(stack[:, ::2, ::2]))
    return path / "a.zarr"


def ome_zarr_5(path: Path, stack: NDArray[Any]) -> object:
    return ome_zarr(path, stack, version="0.5")


def hdf5(path: Path, stack: NDArray[Any]) -> object:
    with h5py.File(path / "a.h5", "w") as file:
        file["images"] = stack
        file["labels"] = np.arange(len(stack))
    return path / "a.h5"


def hdf5_in_chunks(path: Path, stack: NDArray[Any]) -> object:
    with h5py.File(path / "A.HDF5", "w") as file:
        options: dict[str, Any] = {"compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("entry/train", data=stack, chunks=(2, 5, *stack.shape[2:]), **options)
        file["entry/other"] = stack[::-1]
    return f"{path}/A.HDF5:/entry/train"


def tiff_pages(path: Path, stack: NDArray[Any]) -> object:
    tifffile.imwrite(path / "a.tif", stack, photometric="minisblack" if stack.ndim == 3 else "rgb")
    return path / "a.tif"


def ome_tiff(path: Path, stack: NDArray[Any]) -> object:
    axes, colours = ("TYX", "minisblack") if stack.ndim == 3 else ("TYXS", "rgb")
    tifffile.imwrite(path / "a.ome.tif", stack, ome=True, metadata={"axes": axes}, photometric=colours)
    return path / "a.ome.tif"


def imagej(path: Path, stack: NDArray[Any]) -> object:
    tifffile.imwrite(path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    return path / "a.tif"


def tiff_files(path: Path, stack: NDArray[Any]) -> object:
    for k, image in enumerate(stack):
        colours = "minisblack" if image.ndim == 2 else "rgb"
        tifffile.imwrite(path / f"{k}.tif", image, compression="zlib", photometric=colours)
    return path


def png_files(path: Path, stack: NDArray[Any]) -> object:
    for k, image in enumerate(stack):
        PIL.Image.fromarray(image).save(path / f"{k}.png")
    return path


def idx(path: Path, stack: NDArray[Any]) -> object:
    content = struct.pack(">4I", 0x803, *stack.shape) + stack.tobytes()
    (path / "a-ubyte.gz").write_bytes(gzip.compress(content))
    return path / "a-ubyte.gz"


ARRAYS: list[Writer] = [npy, npy_by_columns, npz, npz_by_columns, zarr_array, zarr_2, hdf5, hdf5_in_chunks]
STACKS: list[Writer] = [ome_zarr, ome_zarr_5, tiff_pages, ome_tiff]
CONTENTS: dict[str, tuple[NDArray[Any], list[Writer]]] = {
    "8 bits": (images(5, 12, 10), [*ARRAYS, *STACKS, imagej, tiff_files, png_files, idx]),
    "8 bits, colour": (images(3, 12, 10, 3), [*ARRAYS, *STACKS, tiff_files, png_files]),
    "16 bits": (images(5, 12, 10, dtype="uint16"), [*ARRAYS, *STACKS, imagej, tiff_files, png_files]),
    "floats": (images(5, 12, 10, dtype="float32"), [*ARRAYS, *STACKS, imagej, tiff_files]),
}
every = pytest.mark.parametrize(
    ("stack", "write"),
    [
        pytest.param(stack, write, id=f"{name}-{write.__name__}")
        for name, (stack, writers) in CONTENTS.items()
        for write in writers
    ],
)


@every
def test_the_same_images_come_from_every_source(tmp_path: Path, stack: NDArray[Any], write: Writer) -> None:
    source = open_source(str(write(tmp_path, stack)))
    expected = stack if stack.ndim == 4 else stack[..., None]
    found = read(source)
    assert found.dtype == stack.dtype
    np.testing.assert_array_equal(found, expected)
    for k in (2, 0, 1):  # in another order, since chunks are kept
        np.testing.assert_array_equal(source[k], expected[k])
    np.save(tmp_path / "same.npy", stack)
    assert digest(source) == digest(open_source(tmp_path / "same.npy"))


@every
def test_a_region_is_the_same_in_every_source(tmp_path: Path, stack: NDArray[Any], write: Writer) -> None:
    spec = str(write(tmp_path, stack))
    for text, region in {
        "2:9,3:7": np.s_[:, 2:9, 3:7],
        "-4:,:": np.s_[:, -4:, :],
        " 0:100, -3:-1": np.s_[:, 0:100, -3:-1],
    }.items():
        source = open_source(spec, Reading(roi=Region.parse(text)))
        np.testing.assert_array_equal(read(source).reshape(stack[region].shape), stack[region])
        assert source.label(1).endswith(f"{Region.parse(text)}]")


@pytest.mark.parametrize("write", [*ARRAYS, *STACKS, imagej, tiff_files, png_files])
@pytest.mark.parametrize("stated", [(0, 4095), (100, 4195)])
def test_a_stated_range_is_the_same_in_every_source(
    tmp_path: Path, write: Writer, stated: tuple[float, float]
) -> None:
    low, high = map(int, stated)
    stack = low + images(3, 12, 10, dtype="uint16") // 17
    stack.flat[:2] = stated
    assert stack.min() == low
    spec = str(write(tmp_path, stack))
    source = open_source(spec, Reading(stated=stated))
    assert source[0].dtype == np.float32
    expected = (stack.astype(float) - low) / (high - low)
    np.testing.assert_allclose(read(source)[..., 0], expected, atol=1e-7)
    with pytest.raises(
        InvalidArgument, match=rf"SOURCE: .*range {low},{high - 1}, got {low} to {high} in .*; state a range"
    ):
        open_source(spec, Reading(stated=(low, high - 1)))[0]


@pytest.mark.parametrize("write", [npy, npz, zarr_array, hdf5])
@pytest.mark.parametrize("dtype", ["int16", "uint32", "int64", ">i4"])
def test_other_integers_need_a_range(tmp_path: Path, write: Writer, dtype: str) -> None:
    stack = np.arange(2 * 5 * 5).reshape(2, 5, 5).astype(dtype)
    spec = str(write(tmp_path, stack))
    with pytest.raises(InvalidArgument, match=r"SOURCE: .*(got .*int|one dataset of images).*"):
        read(open_source(spec))
    found = read(open_source(spec, Reading(stated=(-50, 50))))
    np.testing.assert_allclose(found[..., 0], (stack + 50) / 100, atol=1e-7)


HYPERSTACKS: list[Writer] = [npy, npz, zarr_array, zarr_2, hdf5]


@pytest.mark.parametrize("write", HYPERSTACKS)
def test_axes_are_those_that_are_stated(tmp_path: Path, write: Writer) -> None:
    stack = images(2, 3, 6, 7)
    spec = str(write(tmp_path, stack))
    planes = open_source(spec, Reading(axes="TCYX"))
    np.testing.assert_array_equal(read(planes)[..., 0], stack.reshape(6, 6, 7))
    colours = open_source(spec, Reading(axes="TSYX"))
    np.testing.assert_array_equal(read(colours), np.moveaxis(stack, 1, -1))
    turned = open_source(spec, Reading(axes="XYTC", roi=Region.parse("0:2,:")))
    np.testing.assert_array_equal(read(turned)[..., 0], stack.transpose(2, 3, 1, 0).reshape(42, 3, 2)[:, :2])
    with pytest.raises(InvalidArgument, match=r"one letter for each|one dataset of images"):
        open_source(spec, Reading(axes="TZCYX"))


@pytest.mark.parametrize("write", [tiff_pages, ome_tiff, imagej])
def test_axes_of_tiff_are_relabelled(tmp_path: Path, write: Writer) -> None:
    stack = images(3, 6, 7)
    spec = str(write(tmp_path, stack))
    np.testing.assert_array_equal(open_source(spec, Reading(axes="SYX"))[0], np.moveaxis(stack, 0, -1))
    with pytest.raises(InvalidArgument, match=r"SOURCE: .*a\..*tif: expected letters for .YX \(3, 6, 7\)"):
        open_source(spec, Reading(axes="YX"))[0]


def test_axes_of_the_file_are_used(tmp_path: Path) -> None:
    stack = images(2, 3, 6, 7)
    ome_zarr(tmp_path, stack, axes="cyxt")
    np.testing.assert_array_equal(
        read(open_source(tmp_path / "a.zarr"))[..., 0], stack.transpose(0, 3, 1, 2).reshape(14, 3, 6)
    )
    zarr.create_array(tmp_path / "named.zarr", data=stack, dimension_names=["y", "x", "t", "z"])
    expected = stack.transpose(2, 3, 0, 1).reshape(42, 2, 3)
    np.testing.assert_array_equal(read(open_source(tmp_path / "named.zarr"))[..., 0], expected)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = stack
        for dimension, label in zip(file["x"].dims, "yxtz", strict=True):
            dimension.label = label
    np.testing.assert_array_equal(read(open_source(tmp_path / "a.h5"))[..., 0], expected)


@pytest.mark.parametrize("write", [*ARRAYS, *STACKS, imagej, tiff_files])
def test_nan_is_refused_in_every_source(tmp_path: Path, write: Writer) -> None:
    stack = images(3, 12, 10, dtype="float32")
    stack[1, 2, 3] = np.nan
    source = open_source(str(write(tmp_path, stack)))
    assert source[0].shape == (12, 10, 1)
    with pytest.raises(InvalidArgument, match=r"SOURCE: expected finite intensities, got NaN or infinity in"):
        source[1]


class TestRegion:
    @pytest.mark.parametrize(
        "text", ["", "1:2", "1:2,3", "1:2:3,4:5", "a:b,c:d", "1:2,3:4,5:6", "1:2;3:4", "9" * 30]
    )
    def test_no_region(self, text: str) -> None:
        with pytest.raises(InvalidArgument, match=r"roi: expected ROW:ROW,COLUMN:COLUMN, such as .*, got"):
            Region.parse(text)

    @pytest.mark.parametrize("write", [npy, zarr_array, hdf5, tiff_pages, png_files, idx])
    @pytest.mark.parametrize("text", ["12:,:", ":,10:20", "5:5,:", "4:2,:", "-1:-3,:"])
    def test_no_pixels(self, tmp_path: Path, write: Writer, text: str) -> None:
        stack = images(2, 12, 10)
        with pytest.raises(
            InvalidArgument, match=r"SOURCE: .*roi: expected pixels of an image of 12x10, got \["
        ):
            read(open_source(str(write(tmp_path, stack)), Reading(roi=Region.parse(text))))

    def test_of_the_sample(self) -> None:
        whole, part = (
            open_source("sample:photos"),
            open_source("sample:photos", Reading(roi=Region.parse("8:,:4"))),
        )
        np.testing.assert_array_equal(part[5], whole[5][8:, :4])
        assert (whole.label(1), part.label(1)) == (
            "photos/astronaut[0:64, 64:128]",
            "photos/astronaut[8:64, 64:68]",
        )

    def test_labels_say_where_it_is(self, tmp_path: Path) -> None:
        reading = Reading(roi=Region.parse("2:9,3:7"))
        assert open_source(str(npy(tmp_path, images(2, 12, 10))), reading).label(1) == "a.npy[1, 2:9, 3:7]"
        (tmp_path / "f").mkdir()
        png_files(tmp_path / "f", images(2, 12, 10))
        assert open_source(tmp_path / "f", reading).label(1) == "1.png[2:9, 3:7]"

    @pytest.mark.parametrize("kind", ["zarr", "h5", "npy"])
    def test_of_an_image_beyond_memory(self, tmp_path: Path, kind: str) -> None:
        shape = (1, 1 << 17, 1 << 17)
        spec: object = tmp_path / f"a.{kind}"
        if kind == "zarr":
            array: Any = zarr.create_array(spec, shape=shape, chunks=(1, 256, 256), dtype="uint8")
            array[0, 70_000:70_010, 90_000:90_010] = 7
        elif kind == "h5":
            with h5py.File(spec, "w") as file:
                array = file.create_dataset("x", shape, "uint8", chunks=(1, 256, 256))
                array[0, 70_000:70_010, 90_000:90_010] = 7
        else:
            array = np.lib.format.open_memmap(spec, "w+", np.uint8, shape)
            array[0, 70_000:70_010, 90_000:90_010] = 7
        with pytest.raises(
            InvalidArgument, match=r"expected at most 134217728 pixels .*got 131072 × 131072 × 1"
        ):
            open_source(str(spec))
        image = open_source(str(spec), Reading(roi=Region.parse("69999:70011,89999:90011")))[0]
        np.testing.assert_array_equal(image[..., 0], np.pad(np.full((10, 10), 7), 1))


class TestChunks:
    def test_each_is_decoded_once(self) -> None:
        class Counted:
            shape = (4, 6, 5, 5)
            numbers = images(*shape)
            reads = 0

            def __getitem__(self, index: Any) -> Any:
                self.reads += 1
                return self.numbers[index]

        array = Counted()
        chunked = Chunked(array, (1, 4, 5, 5))
        for t in range(4):
            for z in range(6):
                np.testing.assert_array_equal(chunked[t, z, :, 1:3], array.numbers[t, z, :, 1:3])
        assert array.reads == 8

    def test_of_planes_that_are_too_large_are_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lemmse.index.sources._chunks._MOST", 100)
        numbers = images(4, 6, 6)
        chunked = Chunked(numbers, (4, 6, 6))
        np.testing.assert_array_equal(chunked[1, :, :], numbers[1])
        assert chunked._numbers.size == 0


class TestHdf5:
    def test_without_h5py_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hdf5(tmp_path, images(2, 6, 6))
        monkeypatch.setitem(sys.modules, "h5py", None)
        for spec in (f"{tmp_path}/a.h5", f"{tmp_path}/a.h5:/images"):
            with pytest.raises(FailedPrecondition, match=r"HDF5 needs h5py; pip install 'lemmse\[hdf5\]'"):
                open_source(spec)

    def test_several_datasets_are_listed(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["b/test"] = images(2, 6, 6)
            file["b/train"] = images(2, 6, 6)
            file["y"] = np.arange(2)
        with pytest.raises(
            InvalidArgument,
            match=r"SOURCE: expected one dataset of images, or its name as .*a\.h5:/NAME, "
            r"got /b/test \(2, 6, 6\) uint8, /b/train \(2, 6, 6\) uint8, /y \(2,\) int64$",
        ):
            open_source(tmp_path / "a.h5")
        assert len(open_source(f"{tmp_path}/a.h5:b/test")) == 2

    @pytest.mark.parametrize("inner", ["/nothing", "/b", "/", "/soft", "/outside"])
    def test_a_name_of_something_else(self, tmp_path: Path, inner: str) -> None:
        hdf5(tmp_path, images(2, 6, 6))
        (tmp_path / "a.h5").rename(tmp_path / "other.h5")
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["b/test"] = images(2, 6, 6)
            file["soft"] = h5py.SoftLink("/nowhere")
            file["outside"] = h5py.ExternalLink("other.h5", "/images")
        with pytest.raises(
            InvalidArgument, match=rf"SOURCE: .*a\.h5: expected a dataset of this file, got {inner}"
        ):
            open_source(f"{tmp_path}/a.h5:{inner}")

    def test_numbers_in_another_file_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(bytes(72))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", (2, 6, 6), "uint8", external=[(str(tmp_path / "secret"), 0, 72)])
        with pytest.raises(InvalidArgument, match=r"a\.h5: expected numbers in the file itself"):
            open_source(tmp_path / "a.h5")
        hdf5(tmp_path, images(2, 6, 6))
        layout = h5py.VirtualLayout((2, 6, 6), "uint8")
        layout[:] = h5py.VirtualSource(tmp_path / "a.h5", "images", (2, 6, 6))
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file.create_virtual_dataset("x", layout)
        with pytest.raises(InvalidArgument, match=r"b\.h5: expected numbers in the file itself"):
            open_source(tmp_path / "b.h5")

    def test_a_filter_that_h5py_lacks_is_named(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_chunk((2, 6, 6))
            plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
            space = h5py.h5s.create_simple((2, 6, 6))
            h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, space, plan)
        with pytest.raises(
            InvalidArgument, match=r"a\.h5: expected gzip, lzf or szip, once, got filter 32015"
        ):
            open_source(tmp_path / "a.h5")

    @pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"text"])
    def test_a_damaged_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.h5").write_bytes(content)
        with pytest.raises(InvalidArgument, match=r"SOURCE: expected a readable file, got .*a\.h5 \("):
            open_source(tmp_path / "a.h5")

    def test_a_damaged_chunk(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            x = file.create_dataset("x", data=images(2, 60, 60), chunks=(1, 60, 60), compression="gzip")
            place = x.id.get_chunk_info(1).byte_offset
        with (tmp_path / "a.h5").open("r+b") as raw:
            raw.seek(place)
            raw.write(b"no zlib stream")
        source = open_source(tmp_path / "a.h5")
        assert source[0].shape == (60, 60, 1)
        with pytest.raises(InvalidArgument, match=r"SOURCE: expected a readable file, got .*a\.h5 \("):
            source[1]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match=r"no such file or folder: '.*a\.h5:/x'"):
            open_source(f"{tmp_path}/a.h5:/x")

    def test_a_chunk_that_decodes_to_more_than_it_says(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            x = file.create_dataset("x", (1, 64, 64), "uint8", chunks=(1, 64, 64), compression="gzip")
            x.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(1 << 28), 1))
        program = (
            "import resource, sys; from lemmse.index.sources import open_source\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "try: open_source(sys.argv[1])[0]\n"
            "except Exception as error: print(error)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
        )
        said = run_process([sys.executable, "-c", program, tmp_path / "a.h5"]).stdout.splitlines()
        assert "expected chunks of 4096 bytes, got a longer one" in said[0]
        assert int(said[1]) * (1 if sys.platform == "darwin" else 1024) < 200e6


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (Reading(axes="TYX"), "axes: expected none for sample:photos"),
        (Reading(stated=(0, 200)), "range 0,200, got"),
    ],
)
def test_what_the_sample_is_not(reading: Reading, message: str) -> None:
    with pytest.raises(LemmseError, match=message):
        read(open_source("sample:photos", reading))
