"""Image files are read as they are displayed, and come out as they went in."""

import gzip
import io
import lzma
import os
import resource
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import hypothesis.extra.numpy as hnp
import imagecodecs
import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract.errors import FailedPrecondition, InvalidArgument, NotFound
from lemmse.index.files import (
    Layout,
    Metadata,
    Scale,
    create_output,
    find_files,
    open_stack,
    read_map,
    read_mask,
)
from tests.support.processes import run_process

RNG = np.random.default_rng(0)


def numbers(*shape, dtype="uint8"):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return RNG.random(shape).astype(kind)
    return RNG.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


def read(path, **how):
    """The planes of a file in its numbers, (N, H, W) or (N, H, W, C)."""
    with open_stack(path, **how) as stack:
        return np.stack([stack.numbers(k) for k in range(len(stack))])


def intensities(path, **how):
    """The only plane of a file in intensities."""
    with open_stack(path, **how) as stack:
        return stack.scale.intensities(stack.only())


def copy(source, target, **how):
    """Write a file with the planes and all that is kept of another."""
    with open_stack(source, **how) as stack:
        output = create_output(target, stack.layout, stack.scale, stack.metadata)
        for k in range(len(stack)):
            values = stack.scale.intensities(stack.numbers(k))
            output.put(k, stack.scale.numbers(values))
        output.commit()
    return target


class TestScale:
    @pytest.mark.parametrize("bits", range(1, 17))
    def test_unsigned_integers_use_all_of_their_bits(self, bits):
        dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
        scale = Scale.of(dtype, bits=bits)
        every = np.arange(2**bits).astype(dtype)
        values = scale.intensities(every)
        assert (values.dtype, values[0], values[-1]) == (np.float32, 0, 1)
        np.testing.assert_array_equal(scale.numbers(values), every)
        beyond = np.array([-1.0, 2.0], np.float32)
        np.testing.assert_array_equal(scale.numbers(beyond), [0, 2**bits - 1])

    @pytest.mark.parametrize("dtype", ["uint32", "uint64", "int8", "int16", "int32", "int64"])
    def test_other_integers_need_a_range(self, dtype):
        with pytest.raises(InvalidArgument, match=f"got {dtype}, in which white may be any number"):
            Scale.of(np.dtype(dtype))
        scale = Scale.of(np.dtype(dtype), stated=(-100, 100))
        np.testing.assert_allclose(scale.intensities(np.array([0, 100]).astype(dtype)), [0.5, 1])
        np.testing.assert_array_equal(scale.numbers(np.array([0.5, 1.0])), [0, 100])
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        found = scale.numbers(np.array([-1e30, 1e30]))
        assert found.dtype == dtype
        assert found[0] == max(least, -(2**63))
        assert int(most) - int(found[1]) <= 2**11

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
    def test_floats_stay_as_they_are(self, dtype):
        scale = Scale.of(np.dtype(dtype))
        values = np.array([-0.5, 0.25, 2.0]).astype(dtype)
        np.testing.assert_array_equal(scale.numbers(scale.intensities(values)), values)

    @pytest.mark.parametrize("dtype", ["complex64", "U1", "O", "M8[s]", "longdouble"])
    def test_what_is_no_number(self, dtype):
        with pytest.raises(InvalidArgument, match="expected integers or floats"):
            Scale.of(np.dtype(dtype))


class TestLayout:
    @given(st.permutations("TZYXS"), st.data())
    def test_planes_in_any_order_of_axes(self, axes, data):
        shape = data.draw(st.tuples(*[st.integers(1, 3)] * 5))
        layout = Layout.checked("".join(axes), shape)
        array = np.arange(np.prod(shape)).reshape(shape)
        ordered = array.transpose(
            [layout.axes.index(a) for a in sorted(set(axes) & set("TZ"), key=axes.index)]
            + [layout.axes.index(a) for a in "YXS"]
        )
        ordered = ordered.reshape(layout.count, *layout.plane_shape)
        written = np.zeros(shape, int)
        for k in range(layout.count):
            plane = layout.to_plane(array[layout.index(k)])
            np.testing.assert_array_equal(plane, ordered[k])
            written[layout.index(k)] = layout.from_plane(plane)
        np.testing.assert_array_equal(written, array)

    def test_channels_that_an_index_has_are_joined(self):
        layout = Layout.checked("TCYX", (2, 3, 4, 5))
        assert (layout.count, layout.channels) == (6, 1)
        joined = layout.joined(3)
        assert (joined.count, joined.plane_shape) == (2, (4, 5, 3))
        assert layout.joined(2) is layout
        assert joined.of_map(per_channel=False) == Layout("TYX", (2, 4, 5))

    @pytest.mark.parametrize("axes", ["TYX", "ZYXX", "TZCX", "YX"])
    def test_letters_that_do_not_fit(self, axes):
        with pytest.raises(InvalidArgument, match="expected Y, X and one letter for each of 4 axes"):
            Layout.checked(axes, (2, 3, 4, 5))


