"""Admission of requests by their memory.

A request holds memory from the time when its first part arrives until it is answered. What has no room now is
refused, if it has arrived; the items of a stream wait instead, which gRPC's flow control passes on to the
client.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lemmse.contract.errors import DeadlineExceeded, ResourceExhausted

__all__ = ["Memory", "StreamMemory", "Upload"]

_OF_UPLOADS = 0.5
"""Share of the memory that requests which have arrived in part may hold."""
_OF_CLIENT = 0.25
"""Share of the memory that such requests of one client may hold, if there are several."""
_OF_ALL_BEFORE_AHEAD = 0.5
"""Share of the memory up to which items are received while earlier ones of their stream are not answered."""
_RETRY = 1.0
"""Time in seconds after which to try again for memory, whose release cannot be predicted."""


class Memory:
    """The memory of all requests, in bytes. Use it in the event loop.

    An item of a stream that holds memory already is ahead: it comes after all others, and has to leave half
    of the memory free. What it waits for may be the answer to an earlier item of its stream, so that nobody
    else waits for it.

    Parameters
    ----------
    total : int
        Largest sum.
    patience : float
        Time in seconds after which a request that has arrived in part may have to make room.
    """

    def __init__(self, total: int, patience: float) -> None:
        self._total, self._patience = total, patience
        self._used = 0
        self._partial: dict[Upload, None] = {}
        self._waiting: deque[tuple[Upload, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._used

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """Hold memory for a request that has arrived.

        Raises
        ------
        ResourceExhausted
            There is not enough now.
        """
        if self._used + nbytes > self._total:
            raise ResourceExhausted(
                f"the requests that this server has take {self._used} of {self._total} bytes, and this one "
                f"would take {nbytes}; try again later",
                retry_after=_RETRY,
            )
        self._used += nbytes
        try:
            yield
        finally:
            self._used -= nbytes
            self._grant()

    @contextmanager
    def of_stream(self, client: str) -> Iterator["StreamMemory"]:
        """Return in the end what the items of a stream of a client have taken in the `with` block."""
        stream = StreamMemory(self, client)
        try:
            yield stream
        finally:
            for upload in [*stream.uploads]:
                upload.give()

    async def _take(self, upload: "Upload") -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((upload, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._waiting.remove((upload, granted))
                self._grant()
            else:
                self._give(upload)
            raise

    def _arrived(self, upload: "Upload") -> None:
        upload.whole = True
        self._partial.pop(upload, None)
        self._grant()

    def _give(self, upload: "Upload") -> None:
        self._partial.pop(upload, None)
        upload.stream.uploads.remove(upload)
        self._used -= upload.nbytes
        self._grant()

    def _require_patience(self, upload: "Upload") -> None:
        age = asyncio.get_running_loop().time() - upload.began
        if age > self._patience and not all(other.is_ahead for other, _ in self._waiting):
            raise DeadlineExceeded(
                f"expected the whole item within {self._patience:g} seconds, as others wait for its memory"
            )

    def _grant(self) -> None:
        """Grant memory to those who wait, in their order; one whose client has its share is passed over."""
        partial = sum(upload.nbytes for upload in self._partial)
        for waiting in sorted(self._waiting, key=lambda waiting: waiting[0].is_ahead):
            upload, granted = waiting
            room = self._total * (_OF_ALL_BEFORE_AHEAD if upload.is_ahead else 1)
            if self._used + upload.nbytes > room:
                return
            if granted.done() or (not upload.whole and self._has_its_share(upload.client, upload.nbytes)):
                continue
            if not upload.whole:
                partial += upload.nbytes  # also of one that has to wait: no smaller one overtakes it
                if partial > _OF_UPLOADS * self._total:
                    continue
                self._partial[upload] = None
                upload.began = asyncio.get_running_loop().time()
            self._waiting.remove(waiting)
            upload.stream.uploads.add(upload)
            self._used += upload.nbytes
            granted.set_result(None)

    def _has_its_share(self, client: str, nbytes: int) -> bool:
        own = sum(upload.nbytes for upload in self._partial if upload.client == client)
        return own > 0 and own + nbytes > _OF_CLIENT * self._total


class StreamMemory:
    """The memory of the items of one stream.

    Parameters
    ----------
    memory : Memory
        The memory of all requests.
    client : str
        Name of the client.
    """

    def __init__(self, memory: Memory, client: str) -> None:
        self.memory, self.client = memory, client
        self.uploads: set[Upload] = set()
        """The memory that items hold."""

    async def take(self, nbytes: int, *, whole: bool) -> "Upload":
        """Wait for the memory of an item; it is held until `Upload.give`."""
        upload = Upload(self, nbytes, whole)
        await self.memory._take(upload)
        return upload


@dataclass(eq=False, slots=True)
class Upload:
    """The memory of an item of a stream."""

    stream: StreamMemory
    """The memory of its stream."""
    nbytes: int
    """Size, in bytes."""
    whole: bool
    """Whether the item has arrived."""
    began: float = field(default=0.0, init=False)
    """When the memory was granted, in the time of the event loop."""

    @property
    def client(self) -> str:
        """Name of the client."""
        return self.stream.client

    @property
    def is_ahead(self) -> bool:
        """Whether other items of the stream hold memory."""
        return bool(self.stream.uploads - {self})

    def arrived(self) -> None:
        """Note that the item has arrived."""
        self.stream.memory._arrived(self)

    def give(self) -> None:
        """Return the memory."""
        self.stream.memory._give(self)

    def require_patience(self) -> None:
        """Raise DeadlineExceeded if the item is late, and others wait for memory."""
        self.stream.memory._require_patience(self)
