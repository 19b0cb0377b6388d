"""A fair share of time for each of several members that come and go."""

import math
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

__all__ = ["Shares"]

K = TypeVar("K", bound=Hashable)


class Shares(Generic[K]):
    """The time that members have used; the one that has used least is to have the next turn.

    A member that comes is put on a level with those that are there, because time at which it had nothing to
    do is not owed to it. One that leaves is remembered until the others have used as much, so that leaving
    gains nothing; but what it owes them when it comes back is limited.

    Examples
    --------
    >>> shares = Shares()
    >>> shares.enter("a", [], debt=5.0)
    >>> shares.charge("a", 60.0)
    >>> shares.enter("b", ["a"], debt=5.0)
    >>> shares.charge("a", 1.0)
    >>> shares.used("a") - shares.used("b")
    1.0
    """

    def __init__(self) -> None:
        self._used: dict[K, float] = {}
        self._present: set[K] = set()
        self._level = 0.0

    def used(self, member: K) -> float:
        """Return the time that a member has used, in seconds; only differences between members matter."""
        return self._used[member]

    def enter(self, member: K, others: Collection[K], *, debt: float) -> None:
        """Add a member.

        Parameters
        ----------
        member : hashable
            The member, which must not be there.
        others : collection
            Those of the members that are there with whose time to compare; if there are none, all of them.
        debt : float
            Largest excess of its time over the least of theirs, in seconds.
        """
        compared = others or self._present
        self._level = min((self._used[other] for other in compared), default=self._level)
        self._used = {k: t for k, t in self._used.items() if k in self._present or t > self._level}
        self._used[member] = min(max(self._used.get(member, 0.0), self._level), self._level + debt)
        self._present.add(member)

    def leave(self, member: K) -> None:
        """Remove a member; what it has used is remembered as long as it matters."""
        self._present.remove(member)
        if not self._present:
            self._level = max(self._level, self._used[member])

    def charge(self, member: K, seconds: float) -> None:
        """Add to the time that a member has used."""
        self._used[member] += seconds

    def catch_up(self, member: K, others: Collection[K]) -> None:
        """Put a member on a level with some others, if it has used less time than each of them."""
        least = min((self._used[other] for other in others), default=-math.inf)
        self._used[member] = max(self._used[member], least)
