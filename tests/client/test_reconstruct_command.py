"""`lemmse reconstruct`: files in, files out."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from lemmse.client.cli import main
from lemmse.client.serving import LEMMSE
from lemmse.index import build, open_index
from lemmse.index.storage.picture_record import Pictures, Refinement
from tests.support.commands import apart
from tests.support.processes import run_process

RNG = np.random.default_rng(6)


@pytest.fixture(params=["remote", "embedded"])
def where(request, server, tiny_index):
    """Options that say who answers."""
    return ["--server", server.address] if request.param == "remote" else ["--index", str(tiny_index)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four images and a broken one, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/sub").mkdir(parents=True)
    iio.imwrite("in/a.png", RNG.integers(0, 256, (6, 5), np.uint8))
    iio.imwrite("in/b.png", RNG.integers(0, 65536, (6, 5), np.uint16))
    tifffile.imwrite("in/c.tiff", RNG.random((6, 5), np.float32))
    np.save("in/sub/d.npy", RNG.random((6, 5)))
    return tmp_path


def run(*arguments):
    """Exit status, stdout and stderr of `lemmse reconstruct --sigma 0.1`, but for its progress."""
    result = CliRunner().invoke(main, ["reconstruct", "--sigma", "0.1", *map(str, arguments)])
    return result.exit_code, result.stdout, apart(result.stderr)[1]


def as_json(diagnostics):
    return json.loads(json.dumps(asdict(diagnostics)))


def test_a_folder(folder, where, embedded):
    status, stdout, stderr = run("in", "--out", "out", "--maps", "ess,variance", *where)
    assert (status, stderr) == (0, "")
    assert stdout.split() == ["out/a.png", "out/b.png", "out/c.tiff", "out/sub/d.npy"]
    assert {path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()} == {
        f"{name}{suffix}"
        for names, suffixes in [
            (("a", "b"), (".png", ".ess.tiff", ".variance.tiff")),
            (("c",), (".tiff", ".ess.tiff", ".variance.tiff")),
            (("sub/d",), (".npy", ".ess.npy", ".variance.npy")),
        ]
        for name in names
        for suffix in suffixes
    }
    for name in ("a", "b"):
        stored, written = iio.imread(f"in/{name}.png"), iio.imread(f"out/{name}.png")
        result = embedded.reconstruct(stored, sigma=0.1, maps=["ess", "variance"])
        assert written.dtype == stored.dtype
        assert np.abs(written - result.image).max() <= 0.5
        for kind in ("ess", "variance"):
            np.testing.assert_array_equal(tifffile.imread(f"out/{name}.{kind}.tiff"), getattr(result, kind))
    assert np.load("out/sub/d.npy").dtype == np.float64


def test_one_file_to_one_file_and_json(folder, where):
    status, stdout, stderr = run("in/a.png", "--out", "result.png", "--mode", "exact", "--json", *where)
    assert (status, stderr) == (0, "")
    told = json.loads(stdout)
    assert (told["input"], told["output"], told["maps"]) == ("in/a.png", "result.png", {})
    assert (told["mode"], told["index"], told["keys"]) == ("exact", "tiny", 72)
    assert told["expected_accuracy_db"] is told["certified"] is None
    assert iio.imread("result.png").shape == (6, 5)


def test_hybrid_and_its_error(folder, where, embedded):
    options = ["--mode", "hybrid", "--accuracy-db", 40, "--budget", 50, "--error", "certified"]
    status, stdout, stderr = run("in/a.png", "--out", "a.png", "--maps", "error", "--json", *options, *where)
    assert (status, stderr) == (0, "")
    told = json.loads(stdout)
    asked = {"mode": "hybrid", "accuracy_db": 40, "budget": 50, "error": "certified"}
    expected = embedded.reconstruct(iio.imread("in/a.png"), sigma=0.1, maps=["error"], **asked)
    assert told["maps"] == {"error": "a.error.tiff"}
    np.testing.assert_array_equal(tifffile.imread("a.error.tiff"), expected.error)
    diagnostics = as_json(replace(expected.diagnostics, seconds=told["seconds"]))
    assert diagnostics["certified"] is not None
    assert diagnostics.items() <= told.items()


def test_the_options_of_picture_quality(folder, where, embedded):
    y = RNG.random((6, 5), np.float32)
    np.save("y.npy", y)
    options = ["--aggregate", "overlap", "--bandwidth", 0.05, "--gaussian-share", 0.3, "--quality", "paper"]
    status, stdout, stderr = run("y.npy", "--out", "out.npy", "--json", *options, *where)
    assert (status, stderr) == (0, "")
    asked = {"aggregate": "overlap", "bandwidth": 0.05, "gaussian_share": 0.3}
    expected = embedded.reconstruct(y, sigma=0.1, quality="paper", **asked)
    assert asked.items() <= asdict(expected.diagnostics).items()
    np.testing.assert_array_equal(np.load("out.npy"), expected.image)
    told = json.loads(stdout)
    assert as_json(replace(expected.diagnostics, seconds=told["seconds"])).items() <= told.items()


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two indexes of the same images: low is the better at a noise below 0.1, high above."""
    folder = tmp_path_factory.mktemp("compared")
    np.save(folder / "images.npy", np.random.default_rng(15).random((2, 6, 6)))
    folders = []
    for name, p, best_db in (("low", 3, (40.0, 20.0)), ("high", 5, (30.0, 30.0))):
        folders.append(build([folder / "images.npy"], folder / name, patch_size=p))
        index = open_index(folders[-1])
        ways = (Refinement("overlap", 0.0, 0.5),) * 2
        rows = {"best_db": best_db, "paper_db": (0.0, 0.0), "noisy_db": (0.0, 0.0)}
        replace(index.manifest, pictures=Pictures(1, (0.01, 1.0), ways, **rows)).write(index.folder)
    return folders


