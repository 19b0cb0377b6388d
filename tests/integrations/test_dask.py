"""Lazy reconstruction of Dask arrays: the answer for the whole image, whatever the chunks."""

import pickle
import threading
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest

from lemmse.client import Client, connect
from lemmse.client.remote import RemoteClient
from lemmse.contract.errors import InvalidArgument
from lemmse.index import build
from lemmse.integrations.dask import map_reconstruct

RNG = np.random.default_rng(5)
SHAPE = (23, 19, 3)
Y = RNG.random(SHAPE, np.float32)


@pytest.fixture(scope="module", params=["circular", "reflect", "valid"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dask")
    np.save(folder / "images.npy", RNG.random((2, 8, 8, 3), np.float32))
    return build([folder / "images.npy"], folder / "index", patch_size=4, boundary=request.param)


@pytest.mark.parametrize("chunks", [(8, 8, 3), (23, 5, 1), (1, 19, 2), (-1, -1, -1)])
@pytest.mark.parametrize(
    ("aggregate", "dtype"),
    [("centre", np.float32), ("overlap", np.float32), ("epll", np.float32), ("centre", np.uint8)],
)
def test_the_chunks_do_not_matter(
    folder: Path, chunks: tuple[int, int, int], aggregate: str, dtype: type
) -> None:
    y = Y if dtype is np.float32 else np.rint(255 * Y).astype(dtype)
    white = 1 if dtype is np.float32 else 255
    with connect(folder) as client:
        expected = client.reconstruct(y, sigma=0.2, aggregate=aggregate).image
        lazy = map_reconstruct(da.from_array(y, chunks), client, sigma=0.2, aggregate=aggregate)
        assert (lazy.shape, lazy.dtype) == (SHAPE, np.float32)
        np.testing.assert_allclose(lazy.compute(), expected, rtol=0, atol=1e-6 * white)


def test_only_what_is_asked_for_is_computed(remote: Client) -> None:
    seen = []
    y = da.from_array(Y[..., 0], 8)

    def noted(block: np.ndarray) -> np.ndarray:
        seen.append(block.shape)
        return block

    lazy = map_reconstruct(y.map_blocks(noted, dtype=y.dtype, meta=Y[:0, :0, 0]), remote, sigma=0.2)
    assert seen == []
    expected = remote.reconstruct(Y[..., 0], sigma=0.2).image
    np.testing.assert_allclose(lazy[10:12, 10:12].compute(), expected[10:12, 10:12], atol=1e-6)
    assert len(seen) <= 9


def test_requests_in_flight_are_bounded(remote: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, at_work, most = threading.Lock(), 0, []
    both = threading.Barrier(2)
    reconstruct = remote.reconstruct

    def counted(*args, **options):
        nonlocal at_work
        with lock:
            at_work += 1
            most.append(at_work)
        both.wait(30)
        with lock:
            at_work -= 1
        return reconstruct(*args, **options)

    monkeypatch.setattr(remote, "reconstruct", counted)
    with dask.config.set(scheduler="threads", num_workers=6):
        map_reconstruct(da.from_array(Y[:20, :16, 0], (10, 8)), remote, sigma=0.2, in_flight=2).compute()
    assert max(most) == 2


def test_a_process_opens_a_client_once(remote: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, connect_to = [], RemoteClient.__init__

    def noted(client: RemoteClient, servers: object) -> None:
        opened.append(client)
        connect_to(client, servers)

    monkeypatch.setattr(RemoteClient, "__init__", noted)
    y = da.from_array(Y[..., 0], 8)
    sigmas = (0.2, 0.3)
    sent = [pickle.dumps(map_reconstruct(y, remote, sigma=sigma)) for sigma in sigmas]
    arrived = [pickle.loads(lazy) for lazy in sent]
    assert opened == []
    for lazy, sigma in zip(arrived, sigmas, strict=True):
        expected = remote.reconstruct(Y[..., 0], sigma=sigma).image
        np.testing.assert_allclose(lazy.compute(), expected, atol=1e-6)
    (copy,) = opened
    assert copy is not remote
    copy.close()


def test_what_depends_on_the_whole_image_is_refused(embedded: Client, tmp_path: Path) -> None:
    y = da.from_array(Y[..., 0], 8)
    for name, message in {
        "estimator": r"estimator: expected le-mmse.*, got mmse",
        "maps": r"maps: expected an option of reconstruct other than maps",
        "thing": r"thing: expected an option",
    }.items():
        with pytest.raises(InvalidArgument, match=message):
            map_reconstruct(y, embedded, sigma=0.2, **{name: "mmse"})
    with pytest.raises(InvalidArgument, match="array: expected a Dask array"):
        map_reconstruct(Y, embedded, sigma=0.2)
    with pytest.raises(InvalidArgument, match="sigma: expected a number, got ndarray"):
        map_reconstruct(y, embedded, sigma=Y[..., 0])
    with pytest.raises(InvalidArgument, match="in_flight: expected a whole number >= 1, got 0"):
        map_reconstruct(y, embedded, sigma=0.2, in_flight=0)
    np.save(tmp_path / "images.npy", Y[None, :8, :8, 0])
    blurred = build([tmp_path / "images.npy"], tmp_path / "index", patch_size=3, physics="blur:gaussian:1.0")
    with (
        connect(blurred) as client,
        pytest.raises(InvalidArgument, match="client: expected an index of physics"),
    ):
        map_reconstruct(y, client, sigma=0.2)
