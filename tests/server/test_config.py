"""Settings are checked when they are made."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from lemmse.client import Result, connect
from lemmse.contract.address import Address
from lemmse.contract.errors import InvalidArgument
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from lemmse.server.settings import options

SETTINGS = {"indexes": (Path("index"),)}


@pytest.mark.parametrize("listen", ["localhost:0", "0.0.0.0:65535", "[::1]:50051"])
def test_listen(listen):
    assert ServerConfig(**SETTINGS, listen=listen, insecure=True).address == Address.parse(listen)


FILE = Path("file")


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "server:1"])
def test_others_reach_it_only_with_tls_and_authentication(listen):
    tls = {"tls_cert": FILE, "tls_key": FILE}
    for given in ({}, tls, {"tokens": FILE}):
        with pytest.raises(InvalidArgument, match=f"{re.escape(listen)}; --insecure listens without"):
            ServerConfig(**SETTINGS, **given, listen=listen)
    for given in ({"insecure": True}, tls | {"tokens": FILE}, tls | {"tls_client_ca": FILE}):
        assert ServerConfig(**SETTINGS, **given, listen=listen).listen == listen


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "localhost:1"])
def test_loopback_needs_neither(listen):
    assert ServerConfig(**SETTINGS, listen=listen).listen == listen


def test_files_that_belong_together():
    for given in ({"tls_cert": FILE}, {"tls_key": FILE}, {"tls_client_ca": FILE}):
        with pytest.raises(InvalidArgument, match="expected --tls-cert and --tls-key"):
            ServerConfig(**SETTINGS, **given)


NUMBERS = {option.name: option for option in options(ServerConfig) if option.kind in (int, float)}
COUNTS = [name for name, option in NUMBERS.items() if option.kind is int]
WORK = ["exact_work", "queue_work", "max_work"]
SECONDS = [name for name, option in NUMBERS.items() if option.kind is float and name not in WORK]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("indexes", ()),
        ("listen", "localhost"),
        ("listen", ":50051"),
        ("listen", "localhost:65536"),
        ("listen", "::1:50051"),
        ("threads", 0),
        ("threads", 4097),
        ("queue", -1),
        ("max_work", 0.0),
        ("max_work", float("nan")),
        ("queue_work", 0.0),
        ("queue_work", -1e300),
        ("queue_work", float("nan")),
        *((name, 0) for name in COUNTS),
        *((name, -1) for name in COUNTS),
        *((name, value) for name in SECONDS for value in (-1.0, float("nan"), float("inf"), 86400.1)),
        ("exact_work", -1.0),
        ("exact_work", float("nan")),
        ("idle_timeout", 0.0),
        ("grace", -0.1),
        ("grace", 1e300),
        ("grace", float("nan")),
    ],
)
def test_refused(name, value):
    with pytest.raises(InvalidArgument) as caught:
        ServerConfig(**SETTINGS | {name: value})
    assert caught.value.argument == {"indexes": "DIR"}.get(name, name.replace("_", "-"))


def test_a_server_with_huge_counts_and_endless_work(tiny_index):
    counts = [name for name in COUNTS if name not in ("threads", "max_contributors")]
    settings = dict.fromkeys(counts, 10**30) | dict.fromkeys(WORK, math.inf) | {"memory": 2 * 10**30}
    server = Server(ServerConfig(indexes=(tiny_index,), listen="127.0.0.1:0", threads=1, **settings))
    try:
        with connect(f"grpc://{server.address}") as lemmse:
            y = np.full((6, 6), 0.5)
            assert lemmse.reconstruct(y, sigma=0.1).diagnostics.mode == "exact"
            (result,) = lemmse.reconstruct_many([y], sigma=0.1)
            assert isinstance(result, Result)
    finally:
        server.stop(0)
