"""`lemmse build` in bounded memory, `--update` and `--remove`."""

import json
import signal
from subprocess import PIPE

import h5py
import numpy as np
import pytest
from PIL import Image

from lemmse.client.serving import LEMMSE
from lemmse.index import open_index
from tests.support.cases import smooth
from tests.support.commands import invoke
from tests.support.disks import files_of_at_most
from tests.support.processes import start_process


@pytest.fixture
def images(tmp_path):
    for name, seeds in (("x", range(3)), ("y", range(5, 7))):
        np.save(tmp_path / f"{name}.npy", np.stack([smooth(seed, 9, 8, 1) for seed in seeds]))
    return tmp_path / "x.npy", tmp_path / "y.npy"


def test_update_adds_images_and_calibrates(images, tmp_path):
    first, second = images
    out = tmp_path / "index"
    assert invoke("build", first, "--out", out, "--patch-size", 3, "--seed", 2, "--no-calibrate")[0] == 0
    status, stdout, stderr = invoke("build", second, "--out", out, "--update", "--memory", "1.5GB")
    assert (status, stderr) == (0, "")
    assert "version" in stdout
    index = open_index(out)
    assert (index.version, index.manifest.images, index.manifest.patch_size) == ("2", 5, 3)
    assert (index.manifest.seed, index.manifest.sources) == (2, (str(first), str(second)))
    assert index.manifest.calibration is not None


def test_a_full_disk_ends_a_build_that_goes_on_later(images, tmp_path):
    out = tmp_path / "index"
    command = ("build", *images, "--out", out, "--patch-size", 3, "--no-calibrate")
    with files_of_at_most(1000):
        status, stdout, stderr = invoke(*command)
    assert (status, stdout) == (1, "")
    assert stderr == (
        f"lemmse: error: File too large; once that is mended, the same command goes on with {out}\n"
    )
    assert not out.exists()
    assert invoke(*command)[0] == 0
    assert open_index(out).manifest.images == 5


def test_names_act_on_no_terminal(tmp_path):
    """The names of training images may be those of somebody else."""
    (tmp_path / "in").mkdir()
    Image.fromarray(np.arange(72, dtype=np.uint8).reshape(9, 8)).save(
        tmp_path / "in" / "a\x1b[2J\n\u202eé.png"
    )
    Image.new("L", (6, 5), 200).save(tmp_path / "in" / "b.png")
    out, y = tmp_path / "index", tmp_path / "y.npy"
    np.save(y, np.zeros((4, 4)))
    name = r"a\x1b[2J\n\u202eé.png"
    assert invoke("build", tmp_path / "in", "--out", out, "--patch-size", 3, "--no-calibrate")[0] == 0
    lines = invoke("inspect", out, "--images")[1].splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["0", name], ["1", "b.png"]]
    described = [line.split() for line in invoke("inspect", out)[1].splitlines()]
    assert ["image", "size", "various"] in described
    asked = ("explain", y, "--sigma", 0.1, "--index", out)
    assert invoke(*asked, "--pixel", "0,0", "--top", 1)[1].splitlines()[1].split()[1] == name
    assert invoke(*asked, "--region", "0:2,0:2")[1].splitlines()[0].split()[1] == name
    status, _, stderr = invoke("inspect", tmp_path / "\x1b[2J")
    assert (status, r"\x1b[2J: nothing there" in stderr, "\x1b" in stderr) == (2, True, False)


