"""An index of correlated noise, whoever asks: its description, refinements and estimates."""

import numpy as np
import pytest

from lemmse.client import aio, connect
from lemmse.client.errors import InvalidArgument
from lemmse.index import build
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from tests.support.blocking import Blocking
from tests.support.cases import smooth

Y = smooth(9, 12, 10, 1)[..., 0]


@pytest.fixture(scope="module")
def clients(tmp_path_factory, loop):
    folder = tmp_path_factory.mktemp("coloured")
    power = np.ones((8, 8))
    power[:, 0] += 20
    np.save(folder / "noise.npy", power)
    np.save(folder / "images.npy", np.stack([smooth(k, 12, 10, 1) for k in range(3)]))
    index = build([folder / "images.npy"], folder / "rows", patch_size=3, noise=folder / "noise.npy")
    server = Server(ServerConfig(indexes=(index,), listen="127.0.0.1:0", threads=1))
    address = f"grpc://{server.address}"
    with (
        connect(index) as embedded,
        connect(address) as remote,
        Blocking(loop, lambda: aio.connect(address)) as aio_remote,
    ):
        yield embedded, remote, aio_remote
    server.stop(0)


def test_the_noise_is_described(clients, remote):
    for one in clients:
        assert [info.noise for info in one.list_indexes()] == [one.get_index("rows").noise] == ["correlated"]
    assert remote.get_index("tiny").noise == "white"


@pytest.mark.parametrize(
    "options",
    [
        {"sigma": "auto"},
        {"sigma": 0.1, "aggregate": "overlap", "mode": "hybrid"},
        {
            "sigma": 0.1,
            "aggregate": "overlap",
            "gaussian_share": 0.3,
            "bandwidth": 0.02,
            "maps": ["variance"],
        },
    ],
)
def test_all_clients_agree(clients, options):
    first, *others = (one.reconstruct(Y, **options) for one in clients)
    for result in others:
        np.testing.assert_array_equal(result.image, first.image)
        assert result.diagnostics.sigma == first.diagnostics.sigma
        assert result.diagnostics.misfit == first.diagnostics.misfit


def test_all_clients_estimate_alike(clients):
    first, *others = (one.estimate_noise(Y) for one in clients)
    assert len(first.sigma) == 1
    assert others == [first, first]


def test_there_are_no_samples(clients):
    for one in clients:
        with pytest.raises(
            InvalidArgument, match="index: expected one of white noise, got 'rows' of correlated"
        ):
            one.sample((6, 6), steps=2, index="rows")
