"""Spans, received by a real collector on loopback that reads OTLP over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from fmx.data import open_source
from fmx.errors import UsageError
from fmx.package import Package
from serve import tracing
from tests.serve.test_service import Service

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.spans: list[Any] = []
        self.resources: list[str] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                import gzip

                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.resources += [item.value.string_value for item in resource.resource.attributes if item.key == "service.name"]
                    collector.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *given: object) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_request_is_traced_with_its_parts_below_the_callers_span(
    small_package: Package, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMX_AUTH", "off")
    monkeypatch.setenv("FMX_PACKAGE", str(small_package.folder))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server.server_port}")
    image = open_source("digits").splits["test"][0].read()
    service = Service("")
    headers = {"content-type": "image/png", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = service.request("POST", "/v1/predict", content=image, headers=headers)
    assert answer.status_code == 200
    service.close()  # sends what is left
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"POST /v1/predict", "queue", "decode", "inference"}
    root = spans["POST /v1/predict"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {item.key: item.value.string_value or item.value.int_value for item in root.attributes}
    assert attributes["fmx.request_id"] == answer.headers["x-request-id"]
    assert attributes["http.response.status_code"] == 200
    for name in ("queue", "decode", "inference"):
        span = spans[name]
        assert span.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
    assert set(collector.resources) == {"fmx"}


@pytest.mark.parametrize("variables", [{}, {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_nothing_is_traced_unless_it_is_asked_for(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing.open_tracer() is None


def test_exporter_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    with pytest.raises(UsageError, match="zipkin"):
        tracing.open_tracer()