class TestTiff:
    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_all_forms(self, tmp_path_factory, data):
        """Whatever form a TIFF has, it is read as it is displayed, and written so."""
        bits = data.draw(st.sampled_from([1, 2, 4, 7, 8, 10, 12, 14, 16, "float32", "float64"]))
        photometric = data.draw(st.sampled_from(["minisblack", "miniswhite", "rgb"]))
        if bits == 1 and photometric == "rgb":
            photometric = "minisblack"
        planar = data.draw(st.sampled_from(["contig", "separate"])) if photometric == "rgb" else None
        compression = data.draw(st.sampled_from([None, "zlib", "lzw", "packbits", "lzma", "zstd"]))
        packed = not isinstance(bits, str) and bits not in (8, 16)
        if packed:  # tifffile packs neither planes nor tiles of several samples
            planar, compression = ("contig" if planar else None), None
        tile = data.draw(st.sampled_from([None, (16, 16)])) if not packed else None
        byteorder = "<" if packed else data.draw(st.sampled_from("<>"))  # tifffile packs only little-endian
        pages = data.draw(st.integers(1, 3))
        shape = (pages, 3, 7, 9) if planar == "separate" else (pages, 7, 9, *((3,) if planar else ()))
        if isinstance(bits, str):
            if photometric == "miniswhite":
                photometric = "minisblack"
            stored = RNG.random(shape).astype(bits)
            shown, options = stored, {}
        else:
            dtype = np.uint8 if bits <= 8 else np.uint16
            stored = RNG.integers(0, 2**bits, shape).astype(dtype)
            shown = (2**bits - 1 - stored) if photometric == "miniswhite" else stored
            options = {"bitspersample": bits} if packed else {}
        predictor = data.draw(st.booleans()) and compression in ("zlib", "lzw", "zstd") and not packed
        path = tmp_path_factory.mktemp("tiff") / "a.tif"
        with tifffile.TiffWriter(path, byteorder=byteorder) as file:
            for page in stored:
                file.write(
                    page,
                    photometric=photometric,
                    planarconfig=planar,
                    compression=compression,
                    tile=tile,
                    predictor=predictor,
                    metadata=None,
                    software="a camera",
                    **options,
                )
        if planar == "separate":
            shown = np.moveaxis(shown, 1, -1)
        found = read(path)
        if bits == 1:
            shown = shown.astype(bool)
        np.testing.assert_array_equal(found, shown)
        with open_stack(path) as stack:
            white = 1 if isinstance(bits, str) else 2**bits - 1
            np.testing.assert_allclose(stack.scale.intensities(stack.numbers(0)), shown[0] / white, atol=1e-7)
        np.testing.assert_array_equal(read(copy(path, path.with_name("b.tif"))), shown)
        with tifffile.TiffFile(path.with_name("b.tif")) as file:
            page = file.pages.first
            assert page.bitspersample == (bits if not isinstance(bits, str) else int(bits[5:]))
            if pages == 1 and not packed:
                assert (page.compression == 1) == (compression is None)

    def test_packed_numbers_of_the_other_byte_order(self, tmp_path):
        stored = RNG.integers(0, 2**12, (4, 6), np.uint16)
        pairs = stored.reshape(-1, 2).astype(np.uint32)
        together = pairs[:, 0] << 12 | pairs[:, 1]
        data = np.stack([together >> 16, together >> 8, together], axis=1).astype(np.uint8).tobytes()
        tifffile.imwrite(tmp_path / "a.tif", stored, bitspersample=12, byteorder=">", photometric=1)
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            ((offset, count),) = zip(
                file.pages.first.dataoffsets, file.pages.first.databytecounts, strict=True
            )
        content = (tmp_path / "a.tif").read_bytes()
        assert count == len(data)
        (tmp_path / "a.tif").write_bytes(content[:offset] + data + content[offset + count :])
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], stored)

    def test_bools_of_both_programs(self, tmp_path):
        seen = RNG.random((8, 9)) < 0.5
        PIL.Image.fromarray(seen).save(tmp_path / "pillow.tif")
        PIL.Image.fromarray(seen).save(tmp_path / "inverted.tif", tiffinfo={262: 0})
        tifffile.imwrite(tmp_path / "tifffile.tif", seen)
        iio.imwrite(tmp_path / "a.png", seen)
        np.save(tmp_path / "a.npy", seen)
        for path in tmp_path.iterdir():
            np.testing.assert_array_equal(read_mask(path), seen, err_msg=path.name)

    def test_a_palette_is_looked_up(self, tmp_path):
        colours = numbers(3, 256)
        stored = numbers(5, 6)
        for name, table in [("a", colours.astype(np.uint16) * 257), ("b", numbers(3, 256, dtype="uint16"))]:
            path = tmp_path / f"{name}.tif"
            tifffile.imwrite(path, stored, photometric="palette", colormap=table)
            expected = np.moveaxis((colours if name == "a" else table)[:, stored], 0, -1)
            np.testing.assert_array_equal(read(path)[0], expected)

    @pytest.mark.parametrize("photometric", ["separated", "cielab", "cfa"])
    def test_numbers_that_are_no_intensities(self, tmp_path, photometric):
        shape = {"separated": (8, 9, 4), "cielab": (8, 9, 3), "cfa": (8, 9)}[photometric]
        tifffile.imwrite(tmp_path / "a.tif", numbers(*shape), photometric=photometric, metadata=None)
        with pytest.raises(InvalidArgument, match=f"got {photometric.upper()}; convert it first"):
            read(tmp_path / "a.tif")

    def test_a_compression_whose_size_cannot_be_checked(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", numbers(16, 16), compression="jpegxl", photometric=1)
        with pytest.raises(InvalidArgument, match="got JPEGXL; convert it first"):
            read(tmp_path / "a.tif")

    def test_jpeg_in_tiff(self, tmp_path):
        image = np.full((16, 16, 3), (200, 100, 50), np.uint8)
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression="jpeg")
        np.testing.assert_allclose(read(tmp_path / "a.tif")[0], image, atol=4)

    def test_images_of_several_shapes_are_refused_and_thumbnails_ignored(self, tmp_path):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(numbers(8, 9), metadata=None)
            file.write(numbers(5, 5), metadata=None)
        with pytest.raises(InvalidArgument, match=r"expected one picture or one stack, got 2 \(YX \(8, 9\)"):
            read(tmp_path / "a.tif")
        image = numbers(8, 9)
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(image, metadata=None)
            file.write(numbers(4, 4), subfiletype=1, metadata=None)
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], image)

    def test_a_codec_that_is_not_installed_is_named(self, tmp_path):
        tifffile.imwrite(tmp_path / "lzw.tif", numbers(8, 9), compression="lzw")
        tifffile.imwrite(tmp_path / "zlib.tif", numbers(8, 9), compression="zlib")
        tifffile.imwrite(tmp_path / "bits.tif", numbers(8, 9) // 16, bitspersample=4, photometric=1)
        (tmp_path / "deep.png").write_bytes(png(16, 2, 3))
        code = (
            "import sys; sys.modules['imagecodecs'] = None\n"
            "from pathlib import Path; from lemmse.index.files import open_stack\n"
            "for name in sys.argv[1:]:\n"
            "    try: open_stack(Path(name)).only(); print('read')\n"
            "    except Exception as error: print(type(error).__name__, error)\n"
        )
        names = [str(tmp_path / name) for name in ("zlib.tif", "lzw.tif", "bits.tif", "deep.png")]
        done = run_process([sys.executable, "-W", "ignore::ResourceWarning", "-c", code, *names])
        tiff = "FailedPrecondition this TIFF needs imagecodecs; pip install 'lemmse[codecs]'"
        deep = "FailedPrecondition 16-bit colour PNG needs imagecodecs; pip install 'lemmse[codecs]'"
        assert done.stdout.splitlines() == ["read", tiff, tiff, deep]


class TestStacks:
    @pytest.mark.parametrize("options", [{}, {"truncate": True}])
    def test_imagej(self, tmp_path, options):
        stack = numbers(2, 3, 2, 8, 9, dtype="uint16")
        metadata = {"axes": "TZCYX", "spacing": 2.5, "unit": "um", "finterval": 0.1, "Info": "a note"}
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, stack, imagej=True, metadata=metadata, resolution=(4, 5), **options)
        np.testing.assert_array_equal(read(path), stack.reshape(12, 8, 9))
        copy(path, tmp_path / "b.tif")
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            assert file.series[0].axes == "TZCYX"
            np.testing.assert_array_equal(file.asarray(), stack)
            kept = file.imagej_metadata
            assert metadata.items() - {("axes", "TZCYX")} <= kept.items()
            assert file.pages.first.tags[282].value == (4, 1)
            assert file.pages.first.tags[283].value == (5, 1)

    def test_ome(self, tmp_path):
        stack = numbers(2, 3, 8, 9, dtype="uint16")
        metadata = {
            "axes": "CZYX",
            "PhysicalSizeX": 0.1,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeZ": 2.0,
            "Channel": {"Name": ["DAPI", "GFP"]},
            "Name": "cells",
            "Description": "two <channels>",
        }
        tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata=metadata)
        copy(tmp_path / "a.ome.tif", tmp_path / "b.ome.tif")
        with tifffile.TiffFile(tmp_path / "b.ome.tif") as file:
            assert (file.series[0].axes, file.is_ome) == ("CZYX", True)
            np.testing.assert_array_equal(file.asarray(), stack)
            xml = file.ome_metadata
        for text in (
            'PhysicalSizeX="0.1"',
            'PhysicalSizeZ="2.0"',
            'Name="GFP"',
            "two &lt;channels&gt;",
            "cells",
        ):
            assert text in xml

    def test_channels_as_colours(self, tmp_path):
        stack = numbers(2, 3, 8, 9)
        tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
        with open_stack(tmp_path / "a.tif") as opened:
            joined = opened.joined(3)
            assert len(joined) == 2
            np.testing.assert_array_equal(joined.numbers(1), np.moveaxis(stack[1], 0, -1))
            output = create_output(tmp_path / "b.tif", joined.layout, joined.scale, joined.metadata)
            for k in range(2):
                output.put(k, joined.numbers(k))
            output.commit()
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            assert file.series[0].axes == "ZCYX"
            np.testing.assert_array_equal(file.asarray(), stack)

    @pytest.mark.parametrize(
        ("shape", "axes", "options"),
        [
            ((5, 8, 9), None, {"description": "a cell", "metadata": None}),
            ((5, 8, 9, 3), None, {"description": "a cell", "metadata": None, "photometric": "rgb"}),
            ((5, 8, 9), "ZYX", {"metadata": None}),
            ((3, 8, 9), "SYX", {"metadata": None}),
            ((2, 5, 8, 9), None, {"metadata": {"axes": "TZYX"}}),
            ((2, 3, 16, 16), None, {"volumetric": True, "tile": (16, 16, 16)}),
        ],
    )
    def test_stacks_of_tiff_come_out_as_they_went_in(self, tmp_path, shape, axes, options):
        tifffile.imwrite(tmp_path / "a.tif", numbers(*shape), **{"photometric": "minisblack"} | options)
        copy(tmp_path / "a.tif", tmp_path / "b.tif", axes=axes)
        np.testing.assert_array_equal(
            read(tmp_path / "b.tif", axes=axes), read(tmp_path / "a.tif", axes=axes)
        )
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "b.tif"), tifffile.imread(tmp_path / "a.tif")
        )
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            if "description" in options:
                assert file.pages.first.description == "a cell"

    def test_stated_axes(self, tmp_path):
        stack = numbers(5, 8, 9)
        np.save(tmp_path / "a.npy", stack)
        np.savez(tmp_path / "a.npz", cells=stack)
        tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
        for name in ("a.npy", "a.npz", "a.tif"):
            np.testing.assert_array_equal(read(tmp_path / name, axes="TYX"), stack)
            np.testing.assert_array_equal(
                read(copy(tmp_path / name, tmp_path / f"b{name}", axes="TYX"), axes="TYX"), stack
            )
        assert np.load(tmp_path / "ba.npz").files == ["cells"]
        np.testing.assert_array_equal(read(tmp_path / "a.npy", axes="YXT"), np.moveaxis(stack, -1, 0))
        with pytest.raises(
            InvalidArgument, match=r"expected Y, X and one letter for each of 3 axes, got TZYX"
        ):
            read(tmp_path / "a.npy", axes="TZYX")
        np.save(tmp_path / "c.npy", numbers(2, 2, 8, 9))
        with pytest.raises(InvalidArgument, match=r"state axes, such as TYX"):
            read(tmp_path / "c.npy")

    @pytest.mark.parametrize("form", [2, 3])
    def test_zarr(self, tmp_path, form):
        stack = numbers(2, 3, 8, 9, dtype="uint16")
        options = {"dimension_names": list("tzyx")} if form == 3 else {}
        store = tmp_path / "a.zarr"
        array = zarr.create_array(
            store=store,
            data=stack,
            chunks=(1, 2, 4, 9),
            zarr_format=form,
            attributes={"site": "A"},
            **options,
        )
        assert array.shape == stack.shape
        how = {} if form == 3 else {"axes": "TZYX"}
        np.testing.assert_array_equal(read(store, **how), stack.reshape(6, 8, 9))
        copy(store, tmp_path / "b.zarr", **how)
        written = zarr.open_array(tmp_path / "b.zarr", mode="r")
        np.testing.assert_array_equal(written[:], stack)
        assert (written.chunks, written.attrs["site"]) == ((1, 1, 4, 9), "A")
        assert written.metadata.zarr_format == form
        copy(store, tmp_path / "b.zarr", **how)  # replaces the first
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]

    @pytest.mark.parametrize("form", [2, 3])
    def test_ome_zarr(self, tmp_path, form):
        stack = numbers(3, 8, 9)
        image = {
            "axes": [{"name": "z", "type": "space", "unit": "micrometer"}, {"name": "y"}, {"name": "x"}],
            "datasets": [
                {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [2, 0.1, 0.1]}]},
                {"path": "1", "coordinateTransformations": [{"type": "scale", "scale": [2, 0.2, 0.2]}]},
            ],
        }
        attributes = {"multiscales": [image | ({} if form == 3 else {"version": "0.4"})]}
        if form == 3:
            attributes = {"ome": attributes | {"version": "0.5"}}
        group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=form, attributes=attributes)
        group.create_array("0", data=stack)
        group.create_array("1", data=stack[:, ::2, ::2])
        np.testing.assert_array_equal(read(tmp_path / "a.zarr"), stack)
        copy(tmp_path / "a.zarr", tmp_path / "b.zarr")
        np.testing.assert_array_equal(read(tmp_path / "b.zarr"), stack)
        kept = dict(zarr.open_group(tmp_path / "b.zarr", mode="r").attrs)
        (found,) = (kept["ome"] if form == 3 else kept)["multiscales"]
        assert found["axes"] == image["axes"]
        assert found["datasets"] == image["datasets"][:1]

    @pytest.mark.parametrize("cut", [20, 200])
    def test_a_missing_page_is_told(self, tmp_path, cut):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            for _ in range(3):
                file.write(numbers(8, 9), metadata=None)
        content = (tmp_path / "a.tif").read_bytes()
        (tmp_path / "a.tif").write_bytes(content[:-cut])
        with pytest.raises(InvalidArgument, match="cannot be read"):
            read(tmp_path / "a.tif")