def test_remove_makes_a_version_without_images(images, tmp_path):
    out, names = tmp_path / "index", tmp_path / "names.txt"
    assert invoke("build", *images, "--out", out, "--patch-size", 3, "--no-calibrate")[0] == 0
    names.write_bytes(b"y.npy[0]\r\n\nx.npy[2]\n")
    status, stdout, stderr = invoke(
        "build", "--out", out, "--remove", "x.npy[0]", "--remove-file", names, "--no-calibrate"
    )
    assert status == 0
    assert stderr.startswith("lemmse: note: images removed: 3; version 1 and older ones still have them: ")
    assert ["removed", "3", "(cells,"] in [line.split()[:3] for line in stdout.splitlines()]
    assert open_index(out).labels == ["x.npy[1]", "y.npy[1]"]
    assert invoke("build", "--out", out, "--refit", "--no-calibrate")[0] == 0
    assert (open_index(out).version, open_index(out).manifest.removed) == ("3", 0)
    status, stdout, _ = invoke("inspect", out, "--images", "--json")
    assert [json.loads(line) for line in stdout.splitlines()] == [
        {"image": 0, "source": "x.npy[1]", "height": 9, "width": 8, "keys": 72},
        {"image": 1, "source": "y.npy[1]", "height": 9, "width": 8, "keys": 72},
    ]
    status, stdout, _ = invoke("inspect", out, "--images")
    assert [line.split() for line in stdout.splitlines()] == [
        ["image", "source", "height", "width", "keys"],
        ["0", "x.npy[1]", "9", "8", "72"],
        ["1", "y.npy[1]", "9", "8", "72"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--remove", "z"], "error: remove: expected the source of a training image of 'index', got 'z'; "),
        (["--remove", "x.npy", "more.npy"], "error: expected no SOURCE and no --update beside --remove"),
        (["--remove", "x.npy", "--update"], "error: expected no SOURCE and no --update beside --remove"),
        (["--remove", "x.npy", "--workers", "2"], "beside --remove only with --refit"),
        (["--refit", "--seed", "3"], "error: seed: expected none with --remove or --refit, which builds as"),
        (["--remove-file", "nowhere"], "error: remove-file: expected a file with a name in each line, got"),
        (
            ["--remove", "x.npy", "--remove", "y.npy"],
            "error: remove: expected some images of 'index' to remain",
        ),
        ([], "error: Missing argument 'SOURCE...'."),
    ],
)
def test_a_removal_that_is_refused_changes_nothing(images, tmp_path, arguments, message):
    out = tmp_path / "index"
    assert invoke("build", *images, "--out", out, "--patch-size", 3, "--no-calibrate")[0] == 0
    status, stdout, stderr = invoke("build", "--out", out, *arguments)
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert message in stderr
    assert open_index(out).version == "1"
    assert not (tmp_path / ".index.building").exists()


@pytest.mark.slow
def test_a_build_ended_while_it_calibrates_says_what_to_do(images, tmp_path):
    out = tmp_path / "index"
    command = [*LEMMSE, "build", str(images[0]), "--out", str(out), "--patch-size", "3", "--json"]
    with start_process(command, stderr=PIPE) as process:
        for line in process.stderr:
            if '"calibrate"' in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert f"{out} is built, but not calibrated: run lemmse calibrate {out}\n" in rest
    assert open_index(out).manifest.calibration is None


def test_of_one_image_an_index_is_built_and_not_calibrated(tmp_path):
    np.save(tmp_path / "x.npy", smooth(0, 9, 8, 1)[None])
    status, _, stderr = invoke("build", tmp_path / "x.npy", "--out", tmp_path / "index", "--patch-size", 3)
    assert (status, stderr) == (0, "")
    assert open_index(tmp_path / "index").manifest.calibration is None


@pytest.mark.parametrize("option", [("--patch-size", 3), ("--seed", 0), ("--limit", 1), ("--stride", 1)])
def test_an_update_takes_no_option_of_the_build(images, tmp_path, option):
    out = tmp_path / "index"
    assert invoke("build", images[0], "--out", out, "--patch-size", 3, "--no-calibrate")[0] == 0
    status, stdout, stderr = invoke("build", images[1], "--out", out, "--update", *option)
    assert (status, stdout) == (2, "")
    assert stderr == (
        f"lemmse: error: {option[0][2:]}: expected none with --update, which builds as the index was built\n"
    )
    assert open_index(out).version == "1"


@pytest.mark.parametrize("amount", ["much", "-1", "2XB", "1e9", "9" * 400])
def test_memory_that_is_no_amount(images, tmp_path, amount):
    status, stdout, stderr = invoke("build", images[0], "--out", tmp_path / "index", "--memory", amount)
    assert (status, stdout) == (2, "")
    assert f"expected a number of bytes, as 2GB, 1500MB or 1.5GiB, got {amount!r}" in stderr
    assert stderr.count("\n") == 1


def test_too_little_memory(images, tmp_path):
    status, _, stderr = invoke("build", images[0], "--out", tmp_path / "index", "--memory", "10MB")
    assert status == 2
    assert stderr == "lemmse: error: memory: expected a whole number >= 1000000000, got 10000000\n"


