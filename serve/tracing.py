"""OpenTelemetry spans of requests: one for the request, below it decoding, queue and inference. Told what to do by the usual OTEL variables.

Without them nothing is loaded. The sampler and the exporter's address and headers are read by the library itself (OTEL_TRACES_SAMPLER,
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, ...); the service is called `fmx` unless OTEL_SERVICE_NAME says otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from fmx.errors import UsageError, missing_extra

Mark = tuple[str, float, float]
"""A part of a request's work: its name, and when it began and ended on `time.monotonic`'s clock, in seconds."""


def is_wanted() -> bool:
    """Say whether the environment asks for spans."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(os.environ.get(f"OTEL_{name}") for name in ("EXPORTER_OTLP_ENDPOINT", "EXPORTER_OTLP_TRACES_ENDPOINT", "TRACES_EXPORTER"))


def open_tracer() -> Tracer | None:
    """Set up the exporter that the environment asks for; None where it asks for none.

    Raises:
        SurroundingsError: the exporter is not installed.
        UsageError: an exporter that there is not.
    """
    return Tracer(open_exporter()) if is_wanted() else None


def open_exporter() -> Any:
    """Open the exporter that the environment names; nothing is sent yet. Raises: `SurroundingsError`, `UsageError`."""
    kind = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if kind != "otlp":
        raise UsageError(f"There is no exporter {kind!r} of spans.", hint="OTEL_TRACES_EXPORTER may be otlp (over HTTP), console or none.")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if protocol != "http/protobuf":
        raise UsageError(
            f"Spans are not sent by {protocol!r}.", hint="OTEL_EXPORTER_OTLP_PROTOCOL may be http/protobuf; collectors take it on port 4318."
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise missing_extra("otel", "Exporting spans") from error
    try:
        return OTLPSpanExporter()
    except ValueError as error:
        raise UsageError(
            f"The variables of the spans' exporter cannot be read: {error}.", hint="See those that begin with OTEL_EXPORTER_OTLP."
        ) from error


class Tracer:
    """Writes the spans of requests that are over; the exporter sends them from a thread of its own."""

    def __init__(self, exporter: Any) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "fmx"}
        self._provider = TracerProvider(resource=Resource.create(named))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("fmx.serve")
        self._propagator = TraceContextTextMapPropagator()
        self._offset_s = time.time() - time.monotonic()

    def write(self, name: str, traceparent: str, began: float, attributes: dict[str, str | int], marks: Iterable[Mark]) -> None:
        """Write a request's spans.

        Args:
            name: method and route.
            traceparent: the caller's header, whose span is then above these; may be empty.
            began: on `time.monotonic`'s clock.
            attributes: of the request's span.
            marks: the parts below it.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        above = self._propagator.extract({"traceparent": traceparent}) if traceparent else None
        span = self._tracer.start_span(name, above, kind=SpanKind.SERVER, attributes=attributes, start_time=self._ns(began))
        if int(attributes.get("http.response.status_code", 0)) >= 500:
            span.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(span)
        for part, start, end in marks:
            self._tracer.start_span(part, inside, start_time=self._ns(start)).end(self._ns(end))
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def _ns(self, monotonic_s: float) -> int:
        return int(1e9 * (monotonic_s + self._offset_s))
