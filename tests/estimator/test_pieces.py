"""Pieces of the work of hybrid: all of it is done once, in order, until it is stopped."""

from threading import Event, Lock

import numpy as np
import pytest
import torch

from lemmse.contract.errors import Cancelled
from lemmse.estimator import Outputs, Queries, SumSpec, hybrid_sums
from lemmse.estimator.hybrid.pieces import Pieces
from lemmse.estimator.local import LocalBackend
from lemmse.index import build, open_index
from tests.support.cases import smooth


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    np.save(folder / "x.npy", np.stack([smooth(seed, 24, 24, 1) for seed in range(8)]))
    index = open_index(build([folder / "x.npy"], folder / "index", patch_size=3))
    return LocalBackend(index, torch.device("cpu"))


@pytest.mark.parametrize("seconds", [1e-9, 1e-5, 1e3])
@pytest.mark.parametrize(("count", "blocks"), [(1, 1), (1, 40), (700, 1), (700, 9)])
def test_every_query_meets_every_block_once_in_order(monkeypatch, seconds, count, blocks):
    monkeypatch.setattr("lemmse.estimator.hybrid.pieces._SECONDS", seconds)
    met = [[] for _ in range(count)]

    def work(some, first, end):
        for q in some:
            met[q] += range(first, end)

    Pieces(np.arange(count, dtype=np.int32), blocks).run(work, Event())
    assert met == [list(range(blocks))] * count


def test_no_piece_follows_once_stopped():
    stopped, pieces = Event(), []

    def work(some, first, end):
        pieces.append((len(some), first, end))
        if len(pieces) == 3:
            stopped.set()

    left = Pieces(np.arange(100_000, dtype=np.int32), 9)
    left.run(work, stopped)
    assert len(pieces) == 3
    assert not left.done


def test_cancelling_stops_work_that_has_begun(local):
    """Every thread is in its first piece when the caller says that nobody waits, and begins no other."""
    asked, begun = Event(), []

    def cancelled():
        asked.set()
        return True

    def work(some, first, end):
        begun.append(some)
        assert asked.wait(60)

    with pytest.raises(Cancelled):
        local.key_tree.run(work, 100_000, cancelled, blocks=50)
    assert 1 <= len(begun) <= torch.get_num_threads()


class DueAtOnce:
    """A turn that ends as soon as it begins."""

    def __init__(self):
        self.working, self.polls = 0, 0

    def __call__(self):
        assert self.working == 0
        self.polls += 1
        return False

    def is_due(self):
        return True


def test_a_turn_ends_while_no_thread_works_and_nothing_is_lost(local, monkeypatch):
    monkeypatch.setattr("lemmse.estimator.hybrid.pieces._SECONDS", 0.05)
    turn, lock, met = DueAtOnce(), Lock(), np.zeros((64, 8), int)

    def work(some, first, end):
        with lock:
            turn.working += 1
        met[some, first:end] += 1
        assert not Event().wait(0.02)
        with lock:
            turn.working -= 1

    local.key_tree.run(work, 64, turn, blocks=8)
    assert (met == 1).all()
    assert turn.polls > 2


def test_an_error_in_the_work_ends_it(local):
    def work(some, first, end):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        local.key_tree.run(work, 100, lambda: False, blocks=3)


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_do_not_depend_on_the_pieces(local, monkeypatch, weighted):
    """The finest pieces, of one query and one block of cells, give the same numbers to the last digit."""
    u = torch.from_numpy(np.random.default_rng(0).random((40, 9), np.float32))
    queries = Queries(u, torch.full_like(u, 25.0)) if weighted else Queries.white(u, 0.2)
    spec = SumSpec("hybrid", threshold=-3, outputs=Outputs(variance=True, ess=True, error=True))
    found = []
    for seconds in (1e3, 1e-9):
        monkeypatch.setattr("lemmse.estimator.hybrid.pieces._SECONDS", seconds)
        found.append(hybrid_sums(local.key_tree, queries, spec))
    for name in ("log_max", "moments", "w2", "error_variance", "keys_evaluated"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))