def png(depth, colour, channels, *, size=2, extra=b""):
    """A PNG of zeros, by hand."""

    def part(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes(size * channels * depth // 8)
    head = struct.pack(">IIBBBBB", size, size, depth, colour, 0, 0, 0)
    middle = part(b"tRNS", extra) if extra else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", head)
        + middle
        + part(b"IDAT", zlib.compress(size * row))
        + part(b"IEND", b"")
    )


class TestPictures:
    @pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_png(self, tmp_path, shape, dtype):
        image = numbers(*shape, dtype=dtype)
        scale = Scale.of(np.dtype(dtype))
        layout = Layout.checked("YXS"[: len(shape)], shape)
        metadata = Metadata(resolution=(300, 150), icc=b"profile", texts={"Title": "Größe"})
        output = create_output(tmp_path / "a.png", layout, scale, metadata)
        output.put(0, image)
        output.commit()
        np.testing.assert_array_equal(read(tmp_path / "a.png")[0], image)
        copy(tmp_path / "a.png", tmp_path / "b.png")
        with PIL.Image.open(tmp_path / "b.png") as kept:
            assert kept.info["icc_profile"] == b"profile"
            assert kept.info["Title"] == "Größe"
            np.testing.assert_allclose(kept.info["dpi"], (300, 150), rtol=1e-3)
        np.testing.assert_array_equal(read(tmp_path / "b.png")[0], image)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
    def test_orientation_is_applied(self, tmp_path, orientation, kind):
        shown = np.zeros((16, 32), np.uint8)
        shown[:8, :16] = 255
        undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
        turned = PIL.Image.fromarray(shown)
        ways = PIL.Image.Transpose
        way = {
            2: ways.FLIP_LEFT_RIGHT,
            3: ways.ROTATE_180,
            4: ways.FLIP_TOP_BOTTOM,
            5: ways.TRANSPOSE,
            6: ways.ROTATE_270,
            7: ways.TRANSVERSE,
            8: ways.ROTATE_90,
        }.get(undo)
        stored = turned if way is None else turned.transpose(way)
        path = tmp_path / f"a.{kind}"
        if kind == "tif":
            tag = (274, "H", 1, orientation, True)
            tifffile.imwrite(path, np.asarray(stored), extratags=[tag], resolution=(10, 20))
        else:
            exif = PIL.Image.Exif()
            exif[274] = orientation
            exif[272] = "camera"
            stored.save(path, exif=exif, dpi=(100, 200))
        np.testing.assert_allclose(read(path)[0].astype(int), shown, atol=30)
        target = copy(path, tmp_path / ("b.tif" if kind == "tif" else "b.png"))
        np.testing.assert_allclose(read(target)[0].astype(int), shown, atol=30)
        if kind != "tif":
            with PIL.Image.open(target) as kept:
                assert dict(kept.getexif()) == {272: "camera"}
                swap = orientation >= 5
                np.testing.assert_allclose(kept.info["dpi"], (200, 100) if swap else (100, 200), rtol=1e-3)

    @pytest.mark.parametrize(("white", "values"), [(65535, [0, 1, 65535]), (255, [0, 1, 255])])
    def test_pgm(self, tmp_path, white, values):
        form = ">u2" if white > 255 else "u1"
        (tmp_path / "a.pgm").write_bytes(f"P5 3 1 {white}\n".encode() + np.array(values, form).tobytes())
        np.testing.assert_array_equal(read(tmp_path / "a.pgm")[0], [values])

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    def test_alpha_is_dropped_where_it_is_opaque(self, tmp_path, suffix, channels, dtype):
        path, white = tmp_path / f"a.{suffix}", np.iinfo(dtype).max
        stored = numbers(8, 9, channels + 1, dtype=dtype)
        for alpha in (white, white - 1):
            stored[..., -1] = white
            stored[2, 3, -1] = alpha
            if suffix == "tif":
                photometric = "rgb" if channels == 3 else "minisblack"
                tifffile.imwrite(path, stored, photometric=photometric, extrasamples=["unassalpha"])
            else:
                path.write_bytes(imagecodecs.png_encode(stored))
            if alpha == white:
                expected = stored[..., :3] if channels == 3 else stored[..., 0]
                np.testing.assert_array_equal(read(path)[0], expected)
                np.testing.assert_array_equal(read(copy(path, tmp_path / f"b.{suffix}"))[0], expected)
            else:
                with pytest.raises(InvalidArgument, match="got transparent pixels; flatten it first"):
                    read(path)

    @pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16"])
    @pytest.mark.parametrize("used", [True, False])
    def test_a_transparent_colour_is_alpha(self, tmp_path, mode, used):
        grey = PIL.Image.fromarray(np.full((4, 4), 7, np.uint16 if mode == "I;16" else np.uint8))
        image = grey if mode == "I;16" else grey.convert(mode)
        colour = 7 if used else 9
        if mode == "P":
            colour = image.getpixel((0, 0)) if used else 255
        image.save(tmp_path / "a.png", transparency=(colour,) * 3 if mode == "RGB" else colour)
        if used:
            with pytest.raises(InvalidArgument, match="got transparent pixels"):
                read(tmp_path / "a.png")
        else:
            assert (read(tmp_path / "a.png") == 7).all()

    def test_a_transparent_deep_colour_is_alpha(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(16, 2, 3, extra=bytes(6)))
        with pytest.raises(InvalidArgument, match="got transparent pixels"):
            read(tmp_path / "a.png")
        (tmp_path / "a.png").write_bytes(png(16, 2, 3, extra=b"\0\7" * 3))
        assert read(tmp_path / "a.png").shape == (1, 2, 2, 3)

    @pytest.mark.parametrize("suffix", ["png", "webp"])
    def test_animations_are_refused(self, tmp_path, suffix):
        frames = [PIL.Image.fromarray(numbers(4, 32)) for _ in range(4)]
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(InvalidArgument, match="expected one picture, got 4 frames"):
            read(tmp_path / f"a.{suffix}")


class TestMeanings:
    def test_nodata(self, tmp_path):
        image = numbers(4, 5, dtype="float32")
        image[1, 2] = -9999
        tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(42113, "s", 0, "-9999", True)])
        with open_stack(tmp_path / "a.tif") as stack:
            np.testing.assert_array_equal(stack.missing(stack.only()), image == -9999)
        image[1, 2] = np.nan
        tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(42113, "s", 0, "nan", True)])
        with open_stack(tmp_path / "a.tif") as stack:
            np.testing.assert_array_equal(stack.missing(stack.only()), np.isnan(image))
        tifffile.imwrite(tmp_path / "a.tif", numbers(4, 5), extratags=[(42113, "s", 0, "-9999", True)])
        with open_stack(tmp_path / "a.tif") as stack:
            assert stack.missing(stack.only()) is None

    @pytest.mark.parametrize("array", [np.zeros((2, 2), int), np.array([["a"]]), np.zeros((2, 2), complex)])
    def test_other_element_types(self, tmp_path, array):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(InvalidArgument, match=f"got {array.dtype}"):
            read(tmp_path / "a.npy")

    def test_masks_and_maps(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([[0, 3], [-1, 0]]))
        np.testing.assert_array_equal(read_mask(tmp_path / "a.npy"), [[0, 3], [-1, 0]])
        with pytest.raises(InvalidArgument, match="expected floats, in intensities of"):
            read_map(tmp_path / "a.npy")
        iio.imwrite(tmp_path / "a.jpg", numbers(8, 8))
        with pytest.raises(InvalidArgument, match="expected a lossless format"):
            read_mask(tmp_path / "a.jpg")
        np.save(tmp_path / "b.npy", np.array([[0.5, 1e-5]], np.float16))
        assert read_map(tmp_path / "b.npy").dtype == np.float32

    def test_a_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "a.png")
        with pytest.raises(InvalidArgument, match="got a pipe, socket or device"):
            read(tmp_path / "a.png")

    @pytest.mark.parametrize("suffix", ["png", "tiff", "npy", "npz"])
    def test_damaged_files(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        with pytest.raises(NotFound):
            read(path)
        layout = Layout.checked("YX", (40, 40))
        output = create_output(path, layout, Scale.of(np.dtype(np.uint8)), Metadata())
        output.put(0, numbers(40, 40))
        output.commit()
        assert list(tmp_path.iterdir()) == [path]
        content = path.read_bytes()
        for damaged in (b"", b"text, not an image", content[: len(content) // 2]):
            path.write_bytes(damaged)
            with pytest.raises(InvalidArgument, match="expected an image, but it cannot be read") as caught:
                read(path)
            assert "\n" not in str(caught.value)

    def test_pickles_are_not_loaded(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([[{}]], object), allow_pickle=True)
        with pytest.raises(InvalidArgument, match="cannot be read"):
            read(tmp_path / "a.npy")


class TestOutputs:
    @pytest.mark.parametrize("suffix", ["png", "tif", "npy", "npz", "zarr"])
    def test_nothing_is_left_of_what_is_discarded(self, tmp_path, suffix):
        layout = Layout.checked("YX", (4, 5))
        output = create_output(tmp_path / f"a.{suffix}", layout, Scale.of(np.dtype(np.uint8)), Metadata())
        output.put(0, numbers(4, 5))
        output.discard()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("shape", [(4, 5, 2), (4, 5, 4), (3, 4, 5)])
    def test_tiff_maps_of_any_channel_count(self, tmp_path, shape):
        values = RNG.random(shape, np.float32)
        layout = Layout.checked("YXS", shape)
        output = create_output(tmp_path / "a.tiff", layout, Scale.of(values.dtype), Metadata())
        output.put(0, values)
        output.commit()
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tiff"), values)
        np.testing.assert_array_equal(read(tmp_path / "a.tiff")[0], values)

    @pytest.mark.parametrize("suffix", ["npy", "tif"])
    def test_a_stack_for_which_there_is_no_space(self, tmp_path, suffix):
        layout, scale = Layout.checked("TYX", (4, 1000, 1000)), Scale.of(np.dtype(np.uint8))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                create_output(tmp_path / f"a.{suffix}", layout, scale, Metadata())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []

    def test_what_png_cannot_hold(self, tmp_path):
        for axes, shape, dtype in [("YX", (4, 5), "f4"), ("YXS", (4, 5, 2), "u1"), ("TYX", (2, 4, 5), "u1")]:
            with pytest.raises(InvalidArgument, match="PNG"):
                create_output(
                    tmp_path / "a.png", Layout.checked(axes, shape), Scale.of(np.dtype(dtype)), Metadata()
                )

    def test_tiff_tags(self, tmp_path):
        tags = [(315, "s", 0, "artist", True), (33550, "d", 3, (0.5, 0.5, 0.0), True)]
        tifffile.imwrite(
            tmp_path / "a.tif",
            numbers(4, 5),
            extratags=tags,
            iccprofile=b"profile",
            description="a cell",
            resolution=(100, 200),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
        copy(tmp_path / "a.tif", tmp_path / "b.tif")
        with tifffile.TiffFile(tmp_path / "b.tif") as file:
            page = file.pages.first
            assert page.description == "a cell"
            assert page.tags[34675].value == b"profile"
            assert (page.tags[282].value, page.tags[283].value, page.tags[296].value) == (
                (100, 1),
                (200, 1),
                3,
            )
            assert page.tags[315].value == "artist"
            assert page.tags[33550].value == (0.5, 0.5, 0.0)


PEAK = """
import resource, sys
from pathlib import Path
from lemmse.index.files import open_stack
from lemmse.index.sources import open_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    if sys.argv[2] == "file":
        open_stack(Path(sys.argv[1])).only()
    else:
        open_source(sys.argv[1])[0]
    said = "read"
except ValueError as error:
    said = str(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, said)
"""


def peak(path: Path, kind: str = "file") -> tuple[int, str]:
    """MiB that reading a file takes, and what is said."""
    done = run_process([sys.executable, "-W", "ignore::ResourceWarning", "-c", PEAK, str(path), kind])
    assert done.returncode == 0, done.stderr
    kib, _, said = done.stdout.partition(" ")
    return int(kib) >> 10, said


COPY = """
import resource, sys
from pathlib import Path
from lemmse.index.files import create_output, open_stack
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_stack(Path(sys.argv[1]), axes="TYX") as stack:
    output = create_output(Path(sys.argv[2]), stack.layout, stack.scale, stack.metadata)
    for k in range(len(stack)):
        output.put(k, stack.numbers(k))
    output.commit()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("kind", ["tif", "npy", "truncated.tif", "zarr"])
def test_a_stack_takes_the_memory_of_a_plane(tmp_path, kind):
    path, target = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    shape = (96, 1024, 1024)
    if kind == "npy":
        np.lib.format.open_memmap(path, "w+", np.uint8, shape)[:] = 7
    elif kind == "zarr":
        zarr.create_array(store=path, shape=shape, dtype="u1", chunks=(1, 1024, 1024))[:] = 7
    else:
        planes = np.full(shape, 7, np.uint8)
        tifffile.imwrite(path, planes, photometric=1, imagej=kind != "tif", truncate=kind != "tif")
    done = run_process([sys.executable, "-W", "ignore::ResourceWarning", "-c", COPY, str(path), str(target)])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 48  # MiB; the stack has 96
    with open_stack(target, axes="TYX") as stack:
        assert len(stack) == 96
        assert (stack.numbers(95) == 7).all()


class TestBombs:
    """Small files of many pixels are refused before they are decoded."""

    def test_tiff(self, tmp_path):
        side = 32768
        data = zlib.compress(bytes(1 << 20))
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            parts = (data for _ in range((side * side) >> 20))
            file.write(
                parts,
                shape=(side, side),
                dtype=np.uint8,
                compression="zlib",
                rowsperstrip=(1 << 20) // side,
                photometric="minisblack",
            )
        assert (tmp_path / "a.tif").stat().st_size < 2 << 20
        used, said = peak(tmp_path / "a.tif")
        assert "expected at most 134217728 pixels" in said
        assert used < 64

    @pytest.mark.parametrize("codec", ["zlib", "lzma", "zstd", "lzw", "jpeg8", "jpeg2k", "png"])
    def test_a_part_of_a_tiff(self, tmp_path, codec):
        """A page of 64 × 64 in which a part decodes to 64 million pixels."""
        zeros = np.zeros((8000, 8000), np.uint8)
        number = {
            "zlib": 8,
            "lzma": 34925,
            "zstd": 50000,
            "lzw": 5,
            "jpeg8": 7,
            "jpeg2k": 34712,
            "png": 34933,
        }[codec]
        part = (
            lzma.compress(zeros, preset=0)
            if codec == "lzma"
            else getattr(imagecodecs, f"{codec}_encode")(zeros)
        )
        tifffile.imwrite(
            tmp_path / "a.tif",
            iter([part]),
            shape=(64, 64),
            dtype=np.uint8,
            compression=number,
            photometric=1,
            rowsperstrip=64,
        )
        used, said = peak(tmp_path / "a.tif")
        assert used < 40
        assert said.startswith("read") == (codec in ("lzma", "lzw"))  # these stop where the part ends

    def test_png(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(8, 0, 1, size=14000))
        used, said = peak(tmp_path / "a.png")
        assert "expected at most 134217728 pixels" in said
        assert "cut it into pieces" in said
        assert used < 64

    def test_npz(self, tmp_path):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 16, 1 << 16)}
        )
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", header.getvalue() + bytes(1 << 20))
        used, said = peak(tmp_path / "a.npz")
        assert "expected at most" in said
        assert used < 64

    def test_idx(self, tmp_path):
        content = struct.pack(">4I", 0x803, 1, 28, 28) + bytes(1 << 28)
        (tmp_path / "a-ubyte.gz").write_bytes(gzip.compress(content, 1))
        used, said = peak(tmp_path / "a-ubyte.gz", "source")
        assert "expected 784 bytes after the header, got 785 or more" in said
        assert used < 64


class TestWalk:
    def test_links_loops_and_others(self, tmp_path):
        (tmp_path / "in/sub/out").mkdir(parents=True)
        (tmp_path / "far").mkdir()
        for name in (
            "in/a.PNG",
            "in/sub/b.png",
            "in/sub/out/c.png",
            "far/d.png",
            "in/notes.txt",
            "in/.x.png",
        ):
            (tmp_path / name).touch()
        os.mkfifo(tmp_path / "in/pipe.png")
        (tmp_path / "in/loop").symlink_to(".")
        (tmp_path / "in/far").symlink_to(tmp_path / "far")
        (tmp_path / "in/gone.png").symlink_to("nothing")
        found = find_files(
            tmp_path / "in", lambda path: path.suffix.lower() == ".png", without=tmp_path / "in/sub/out"
        )
        assert [str(path) for path in found.files] == ["a.PNG", "far/d.png", "sub/b.png"]
        assert [str(path) for path in found.others] == ["gone.png", "notes.txt", "pipe.png"]
        assert [str(path) for path in found.links] == ["loop"]


@given(hnp.arrays(np.dtype(np.uint16), (4, 4)) | hnp.arrays(np.dtype(np.uint8), (4, 4)))
def test_integers_are_rounded(stored):
    scale = Scale.of(stored.dtype)
    values = scale.intensities(stored) + np.float32(0.4 / scale.white)
    np.testing.assert_array_equal(scale.numbers(np.minimum(values, 1)), stored)


def test_a_package_that_is_not_installed_is_named(tmp_path):
    zarr.create_array(store=tmp_path / "a.zarr", data=numbers(4, 4))
    code = (
        "import sys; sys.modules['zarr'] = None\n"
        "from pathlib import Path; from lemmse.index.files import open_stack\n"
        "open_stack(Path(sys.argv[1]))\n"
    )
    done = run_process([sys.executable, "-c", code, str(tmp_path / "a.zarr")])
    assert f"{FailedPrecondition.__name__}: Zarr needs zarr; pip install 'lemmse[server]'" in done.stderr
