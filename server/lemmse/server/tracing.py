"""Traces of calls, sent by OpenTelemetry (the extra `tracing`).

The standard variables OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME and others say where they go and how.
"""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeAlias

import grpc
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from lemmse.server.around import around
from lemmse.server.request_id import REQUEST_ID

__all__ = ["Tracing"]

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
_Context = grpc.aio.ServicerContext[Any, Any]
_LAST_SPANS = 2.0
"""Time for the last spans when the server stops, in seconds."""


class Tracing(grpc.aio.ServerInterceptor):
    """Makes each call a span, a child of the span that the client names in its metadata (W3C traceparent)."""

    def __init__(self) -> None:
        os.environ.setdefault("OTEL_SERVICE_NAME", "lemmse")
        # At the end of the process the provider would wait for a collector that does not answer.
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("lemmse.server")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Return the handler of a method, changed so."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        name = handler_call_details.method.strip("/")
        # Values of keys in -bin are bytes; no propagator reads them.
        metadata = {
            key: value
            for key, value in handler_call_details.invocation_metadata or ()
            if isinstance(value, str)
        }

        @contextmanager
        def span(context: _Context) -> Iterator[None]:
            service, _, method = name.partition("/")
            with self._tracer.start_as_current_span(
                name,
                context=propagate.extract(metadata),
                kind=trace.SpanKind.SERVER,
                attributes={
                    "rpc.system": "grpc",
                    "rpc.service": service,
                    "rpc.method": method,
                    "lemmse.request_id": REQUEST_ID.get(),
                },
            ) as current:
                yield
                _record(current, context)

        return around(handler, span)

    def close(self) -> None:
        """Send the spans that are left, unless the collector does not answer."""
        # The time limit of force_flush is not kept while it waits for the collector.
        flush = Thread(target=self._provider.force_flush, daemon=True)
        flush.start()
        flush.join(_LAST_SPANS)


def _record(span: trace.Span, context: _Context) -> None:
    """Add the status of a call to its span."""
    code: Any = context.code() or grpc.StatusCode.OK
    number = code.value[0] if isinstance(code, grpc.StatusCode) else int(code)
    span.set_attribute("rpc.grpc.status_code", number)
    if number:
        span.set_status(trace.StatusCode.ERROR)
