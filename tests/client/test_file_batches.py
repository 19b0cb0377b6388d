"""Batches of files: an error of one ends none of the others, and a stopped batch goes on where it was."""

import json
import os
import signal
import time
from pathlib import Path
from subprocess import PIPE

import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr
from click.testing import CliRunner

from lemmse.client import connect
from lemmse.client.cli import main
from lemmse.client.journal import Journal
from lemmse.client.serving import LEMMSE
from lemmse.contract.errors import InvalidArgument
from lemmse.index import build
from tests.support.commands import apart
from tests.support.disks import files_of_at_most
from tests.support.processes import start_process

RNG = np.random.default_rng(8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current directory with a folder in/."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    return tmp_path


@pytest.fixture
def run(tiny_index):
    """Exit status, stdout and stderr of `lemmse reconstruct` with the tiny index, but for its progress."""

    def command(*arguments, sigma="0.1"):
        words = ["reconstruct", "--sigma", sigma, "--index", str(tiny_index), *map(str, arguments)]
        result = CliRunner().invoke(main, words)
        return result.exit_code, result.stdout, apart(result.stderr)[1]

    return command


def grey(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


class TestFormats:
    def test_a_stack_is_reconstructed_plane_by_plane(self, folder, run, embedded):
        stack = grey(2, 3, 6, 5, dtype=np.uint16)
        tifffile.imwrite("in/a.tif", stack, imagej=True, metadata={"axes": "TZYX", "spacing": 2.0})
        status, stdout, stderr = run("in", "--out", "out", "--maps", "ess,variance", "--json")
        assert (status, stderr) == (0, "")
        assert json.loads(stdout)["planes"] == 6
        with tifffile.TiffFile("out/a.tif") as file:
            assert file.series[0].axes == "TZYX"
            assert file.imagej_metadata["spacing"] == 2.0
            written = file.asarray()
        maps = {name: tifffile.imread(f"out/a.{name}.tiff") for name in ("ess", "variance")}
        for t, z in np.ndindex(2, 3):
            result = embedded.reconstruct(stack[t, z], sigma=0.1, maps=["ess", "variance"])
            assert np.abs(written[t, z] - result.image).max() <= 0.5
            for name, found in maps.items():
                np.testing.assert_allclose(found[t, z], getattr(result, name), rtol=1e-6)

    def test_grey_indexes_take_channels_one_by_one(self, folder, run, embedded):
        stack = RNG.random((3, 6, 5))
        np.save("in/a.npy", stack)
        status, _, stderr = run("in", "--out", "out")
        assert status == 2
        assert (
            "expected images with 1 channels, as the index has, got 5 (YXS (3, 6, 5)); for a stack" in stderr
        )
        assert run("in", "--out", "out", "--axes", "cyx")[0] == 0
        found = np.load("out/a.npy")
        assert found.dtype == np.float64
        for plane, y in zip(found, stack, strict=True):
            np.testing.assert_array_equal(plane, embedded.reconstruct(y, sigma=0.1).image)

    def test_colour_indexes_take_channels_together(self, folder, tmp_path):
        np.save("colours.npy", RNG.random((2, 6, 6, 3)))
        index = build(["colours.npy"], tmp_path / "colours", patch_size=3)
        stack = RNG.random((2, 3, 6, 5), np.float32)
        image = {
            "axes": [{"name": name} for name in "tcyx"],
            "datasets": [
                {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [5.0, 1.0, 0.2, 0.2]}]}
            ],
        }
        attributes = {"ome": {"version": "0.5", "multiscales": [image]}}
        group = zarr.open_group("in/a.zarr", mode="w", attributes=attributes)
        group.create_array("0", shape=stack.shape, dtype=stack.dtype)[...] = stack
        words = f"reconstruct in --out out --sigma 0.1 --maps ess,variance --index {index}"
        result = CliRunner().invoke(main, words.split())
        assert (result.exit_code, result.stdout) == (0, "out/a.zarr\n")
        found = {name: zarr.open_group(f"out/a{name}.zarr", mode="r") for name in ("", ".ess", ".variance")}
        with connect(index) as client:
            for t in range(2):
                y = np.moveaxis(stack[t], 0, -1)
                expected = client.reconstruct(y, sigma=0.1, maps=["ess", "variance"])
                np.testing.assert_array_equal(found[""]["0"][t], np.moveaxis(expected.image, -1, 0))
                np.testing.assert_array_equal(found[".ess"]["0"][t], expected.ess)
                np.testing.assert_array_equal(
                    found[".variance"]["0"][t], np.moveaxis(expected.variance, -1, 0)
                )
        (described,) = found[".ess"].attrs["ome"]["multiscales"]
        assert [axis["name"] for axis in described["axes"]] == ["t", "y", "x"]
        assert described["datasets"][0]["coordinateTransformations"] == [
            {"type": "scale", "scale": [5.0, 0.2, 0.2]}
        ]

    def test_range_and_dtype(self, folder, run, embedded):
        y = grey(6, 5, dtype=np.uint16) >> 4
        np.save("in/a.npy", y)
        expected = embedded.reconstruct(y / np.float32(4095), sigma=0.1).image
        assert run("in", "--out", "out", "--range", "0,4095")[0] == 0
        found = np.load("out/a.npy")
        assert found.dtype == np.uint16
        np.testing.assert_allclose(found, expected * 4095, atol=0.6)
        assert run("in", "--out", "out32", "--range", "0,4095", "--dtype", "float32")[0] == 0
        np.testing.assert_allclose(np.load("out32/a.npy"), expected, atol=1e-6)
        np.save("in/a.npy", y.astype(np.int64) - 100)
        status, _, stderr = run("in", "--out", "none")
        assert status == 2
        assert "got int64, in which white may be any number" in stderr
        assert "state its range, or convert it" in stderr
        assert run("in", "--out", "out64", "--range=-100,3995")[0] == 0
        np.testing.assert_allclose(np.load("out64/a.npy"), expected * 4095 - 100, atol=0.6)

    def test_twelve_bits(self, folder, run, embedded):
        y = grey(6, 5, dtype=np.uint16) >> 4
        tifffile.imwrite("in/a.tif", y, bitspersample=12, photometric="minisblack")
        assert run("in", "--out", "out")[0] == 0
        expected = embedded.reconstruct(y / np.float32(4095), sigma=0.1).image
        np.testing.assert_allclose(tifffile.imread("out/a.tif"), expected * 4095, atol=0.6)

    def test_jpeg_becomes_png(self, folder, run):
        iio.imwrite("in/a.JPG", grey(6, 5))
        assert run("in", "--out", "out")[:2] == (0, "out/a.png\n")
        assert iio.imread("out/a.png").shape == (6, 5)
        status, _, stderr = run("in/a.JPG", "--out", "q.jpg")
        assert status == 2
        assert "--out: expected a name in .png, since .JPG is read only, got q.jpg" in stderr
        iio.imwrite("in/a.png", grey(6, 5))
        status, _, stderr = run("in", "--out", "both")
        assert status == 2
        assert "in/a.JPG and in/a.png would both be written to both/a.png" in stderr

    def test_pixels_without_data_are_not_observed(self, folder, run, embedded):
        y = RNG.random((6, 5), np.float32)
        y[2, 3] = -9999
        tifffile.imwrite("in/a.tif", y, extratags=[(42113, "s", 0, "-9999", True)])
        assert run("in", "--out", "out")[::2] == (0, "")
        expected = embedded.reconstruct(y, sigma=0.1, mask=y != -9999).image
        np.testing.assert_array_equal(tifffile.imread("out/a.tif"), expected)

    def test_floats_that_cannot_be_intensities(self, folder, run):
        np.save("in/a.npy", grey(6, 5).astype(np.float32))
        status, _, stderr = run("in", "--out", "out")
        assert status == 2
        assert "expected floats in [0, 1], up to noise, got" in stderr
        assert "divide by 255, or state --range" in stderr
        assert run("in", "--out", "out", "--range", "0,255")[::2] == (0, "")
        iio.imwrite("mask.png", np.eye(6, 5, dtype=bool))
        np.save("in/a.npy", np.where(np.eye(6, 5), 0.5, 1e9))
        assert run("in", "--out", "masked", "--mask", "mask.png")[::2] == (0, "")
        np.save("in/a.npy", np.float64([[1.0000001, 0.5], [-0.3, 1.2]]).repeat(3, 0).repeat(3, 1))
        assert run("in", "--out", "noisy")[::2] == (0, "")

    def test_a_sigma_in_steps_of_255(self, folder, run):
        iio.imwrite("in/a.png", grey(6, 5))
        status, _, stderr = run("in", "--out", "out", sigma="25")
        assert status == 0
        (line,) = stderr.splitlines()
        assert line.startswith("lemmse: warning: --sigma is in intensities of [0, 1], and 25 drowns an image")
        assert line.endswith("25 of 255 is 0.0980392")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--range", "5"], "expected LOW,HIGH, such as 0,4095, got '5'"),
            (["--range", "5,1"], "expected finite LOW < HIGH"),
            (["--range", "0,inf"], "expected finite LOW < HIGH"),
            (["--axes", "TQYX"], "expected Y, X and others of T, C, Z, S"),
            (["--axes", "TZ"], "expected Y, X and others of T, C, Z, S"),
            (["--dtype", "int8"], "'int8'"),
            (["--journal", "in"], "--journal"),
            (["--journal", "in/a.png/journal"], "--journal: cannot write to in/a.png"),
            (["--report", "in/a.png/report"], "--report: cannot write to in/a.png"),
            (["--journal", "in/a.png"], "--journal: expected a journal or no file, got in/a.png"),
        ],
    )
    def test_bad_options_change_nothing(self, folder, run, arguments, words):
        iio.imwrite("in/a.png", grey(6, 5))
        status, stdout, stderr = run("in", "--out", "out", *arguments)
        assert (status, stdout) == (2, "")
        (line,) = stderr.splitlines()
        assert words in line
        assert not Path("out").exists()


