"""The gRPC servicers. Each method decodes the request, calls one function and encodes the answer."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc

from lemmse.contract.chunks import Incoming, attach
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.contract.messages import (
    differentiate_response,
    estimate_noise_response,
    explain_response,
    index_message,
    read_differentiate_options,
    read_explain_options,
    read_measurement,
    read_options,
    read_vector,
    reconstruct_response,
)
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Result, result_bytes
from lemmse.contract.tensors import FloatArray
from lemmse.estimator import Reconstructor, Registry
from lemmse.estimator.best_of import BestOf
from lemmse.estimator.cancellation import Cancel
from lemmse.estimator.exclusions import MOST_KEPT
from lemmse.server.admission import Queue
from lemmse.server.aside import Aside
from lemmse.server.callers import caller
from lemmse.server.calls import logged
from lemmse.server.compute import Compute, Joint
from lemmse.server.config import ServerConfig
from lemmse.server.exclusive import Places
from lemmse.server.limits import admissible_bytes, require_fitting, require_pixels, require_possible
from lemmse.server.memory import Memory
from lemmse.server.metrics import answered, phase, queued
from lemmse.server.receiving import Requests
from lemmse.server.streams import Streams
from lemmse.v1 import index_pb2, index_pb2_grpc, reconstruction_pb2_grpc
from lemmse.v1 import reconstruction_pb2 as pb

__all__ = ["IndexServicer", "ReconstructionServicer"]

_ASIDE = 2
"""Number of threads that decode and encode: each needs several times the memory of its request."""

_Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")
_Key = tuple[Reconstructor, tuple[int, ...]] | None
"""What a copy of the keys without some training images belongs to; None if there is no need of one."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request that is decoded and checked."""

    measurement: Measurement
    options: Options
    reconstructor: Reconstructor | BestOf
    work: float
    """Expected work, in multiply-adds."""
    key: _Key