def test_sources_are_read_as_stated(tmp_path):
    counts = np.rint(4095 * np.stack([smooth(seed, 9, 8, 1)[..., 0] for seed in range(4)])).astype(np.uint16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["counts"] = np.moveaxis(counts, 0, -1)
    np.save(tmp_path / "more.npy", (counts[:2].astype(np.int32) - 500)[:, :5, :4])
    how = ("--axes", "yxt", "--range", "0,4095", "--roi", "2:8,:-3")
    out = tmp_path / "index"
    status, stdout, stderr = invoke(
        *("build", f"{tmp_path}/a.h5:/counts", "--out", out, "--patch-size", 3, "--stride", 2),
        *(*how, "--no-calibrate", "--json"),
    )
    assert status == 0
    described = json.loads(stdout)
    assert (described["stride"], described["images"], described["keys"]) == (2, 4, 4 * 3 * 3)
    index = open_index(out)
    np.testing.assert_allclose(index.image(3)[..., 0], counts[3, 2:8, :-3] / 4095, atol=1e-6)
    assert index.labels[3] == "a.h5[3, 2:8, :-3]"
    # What is added may be read otherwise; the stride is that of the index.
    status, stdout, stderr = invoke(
        *("build", tmp_path / "more.npy", "--out", out, "--update", "--range", "-500,3595", "--no-calibrate"),
    )
    assert status == 0
    assert "2 of" not in stderr
    index = open_index(out)
    assert (index.manifest.stride, index.manifest.keys) == (2, 4 * 3 * 3 + 2 * 3 * 2)
    np.testing.assert_allclose(index.image(5)[..., 0], counts[1, :5, :4] / 4095, atol=1e-6)
    assert "stride" in invoke("inspect", out)[1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--stride", 0), "lemmse: error: stride: expected a whole number in [1, 4096], got 0\n"),
        (("--stride", "many"), "'--stride': 'many' is not a valid integer"),
        (("--range", "0"), "'--range': expected LOW,HIGH, such as 0,4095, got '0'"),
        (("--range", "1,0"), "'--range': expected finite LOW < HIGH, got 1,0"),
        (("--range", "0,nan"), "'--range': expected finite LOW < HIGH, got 0,nan"),
        (("--axes", "TYN"), "'--axes': expected Y, X and others of T, C, Z, S, once each, got TYN"),
        (
            ("--axes", "YX"),
            "x.npy: expected Y, X and one letter for each of 4 axes, got YX for (3, 9, 8, 1)\n",
        ),
        (
            ("--roi", "3"),
            "lemmse: error: roi: expected ROW:ROW,COLUMN:COLUMN, such as 0:512,-512:, got '3'\n",
        ),
        (("--roi", "9:,:"), "x.npy: roi: expected pixels of an image of 9x8, got [9:, :]\n"),
        (
            ("--roi", ":2,:", "--boundary", "valid"),
            "boundary: expected images of 3x3 or more for valid, got at most 2x8\n",
        ),
    ],
)
def test_what_cannot_be_read_or_taken(images, tmp_path, option, message):
    status, stdout, stderr = invoke(
        "build", images[0], "--out", tmp_path / "index", "--patch-size", 3, *option
    )
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert message in stderr
    assert not (tmp_path / "index").exists()


def test_equal_images_are_named_and_kept(tmp_path):
    stack = np.stack([smooth(seed, 9, 8, 1) for seed in (0, 1, 0, 1, 2)])
    np.save(tmp_path / "x.npy", stack)
    np.save(tmp_path / "y.npy", np.stack([stack[2].reshape(8, 9, 1), stack[3].reshape(8, 9, 1)]))
    out = tmp_path / "index"
    command = ("build", tmp_path / "x.npy", tmp_path / "y.npy", "--out", out, "--patch-size", 3)
    status, _, stderr = invoke(*command, "--no-calibrate")
    assert status == 0
    assert stderr == (
        "lemmse: note: 2 of 7 training images equal earlier ones, as x.npy[2] equals x.npy[0]; all are kept\n"
    )
    assert open_index(out).manifest.images == 7


@pytest.mark.slow
def test_a_build_interrupted_while_it_reads_goes_on(tmp_path):
    stack = np.random.default_rng(0).integers(0, 255, (4000, 48, 48), np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=stack, chunks=(1, 48, 48), compression="gzip")
    out = tmp_path / "index"
    options = ["--out", str(out), "--stride", "24", "--patch-size", "3", "--no-calibrate", "--json"]
    command = [*LEMMSE, "build", str(tmp_path / "a.h5"), *options]
    with start_process(command, stderr=PIPE, stdout=PIPE) as process:
        for line in process.stderr:
            if '"read images"' in line:
                break
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 130
    assert not out.exists()
    assert invoke(*command[len(LEMMSE) :])[0] == 0
    assert open_index(out).manifest.keys == 4000 * 4
