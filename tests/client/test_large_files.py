"""Files with large planes: read, reconstructed and written tile by tile, and gone on with after a stop."""

import json
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner

from lemmse.client import large_files
from lemmse.client.cli import main
from lemmse.client.errors import Unavailable
from lemmse.contract import limits
from tests.support.commands import apart

RNG = np.random.default_rng(11)
SHAPE = (21, 35)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current directory with a folder in/. Images above 100 pixels are large, and tiles 16 × 16."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for module in [module for name, module in sys.modules.items() if name.startswith("lemmse.")]:
        if module is not limits and hasattr(module, "LARGE_PIXELS"):
            monkeypatch.setattr(module, "LARGE_PIXELS", 100)
    monkeypatch.setattr("lemmse.client.tiles._SIDE", 16)
    monkeypatch.setattr("lemmse.index.files.mapped_outputs.TILE", 16)


@pytest.fixture
def run(tiny_index):
    """Exit status, stdout and stderr of `lemmse reconstruct` with the tiny index, but for its progress."""

    def command(*arguments, sigma="0.1"):
        words = ["reconstruct", "--sigma", sigma, "--mode", "hybrid", "--index", str(tiny_index)]
        result = CliRunner().invoke(main, [*words, *map(str, arguments)])
        return result.exit_code, result.stdout, apart(result.stderr)[1]

    return command


@pytest.fixture
def whole(embedded, monkeypatch):
    """The answer for an image as a whole, in intensities."""

    def answer(y, **options):
        tall = np.asarray(y)
        with monkeypatch.context() as patch:
            patch.setattr("lemmse.client.mosaic.LARGE_PIXELS", 1 << 22)
            return embedded.reconstruct(tall, **({"sigma": 0.1, "mode": "hybrid"} | options))

    return answer


def read(path):
    """The numbers in a file."""
    path = Path(path)
    if path.suffix == ".zarr":
        node = zarr.open(path, mode="r")
        return (node if hasattr(node, "shape") else node["0"])[:]
    return np.load(path) if path.suffix == ".npy" else tifffile.imread(path)


def write(path, y, **tiff):
    """Write an image in the format of the suffix: OME-Zarr if its name begins with ome."""
    path = Path(path)
    if path.suffix == ".npy":
        np.save(path, y)
    elif path.suffix != ".zarr":
        tifffile.imwrite(path, y, **({"photometric": "minisblack"} | tiff))
    elif path.name.startswith("ome"):
        image = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}
        group = zarr.open_group(
            path, mode="w", attributes={"ome": {"version": "0.5", "multiscales": [image]}}
        )
        group.create_array("0", data=y, chunks=(8, 16))
    else:
        zarr.create_array(path, data=y, chunks=(16, 8))


