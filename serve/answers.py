"""JSON answers, and the one place where an error becomes an HTTP answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Send

from fmx.errors import FmxError
from serve.access.limits import limit_headers
from serve.errors import OverloadedError, OverQuotaError, UnauthorisedError


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Build a JSON answer; the guard adds the headers that every answer has."""
    return Response(orjson.dumps(content), status_code=status, headers=dict(headers or {}), media_type="application/json")


def error_response(error: FmxError, request_id: str, headers: Mapping[str, str] | None = None, *, is_v2: bool = False) -> Response:
    """Build the answer for an error: `{"error": {"code", "message", "hint", "request_id"}}`, or the Open Inference Protocol's `{"error": text}`."""
    extra = dict(headers or {})
    if isinstance(error, OverloadedError | OverQuotaError):
        extra["retry-after"] = str(error.retry_after_s)
    if isinstance(error, OverQuotaError):
        extra |= limit_headers(error.standings)
    if isinstance(error, UnauthorisedError):
        extra["www-authenticate"] = "Bearer"
    content: dict[str, Any] = {"error": {"code": error.code, "message": error.message, "hint": error.hint, "request_id": request_id}}
    if is_v2:
        content = {"error": f"{error.message} {error.hint}".strip()}
    return json_response(content, error.http_status, extra)


async def send_response(response: Response, send: Send) -> None:
    """Send an answer without a request object."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": False})