class TestFaults:
    def test_one_file_ends_no_batch(self, folder, run):
        """Opaque alpha, what a format cannot hold, a damaged stack and a page of another shape."""
        alpha = np.dstack([grey(6, 5), np.full((6, 5), 255, np.uint8)])
        PIL.Image.fromarray(alpha).save("in/a.png")
        np.save("in/b.npy", RNG.random((6, 5)))
        tifffile.imwrite("in/c.tif", grey(3, 6, 5), photometric="minisblack", compression="zlib")
        content = bytearray(Path("in/c.tif").read_bytes())
        with tifffile.TiffFile("in/c.tif") as file:
            start = file.pages[1].dataoffsets[0]
        content[start : start + 8] = b"nonsense"
        Path("in/c.tif").write_bytes(content)
        np.save("in/d.npy", np.full((6, 5), np.nan))
        np.save("in/e.npy", RNG.random((6, 5)))
        report = folder / "reports/r.json"
        status, stdout, stderr = run("in", "--out", "out", "--dtype", "float32", "--report", report)
        assert status == 1
        assert stdout.split() == ["out/b.npy", "out/e.npy"]
        names = [line.split(":")[2].strip() for line in stderr.splitlines()]
        assert sorted(names) == ["in/a.png", "in/c.tif", "in/d.npy"]
        told = json.loads(report.read_text())
        assert (told["reconstructed"], told["finished_before"], told["not_reached"]) == (2, 0, [])
        failed = {one["input"]: one for one in told["failed"]}
        assert "PNG holds 1 or 3 channels of" in failed["in/a.png"]["error"]
        assert "cannot be read" in failed["in/c.tif"]["error"]
        assert {one["code"] for one in failed.values()} == {"INVALID_ARGUMENT"}
        assert sorted(path.name for path in Path("out").iterdir()) == ["b.npy", "e.npy"]
        assert run("in/a.png", "--out", "alpha")[0] == 0
        assert iio.imread("alpha/a.png").shape == (6, 5)

    def test_a_full_disk_leaves_nothing_half_written(self, folder, run):
        np.save("in/a.npy", grey(60, 50))
        Path("in/bad.png").write_text("no picture")
        with files_of_at_most(130):
            status, _, stderr = run("in", "--out", "out", "--report", "r")
        *files, last = stderr.splitlines()  # one file is read while the other is written
        assert (status, len(files), last) == (1, 2, "lemmse: error: r: File too large")
        assert "lemmse: error: in/a.npy: out/a.npy: File too large" in files
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["a.npy", "bad.png"]

    @pytest.mark.usefixtures("impatient_clients")
    def test_a_whole_batch_that_fails_is_reported(self, folder):
        iio.imwrite("in/a.png", grey(6, 5))
        words = "reconstruct in --out out --sigma 0.1 --server 127.0.0.1:1 --report r.json"
        assert CliRunner().invoke(main, words.split()).exit_code == 1
        assert json.loads(Path("r.json").read_text())["not_reached"] == ["in/a.png"]

    def test_what_is_skipped_is_told(self, folder, run):
        iio.imwrite("in/a.png", grey(6, 5))
        Path("far").mkdir()
        iio.imwrite("far/b.png", grey(6, 5))
        Path("in/linked").symlink_to("../far")
        Path("in/loop").symlink_to(".")
        Path("in/notes.txt").touch()
        Path("in/other.gif").touch()
        status, stdout, stderr = run("in", "--out", "in/out")
        assert (status, stdout.split()) == (0, ["in/out/a.png", "in/out/linked/b.png"])
        assert stderr.splitlines() == [
            "lemmse: note: skipped in/notes.txt and 1 more: not images",
            "lemmse: note: skipped in/loop: links to folders that are read",
        ]
        before = Path("in/out/a.png").read_bytes()
        assert run("in", "--out", "in/out", "--overwrite")[1].split() == stdout.split()
        assert Path("in/out/a.png").read_bytes() == before

    def test_names_of_all_kinds(self, folder, run):
        names = [b"a b.png", b"-dash.png", b"new\nline.png", "größe.png".encode(), b"caf\xe9.png", b"'q'.PNG"]
        for name in names:
            with open(b"in/" + name, "wb") as file:
                PIL.Image.fromarray(grey(6, 5)).save(file, "PNG")
        status, stdout, stderr = run("in", "--out", "out", "--json", "--report", "r.json", "--journal", "j")
        assert (status, stderr) == (0, "")
        assert {os.fsencode(json.loads(line)["output"]) for line in stdout.splitlines()} == {
            b"out/" + name for name in names
        }
        assert sorted(os.listdir(b"out")) == sorted(names)
        assert run("in", "--out", "out", "--json", "--journal", "j") == (0, "", "")
        Path("in/-dash.png").rename("-dash.png")
        assert run("--out", "dash", "--", "-dash.png") == (0, "dash/-dash.png\n", "")

    def test_a_pipe_is_no_image(self, folder, run):
        os.mkfifo("in/a.png")
        status, _, stderr = run("in/a.png", "--out", "out")
        assert status == 2
        assert "expected a file, got in/a.png, a pipe, socket or device" in stderr


