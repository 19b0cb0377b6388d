"""The client for servers."""

import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import grpc

from lemmse.client import unary
from lemmse.client.batches import IN_FLIGHT, Item, as_item
from lemmse.client.channels import Channels
from lemmse.client.crop import crop
from lemmse.client.interface import Client
from lemmse.client.rpc_errors import rpc_errors
from lemmse.client.stream import Stream
from lemmse.client.targets import Servers
from lemmse.contract.errors import InvalidArgument, LemmseError, Retryable
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, NoiseEstimate, Result
from lemmse.v1.index_pb2_grpc import IndexServiceStub
from lemmse.v1.reconstruction_pb2_grpc import ReconstructionServiceStub

__all__ = ["RemoteClient"]

T = TypeVar("T")


class RemoteClient(Client):
    """A client for servers, which it asks in turn.

    Parameters
    ----------
    servers : Servers
        The servers.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._channels: Channels[ReconstructionServiceStub, IndexServiceStub] = Channels(grpc, servers)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the servers and what to show them, token and key included: the copy connects again."""
        self._require_open()
        return RemoteClient, (self._servers,)

    def __repr__(self) -> str:
        return f"<RemoteClient {self._servers}>"

    def _close(self) -> None:
        for channel in self._channels.channels:
            channel.close()

    def _reconstruct(
        self, index: str, measurement: Measurement, options: Options, timeout: float | None
    ) -> Result:
        if unary.fits(measurement, options):
            return self._ask(unary.reconstruct(index, measurement, options), timeout)
        (outcome,) = self._reconstruct_many(index, iter([measurement]), options, timeout)
        if isinstance(outcome, LemmseError):
            raise outcome
        return outcome

    def _reconstruct_many(
        self,
        index: str,
        batch: Iterator[Measurement | InvalidArgument],
        options: Options,
        timeout: float | None,
    ) -> Generator[Result | LemmseError, None, None]:
        # The batch is iterated in the caller's thread, so that its exceptions reach the caller.
        attempts = self._channels.attempts(timeout)
        numbers = count()
        unanswered: deque[Item | InvalidArgument] = deque()
        stream: Stream | None = None
        broken: Exception | None = None  # an exception of the batch waits for the results before it
        try:
            while True:
                self._require_open()
                if stream is None:
                    stream = Stream(self._channels.next(), index, options, attempts)
                    stream.send(*unanswered)
                while len(unanswered) < IN_FLIGHT and broken is None:
                    try:
                        one = next(batch, None)
                    except Exception as error:
                        broken = error
                        break
                    if one is None:
                        break
                    unanswered.append(as_item(next(numbers), one))
                    stream.send(unanswered[-1])
                if not unanswered:
                    break
                try:
                    outcome = stream.answer(unanswered[0])
                except LemmseError as error:
                    stream.close()
                    stream = None
                    self._require_open()
                    time.sleep(attempts.pause(error))
                else:
                    unanswered.popleft()
                    yield outcome
            # All are answered: what happens to the connection now does not matter.
            with suppress(Retryable):
                stream.finish()
            if broken is not None:
                raise broken
        finally:
            if stream is not None:
                stream.close()

    def _explain(
        self, index: str, measurement: Measurement, options: ExplainOptions, timeout: float | None
    ) -> list[Contributor]:
        if measurement.nbytes > INLINE_BYTES:
            info = self._get_index(index, timeout)
            if measurement.is_estimated:
                estimate = self._estimate_noise(index, measurement, timeout)
                measurement = measurement.with_noise(estimate)
            if measurement.gain is not None:
                stated = replace(measurement, black_level=0.0, white_level=1.0)
                answer = self._reconstruct(index, stated, Options(), timeout)
                measurement = measurement.with_noise_at(answer.image, info.patch_size)
            measurement, options = crop(measurement, options, info)
        return self._ask(unary.explain(index, measurement, options), timeout)

    def _estimate_noise(self, index: str, measurement: Measurement, timeout: float | None) -> NoiseEstimate:
        return self._ask(unary.estimate_noise(index, measurement), timeout)

    def _list_indexes(self, timeout: float | None) -> list[IndexInfo]:
        return self._ask(unary.list_indexes(), timeout)

    def _get_index(self, name: str, timeout: float | None) -> IndexInfo:
        return self._ask(unary.get_index(name), timeout)

    def _ask(self, call: unary.Unary[T], timeout: float | None) -> T:
        attempts = self._channels.attempts(timeout)
        while True:
            server = self._channels.next()
            try:
                with rpc_errors(server.address, attempts.request_id):
                    answer = call.read(
                        call.method(server)(
                            call.request, timeout=attempts.begin(), metadata=attempts.metadata
                        )
                    )
            except LemmseError as error:
                self._require_open()
                time.sleep(attempts.pause(error))
            else:
                attempts.succeed()
                return answer
