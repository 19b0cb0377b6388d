"""What a build writes, and that it writes all of it or nothing."""

import hashlib
import json
import os
import shlex
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from lemmse.client.serving import LEMMSE
from lemmse.contract.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, UnsupportedFormat
from lemmse.index import build, open_index
from lemmse.index.images.stack import Images
from lemmse.index.storage.inverted_lists import to_search
from lemmse.index.storage.manifest import FORMAT
from tests.support.indexes import everything
from tests.support.oracle import patch
from tests.support.processes import run_process


def images_of(shape, count=3, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


@pytest.fixture
def source(tmp_path) -> Path:
    np.save(tmp_path / "x.npy", images_of((6, 5, 3)))
    return tmp_path / "x.npy"


@pytest.fixture
def index_folder(source, tmp_path) -> Path:
    return build([source], tmp_path / "index", patch_size=3)


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_holds_every_translated_patch_once(tmp_path, p, channels):
    x = images_of((6, 5, channels))
    np.save(tmp_path / "x.npy", x)
    index = open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=p))
    keys, targets, ids = everything(index)
    assert len({tuple(i) for i in ids.tolist()}) == len(ids) == 3 * 6 * 5 == index.manifest.keys
    for v, t, (k, row, column) in zip(keys, targets, ids, strict=True):
        clean = (x[k] / 255).astype(np.float32)
        np.testing.assert_array_equal(v, patch(clean, row, column, p).astype(np.float32))
        np.testing.assert_array_equal(t, clean[row, column])


def test_keys_are_grouped_by_nearest_centroid(tmp_path):
    np.save(tmp_path / "x.npy", images_of((16, 16, 1), count=10))
    index = open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=3))
    neighbours = index.neighbours
    keys = to_search(index.packed_keys.rows(0, index.manifest.distinct), index.quantization)
    keys = keys.repeat(index.multiplicity, axis=0)
    centroids = neighbours.quantizer.reconstruct_n(0, neighbours.nlist)
    nearest = ((keys[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    cells = [neighbours.invlists.list_size(cell) for cell in range(neighbours.nlist)]
    stored = np.repeat(np.arange(neighbours.nlist), cells)
    assert np.mean(stored == nearest) > 0.999  # but for ties in rounding
    # FAISS numbers the keys in the same order.
    _, found = neighbours.search(keys[::97], 1)
    distance = ((keys[found[:, 0]] - keys[::97]) ** 2).sum(axis=1)
    assert distance.max() == 0


def test_manifest_describes_the_index(source, tmp_path):
    index = open_index(build([source], tmp_path / "photos", patch_size=3, seed=5, limit=2))
    manifest = index.manifest
    assert (index.name, index.version) == ("photos", "1")
    assert (manifest.images, manifest.channels, manifest.keys, manifest.dtype) == (2, 3, 60, "uint8")
    assert (manifest.patch_size, manifest.seed, manifest.boundary) == (3, 5, "circular")
    assert (manifest.physics, manifest.pre_inverse) == ("identity", "identity")
    assert manifest.sources == (str(source),)
    assert index.labels == ["x.npy[0]", "x.npy[1]"]
    on_disk = {str(p.relative_to(index.folder)) for p in index.folder.rglob("*") if p.is_file()}
    assert set(manifest.files) == on_disk - {"manifest.json"}


def test_a_manifest_without_a_stride_means_every_position(index_folder):
    path = index_folder / "1" / "manifest.json"
    content = json.loads(path.read_text())
    assert content.pop("stride") == 1
    del content["manifest_sha256"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"manifest_sha256": digest}))
    assert open_index(index_folder).manifest.stride == 1


def test_same_arguments_give_the_same_index(source, tmp_path):
    a, b = (open_index(build([source], tmp_path / name)) for name in ("a", "b"))
    assert a.manifest == b.manifest
    other = np.load(source)
    other[0, 0, 0, 0] += 1
    np.save(tmp_path / "y.npy", other)
    assert open_index(build([tmp_path / "y.npy"], tmp_path / "c")).manifest.digest != a.manifest.digest


def test_folder_of_images_of_unequal_size(tmp_path):
    (tmp_path / "images" / "b").mkdir(parents=True)
    parts = [images_of(shape, count=1)[0] for shape in ((4, 7), (6, 3))]
    iio.imwrite(tmp_path / "images" / "a.png", parts[0])
    iio.imwrite(tmp_path / "images" / "b" / "c.png", parts[1])
    index = open_index(build([tmp_path / "images"], tmp_path / "index", patch_size=3))
    assert (index.manifest.images, index.manifest.channels, index.manifest.keys) == (2, 1, 28 + 18)
    _, targets, ids = everything(index)
    for t, (k, row, column) in zip(targets, ids, strict=True):
        assert t[0] == np.float32(parts[k][row, column] / 255)


def test_sources_of_several_types_are_stored_as_floats(source, tmp_path):
    np.save(tmp_path / "f.npy", np.full((1, 2, 2, 3), 0.25))
    index = open_index(build([source, tmp_path / "f.npy"], tmp_path / "index"))
    assert index.manifest.dtype == "float32"
    assert index.manifest.keys == 94


def test_more_keys_than_a_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("lemmse.index.storage.zarr_store.SHARD", 32)
    monkeypatch.setattr("lemmse.index.storage.zarr_store.CHUNK", 16)
    x = images_of((6, 5, 1))
    np.save(tmp_path / "x.npy", x)
    index = open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=3))
    keys, _, ids = everything(index)
    stack = Images.stack(list((x / 255).astype(np.float32)))
    expected = stack.patches(ids[:, 0] * 30 + ids[:, 1] * 5 + ids[:, 2], 3)
    np.testing.assert_array_equal(keys, expected)
    np.testing.assert_array_equal(index.keys(30, 40), keys[30:40])


