"""The outermost layer, around BentoML's own: probes, pages, metrics, unknown paths, keys, body limits, and the drain after SIGTERM.

It stands outside BentoML's limiter, timeout and metrics, so a stranger's call costs no slot and makes no time series.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fmx.errors import FmxError, UnsupportedTypeError
from serve import metrics
from serve.access.gate import Gate
from serve.access.limits import limit_headers
from serve.admission import Admission
from serve.answers import error_response, json_response, send_response
from serve.audit import AuditLog
from serve.cors import Cors
from serve.engine import Engine
from serve.errors import MethodError, NotReadyError, OverloadedError, OverQuotaError
from serve.exchange import Exchange, too_long
from serve.headers import REQUEST_ID, complete
from serve.logs import ACCESS, RequestContext, request_context, set_up_logs, trace_id_of
from serve.pages import Pages
from serve.routes import EMBED, PAGES, PREDICT, PROBES, READY, RELOAD, SCOPES, UNKNOWN, check_route, open_routes, route_of
from serve.scaling.scaler import Scaler
from serve.settings import ServeSettings
from serve.tracing import open_tracer
from serve.watch import Watch

SHED = {408: "slow_body", 413: "too_large", 429: "overloaded", 504: "deadline"}
"""Answers by which the service protects itself, and their reason in `fmx_shed_total`."""
SHED_BY_LIMITS = ("over_rate", "over_quota")
"""Reasons of a 429 that is the caller's own."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
log = logging.getLogger("fmx.serve")
access_log = logging.getLogger(ACCESS)


class Guard:
    """An ASGI app around BentoML's, which it leaves to start and stop, and in front of our own routes."""

    def __init__(
        self, app: ASGIApp, handlers: Mapping[str, ASGIApp], engine: Engine, watch: Watch, gate: Gate, scaler: Scaler, settings: ServeSettings
    ) -> None:
        self._app = app
        self._handlers = handlers
        self._engine = engine
        self._watch = watch
        self._gate = gate
        self._scaler = scaler
        self._bodies = Admission(settings.bodies_bytes, "bytes of bodies")
        self._routes = open_routes(settings)
        self._pages = Pages(settings)
        self._cors = Cors(settings.origins)
        self._settings = settings
        self._tracer = open_tracer()
        self._audit = AuditLog(settings.audit_file) if settings.audit_file is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one connection's scope: lifespan or http; websockets are refused."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                set_up_logs(self._settings.log_format)  # once more: the shell sets up its own while it starts
                _count_from_zero()
                self._engine.start()
                self._watch.start()
                _delay_sigterm(self._engine.drain, self._settings.drain_seconds)
            elif message["type"] == "lifespan.shutdown.complete":
                await asyncio.to_thread(self._watch.close)
                await asyncio.to_thread(self._engine.close)
                await self._gate.close()
                for kept in (self._audit, self._tracer):
                    if kept is not None:
                        await asyncio.to_thread(kept.close)
            await send(message)

        await self._app(scope, receive, watched)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        route, scope["path_params"] = route_of(scope["path"], self._routes)
        request_id = scope["fmx.request_id"] = _request_id(scope)
        context = RequestContext(request_id, trace_id_of(_header(scope, b"traceparent")))
        token = request_context.set(context)
        status, shed = 500, ""
        scope["fmx.headers"] = {REQUEST_ID: request_id, **self._cors.headers(_header(scope, b"origin"))}
        scope["fmx.deadline"] = started + self._settings.timeout_seconds

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = complete(message["headers"], scope["fmx.headers"], is_tls=scope.get("scheme") == "https")
            await send(message)

        metrics.in_flight.inc()
        try:
            shed = await self._answer(scope, receive, counted, route, request_id)
        finally:
            metrics.in_flight.dec()
            metrics.requests_of(route, str(status)).inc()
            if status in SHED:
                metrics.shed.labels(shed or SHED[status]).inc()
            seconds = time.monotonic() - started
            metrics.seconds_of(route).observe(seconds)
            if route not in PROBES:
                self._write_down(scope, route, status, seconds, is_asked=not (status == 429 and not shed))
                self._trace(scope, route, status, started)
            request_context.reset(token)

    def _write_down(self, scope: Scope, route: str, status: int, seconds: float, *, is_asked: bool) -> None:
        """Log a request, and note it in the audit log where it asked for something that wants a caller.

        What was refused for want of room was not looked at: it is counted and logged, and writing it down too would take from the others.
        """
        caller = scope.get("fmx.caller")
        key = caller.id if caller is not None else ""
        if self._settings.access_log == "on":
            facts = {"method": scope["method"], "route": route, "status": status, "ms": round(1e3 * seconds, 2), "key": key}
            access_log.info("%s %s %d", scope["method"], route, status, extra={"facts": facts})
        if self._audit is not None and route in SCOPES and is_asked:
            named = {"request_id": scope["fmx.request_id"], "route": route, "status": status, "key": key}
            self._audit.write(**named, caller=caller.name if caller is not None else "", **scope.get("fmx.audit", {}))

    def _trace(self, scope: Scope, route: str, status: int, started: float) -> None:
        if self._tracer is not None:
            attributes: dict[str, str | int] = {"http.request.method": scope["method"], "http.route": route, "http.response.status_code": status}
            attributes["fmx.request_id"] = scope["fmx.request_id"]
            name = f"{scope['method']} {route}"
            self._tracer.write(name, _header(scope, b"traceparent"), started, attributes, scope.get("fmx.marks", ()))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, route: str, request_id: str) -> str:
        """Answer, and say why where a limit of the caller's own refused it."""
        has_body = bool(_header(scope, b"transfer-encoding")) or _header(scope, b"content-length") not in ("", "0")
        limits = self._settings.max_body_bytes, self._settings.body_seconds, scope["fmx.deadline"]
        exchange = Exchange(receive, send, *limits, has_body=has_body)
        try:
            if route != UNKNOWN and scope["method"] == "OPTIONS" and (allowed := self._preflight(scope, route)) is not None:
                await send_response(Response(status_code=204, headers=allowed), send)
                return ""
            check_route(route, scope["method"], self._routes)
            if route not in SCOPES:
                await send_response(await self._open_answer(scope, route), send)
                return ""
            caller, standings = await self._gate.admit(partial(_header, scope), SCOPES[route])
            scope["fmx.caller"] = caller
            scope["fmx.headers"] |= limit_headers(standings)
            if scope["method"] == "POST" and route != RELOAD:
                self._scaler.offer()
                await self._check_room(exchange)
            with self._bodies.admit(self._body_bytes(scope)):
                await self._handlers[route](scope, exchange.receive, exchange.send)
            if scope["method"] == "POST":
                metrics.request_bytes.observe(exchange.taken_bytes)
        except FmxError as error:
            headers = {"allow": ", ".join(self._routes[route])} if isinstance(error, MethodError) else {}
            await send_response(error_response(error, request_id, headers, is_v2=route.startswith("/v2")), exchange.send)
            return error.code if isinstance(error, OverQuotaError) else ""
        return ""

    async def _check_room(self, exchange: Exchange) -> None:
        try:
            self._engine.check_room()
        except OverloadedError:
            await exchange.skim()
            raise

    async def _open_answer(self, scope: Scope, route: str) -> Response:
        if route == "/metrics":
            await self._gate.admit_to_metrics(partial(_header, scope))
            with contextlib.suppress(NotReadyError):
                predictor = self._engine.now().predictor
                self._scaler.standing(predictor.package, predictor.variant.name)  # sets its gauges
            return Response(await asyncio.to_thread(metrics.render), headers={"content-type": metrics.CONTENT_TYPE})
        if route in PAGES:
            return self._pages.response(route, self._engine.task)
        if route in READY and self._engine.why_not_ready:
            raise NotReadyError(self._engine.why_not_ready)
        return json_response({"status": "ready" if route in READY else "live"})

    def _preflight(self, scope: Scope, route: str) -> dict[str, str] | None:
        """Give the answer to a browser that asks before a call from elsewhere; it cannot send the key then."""
        origin, wanted = _header(scope, b"origin"), _header(scope, b"access-control-request-method")
        return self._cors.preflight(origin, wanted, self._routes[route])

    def _body_bytes(self, scope: Scope) -> int:
        """Give the bytes that a body announces, or the most that it may have. Raises: `UnsupportedTypeError`, `TooLargeError`."""
        if _header(scope, b"content-encoding") not in ("", "identity"):
            raise UnsupportedTypeError("Compressed bodies are not taken.", hint="Send the input as it is.")
        length = _header(scope, b"content-length")
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            raise too_long(self._settings.max_body_bytes)
        if scope["method"] != "POST":
            return 0
        return int(length) if length.isdigit() else self._settings.max_body_bytes


