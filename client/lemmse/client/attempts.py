"""The attempts of a call: its timeout, its id, and when it is tried again. Nothing here waits or connects."""

import math
import random
import secrets
import time

from lemmse.contract.errors import LemmseError, ResourceExhausted, Retryable

__all__ = ["REQUEST_ID", "Attempts", "Contact", "Metadata"]

Metadata = tuple[tuple[str, str], ...]
"""The metadata of a call."""

REQUEST_ID = "x-request-id"
"""Key of the metadata, of a call and of its answer, that names the call in the server's log."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts, which double, unless the server asks for more."""

_UNKNOWN, _AWAY, _BUSY = 5.0, 60.0, 600.0
"""Seconds for which a client tries to reach a server that never answered it, one that answered before, and
one that is busy."""

_CHARGED = 10.0
"""Seconds of these that an attempt costs at most: while a call runs for longer, the server is there."""


class Contact:
    """What a client knows of its servers.

    Parameters
    ----------
    servers : int
        Their number.
    """

    def __init__(self, servers: int) -> None:
        self.servers = servers
        self.made = False
        """Whether one of them has answered."""


class Attempts:
    """The attempts of one call, or of one batch.

    Parameters
    ----------
    contact : Contact
        What is known of the servers.
    timeout : float, optional
        Seconds for all attempts together.
    metadata : tuple of pairs
        What is sent with each attempt, beside the id of the call.
    """

    def __init__(self, contact: Contact, timeout: float | None, metadata: Metadata = ()) -> None:
        self._contact = contact
        self._end = math.inf if timeout is None else time.monotonic() + timeout
        self._began = 0.0
        self._failures = 0
        self._spent = 0.0
        self.request_id = secrets.token_hex(8)
        """Names the call in the logs of the servers."""
        self.metadata: Metadata = ((REQUEST_ID, self.request_id), *metadata)
        """What to send with each attempt."""

    def begin(self) -> float | None:
        """Begin an attempt, and return its timeout in seconds; None if there is none."""
        self._began = time.monotonic()
        return None if self._end == math.inf else self._end - self._began

    def succeed(self) -> None:
        """Forget the failures: a server has answered."""
        self._contact.made = True
        self._began = time.monotonic()
        self._failures = 0
        self._spent = 0.0

    def pause(self, error: LemmseError) -> float:
        """Return the seconds to wait before the next attempt, or raise the error if there is none.

        Parameters
        ----------
        error : LemmseError
            The error of the last attempt.
        """
        if not isinstance(error, Retryable) or error.retry_after is None:
            raise error
        now = time.monotonic()
        busy = isinstance(error, ResourceExhausted)
        self._contact.made |= busy
        self._failures += 1
        self._spent += min(now - self._began, _CHARGED)
        if self._failures < self._contact.servers:
            return 0.0
        pause = max(error.retry_after, min(_FIRST_PAUSE * 2.0**self._failures, _LONGEST_PAUSE))
        pause *= random.uniform(1, 1.3)  # so that clients that were refused together do not return together
        self._spent += pause
        limit = _BUSY if busy else _AWAY if self._contact.made else _UNKNOWN
        if self._spent > limit or now + pause > self._end:
            raise error
        return pause
