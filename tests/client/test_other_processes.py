"""Clients in other processes: pickled, spawned and forked."""

import pickle
import sys

import numpy as np
import pytest

from lemmse.client import Client, connect
from lemmse.contract.errors import FailedPrecondition
from tests.support.processes import run_process

Y = np.random.default_rng(3).random((6, 5), np.float32)


@pytest.mark.parametrize("kind", ["remote", "embedded"])
def test_a_pickled_client_connects_again(request, kind):
    client: Client = request.getfixturevalue(kind)
    content = pickle.dumps(client)
    assert len(content) < 2000
    with pickle.loads(content) as copy:
        found = copy.reconstruct(Y, sigma=0.1).image
    np.testing.assert_array_equal(found, client.reconstruct(Y, sigma=0.1).image)


def test_a_pickled_client_opens_the_folder_from_elsewhere(tiny_index, monkeypatch, tmp_path):
    monkeypatch.chdir(tiny_index.parent)
    with connect(tiny_index.name) as client:
        content = pickle.dumps(client)
    monkeypatch.chdir(tmp_path)
    with pickle.loads(content) as copy:
        assert copy.reconstruct(Y, sigma=0.1).image.shape == Y.shape


def test_a_closed_client_is_not_pickled(tiny_index):
    client = connect(tiny_index)
    client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        pickle.dumps(client)


FORK = """
import multiprocessing, sys
import numpy as np
from lemmse.client import connect
y = np.full((6, 5), 0.5, np.float32)
client = connect(sys.argv[1])
if sys.argv[2] == "after":
    client.reconstruct(y, sigma=0.1)

def answer(queue):
    try:
        queue.put(str(client.reconstruct(y, sigma=0.1).image.shape))
    except Exception as error:
        queue.put(f"{type(error).__name__}: {error}")

context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=answer, args=(queue,))
child.start()
print(queue.get(timeout=60))
child.join()
"""


@pytest.mark.parametrize(
    ("when", "said"),
    [("before", "(6, 5)"), ("after", "FailedPrecondition: an index cannot be used in a process")],
)
def test_a_forked_child(tiny_index, when, said):
    done = run_process([sys.executable, "-W", "ignore", "-c", FORK, str(tiny_index), when])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said)