class TestFormats:
    @pytest.mark.parametrize("name", ["a.npy", "a.zarr", "ome.zarr", "a.tif"])
    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_what_is_written_is_the_answer_for_the_whole(self, run, whole, name, dtype):
        y = RNG.random(SHAPE, np.float32)
        y = (255 * y).astype(np.uint8) if dtype == "uint8" else y
        write(f"in/{name}", y)
        assert run("in", "--out", "out", "--maps", "ess,error") == (0, f"out/{name}\n", "")
        result = whole(y, maps=["ess", "error"])
        found = read(f"out/{name}")
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.rint(result.image) if dtype == "uint8" else result.image)
        stem, suffix = name.split(".")
        for kind in ("ess", "error"):
            values = read(f"out/{stem}.{kind}.{'tiff' if suffix == 'tif' else suffix}")
            np.testing.assert_allclose(values, getattr(result, kind), rtol=1e-6)
        assert len(list(Path("out").iterdir())) == 3

    @pytest.mark.parametrize(
        "how",
        [
            {"tile": (16, 16)},
            {"compression": "zlib", "rowsperstrip": 5},
            {"bigtiff": True},
            {"byteorder": ">"},
        ],
    )
    def test_tiff(self, run, whole, how):
        y = RNG.integers(0, 65535, SHAPE, np.uint16)
        write("in/a.tif", y, resolution=(300, 300), **how)
        assert run("in", "--out", "out")[0] == 0
        with tifffile.TiffFile("out/a.tif") as file:
            assert file.pages[0].is_tiled
            assert file.pages[0].tags["XResolution"].value == (300, 1)
            np.testing.assert_array_equal(file.asarray(), np.rint(whole(y).image))

    def test_what_is_decoded_as_a_whole(self, run, whole):
        y = RNG.integers(0, 255, SHAPE, np.uint8)
        iio.imwrite("in/a.png", y)
        tifffile.imwrite("in/b.tif", y >> 4, bitspersample=4, photometric="minisblack")
        assert run("in", "--out", "out")[::2] == (0, "")
        np.testing.assert_array_equal(iio.imread("out/a.png"), np.rint(whole(y).image))
        expected = whole((y >> 4) / np.float32(15)).image
        np.testing.assert_allclose(tifffile.imread("out/b.tif"), 15 * expected, atol=0.51)

    def test_stacks(self, run, whole):
        stack = RNG.integers(0, 255, (2, *SHAPE), np.uint8)
        write("in/a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
        write("in/b.tif", stack >> 4, bitspersample=4)
        np.save("in/c.npy", stack)
        np.save("in/small.npy", stack[:, :5, :5])
        status, stdout, stderr = run("in", "--out", "out", "--axes", "zyx", "--json")
        assert (status, stderr) == (0, "")
        told = [json.loads(line) for line in stdout.splitlines()]
        assert [(one["output"], one["planes"]) for one in told] == [
            ("out/small.npy", 2),
            *((f"out/{name}", 2) for name in ("a.tif", "b.tif", "c.npy")),
        ]
        for k in range(2):
            expected = np.rint(whole(stack[k]).image)
            np.testing.assert_array_equal(tifffile.imread("out/a.tif")[k], expected)
            np.testing.assert_array_equal(np.load("out/c.npy")[k], expected)

    def test_maps_of_sigma_and_masks_are_cut_along(self, run, whole, embedded):
        y, sigma = RNG.random(SHAPE), RNG.uniform(0.05, 0.3, SHAPE)
        mask = RNG.random(SHAPE) > 0.2
        np.save("in/a.npy", np.where(mask, y, 1e9))
        np.save("sigma.npy", sigma)
        zarr.create_array("mask.zarr", data=mask.view(np.uint8), chunks=(8, 8))
        assert run("in", "--out", "out", "--mask", "mask.zarr", sigma="sigma.npy")[::2] == (0, "")
        expected = whole(y, mask=mask, sigma=sigma).image
        np.testing.assert_allclose(np.load("out/a.npy"), expected, rtol=1e-6)

        write(
            "in/a.tif",
            np.where(mask, y, -9999).astype(np.float32),
            extratags=[(42113, "s", 0, "-9999", True)],
        )
        assert run("in/a.tif", "--out", "out")[::2] == (0, "")
        expected = whole(y.astype(np.float32), mask=mask).image
        np.testing.assert_array_equal(tifffile.imread("out/a.tif"), expected)

    def test_nan_that_was_not_observed(self, run, whole):
        y, seen = RNG.random(SHAPE), np.ones(SHAPE, bool)
        seen[20, 34] = False
        np.save("in/a.npy", np.where(seen, y, np.nan))
        assert run("in/a.npy", "--out", "out", "--nan", "mask")[::2] == (0, "")
        np.testing.assert_allclose(np.load("out/a.npy"), whole(y, mask=seen).image, rtol=1e-6)

    def test_counts_of_photons(self, run, whole, embedded):
        y = RNG.random(SHAPE)
        np.save("in/a.npy", y)
        flags = ("--noise", "poisson-gaussian", "--gain", 0.05)
        assert run("in/a.npy", "--out", "out", *flags)[::2] == (0, "")
        asked = {"sigma": 0.1, "noise": "poisson-gaussian", "gain": 0.05, "mode": "hybrid"}
        in_tiles = embedded.reconstruct(y, **asked).image
        np.testing.assert_allclose(np.load("out/a.npy"), in_tiles, rtol=1e-6)
        assert np.abs(in_tiles - whole(y).image).max() > 1e-3

    def test_one_file_ends_no_batch(self, run):
        y = RNG.random(SHAPE)
        y[20, 34] = np.nan
        np.save("in/a.npy", y)
        np.save("in/b.npy", 255 * RNG.random(SHAPE))
        np.save("in/c.npy", RNG.random((*SHAPE, 3)))
        np.save("in/d.npy", RNG.random(SHAPE))
        status, stdout, stderr = run("in", "--out", "out", "--report", "r.json", "--journal", "j")
        assert (status, stdout) == (1, "out/d.npy\n")
        assert [line.split(":")[2].strip() for line in stderr.splitlines()] == [
            "in/c.npy",
            "in/a.npy",
            "in/b.npy",
        ]
        for said in ("got nan", "divide by 255", "expected images with 1 channels"):
            assert said in stderr
        assert [path.name for path in Path("out").iterdir()] == ["d.npy"]


class TestResume:
    @pytest.fixture
    def stop(self, monkeypatch):
        """Have the connection be lost after some tiles; return the numbers of the tiles that are answered."""
        note = large_files._note

        def stop_after(count):
            answered = []

            def stopping(journal, work, k, number, diagnostics):
                note(journal, work, k, number, diagnostics)
                answered.append(number)
                if len(answered) == count:
                    raise Unavailable("stopped")

            monkeypatch.setattr(large_files, "_note", stopping)
            return answered

        return stop_after

    @pytest.mark.parametrize("name", ["a.npy", "a.zarr", "ome.zarr", "a.tif"])
    def test_goes_on_with_the_tiles_that_are_done(self, run, stop, whole, name):
        y = RNG.integers(0, 255, SHAPE, np.uint8)
        write(f"in/{name}", y)
        how = ("in", "--out", "out", "--maps", "ess", "--journal", "j", "--json")
        answered = stop(2)
        assert run(*how)[0] == 1
        assert answered == [0, 1]
        assert all(path.name.endswith(".tmp") for path in Path("out").iterdir())
        with Path("j").open("a") as file:
            file.write('{"tile_of": "cut')
        answered = stop(100)
        status, stdout, _ = run(*how)
        assert status == 0
        assert answered == [2, 3, 4, 5]
        result = whole(y, maps=["ess"])
        np.testing.assert_array_equal(read(f"out/{name}"), np.rint(result.image))
        assert json.loads(stdout)["planes"] == 1
        assert len(list(Path("out").iterdir())) == 2
        assert run(*how) == (0, "", "")

    def test_an_input_that_changed_is_begun_anew(self, run, stop, whole):
        np.save("in/a.npy", RNG.random(SHAPE, np.float32))
        how = ("in", "--out", "out", "--journal", "j")
        stop(3)
        assert run(*how)[0] == 1
        y = RNG.random(SHAPE)
        np.save("in/a.npy", y)
        answered = stop(100)
        assert run(*how)[0] == 0
        assert answered == list(range(6))
        np.testing.assert_allclose(np.load("out/a.npy"), whole(y).image, rtol=1e-6)
        assert [path.name for path in Path("out").iterdir()] == ["a.npy"]

    def test_without_a_journal_nothing_is_left(self, run, stop):
        np.save("in/a.npy", RNG.random(SHAPE, np.float32))
        stop(3)
        assert run("in", "--out", "out")[0] == 1
        assert list(Path("out").iterdir()) == []