class IndexServicer(index_pb2_grpc.IndexServiceServicer):
    """The service that describes the indexes of the server."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def ListIndexes(  # noqa: N802, D102
        self, request: index_pb2.ListIndexesRequest, context: _Context
    ) -> index_pb2.ListIndexesResponse:
        with logged("ListIndexes"):
            indexes = [index_message(reconstructor.index.info) for reconstructor in self._registry]
            return index_pb2.ListIndexesResponse(indexes=indexes)

    async def GetIndex(  # noqa: N802, D102
        self, request: index_pb2.GetIndexRequest, context: _Context
    ) -> index_pb2.GetIndexResponse:
        with logged("GetIndex"):
            info = self._registry.get(request.name).index.info
            return index_pb2.GetIndexResponse(index=index_message(info))


class ReconstructionServicer(reconstruction_pb2_grpc.ReconstructionServiceServicer):
    """The service that reconstructs images, and explains and differentiates reconstructions.

    Parameters
    ----------
    registry : Registry
        The indexes.
    compute : Compute
        Where to compute.
    config : ServerConfig
        The settings.
    """

    def __init__(self, registry: Registry, compute: Compute, config: ServerConfig) -> None:
        self._registry = registry
        self._compute = compute
        self._config = config
        self._memory = Memory(config.memory, config.idle_timeout)
        self._queue = Queue(config.queue, config.queue_work, lambda: compute.rate)
        self._copies = Places(MOST_KEPT)
        self._aside = Aside(_ASIDE)
        self._streams = Streams(
            config, self._memory, self._aside, self._prepare, partial(self._answer, wait=True)
        )

    def close(self) -> None:
        """End the threads."""
        self._aside.close()

    async def Reconstruct(  # noqa: N802, D102
        self, request: pb.ReconstructRequest, context: _Context
    ) -> pb.ReconstructResponse:
        with logged("Reconstruct") as facts:
            incoming, options = Incoming(request), read_options(request)
            nbytes = admissible_bytes(incoming, options, self._config)
            size = result_bytes(tuple(request.y.shape), options.maps)
            if incoming.complete and size > INLINE_BYTES:
                raise InvalidArgument.of(
                    "y",
                    f"the answer may take {size} bytes, one message holds {INLINE_BYTES}; use "
                    f"ReconstructStream",
                )
            with self._memory.held(nbytes):
                prepared = await self._prepare(incoming, options)
                result = await self._answer(prepared, caller(context), facts, wait=False)
                with phase("encode"):
                    return await self._aside.run(size, lambda: attach(*reconstruct_response(result)))

    def ReconstructStream(  # type: ignore[override]  # noqa: N802, D102
        self, request_iterator: Requests[pb.ReconstructStreamRequest], context: _Context
    ) -> AsyncIterator[pb.ReconstructStreamResponse]:
        return self._streams.answers(request_iterator, caller(context))

    async def Explain(  # noqa: N802, D102
        self, request: pb.ExplainRequest, context: _Context
    ) -> pb.ExplainResponse:
        with logged("Explain") as facts:
            reconstructor = self._registry.get(request.index)
            incoming = Incoming(request)
            nbytes = admissible_bytes(incoming, None, self._config)

            def prepare() -> tuple[Measurement, ExplainOptions, float, _Key]:
                measurement = read_measurement(incoming)
                options = read_explain_options(request, measurement)
                key = _key(reconstructor, options.exclude)
                return measurement, options, reconstructor.explanation_work(measurement, options), key

            with self._memory.held(nbytes):
                with phase("decode"):
                    measurement, options, work, key = await self._aside.run(nbytes, prepare)
                facts |= {"index": reconstructor.index.name, "mode": "exact", "shape": measurement.y.shape}
                explanation = await self._computed(
                    lambda cancelled: reconstructor.explain_pixel(measurement, options, cancelled),
                    work,
                    caller(context),
                    wait=False,
                    key=key,
                )
            with phase("encode"):
                response = explain_response(explanation)
            require_fitting(response)
            return response

    async def Differentiate(  # noqa: N802, D102
        self, request: pb.DifferentiateRequest, context: _Context
    ) -> pb.DifferentiateResponse:
        with logged("Differentiate") as facts:
            incoming, options = Incoming(request), read_differentiate_options(request)
            nbytes = admissible_bytes(incoming, options, self._config)

            def prepare() -> tuple[Measurement, FloatArray, Reconstructor | BestOf, float, _Key]:
                measurement = read_measurement(incoming)
                vector = read_vector(incoming, measurement)
                reconstructor = self._registry.choose(request.index, options.quality, measurement)
                require_pixels(reconstructor.pixels(measurement), self._config)
                work = reconstructor.derivative_work(measurement, options)
                return measurement, vector, reconstructor, work, _key(reconstructor, options.exclude)

            with self._memory.held(nbytes):
                with phase("decode"):
                    measurement, vector, reconstructor, work, key = await self._aside.run(nbytes, prepare)
                facts |= {"index": reconstructor.name, "mode": "exact", "shape": measurement.y.shape}
                product = await self._computed(
                    lambda cancelled: reconstructor.differentiate(measurement, vector, options, cancelled),
                    work,
                    caller(context),
                    wait=False,
                    key=key,
                )
                with phase("encode"):
                    return await self._aside.run(product.nbytes, lambda: differentiate_response(product))

    async def EstimateNoise(  # noqa: N802, D102
        self, request: pb.EstimateNoiseRequest, context: _Context
    ) -> pb.EstimateNoiseResponse:
        with logged("EstimateNoise") as facts:
            reconstructor = self._registry.get(request.index)
            incoming = Incoming(request)
            nbytes = admissible_bytes(incoming, None, self._config)
            with self._memory.held(nbytes):
                with phase("decode"):
                    measurement = await self._aside.run(nbytes, lambda: read_measurement(incoming))
                facts |= {"index": reconstructor.index.name, "shape": measurement.y.shape}
                estimate = await self._computed(
                    lambda cancelled: reconstructor.estimate_noise(measurement, cancelled),
                    reconstructor.estimate_work(measurement),
                    caller(context),
                    wait=False,
                    key=None,
                )
            return estimate_noise_response(estimate)

    async def _prepare(self, incoming: Incoming[pb.ReconstructRequest], options: Options) -> _Prepared:
        """Return a request that has arrived, decoded and checked."""

        def prepare() -> _Prepared:
            measurement = read_measurement(incoming)
            reconstructor = self._registry.choose(incoming.message.index, options.quality, measurement)
            require_pixels(reconstructor.pixels(measurement), self._config)
            key = _key(reconstructor, options.exclude if options.estimator == "le-mmse" else ())
            work = reconstructor.work(measurement, options)
            return _Prepared(measurement, options, reconstructor, work, key)

        with phase("decode"):
            return await self._aside.run(incoming.nbytes, prepare)

    async def _answer(self, request: _Prepared, client: str, facts: dict[str, Any], *, wait: bool) -> Result:
        """Return the result of a request; `wait` is that of `Queue.place`."""
        measurement, options, reconstructor = request.measurement, request.options, request.reconstructor
        facts |= {
            "index": reconstructor.name,
            "estimator": options.estimator,
            "mode": options.mode,
            "shape": measurement.y.shape,
        }
        result = await self._computed(
            lambda cancelled: reconstructor.answer(measurement, options, cancelled),
            request.work,
            client,
            wait=wait,
            key=request.key,
            joint=_joint(reconstructor, measurement, options),
        )
        facts["index"] = result.diagnostics.index
        answered(result.diagnostics, reconstructor.pixels(measurement), options.accuracy_db)
        return result

    async def _computed(
        self,
        compute: Callable[[Cancel], T],
        work: float,
        client: str,
        *,
        wait: bool,
        key: "_Key",
        joint: Joint[T] | None = None,
    ) -> T:
        """Return the result of a computation, once it has its places and its turns."""
        require_possible(work, self._config)
        with queued(work) as used:
            async with self._queue.place(work, client, wait=wait), self._copies.taken(key):
                return await self._compute.run(compute, client=client, cost=work, joint=joint, used=used)


def _key(reconstructor: Reconstructor | BestOf, exclude: Sequence[str]) -> _Key:
    if isinstance(reconstructor, BestOf) or not exclude:
        return None
    return reconstructor, reconstructor.excluded(exclude)


def _joint(
    reconstructor: Reconstructor | BestOf, measurement: Measurement, options: Options
) -> Joint[Result] | None:
    """Return how to answer a request together with others of one index, one σ and the same options."""
    if isinstance(reconstructor, BestOf):
        return None
    shared = reconstructor.joint_options(measurement, options)
    if shared is None:
        return None
    return Joint(
        key=(reconstructor, measurement.sigma, shared),
        argument=measurement,
        queries=reconstructor.pixels(measurement),
        work=lambda measurements, cancelled: reconstructor.answer_together(measurements, shared, cancelled),
    )
