"""Volumes that are removed from an index, or excluded by a request, are as if they had never been there."""

from pathlib import Path

import numpy as np
import pytest

from lemmse.client import connect
from lemmse.contract.errors import InvalidArgument
from lemmse.index import build, open_index, remove

VOLUMES = np.random.default_rng(3).random((3, 4, 6, 7), np.float32)
Y = np.random.default_rng(4).random((3, 6, 7), np.float32)


def built(folder: Path, volumes: np.ndarray) -> Path:
    folder.mkdir()
    np.save(folder / "v.npy", volumes)
    return build([folder / "v.npy"], folder / "index", patch_size=3, patch_depth=3)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The answer of an index of the first and last volume."""
    index = built(tmp_path_factory.mktemp("volumes") / "fresh", VOLUMES[[0, 2]])
    with connect(index) as client:
        return client.reconstruct(Y, sigma=0.1, mode="exact").image


@pytest.mark.parametrize("name", ["v.npy[1]", "v.npy[1] plane 2"])
def test_a_volume_is_removed(name: str, without: np.ndarray, tmp_path: Path) -> None:
    index = built(tmp_path / "all", VOLUMES)
    fresh = open_index(built(tmp_path / "fresh", VOLUMES[[0, 2]]))
    remove([name], index)
    left = open_index(index)
    assert left.depths.tolist() == [4, 4]
    assert left.manifest.digest == fresh.manifest.digest
    assert left.labels == [f"v.npy[{k}] plane {z}" for k in (0, 2) for z in range(4)]
    with connect(index) as client:
        image = client.reconstruct(Y, sigma=0.1, mode="exact").image
    np.testing.assert_allclose(image, without, atol=1e-5)


@pytest.mark.parametrize("name", ["v.npy[1]", "v.npy[1] plane 0", 6])
def test_a_volume_is_excluded(name: str | int, without: np.ndarray, tmp_path: Path) -> None:
    with connect(built(tmp_path / "all", VOLUMES)) as client:
        image = client.reconstruct(Y, sigma=0.1, mode="exact", exclude=[name]).image
        np.testing.assert_allclose(image, without, atol=1e-5)
        with pytest.raises(InvalidArgument, match=r"exclude: expected the source of a training image"):
            client.reconstruct(Y, sigma=0.1, exclude=["v.npy[1] plane 9"])


def test_a_volume_is_added_after_one_was_removed(tmp_path: Path) -> None:
    index = built(tmp_path / "all", VOLUMES)
    remove(["v.npy[0]"], index, refit=True)
    again = open_index(index)
    fresh = open_index(built(tmp_path / "fresh", VOLUMES[1:]))
    assert (again.manifest.digest, again.depths.tolist()) == (fresh.manifest.digest, [4, 4])