def _count_from_zero() -> None:
    """Make the series that alerts look at: to Prometheus the first value of a counter that was not there before is no increase."""
    for reason in (*SHED.values(), *SHED_BY_LIMITS):
        metrics.shed.labels(reason)
    for route in (PREDICT, EMBED):
        for status in ("200", "500", "503", "504"):
            metrics.requests_of(route, status)


def _header(scope: Scope, name: bytes) -> str:
    if "fmx.given" not in scope:
        scope["fmx.given"] = dict(scope["headers"])  # of a header that came twice, the last counts
    value: bytes = scope["fmx.given"].get(name, b"")
    return value.decode("latin-1").strip()


def _request_id(scope: Scope) -> str:
    given = _header(scope, b"x-request-id")
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def _delay_sigterm(drain: Callable[[], None], delay_s: float) -> None:
    """On SIGTERM stop being ready at once, go on answering, and hand the signal to uvicorn after the delay; a second one goes at once."""
    loop = asyncio.get_running_loop()
    previous: Any = signal.getsignal(signal.SIGTERM)
    if not callable(previous):
        return
    draining = False

    def begin(number: int, frame: FrameType | None) -> None:
        loop.call_later(delay_s, previous, number, frame)
        drain()
        log.info("SIGTERM: not ready from now on, answering for another %.1f s.", delay_s)

    def stop(number: int, frame: FrameType | None) -> None:
        """Schedule, and nothing else: a signal may land where this thread holds the lock of a metric or of the log."""
        nonlocal draining
        if draining:
            previous(number, frame)
            return
        draining = True
        loop.call_soon_threadsafe(begin, number, frame)

    with contextlib.suppress(ValueError):  # not the main thread: whoever runs us there handles signals
        signal.signal(signal.SIGTERM, stop)