@pytest.mark.parametrize(("sigma", "expected"), [(0.05, "low"), (0.2, "high")])
def test_the_best_of_several_indexes(folder, compared, sigma, expected):
    where = [word for index in compared for word in ("--index", index)]
    np.save("y.npy", RNG.random((6, 5), np.float32))
    asked = ["y.npy", "--json", "--sigma", sigma, "--quality", "best"]
    status, stdout, stderr = run(*asked, "--out", "out.npy", *where)
    assert (status, stderr) == (0, "")
    told = json.loads(stdout)
    assert (told["index"], told["aggregate"], told["gaussian_share"]) == (expected, "overlap", 0.5)
    for name in ("low", "high"):
        status, stdout, stderr = run(*asked, "--out", f"{name}.npy", "--index-name", name, *where)
        assert (status, stderr, json.loads(stdout)["index"]) == (0, "", name)
    np.testing.assert_array_equal(np.load("out.npy"), np.load(f"{expected}.npy"))


@pytest.mark.parametrize("arguments", [[], ["--quality", "paper"]])
def test_several_indexes_need_a_name_or_quality_best(folder, compared, arguments):
    where = [word for index in compared for word in ("--index", index)]
    status, stdout, stderr = run("in", "--out", "out", *where, *arguments)
    assert (status, stdout) == (2, "")
    (line,) = stderr.splitlines()
    assert "index: expected one of high, low, got no name" in line
    assert not (folder / "out").exists()


def test_one_bad_file_does_not_end_the_batch(folder, where):
    (folder / "in/aa.png").write_bytes((folder / "in/a.png").read_bytes()[:60])
    tifffile.imwrite("in/bb.tiff", np.zeros((4, 4, 3), np.uint8), photometric="rgb")
    status, stdout, stderr = run("in", "--out", "out", "--json", *where)
    assert status == 1
    told = {line["input"]: line for line in map(json.loads, stdout.splitlines())}
    assert len(told) == 6
    assert told["in/aa.png"]["code"] == told["in/bb.tiff"]["code"] == "INVALID_ARGUMENT"
    assert sum("output" in line for line in told.values()) == 4
    assert sorted(line.split(":")[2].strip() for line in stderr.splitlines()) == ["in/aa.png", "in/bb.tiff"]
    assert not (folder / "out/aa.png").exists()
    assert not (folder / "out/bb.tiff").exists()


def test_nothing_but_bad_input(folder, where):
    (folder / "bad.png").write_bytes(b"text")
    status, stdout, stderr = run("bad.png", "--out", "out", *where)
    assert (status, stdout) == (2, "")
    assert len(stderr.splitlines()) == 1
    assert not (folder / "out").exists()