@pytest.mark.parametrize("levels", [1, 2])
def test_few_distinct_keys_of_many_patches(tmp_path, levels):
    images = np.zeros((4, 128, 128), np.uint8)
    images[:, :, 64:] = levels - 1
    np.save(tmp_path / "x.npy", images)
    index = open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_size=1))
    assert (index.manifest.keys, index.manifest.distinct) == (images.size, levels)
    assert index.manifest.cells <= levels


def test_progress_reaches_the_end_of_each_stage(source, tmp_path):
    last = {}

    def progress(stage, done, total):
        last[stage] = done, total

    build([source], tmp_path / "index", progress=progress)
    assert last == {
        "read images": (3, 3),
        "fit cells": (1, 1),
        "fit Gaussians": (6, 6),
        "assign patches": (1, 1),
        "write shards": (1, 1),
    }


BAD = [
    ({"patch_size": 0}, r"patch-size: expected a whole number in \[1, 64\], got 0"),
    ({"patch_size": 10**20}, r"patch-size: expected a whole number in \[1, 64\], got 1000"),
    ({"seed": 2**31}, r"seed: expected a whole number in \[0, 2147483647\], got 2147483648"),
    ({"limit": 0}, "limit: expected a whole number >= 1, got 0"),
    ({"seed": -1}, r"seed: expected a whole number in \[0, 2147483647\], got -1"),
    ({"physics": "blur"}, "physics: expected one of .*, got 'blur'"),
    ({"pre_inverse": "magic"}, "pre-inverse: expected one of identity, .*, got 'magic'"),
    ({"boundary": "open"}, "boundary: expected one of circular, reflect, valid, got 'open'"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_arguments_are_named_and_nothing_is_written(source, tmp_path, change, message):
    with pytest.raises(InvalidArgument, match=message):
        build([source], tmp_path / "index", **change)
    assert os.listdir(tmp_path) == ["x.npy"]


def test_a_source_that_fails_midway_leaves_nothing(source, tmp_path):
    np.save(tmp_path / "grey.npy", images_of((4, 4)))
    with pytest.raises(InvalidArgument, match="channel"):
        build([source, tmp_path / "grey.npy"], tmp_path / "index")
    assert sorted(os.listdir(tmp_path)) == ["grey.npy", "x.npy"]


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["folder", "file"])
def test_a_place_that_is_taken_stays_as_it_is(source, tmp_path, make):
    make(tmp_path / "index")
    with pytest.raises(AlreadyExists, match=r"expected a new folder.* by --update$"):
        build([source], tmp_path / "index")
    assert sorted(os.listdir(tmp_path)) == ["index", "x.npy"]


def test_the_folder_around_the_index_is_made(source, tmp_path):
    assert build([source], tmp_path / "indexes" / "mine" / "index").is_dir()


def test_a_file_around_the_index_is_refused(source, tmp_path):
    with pytest.raises(InvalidArgument, match=r"out: expected a folder to write to, got .*Not a directory"):
        build([source], source / "index")


def version_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "1").rglob("*") if path.is_file())


