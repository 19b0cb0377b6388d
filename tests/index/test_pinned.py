"""An open index answers from the files that were opened, whatever happens to its folder."""

import os
import shutil
import signal
import sys

import numpy as np
import pytest

from lemmse.calibration import calibrate_index
from lemmse.contract.errors import Aborted, DataLoss
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index, update
from lemmse.index.storage import pinned
from tests.support.indexes import few_at_a_time
from tests.support.processes import run_process

Y = np.random.default_rng(9).random((8, 8)).astype(np.float32)
WAYS = {
    "exact": {"mode": "exact"},
    "topk": {"mode": "topk", "k": 3},
    "mmse": {"estimator": "mmse"},
    "e-mmse": {"estimator": "e-mmse"},
    "gaussians": {"gaussian_share": 0.5},
    "overlap": {"aggregate": "overlap", "mode": "exact"},
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Indexes of random images, by their seed and whether they have several shards."""
    folders = {}
    for seed, several in ((1, False), (1, True), (2, False)):
        folder = tmp_path_factory.mktemp("original")
        np.save(folder / "x.npy", np.random.default_rng(seed).random((6, 8, 8)).astype(np.float32))
        with pytest.MonkeyPatch.context() as patched:
            if several:
                few_at_a_time(patched, keys=100)
            folders[seed, several] = build([folder / "x.npy"], folder / "index", patch_size=3)
    return folders


@pytest.fixture
def made(originals):
    """Put an index of a seed in a folder."""

    def make(folder, seed, several=False):
        return shutil.copytree(originals[seed, several], folder)

    return make


def answers(lemmse):
    """All answers of a reconstructor, each of which reads other files."""
    images = [lemmse.reconstruct(Y, sigma=0.1, **options).image for options in WAYS.values()]
    contributors = lemmse.explain(Y, sigma=0.1, pixel=(3, 4), top=5).contributors
    return images, contributors, lemmse.index.info


def require_same(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert one[1:] == other[1:]


def remove(folder, tmp_path, made):
    shutil.rmtree(folder)


def replace(folder, tmp_path, made):
    shutil.rmtree(folder)
    made(folder, seed=2)


def rename(folder, tmp_path, made):
    folder.rename(tmp_path / "elsewhere")
    made(folder, seed=2)


def add(folder, tmp_path, made):
    np.save(tmp_path / "more.npy", np.zeros((1, 8, 8), np.float32))
    update([tmp_path / "more.npy"], folder)


def make_unreadable(folder, tmp_path, made):
    for path in [*folder.rglob("*")][::-1]:
        path.chmod(0)


@pytest.fixture(params=[False, True], ids=["read", "mapped"])
def mapped(request, monkeypatch):
    """Whether all files are mapped, or all are read."""
    monkeypatch.setattr(pinned, "IN_MEMORY", 0 if request.param else 1 << 30)
    return request.param


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("several", [False, True], ids=["one shard", "several shards"])
@pytest.mark.parametrize("happens", [remove, replace, rename, add, make_unreadable])
def test_what_happens_to_the_folder_changes_no_answer(tmp_path, originals, made, happens, several):
    folder = made(tmp_path / "index", seed=1, several=several)
    expected = answers(Reconstructor(open_index(originals[1, several])))
    lemmse = Reconstructor(open_index(folder))
    happens(folder, tmp_path, made)
    require_same(answers(lemmse), expected)


def truncate(path):
    os.truncate(path, 0)


def overwrite(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("moved", [False, True], ids=["in its place", "elsewhere"])
@pytest.mark.parametrize("change", [truncate, overwrite])
def test_a_file_that_is_changed_changes_no_answer_or_is_data_loss(tmp_path, made, mapped, change, moved):
    folder = made(tmp_path / "index", seed=1)
    lemmse = Reconstructor(open_index(folder))
    expected = answers(lemmse)
    if moved:
        folder = folder.rename(tmp_path / "elsewhere")
    change(folder / "1" / "shards/0000/arrays.zarr/keys/c/0/0/0")
    if not mapped:
        require_same(answers(lemmse), expected)
        return
    for options in WAYS.values():
        with pytest.raises(DataLoss, match=r"index 'index' version 1: .*keys/c/0/0/0 was changed while"):
            lemmse.reconstruct(Y, sigma=0.1, **options)
    with pytest.raises(DataLoss, match="was changed while"):
        lemmse.explain(Y, sigma=0.1, pixel=(3, 4))
    shutil.rmtree(folder)
    with pytest.raises(DataLoss):  # what is mapped is no better for that
        lemmse.reconstruct(Y, sigma=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_open_index_holds_one_descriptor(tmp_path, made, mapped):
    folder = made(tmp_path / "index", seed=1, several=True)
    before = os.listdir("/proc/self/fd")
    index = open_index(folder)
    assert index.manifest.shards > 1
    lemmse = Reconstructor(index)
    answers(lemmse)
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    del index, lemmse
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("link", ["file", "folder", "version", "manifest"])
def test_links_are_not_followed(tmp_path, made, link):
    folder = made(tmp_path / "index", seed=1)
    path = {
        "file": folder / "1/shards/0000/arrays.zarr/keys/c/0/0/0",
        "folder": folder / "1/shards/0000",
        "version": folder / "1",
        "manifest": folder / "1/manifest.json",
    }[link]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataLoss):
        open_index(folder)


def test_a_pipe_is_not_waited_for(tmp_path, made):
    folder = made(tmp_path / "index", seed=1)
    for name in ("1/sources.json", "1/manifest.json", "CURRENT"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(DataLoss):
            open_index(folder)


@pytest.mark.slow
def test_calibration_leaves_an_index_alone_that_took_the_place_of_its_own(tmp_path, made):
    folder = made(tmp_path / "index", seed=1)
    index = open_index(folder)
    replaced = []

    def progress(stage, done, total):
        if not replaced:
            replaced.append(replace(folder, tmp_path, made))

    with pytest.raises(Aborted, match="another took its place"):
        calibrate_index(index, progress=progress)
    other = open_index(folder)
    assert other.manifest.calibration is None
    assert other.manifest.digest != index.manifest.digest


SURVIVES = """
import faulthandler, mmap, os, sys
import numpy as np
from lemmse.calibration import calibrate_index
from lemmse.contract.errors import Aborted, DataLoss
from lemmse.index import open_index
from lemmse.index.storage import lost_pages, pinned

faulthandler.enable()
lost_pages.survive()
pinned.IN_MEMORY = 0
index, other = open_index(sys.argv[1]), open_index(sys.argv[2])
path = sys.argv[1] + "/1/shards/0000/arrays.zarr/keys/c/0/0/0"
os.truncate(path, 0)
os.unlink(path)
print(index.keys(0, 9).any(), other.keys(0, 9).any())
try:
    index.require_unchanged()
except DataLoss as error:
    print(error, flush=True)
other.require_unchanged()
with open(sys.argv[2] + "/file", "wb+") as file:
    file.truncate(1 << 20)
    own = mmap.mmap(file.fileno(), 0)
    file.truncate(0)
    print(own[5000])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="for the signals of Linux")
def test_a_server_survives_a_file_that_is_cut_short_while_it_is_read(tmp_path, made):
    one, other = made(tmp_path / "one", seed=1), made(tmp_path / "other", seed=2)
    done = run_process([sys.executable, "-c", SURVIVES, str(one), str(other)])
    assert done.stdout.splitlines() == [
        "False True",
        "index 'one' version 1: a file was cut short while the index was open; "
        "restore the index from a copy or build it again",
    ]
    assert done.returncode == -signal.SIGBUS  # what is not its own ends the process as before
    assert "Fatal Python error: Bus error" in done.stderr