class TestJournal:
    def test_what_is_finished_is_not_done_again(self, folder, run):
        for name in "abc":
            iio.imwrite(f"in/{name}.png", grey(6, 5))
        whole = Path("in/b.png").read_bytes()
        Path("in/b.png").write_bytes(whole[:50])
        how = ("in", "--out", "out", "--maps", "ess", "--journal", "j", "--report", "r")
        assert run(*how)[:2] == (1, "out/a.png\nout/c.png\n")
        Path("in/b.png").write_bytes(whole)
        times = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
        assert run(*how) == (0, "out/b.png\n", "")
        assert json.loads(Path("r").read_text())["finished_before"] == 2
        assert all(path.stat().st_mtime_ns == time for path, time in times.items())
        assert run(*how) == (0, "", "")

        # An input that changed, or an output that is gone, is done again.
        iio.imwrite("in/a.png", grey(6, 5))
        Path("out/c.ess.tiff").unlink()
        assert run(*how) == (0, "out/a.png\nout/c.png\n", "")

        # What others wrote stays.
        iio.imwrite("in/d.png", grey(6, 5))
        Path("out/d.png").touch()
        status, _, stderr = run(*how)
        assert status == 2
        assert "out/d.png exists already" in stderr

    def test_other_settings_are_refused(self, folder, run):
        iio.imwrite("in/a.png", grey(6, 5))
        how = ("in", "--out", "out", "--journal", "j")
        assert run(*how)[0] == 0
        iio.imwrite("in/b.png", grey(6, 5))
        for other, name in [(("--mode", "exact"), "mode"), (("--dtype", "uint16"), "dtype")]:
            status, _, stderr = run(*how, *other)
            assert status == 2
            assert f"--journal: j is of a batch with another {name}" in stderr
        assert run(*how, sigma="0.2")[0] == 2
        assert run(*how)[:2] == (0, "out/b.png\n")

    @pytest.mark.parametrize("cut", [1, 20])
    def test_a_line_that_was_cut_short_counts_as_not_written(self, folder, run, cut):
        for name in "ab":
            iio.imwrite(f"in/{name}.png", grey(6, 5))
        how = ("in", "--out", "out", "--journal", "j")
        assert run(*how)[0] == 0
        content = Path("j").read_bytes()
        Path("j").write_bytes(content[:-cut])
        assert run(*how)[:2] == (0, "out/b.png\n")
        assert Path("j").read_bytes().splitlines()[-1] == content.splitlines()[-1]

    def test_a_journal_is_of_one_command_at_a_time(self, folder, run):
        iio.imwrite("in/a.png", grey(6, 5))
        how = ("in", "--out", "out", "--journal", "j")
        in_use = (2, "", "lemmse: error: --journal: another command uses j; wait for it, or end it\n")
        first = Journal(Path("j"))
        with Journal(Path("j")) as other:  # neither has a file yet
            other.begin({})
            with pytest.raises(InvalidArgument, match="another command uses j"):
                first.begin({})
            assert run(*how) == in_use
        Path("j").unlink()
        assert run(*how) == (0, "out/a.png\n", "")
        whole = Path("j").read_bytes()
        with Journal(Path("j")):
            assert run(*how) == in_use
        assert Path("j").read_bytes() == whole
        assert run(*how) == (0, "", "")

    def test_a_batch_that_is_killed(self, folder, run, tiny_index):
        for k in range(120):
            np.save(f"in/{k:03}.npy", RNG.random((24, 24)))
        how = ["in", "--out", "out", "--journal", "j", "--sigma", "0.1", "--index", str(tiny_index)]
        with start_process([*LEMMSE, "reconstruct", *how], stdout=PIPE) as process:
            deadline = time.monotonic() + 60
            while not Path("j").exists() or Path("j").read_bytes().count(b"\n") < 12:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        finished = Path("j").read_bytes().count(b'"state": [')
        assert 0 < finished < 120
        status, stdout, stderr = run("in", "--out", "out", "--journal", "j")
        assert (status, stderr) == (0, "")
        assert len(stdout.split()) == 120 - finished
        assert len([path for path in Path("out").iterdir() if not path.name.startswith(".")]) == 120
        assert run("in", "--out", "whole")[0] == 0
        for path in Path("whole").iterdir():
            assert path.read_bytes() == (Path("out") / path.name).read_bytes()