def test_every_missing_file_is_noticed(index_folder, tmp_path):
    for path in version_files(index_folder):
        path.rename(tmp_path / "aside")
        with pytest.raises(DataLoss, match=r"is missing|which is not there"):
            open_index(index_folder)
        (tmp_path / "aside").rename(path)
    open_index(index_folder)


def test_every_altered_or_shortened_file_is_noticed(index_folder):
    for path in version_files(index_folder):
        content = path.read_bytes()
        position = len(content) // 2
        flipped = bytes([content[position] ^ 1])
        for damaged in (content[:position] + flipped + content[position + 1 :], content[:-2]):
            path.write_bytes(damaged)
            with pytest.raises(DataLoss, match=r"index 'index' version 1: .*; restore the index"):
                open_index(index_folder)
        path.write_bytes(content)
    open_index(index_folder)


@pytest.mark.parametrize(("change", "remedy"), [(1, "update lemmse to read it"), (-1, "build it again")])
def test_another_format_is_refused(index_folder, change, remedy):
    path = index_folder / "1" / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format": FORMAT + change, "something": "new"}))
    message = f"expected an index of format {FORMAT}, got format {FORMAT + change}; {remedy}"
    with pytest.raises(UnsupportedFormat, match=message):
        open_index(index_folder)


@pytest.mark.parametrize("what", ["nothing there", "a folder without an index", "a file"])
def test_what_is_no_index_is_named(tmp_path, what):
    path = tmp_path / "index"
    if what.startswith("a folder"):
        path.mkdir()
    elif what == "a file":
        path.touch()
    with pytest.raises(NotFound, match=f"expected an index folder, got .*: {what}"):
        open_index(path)


@pytest.mark.parametrize("version", ["2", "", "../1", "nonsense", b"\xff\x00\x81"])
def test_a_version_that_is_not_there_is_noticed(index_folder, version):
    (index_folder / "CURRENT").write_bytes(version if isinstance(version, bytes) else version.encode())
    with pytest.raises(DataLoss, match="CURRENT names version"):
        open_index(index_folder)


def test_an_index_may_be_moved(index_folder, tmp_path):
    shutil.move(index_folder, tmp_path / "elsewhere")
    assert open_index(tmp_path / "elsewhere").name == "elsewhere"


@pytest.mark.slow
def test_a_name_that_looks_like_markup_is_shown_as_it_is(tmp_path):
    (tmp_path / "[").mkdir()
    np.save(tmp_path / "[" / "b].npy", images_of((4, 4)))
    arguments = [
        "build",
        str(tmp_path / "[" / "b].npy"),
        "--out",
        str(tmp_path / "i[red]x"),
        "--no-calibrate",
    ]
    done = run_process([*LEMMSE, *arguments], env=os.environ | {"COLUMNS": "1000"})
    assert done.returncode == 0, done.stderr
    assert "i[red]x" in done.stdout
    assert "[/b].npy" in done.stdout


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_no_index(source, tmp_path):
    """A limit on the size of files stands for the disk's end: both fail the write."""
    limited = f"ulimit -f 1; exec {shlex.join(LEMMSE)} build {source} --out {tmp_path}/index"
    done = run_process(["bash", "-c", limited])
    assert done.returncode == 1
    assert done.stderr.startswith("lemmse: error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == [".index.building", "x.npy"]
    build([source], tmp_path / "index")  # goes on, now that there is room
    open_index(tmp_path / "index")
    assert sorted(os.listdir(tmp_path)) == ["index", "x.npy"]


def test_all_of_an_index_is_on_the_disk_before_it_appears(source, tmp_path, monkeypatch):
    out, flushed, fsync = tmp_path / "out", set(), os.fsync

    def flush(descriptor):
        if not out.exists():
            flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    build([source], out, patch_size=3)
    assert {path.stat().st_ino for path in (out, *out.rglob("*"))} <= flushed
