"""A build in parts: ended at any of them it goes on; it keeps to its memory, and adds to an index."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lemmse.contract.errors import AlreadyExists, InvalidArgument, NotFound, UnsupportedFormat
from lemmse.estimator import Reconstructor
from lemmse.index import Index, build, open_index, update
from tests.support.cases import smooth
from tests.support.indexes import by_cell, few_at_a_time
from tests.support.processes import run_process

pytestmark = pytest.mark.slow


def contents(folder: Path) -> dict[str, str]:
    """What lies in a folder, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def source(tmp_path) -> Path:
    np.save(tmp_path / "x.npy", np.stack([smooth(seed, 9, 8, 1) for seed in range(5)]))
    return tmp_path / "x.npy"


@pytest.fixture
def small_parts(monkeypatch) -> None:
    few_at_a_time(monkeypatch, keys=150)


class Ended(BaseException):
    """As a signal ends a process."""


def ending_at(count: int):
    """Progress that raises at the call of this number, and what was called before."""
    calls: list[tuple[str, int, int]] = []

    def progress(*call):
        calls.append(call)
        if len(calls) == count:
            raise Ended

    return calls, progress


@pytest.mark.slow
def test_a_build_ended_anywhere_goes_on_to_the_same_index(source, tmp_path, small_parts):
    problem = {"physics": "blur:gaussian:0.6", "pre_inverse": "wiener:0.05"}
    calls, progress = ending_at(0)
    build([source], tmp_path / "whole", patch_size=3, progress=progress, **problem)
    expected = contents(tmp_path / "whole")
    assert open_index(tmp_path / "whole").manifest.shards > 1
    assert len({call for call in calls if call[0] == "assign patches"}) > 1
    for count in range(1, len(calls) + 1):
        out = tmp_path / f"{count}"
        with pytest.raises(Ended):
            build([source], out, patch_size=3, progress=ending_at(count)[1], **problem)
        assert not out.exists()
        again, progress = ending_at(0)
        build([source], out, patch_size=3, progress=progress, **problem)
        assert contents(out) == expected
        of_passes = [call for call in again if call[0] in ("assign patches", "write shards")]
        # As a stage begins it is told what was done before.
        left = [call for before, call in pairwise(of_passes) if call[0] == before[0]]
        assert left == [call for call in calls[count:] if call in left]  # what was done is not done again
    assert not list(tmp_path.glob(".*"))


