"""A fair share of time for each of several members that come and go."""

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Shares"]

K = TypeVar("K", bound=Hashable)

_CREDIT = 1.0
"""Time in seconds by which a member that comes has used less than all others: so long it goes first."""


class Shares(Generic[K]):
    """The time that members have used; the one that has used least is to have the next turn.

    A member that comes is put on a level with those that are there, less a small credit, because time at
    which it had nothing to do is not owed to it. One that leaves is remembered until the others have used as
    much, so that leaving gains nothing.

    Examples
    --------
    >>> shares = Shares()
    >>> shares.enter("a")
    >>> shares.charge("a", 60.0)
    >>> shares.enter("b")
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

    def enter(self, member: K) -> None:
        """Add a member."""
        self._level = min((self._used[other] for other in self._present), default=self._level)
        least = self._level - _CREDIT
        self._used = {k: used for k, used in self._used.items() if k in self._present or used > least}
        self._used.setdefault(member, least)
        self._present.add(member)

    def leave(self, member: K) -> None:
        """Remove a member; what it has used is remembered as long as it matters."""
        self._present.remove(member)
        if not self._present:
            self._level = max(self._level, self._used[member])

    def charge(self, member: K, seconds: float) -> None:
        """Add to the time that a member has used."""
        self._used[member] += seconds