def test_existing_files_are_kept_unless_told_otherwise(folder, where):
    assert run("in", "--out", "out", *where)[0] == 0
    before = (folder / "out/a.png").read_bytes()
    iio.imwrite("in/a.png", np.zeros((6, 5), np.uint8))
    status, _, stderr = run("in", "--out", "out", *where)
    assert status == 2
    assert "out/a.png and 3 more exist already" in stderr
    assert (folder / "out/a.png").read_bytes() == before
    assert run("in", "--out", "out", "--overwrite", *where)[0] == 0
    assert (folder / "out/a.png").read_bytes() != before


@pytest.mark.parametrize("suffix", [".png", ".npy", ".tiff"])
def test_a_mask_and_a_map_of_sigma(folder, where, embedded, suffix):
    mask = RNG.random((6, 5)) < 0.6
    sigma = np.float32(RNG.random((6, 5)) + 0.1)
    write_mask = {".png": iio.imwrite, ".npy": np.save, ".tiff": tifffile.imwrite}[suffix]
    write_mask(f"mask{suffix}", mask)
    np.save("sigma.npy", sigma)
    y = np.where(mask, RNG.random((6, 5)), np.nan)
    np.save("in/sub/d.npy", y)
    arguments = "--mask", f"mask{suffix}", "--sigma", "sigma.npy", "--maps", "variance"
    assert run("in", "--out", "out", *arguments, *where)[::2] == (0, "")
    for stored, written in [
        (y.astype(np.float32), np.load("out/sub/d.npy")),
        (iio.imread("in/b.png"), iio.imread("out/b.png")),
    ]:
        result = embedded.reconstruct(stored, sigma=sigma, mask=mask)
        assert np.abs(result.image - written).max() <= (0 if written.dtype == np.float32 else 0.5)


def test_a_mask_that_does_not_fit_is_told_for_each_image(folder, where):
    iio.imwrite("mask.png", np.zeros((6, 4), np.uint8))
    status, stdout, stderr = run("in", "--out", "out", "--mask", "mask.png", *where)
    assert (status, stdout) == (2, "")
    assert [line.split(": ", 3)[3] for line in stderr.splitlines()] == [
        "mask: expected shape (6, 5), that of y, got (6, 4)"
    ] * 4


@pytest.mark.parametrize("estimator", ["mmse", "e-mmse"])
def test_the_other_estimators(folder, where, embedded, estimator):
    y = RNG.random((6, 6), np.float32)
    np.save("y.npy", y)
    assert run("y.npy", "--out", "out.npy", "--estimator", estimator, *where)[0] == 0
    expected = embedded.reconstruct(y, sigma=0.1, estimator=estimator)
    np.testing.assert_array_equal(np.load("out.npy"), expected.image)