KILLED = """
import os, signal, sys
from pathlib import Path
import pytest
from lemmse.index import build
from tests.support.indexes import few_at_a_time

def progress(stage, done, total):
    if stage == sys.argv[3] and done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

with pytest.MonkeyPatch.context() as patched:
    few_at_a_time(patched, keys=150)
    build([sys.argv[1]], sys.argv[2], patch_size=3, progress=progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["read images", "assign patches", "write shards"])
def test_a_build_that_was_killed_goes_on(source, tmp_path, small_parts, stage):
    command = [sys.executable, "-c", KILLED, source, tmp_path / "index", stage, "2"]
    assert run_process(command).returncode == -signal.SIGKILL
    assert sorted(os.listdir(tmp_path)) == [".index.building", "x.npy"]
    with pytest.raises(NotFound):
        open_index(tmp_path / "index")
    build([source], tmp_path / "index", patch_size=3)
    build([source], tmp_path / "other", patch_size=3)
    assert contents(tmp_path / "index") == contents(tmp_path / "other")


@pytest.fixture
def unfinished(source, tmp_path) -> Path:
    with pytest.raises(Ended):
        build([source], tmp_path / "index", patch_size=3, progress=ending_at(8)[1])
    return tmp_path / ".index.building"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 4}, "patch-size: expected 3 to go on with the unfinished build in .*, got 4; remove"),
        ({"seed": 1}, "seed: expected 0 to go on"),
        ({"limit": 2}, "limit: expected None to go on with .*, got 2"),
        ({"physics": "blur:gaussian:1.0"}, "physics: expected identity to go on"),
    ],
)
def test_other_arguments_are_refused_and_nothing_is_lost(source, tmp_path, unfinished, change, message):
    before = contents(unfinished)
    with pytest.raises(InvalidArgument, match=message):
        build([source], tmp_path / "index", **{"patch_size": 3} | change)
    assert contents(unfinished) == before


def test_other_images_are_refused(source, tmp_path, unfinished):
    images = np.load(source)
    images[0, 0, 0] = 1 - images[0, 0, 0]
    np.save(source, images)
    with pytest.raises(InvalidArgument, match=r"SOURCE: expected what the unfinished build in .* began with"):
        build([source], tmp_path / "index", patch_size=3)
    assert unfinished.exists()


def test_another_mask_under_the_same_name_is_refused(source, tmp_path):
    mask, out = tmp_path / "mask.npy", tmp_path / "index"
    np.save(mask, np.ones((9, 8)))
    with pytest.raises(Ended):
        build([source], out, patch_size=3, physics=f"inpaint:{mask}", progress=ending_at(8)[1])
    np.save(mask, np.eye(9, 8))
    with pytest.raises(InvalidArgument, match="SOURCE: expected what the unfinished build"):
        build([source], out, patch_size=3, physics=f"inpaint:{mask}")


@pytest.mark.slow
def test_another_kernel_under_the_same_name_makes_another_index(source, tmp_path):
    kernel = tmp_path / "kernel.npy"

    def keys(name: str, values: np.ndarray) -> np.ndarray:
        np.save(kernel, values)
        index = open_index(build([source], tmp_path / name, patch_size=3, physics=f"blur:{kernel}"))
        return index.keys(0, index.manifest.distinct)

    first, box = keys("index", np.eye(1)), np.ones((3, 3)) / 9
    shutil.rmtree(tmp_path / "index")
    second = keys("index", box)
    np.testing.assert_array_equal(second, keys("other", box))
    assert not np.array_equal(second, first)


def test_an_unfinished_build_of_another_version_is_refused(source, tmp_path, unfinished):
    plan = unfinished / "plan.json"
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"format": 99, "colour": True}))
    before = contents(unfinished)
    with pytest.raises(UnsupportedFormat, match=r"got one of format 99 by lemmse .*; remove that folder"):
        build([source], tmp_path / "index", patch_size=3)
    assert contents(unfinished) == before


def test_two_builds_of_one_index_do_not_meet(source, tmp_path):
    def meet(stage, done, total):
        if stage == "fit cells":
            with pytest.raises(AlreadyExists, match="out: another process builds"):
                build([source], tmp_path / "index", patch_size=3)

    build([source], tmp_path / "index", patch_size=3, progress=meet)
    open_index(tmp_path / "index")
    assert sorted(os.listdir(tmp_path)) == ["index", "x.npy"]


def test_memory_too_little_to_build_in(source, tmp_path):
    with pytest.raises(InvalidArgument, match="memory: expected a whole number >= 1000000000, got 1000"):
        build([source], tmp_path / "index", memory=1000)
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.fixture(scope="module")
def one_and_several(tmp_path_factory) -> list[Index]:
    """The same images, in one shard and in three."""
    folder = tmp_path_factory.mktemp("shards")
    np.save(folder / "x.npy", np.stack([smooth(seed, 64, 64, 1) for seed in range(5)]))
    one = build([folder / "x.npy"], folder / "one", patch_size=3)
    with pytest.MonkeyPatch.context() as patched:
        few_at_a_time(patched, keys=8192)
        several = build([folder / "x.npy"], folder / "several", patch_size=3)
    return [open_index(one), open_index(several)]


def test_shards_hold_what_one_would(one_and_several):
    one, several = one_and_several
    assert (one.manifest.shards, several.manifest.shards) == (1, 3)
    np.testing.assert_array_equal(one.cell_keys, several.cell_keys)
    assert by_cell(one) == by_cell(several)


@pytest.mark.parametrize("sigma", [0.02, 0.3])
@pytest.mark.parametrize("asked", [{"mode": "exact"}, {"mode": "topk", "k": 40}, {"mode": "hybrid"}])
def test_shards_answer_as_one_would(one_and_several, sigma, asked):
    x = smooth(99, 16, 16, 1)
    y = (x + sigma * np.random.default_rng(0).standard_normal(x.shape)).astype(np.float32)
    one, several = (Reconstructor(index) for index in one_and_several)
    found, expected = (r.reconstruct(y, sigma=sigma, **asked).image for r in (several, one))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2 if asked["mode"] == "hybrid" else 1e-5)
    told = [r.explain(y, sigma=sigma, pixel=(3, 5), top=4).contributors for r in (several, one)]
    a, b = ([(c.image, c.row, c.column) for c in contributors] for contributors in told)
    assert a == b


@pytest.fixture
def more(tmp_path) -> Path:
    np.save(tmp_path / "y.npy", np.stack([smooth(seed, 9, 8, 1) for seed in range(50, 53)]))
    return tmp_path / "y.npy"


def test_images_are_added_as_a_new_version(source, more, tmp_path):
    index = build([source], tmp_path / "index", patch_size=3, seed=4)
    before = contents(index / "1")
    old = Reconstructor(open_index(index))
    assert update([more], index) == index
    assert contents(index / "1") == before
    both = open_index(build([source, more], tmp_path / "both", patch_size=3, seed=4))
    updated = open_index(index)
    assert updated.version == "2"
    assert updated.labels == both.labels
    assert updated.manifest == both.manifest
    y = smooth(99, 9, 8, 1)
    found, expected = (Reconstructor(one).reconstruct(y, sigma=0.2).image for one in (updated, both))
    np.testing.assert_array_equal(found, expected)
    assert (old.reconstruct(y, sigma=0.2).image != expected).any()  # who had opened it still answers from it
    update([more], index)
    assert open_index(index).version == "3"
    assert not list(tmp_path.glob(".*"))


def test_an_update_that_is_ended_leaves_the_index_and_goes_on(source, more, tmp_path):
    index = build([source], tmp_path / "index", patch_size=3)
    before = contents(index)
    update([more], shutil.copytree(index, tmp_path / "other"))
    for count in (4, 9, 1):  # while images are read, while Gaussians are fitted, and when it goes on
        with pytest.raises(Ended):
            update([more], index, progress=ending_at(count)[1])
        assert contents(index) == before
    update([more], index)
    assert contents(index / "2") == contents(tmp_path / "other" / "2")


def test_an_update_ended_before_readers_are_told_goes_on(source, more, tmp_path, monkeypatch):
    index = build([source], tmp_path / "index", patch_size=3)

    def end(path, text):
        raise Ended

    with monkeypatch.context() as patched:
        patched.setattr("lemmse.index.storage.folder.write_atomically", end)
        with pytest.raises(Ended):
            update([more], index)
    assert open_index(index).version == "1"
    update([more], index)
    assert open_index(index).version == "2"
    assert sorted(os.listdir(index)) == ["1", "2", "CURRENT"]


def test_there_must_be_an_index_to_add_to(source, tmp_path):
    with pytest.raises(NotFound, match="nothing there"):
        update([source], tmp_path / "index")


def test_images_of_other_channels_are_not_added(source, tmp_path):
    index = build([source], tmp_path / "index", patch_size=3)
    before = contents(tmp_path)
    np.save(tmp_path / "colour.npy", np.zeros((1, 9, 8, 3)))
    with pytest.raises(InvalidArgument, match="channel"):
        update([tmp_path / "colour.npy"], index)
    (tmp_path / "colour.npy").unlink()
    assert contents(tmp_path) == before


HONEST = """
import sys
from pathlib import Path
from lemmse.index import build
build([sys.argv[1]], sys.argv[2], patch_size=11, physics="blur:gaussian:0.6", memory=10**9)
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


