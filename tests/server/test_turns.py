"""Whose turn it is: simulated, with a clock that only turns move."""

import random
from dataclasses import dataclass

import pytest

from lemmse.server.shares import Shares
from lemmse.server.turns import MOST_BEGUN, Job, Turns

TURN = 0.02


@dataclass(eq=False, slots=True)
class Task(Job):
    """A job that really takes so long."""

    seconds: float = 0.0
    came: float = 0.0


class Simulation:
    def __init__(self):
        self.turns, self.now, self.current, self.switches = Turns(), 0.0, None, 0
        self.waited = {}

    def come(self, client, seconds, expected=None):
        task = Task(client, seconds if expected is None else expected, seconds=seconds, came=self.now)
        self.turns.add(task)
        return task

    def step(self):
        """Let one turn pass, and return the task that it ended, if any."""
        following = self.turns.next(self.current)
        if following is not None:
            self.switches += self.current is not None
            self.current = following
            if not following.begun:
                self.turns.begin(following)
        task = self.current
        length = min(TURN, task.seconds - task.used)
        self.now += length
        self.turns.charge(task, length)
        if task.used < task.seconds - 1e-9:
            return None
        self.turns.remove(task)
        self.current = None
        self.waited[task] = self.now - task.came
        return task

    def until(self, task):
        while self.step() is not task:
            pass
        return self.waited[task]


@pytest.fixture
def simulation():
    return Simulation()


@pytest.mark.parametrize("client", ["long", "short"])
def test_a_short_request_beside_a_long_one(simulation, client):
    """Again and again: at most three times as long as alone, and the turn that has begun."""
    simulation.come("long", 1000.0)
    for _ in range(20):
        simulation.step()
    for seconds in [0.03, 0.7, *[0.2] * 30]:
        assert simulation.until(simulation.come(client, seconds)) <= 3 * seconds + 2 * TURN


@pytest.mark.parametrize("longs", [1, 3])
def test_a_long_request_is_not_starved(simulation, longs):
    tasks = [simulation.come(f"long {i}", 10.0) for i in range(longs)]
    short = simulation.come("short", 0.1)
    while any(task not in simulation.waited for task in tasks):
        if simulation.step() is short:
            short = simulation.come("short", 0.1)
    long_waits = [simulation.waited.pop(task) for task in tasks]
    assert max(long_waits) <= 20.0 * (longs + 1)
    assert max(simulation.waited.values()) <= (longs + 2) * 0.1


def test_clients_have_equal_shares_whatever_they_ask_for(simulation):
    used = {"many": 0.0, "one": 0.0}
    one = simulation.come("one", 0.5)
    for _ in range(200):
        simulation.come("many", 0.5)
    while simulation.now < 60:
        task = simulation.step()
        if task is not None:
            used[task.client] += task.seconds
            if task is one:
                one = simulation.come("one", 0.5)
    assert used["one"] == pytest.approx(used["many"], abs=1.5)


def test_equals_are_done_one_after_the_other(simulation):
    for number in range(30):
        simulation.come(f"client {number % 3}", 0.4)
    while len(simulation.waited) < 30:
        simulation.step()
    assert simulation.switches == 0


def test_what_takes_longer_than_expected_does_not_hold_others_up(simulation):
    simulation.come("client", 50.0, expected=0.05)
    for _ in range(10):
        simulation.step()
    assert simulation.until(simulation.come("client", 0.05)) < 1


def test_few_have_begun(simulation):
    rng = random.Random(0)
    most = 0
    for _ in range(600):
        if len(list(simulation.turns)) < 100:
            simulation.come(f"client {rng.randrange(40)}", 10 ** rng.uniform(-2, 2), 10 ** rng.uniform(-2, 2))
        simulation.step()
        most = max(most, sum(task.begun for task in simulation.turns))
    assert 2 <= most <= MOST_BEGUN


def test_what_need_not_go_on_ends_first(simulation):
    waits = simulation.come("client", 100.0)
    simulation.step()
    simulation.come("client", 0.5)
    simulation.step()
    assert simulation.current is not waits
    waits.abandoned = True
    assert simulation.turns.next(simulation.current) is waits
    assert simulation.turns.next() is waits


def test_leaving_gains_nothing():
    shares = Shares()
    shares.enter("stays", [], debt=1)
    for _ in range(50):
        shares.enter("comes", [], debt=100)
        shares.charge("comes", 0.5)
        shares.leave("comes")
    assert shares.used("comes") - shares.used("stays") == pytest.approx(25)
    shares.enter("comes", [], debt=10)
    assert shares.used("comes") - shares.used("stays") == pytest.approx(10)
    shares.leave("comes")
    shares.charge("stays", 100)
    for member in ("new", "comes"):
        shares.enter(member, ["stays"], debt=10)
        assert shares.used(member) == shares.used("stays")


def test_who_waits_in_the_order_of_fair_shares(simulation):
    begun = simulation.come("begun", 0.05)
    for client in ("many", "many", "many", "one"):
        simulation.come(client, 0.05)
    simulation.step()
    assert begun.begun
    waiting = simulation.turns.waiting()
    assert [task.client for task in waiting][:2] in (["many", "one"], ["one", "many"])
    assert [task.client for task in waiting][2:] == ["many", "many"]


def test_jobs_together_with_another_have_no_turn_of_their_own(simulation):
    """They are charged when it is, and keep nobody behind them from a turn."""
    clients = "lead", "other", "other", "third"
    lead, other, behind, third = (simulation.come(client, 0.05) for client in clients)
    turns = simulation.turns
    turns.begin(lead, [other])
    assert turns.next(lead) is None
    assert turns.next() is lead
    turns.charge(lead, 0.01)
    turns.charge(other, 0.03)
    assert (lead.used, other.used) == (0.01, 0.03)
    turns.remove(lead)
    assert turns.next() is third  # the client of other has used more
    turns.remove(third)
    assert turns.next() is behind
    for job in (behind, other):
        turns.remove(job)
    assert turns.next() is None