def test_images_are_excluded_also_when_a_batch_goes_on(folder, where, embedded):
    y = RNG.random((6, 6), np.float32)
    for name in ("a.npy", "b.npy"):
        np.save(name, y)
    command = ["--out", "done", "--journal", "j", "--exclude", "0", "--exclude", "images.npy[0]", *where]
    assert run("a.npy", *command)[0] == 0
    assert run("a.npy", "b.npy", *command)[0] == 0
    expected = embedded.reconstruct(y, sigma=0.1, exclude=[0])
    for name in ("a.npy", "b.npy"):
        np.testing.assert_array_equal(np.load(f"done/{name}"), expected.image)
    status, _, stderr = run("a.npy", *command, "--exclude", "1")
    assert (status, "another exclude" in stderr) == (2, True)
    status, _, stderr = run("a.npy", "--out", "others", "--exclude", "nope", *where)
    assert (status, "expected the source of a training image of 'tiny', got 'nope'" in stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--exclude", ""], "'--exclude': expected the name or the number"),
        (["--index-name", "nope"], "expected one of tiny, got 'nope'"),
        (["--sigma", "0"], "--sigma"),
        (["--sigma", "nan"], "--sigma"),
        (["--maps", "vari"], "got 'vari'"),
        (["--mode", "fast"], "'fast'"),
        (["--k", "0"], "--k"),
        (["--accuracy-db", "0"], "--accuracy-db"),
        (["--accuracy-db", "121"], "--accuracy-db"),
        (["--budget", "0"], "--budget"),
        (["--accuracy-db", "nan"], "'--accuracy-db': expected a number, got nan"),
        (["--error", "sure"], "'sure'"),
        (["--aggregate", "mean"], "'mean'"),
        (["--bandwidth", "-0.1"], "--bandwidth"),
        (["--bandwidth", "2e6"], "--bandwidth"),
        (["--bandwidth", "wide"], "'wide'"),
        (["--bandwidth", "nan"], "'--bandwidth': expected a number, got nan"),
        (["--gaussian-share", "-0.1"], "--gaussian-share"),
        (["--gaussian-share", "2"], "--gaussian-share"),
        (["--gaussian-share", "wide"], "'wide'"),
        (["--gaussian-share", "nan"], "'--gaussian-share': expected a number, got nan"),
        (["--quality", "good"], "'good'"),
        (["--estimator", "best"], "'best'"),
        (["--sigma", "inf"], "--sigma"),
        (["--sigma", "nope.tiff"], "nope.tiff: expected an image file, got nothing there"),
        (["--sigma", "strong"], "expected auto, a number > 0 or a map of them; strong: expected a name in"),
        (["--sigma", "in/a.png"], "expected floats, in intensities of [0, 1], got uint8"),
        (["--mask", "nope.png"], "'--mask': nope.png: expected an image file, got nothing there"),
        (["--mask", "in"], "'--mask': in: expected a name in"),
    ],
)
def test_bad_options_change_nothing(folder, where, arguments, words):
    status, stdout, stderr = run("in", "--out", "out", *where, *arguments)
    assert (status, stdout) == (2, "")
    (line,) = stderr.splitlines()
    assert words in line
    assert not (folder / "out").exists()


def test_who_answers_must_be_said_once(folder, server, tiny_index):
    for where in ([], ["--server", server.address, "--index", tiny_index]):
        status, _, stderr = run("in", "--out", "out", *where)
        assert status == 2
        assert "expected either --server or --index" in stderr


@pytest.mark.usefixtures("impatient_clients")
def test_where_nobody_answers(folder):
    status, _, stderr = run("in", "--out", "out", "--server", "grpc://127.0.0.1:1")
    assert status == 1
    assert len(stderr.splitlines()) == 1
    assert "127.0.0.1:1" in stderr
    status, _, stderr = run("in", "--out", "out", "--index", "nope")
    assert status == 2
    assert len(stderr.splitlines()) == 1


def test_a_file_that_cannot_be_written_is_told(folder, where):
    # The name fits, but not the longer one under which the file is written first.
    name = "d" * 251 + ".npy"
    (folder / "in/sub/d.npy").rename(folder / "in/sub" / name)
    status, stdout, stderr = run("in", "--out", "out", *where)
    assert status == 1
    assert stdout.split() == ["out/a.png", "out/b.png", "out/c.tiff"]
    assert f"in/sub/{name}" in stderr


def test_a_blocked_place_is_told_before_any_work(folder, where):
    (folder / "out").mkdir()
    (folder / "out/sub").touch()
    status, stdout, stderr = run("in", "--out", "out", *where)
    assert (status, stdout) == (2, "")
    assert stderr == "lemmse: error: --out: cannot write to out/sub: Not a directory\n"
    assert [path.name for path in (folder / "out").iterdir()] == ["sub"]


@pytest.mark.parametrize("where", [["--index", ""], ["--server", "127.0.0.1:65536"]])
def test_a_target_that_is_none(folder, where):
    status, stdout, stderr = run("in", "--out", "out", *where)
    assert (status, stdout) == (2, "")
    (line,) = stderr.splitlines()
    assert "expected grpc://HOST:PORT, grpcs://HOST:PORT or an index folder, got" in line


@pytest.mark.slow
def test_a_closed_stdout(folder, tiny_index):
    arguments = ["reconstruct", "in", "--out", "out", "--sigma", "0.1", "--index", tiny_index]
    command = ["sh", "-c", '"$@" >&-', "sh", *LEMMSE, *map(str, arguments)]
    done = run_process(command, stdout=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "out/sub/d.npy").exists()