@pytest.mark.slow
def test_a_build_holds_no_more_than_it_was_given(tmp_path):
    """131 072 keys of 363 numbers: 190 MB as they are, of which a build makes several copies at a time."""
    np.save(tmp_path / "x.npy", np.stack([smooth(seed, 32, 32, 3) for seed in range(128)]))
    command = [sys.executable, "-c", HONEST, tmp_path / "x.npy", tmp_path / "index"]
    done = run_process(command)
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(done.stdout)
    assert open_index(tmp_path / "index").manifest.shards > 2
    assert peak < 10**9


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(InvalidArgument.of("sigma", "expected a number > 0")))
    assert (str(error), error.argument) == ("sigma: expected a number > 0", "sigma")


def test_a_build_ended_before_it_tidied_up_is_done(source, more, tmp_path, monkeypatch):
    def end(path):
        raise Ended

    with monkeypatch.context() as patched:
        patched.setattr(
            "lemmse.index.storage.folder.sync", end
        )  # which the new name in its folder takes last
        with pytest.raises(Ended):
            build([source], tmp_path / "index", patch_size=3)
    assert open_index(tmp_path / "index").version == "1"
    with pytest.raises(AlreadyExists):
        build([source], tmp_path / "index", patch_size=3)
    update([more], tmp_path / "index")
    assert open_index(tmp_path / "index").version == "2"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_readers_find_a_whole_version_while_another_is_published(source, more, tmp_path):
    index = build([source], tmp_path / "index", patch_size=3)
    update([more], shutil.copytree(index, tmp_path / "other"))
    expected = {"1": contents(index / "1"), "2": contents(tmp_path / "other" / "2")}
    seen = []

    def read():
        while not seen or seen[-1] != "2":
            opened = open_index(index)
            assert contents(opened.folder) == expected[opened.version]
            seen.append(opened.version)

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(read) for _ in range(2)]
        update([more], index)
        for reader in readers:
            reader.result()
    assert set(seen) == {"1", "2"}


def test_a_build_ended_while_it_writes_the_manifest_goes_on(source, tmp_path, monkeypatch):
    def end(path, text):
        path.with_name(f".{path.name}").write_text(text[:100])
        path.with_name("zarr.0.partial").write_text("half")
        raise Ended

    with monkeypatch.context() as patched:
        patched.setattr("lemmse.index.storage.manifest.write_atomically", end)
        with pytest.raises(Ended):
            build([source], tmp_path / "index", patch_size=3)
    build([source], tmp_path / "index", patch_size=3)
    build([source], tmp_path / "other", patch_size=3)
    assert contents(tmp_path / "index") == contents(tmp_path / "other")
    open_index(tmp_path / "index")
