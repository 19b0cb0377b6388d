"""An index or a source from somebody else runs no code: other formats and codecs are not read."""

import json
import os
import pickle
import shutil
from dataclasses import replace

import numcodecs.pickles
import numpy as np
import pytest
import zarr

from lemmse.contract.errors import DataLoss, InvalidArgument
from lemmse.index import build, open_index
from lemmse.index.sources import open_source
from lemmse.index.storage import checksum
from tests.support.commands import invoke


class Touch:
    """What creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def index(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.random((3, 8, 8)).astype(np.float32))
    np.save(tmp_path / "kernel.npy", np.ones((3, 3)))
    return build(
        [tmp_path / "x.npy"], tmp_path / "index", patch_size=3, physics=f"blur:{tmp_path}/kernel.npy"
    )


@pytest.fixture(autouse=True)
def unpickling(monkeypatch):
    """As numcodecs was before it refused to unpickle."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)


def pickled_array(folder, path):
    """A Zarr array of format 2 whose one chunk creates a folder at `path` when it is decoded."""
    folder.mkdir(parents=True)
    metadata = {
        "zarr_format": 2,
        "shape": [3, 3],
        "chunks": [3, 3],
        "dtype": "|O",
        "fill_value": "",
        "order": "C",
        "compressor": None,
        "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}],
    }
    (folder / ".zarray").write_text(json.dumps(metadata))
    (folder / "0.0").write_bytes(pickle.dumps(Touch(path)))


def reseal(folder, manifest):
    """Write a manifest with the checksums of what lies in the version's folder."""
    files = {
        str(path.relative_to(folder)): checksum(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    replace(manifest, files=files).write(folder)


def refused(index):
    """The errors of opening and of the command."""
    with pytest.raises(DataLoss) as opening:
        open_index(index)
    status, _, stderr = invoke("inspect", index, "--verify")
    assert status == 2
    assert stderr.startswith("lemmse: error: index")
    assert stderr.count("\n") == 1
    return str(opening.value), stderr


def test_the_crafted_array_runs_code_where_it_is_read(tmp_path):
    pickled_array(tmp_path / "array", tmp_path / "ran")
    with pytest.raises(Exception):  # noqa: B017, PT011  what is unpickled is no array
        zarr.open_array(tmp_path / "array", mode="r")[:]
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("group", [False, True], ids=["array", "group"])
def test_arrays_of_format_2_are_not_read(index, tmp_path, group):
    version = index / "1"
    manifest = open_index(index).manifest
    physics = version / "arrays.zarr" / "physics"
    shutil.rmtree(physics if group else physics / "kernel")
    pickled_array(physics / "kernel", tmp_path / "ran")
    if group:
        (physics / ".zgroup").write_text('{"zarr_format": 2}')
    reseal(version, manifest)
    messages = refused(index)
    for message in messages:
        assert "format 2" in message
    assert not (tmp_path / "ran").exists()


def test_a_whole_group_of_format_2_is_not_read(index, tmp_path):
    version = index / "1"
    manifest = open_index(index).manifest
    shutil.rmtree(version / "arrays.zarr")
    pickled_array(version / "arrays.zarr" / "physics" / "kernel", tmp_path / "ran")
    for folder in (version / "arrays.zarr", version / "arrays.zarr" / "physics"):
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
    reseal(version, manifest)
    for message in refused(index):
        assert "format 2" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("inner", [False, True], ids=["outer", "in a shard"])
@pytest.mark.parametrize("codec", ["numcodecs.pickle", "blosc", "no.such.codec"])
def test_other_codecs_are_not_read(index, codec, inner):
    version = index / "1"
    manifest = open_index(index).manifest
    path = version / "arrays.zarr" / "physics" / "kernel" / "zarr.json"
    metadata = json.loads(path.read_text())
    codecs = metadata["codecs"][0]["configuration"]["codecs"] if inner else metadata["codecs"]
    codecs.append({"name": codec, "configuration": {}})
    path.write_text(json.dumps(metadata))
    reseal(version, manifest)
    for message in refused(index):
        assert f"kernel: expected codecs bytes, crc32c, sharding_indexed, zstd, got {codec}" in message


@pytest.mark.parametrize("content", ["", "[]", '{"zarr_format": 3}', '{"node_type": "array", "codecs": [1]}'])
def test_damaged_metadata_is_told_in_one_line(index, content):
    version = index / "1"
    manifest = open_index(index).manifest
    (version / "arrays.zarr" / "physics" / "kernel" / "zarr.json").write_text(content)
    reseal(version, manifest)
    for message in refused(index):
        assert "kernel has damaged metadata" in message


def test_consolidated_metadata_is_not_used(index):
    version = index / "1"
    manifest = open_index(index).manifest
    group = version / "arrays.zarr"
    with pytest.warns(UserWarning, match="Consolidated"):
        zarr.consolidate_metadata(str(group))
    path = group / "zarr.json"
    path.write_text(path.read_text().replace('"zstd"', '"no.such.codec"'))
    reseal(version, manifest)
    assert open_index(index).problem.arrays["kernel"].shape == (3, 3)


def test_a_source_does_not_unpickle(tmp_path):
    pickled_array(tmp_path / "array", tmp_path / "ran")
    with pytest.raises(InvalidArgument, match=r"expected codecs of numbers, got pickle, vlen-utf8;"):
        open_source(tmp_path / "array")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "options", [{"zarr_format": 2}, {"zarr_format": 3}, {"zarr_format": 3, "shards": (4, 8, 8)}]
)
def test_a_source_reads_the_usual_codecs(tmp_path, options):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8)).astype(np.uint8)
    array = zarr.create_array(
        str(tmp_path / "array"), shape=images.shape, dtype=images.dtype, chunks=(2, 8, 8), **options
    )
    array[:] = images
    np.testing.assert_array_equal(open_source(tmp_path / "array")[4][..., 0], images[4])
