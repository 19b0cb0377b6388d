"""Indexes of volumes: their sources, and what the patches of an index are."""

import json

import numpy as np
import pytest
import tifffile
import zarr

from lemmse.contract.errors import DataLoss, InvalidArgument, NotFound
from lemmse.index import build, open_index
from lemmse.index.images.volumes import planes_around, whole
from lemmse.index.sources import concatenate, depths_of, open_volumes
from lemmse.index.storage.manifest import MANIFEST, _self_checksum
from tests.support.indexes import few_at_a_time
from tests.support.volume_oracle import cut, inside, training_voxels

RNG = np.random.default_rng(2)
GREY = RNG.integers(0, 256, (4, 5, 6), np.uint8)


@pytest.mark.parametrize("boundary", ["circular", "reflect"])
@pytest.mark.parametrize("p_z", [1, 3, 7])
def test_planes_around(boundary, p_z):
    depths, first = [3, 1, 4], [0, 3, 4]
    expected = [
        [start + inside(z + offset - p_z // 2, depth, boundary) for offset in range(p_z)]
        for start, depth in zip(first, depths, strict=True)
        for z in range(depth)
    ]
    assert planes_around(depths, p_z, boundary).tolist() == expected


def test_whole_windows():
    assert whole([3, 1, 4], 3).tolist() == [1, 5, 6]
    assert whole([3, 1, 4], 5).tolist() == []


@pytest.mark.parametrize("boundary", ["circular", "reflect", "valid"])
@pytest.mark.parametrize("keys", [10**6, 40])
def test_keys_targets_and_ids(tmp_path, monkeypatch, boundary, keys):
    """Also in blocks that are smaller than a volume."""
    few_at_a_time(monkeypatch, keys)
    x = np.stack([GREY, GREY[::-1] // 2])
    np.save(tmp_path / "x.npy", x)
    index = open_index(
        build([tmp_path / "x.npy"], tmp_path / "index", patch_size=3, patch_depth=3, boundary=boundary)
    )
    x = x[..., None] / 255
    expected = {
        (4 * k + n[0], *n[1:]): (cut(x[k], n, (3, 3, 3), boundary), x[k][n])
        for k in range(2)
        for n in training_voxels(x[k].shape, (3, 3, 3), boundary)
    }
    m = index.manifest
    assert (m.keys, m.images, m.patch_depth, index.patch_length) == (len(expected), 8, 3, 27)
    v = index.keys(0, m.distinct).repeat(index.multiplicity, axis=0)
    found = zip(index.ids(0, m.keys).tolist(), v, index.targets(0, m.keys), strict=True)
    for number, key, target in found:
        np.testing.assert_allclose(key, expected[tuple(number)][0], atol=1e-6)
        np.testing.assert_allclose(target, expected[tuple(number)][1], atol=1e-6)


def test_files_of_all_kinds(tmp_path):
    folder = tmp_path / "stacks"
    folder.mkdir()
    np.save(folder / "a.npy", GREY)
    np.savez(folder / "b.npz", volumes=np.stack([GREY, GREY]))
    tifffile.imwrite(folder / "c.tif", GREY, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(folder / "d.tif", np.stack([GREY] * 2, axis=1), imagej=True, metadata={"axes": "ZCYX"})
    zarr.create_array(folder / "e.zarr", data=GREY, dimension_names=["t", "y", "x"])
    source = open_volumes(folder)
    assert depths_of(source).tolist() == [4] * 7
    assert [source.label(4 * k + 1) for k in range(7)] == [
        "a.npy plane 1",
        "b.npz[0] plane 1",
        "b.npz[1] plane 1",
        "c.tif plane 1",
        "d.tif[0] plane 1",
        "d.tif[1] plane 1",
        "e.zarr plane 1",
    ]
    assert len(source) == 28
    for k in RNG.permutation(28):
        np.testing.assert_array_equal(source[int(k)][..., 0], GREY[k % 4])
    assert depths_of(concatenate([source, open_volumes(folder / "a.npy")])).tolist() == [4] * 8


def test_limit_counts_volumes(tmp_path):
    np.save(tmp_path / "x.npy", np.stack([GREY, GREY]))
    index = open_index(build([tmp_path / "x.npy"], tmp_path / "index", patch_depth=3, limit=1))
    assert (index.depths.tolist(), index.manifest.images) == ([4], 4)


def test_the_digest_tells_volumes_apart(tmp_path):
    np.save(tmp_path / "one.npy", np.concatenate([GREY, GREY]))
    np.save(tmp_path / "two.npy", np.stack([GREY, GREY]))
    digests = {
        open_index(build([tmp_path / f"{name}.npy"], tmp_path / name, patch_depth=3)).manifest.digest
        for name in ("one", "two")
    }
    assert len(digests) == 2


def test_refusals(tmp_path):
    np.save(tmp_path / "image.npy", GREY[0])
    np.save(tmp_path / "volume.npy", GREY)
    tifffile.imwrite(tmp_path / "image.tif", GREY[0])
    (tmp_path / "empty").mkdir()
    for name, error, message in [
        ("image.npy", InvalidArgument, r"expected volumes \(D, H, W\), .*, got \(5, 6\)"),
        ("image.tif", InvalidArgument, "image.tif: expected a volume, with an axis Z or T, got YX"),
        ("empty", InvalidArgument, "expected volumes in .*, got none"),
        ("none.npy", NotFound, "no such file or folder"),
    ]:
        with pytest.raises(error, match=message):
            build([tmp_path / name], tmp_path / "index", patch_depth=3)
    with pytest.raises(
        InvalidArgument, match="expected volumes of 5 planes or more for valid, got at most 4"
    ):
        build([tmp_path / "volume.npy"], tmp_path / "index", patch_depth=5, boundary="valid")


def test_damaged_depths_are_found(tmp_path):
    np.save(tmp_path / "x.npy", np.stack([GREY, GREY]))
    build([tmp_path / "x.npy"], tmp_path / "index", patch_depth=3)
    manifest = tmp_path / "index/1" / MANIFEST
    content = json.loads(manifest.read_text())
    depths = next(name for name in content["files"] if "images/depths/c" in name)
    (tmp_path / "index/1" / depths).unlink()
    with pytest.raises(DataLoss):
        open_index(tmp_path / "index")


def test_an_index_of_images_without_the_field(tmp_path):
    """Such as were built before there were volumes."""
    np.save(tmp_path / "x.npy", GREY)
    build([tmp_path / "x.npy"], tmp_path / "index")
    manifest = tmp_path / "index/1" / MANIFEST
    content = json.loads(manifest.read_text())
    del content["patch_depth"], content["manifest_sha256"]
    content["manifest_sha256"] = _self_checksum(content)
    manifest.write_text(json.dumps(content))
    assert open_index(tmp_path / "index").manifest.patch_depth == 1
