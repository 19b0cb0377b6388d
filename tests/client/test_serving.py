"""A server in a process of its own ends with its context, and says why it did not start."""

import socket

import numpy as np
import pytest

from lemmse.client import connect
from lemmse.client.errors import Unavailable
from lemmse.client.serving import serving


@pytest.mark.slow
def test_it_answers_and_ends(tiny_index, tmp_path, embedded):
    y = np.full((4, 4), 0.5, np.float32)
    with serving(tiny_index, tmp_path / "log") as address, connect(f"grpc://{address}") as client:
        found = client.reconstruct(y, sigma=0.1, mode="exact").image
    np.testing.assert_array_equal(found, embedded.reconstruct(y, sigma=0.1, mode="exact").image)
    host, port = address.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


@pytest.mark.slow
def test_what_it_said_is_in_the_log(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(Unavailable, match=f"see {log}"), serving(tmp_path / "absent", log):
        pass
    assert "absent" in log.read_text()
