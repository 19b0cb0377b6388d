"""Settings are checked when they are made."""

from pathlib import Path

import pytest

from lemmse.contract.address import Address
from lemmse.contract.errors import InvalidArgument
from lemmse.server.config import ServerConfig

SETTINGS = {"indexes": (Path("index"),)}


@pytest.mark.parametrize("listen", ["localhost:0", "0.0.0.0:65535", "[::1]:50051"])
def test_listen(listen):
    assert ServerConfig(**SETTINGS, listen=listen).address == Address.parse(listen)


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
