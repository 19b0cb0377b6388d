"""The client for servers."""

import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from lemmse.client import unary
from lemmse.client.admin import Admin
from lemmse.client.attempts import Attempts
from lemmse.client.batches import Lane, as_item, freest
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
from lemmse.contract.tensors import FloatArray
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

    @property
    def admin(self) -> Admin:
        """Changes of the indexes of the server."""
        self._require_open()
        self._servers.require_one()
        return Admin(self._ask)

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
        def open(attempts: Attempts) -> Stream:
            return Stream(self._channels.next(), index, options, attempts)

        lanes = [Lane(open, self._channels.attempts(timeout)) for _ in range(len(self._channels))]
        numbers = count()
        order: deque[Lane[Stream]] = deque()  # of the images that are not answered
        broken: Exception | None = None  # an exception of the batch waits for the results before it
        try:
            while True:
                self._require_open()
                while broken is None and not (free := freest(lanes)).full:
                    try:
                        one = next(batch, None)
                    except Exception as error:
                        broken = error
                        break
                    if one is None:
                        break
                    free.send(as_item(next(numbers), one))
                    order.append(free)
                if not order:
                    break
                lane = order[0]
                try:
                    outcome = lane.stream.answer(lane.unanswered[0])
                except LemmseError as error:
                    lane.close()
                    self._require_open()
                    time.sleep(lane.attempts.pause(error))
                else:
                    order.popleft()
                    lane.unanswered.popleft()
                    yield outcome
            # All are answered: what happens to the connections now does not matter.
            with suppress(Retryable):
                for lane in lanes:
                    if lane.used:
                        lane.stream.finish()
            if broken is not None:
                raise broken
        finally:
            for lane in lanes:
                lane.close()

    def _explain(
        self, index: str, measurement: Measurement, options: ExplainOptions, timeout: float | None
    ) -> list[Contributor]:
        if measurement.nbytes > INLINE_BYTES:
            info = self._get_index(index, timeout)
            if measurement.is_estimated:
                estimate = self._estimate_noise(index, measurement, timeout)
                measurement = measurement.with_noise(estimate)
            if measurement.gain is not None:
                plain = Options(exclude=options.exclude)
                answer = self._reconstruct(index, measurement.in_intensities, plain, timeout)
                sides, circular = (info.patch_size, info.patch_depth), info.boundary == "circular"
                measurement = measurement.with_noise_at(answer.image, *sides, circular=circular)
            measurement, options = crop(measurement, options, info)
        return self._ask(unary.explain(index, measurement, options), timeout)

    def _vjp(
        self,
        index: str,
        measurement: Measurement,
        vector: FloatArray,
        options: Options,
        timeout: float | None,
    ) -> NDArray[np.float32]:
        return self._ask(unary.differentiate(index, measurement, vector, options), timeout)

    def _estimate_noise(self, index: str, measurement: Measurement, timeout: float | None) -> NoiseEstimate:
        return self._ask(unary.estimate_noise(index, measurement), timeout)

    def _list_indexes(self, timeout: float | None) -> list[IndexInfo]:
        return self._ask(unary.list_indexes(), timeout)

    def _get_index(self, name: str, timeout: float | None) -> IndexInfo:
        return self._ask(unary.get_index(name), timeout)

    def _ask(self, call: unary.Unary[T], timeout: float | None) -> T:
        attempts = self._channels.attempts(timeout)
        while True:
            self._require_open()
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
