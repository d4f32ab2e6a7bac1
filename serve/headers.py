"""Headers that every answer carries, whoever wrote it: ours, BentoML's shell or Starlette."""

from __future__ import annotations

RawHeaders = list[tuple[bytes, bytes]]

REQUEST_ID = "x-request-id"
NO_CONTENT_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""For whatever is no page: a browser that is led to it loads and runs nothing."""

DEFAULTS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": NO_CONTENT_POLICY,
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
TLS_ONLY = {"strict-transport-security": "max-age=31536000"}
"""Browsers pass it over where it came without TLS; a page that is served without must not claim it."""
_DEFAULTS = [(name.encode(), value.encode()) for name, value in DEFAULTS.items()]
_TLS = [*_DEFAULTS, *((name.encode(), value.encode()) for name, value in TLS_ONLY.items())]
DROPPED = frozenset({b"server", b"x-bentoml-request-id", b"x-bentoml-trace-id"})


def complete(headers: RawHeaders, more: dict[str, str], *, is_tls: bool) -> RawHeaders:
    """Add what an answer must carry and does not yet, and drop what tells strangers about the shell.

    Args:
        headers: of the answer, names in lower case.
        more: what this request adds; it gives way to the answer's own.
        is_tls: whether the answer goes out over TLS.
    """
    kept = [(name, value) for name, value in headers if name not in DROPPED]
    names = {name for name, _ in kept}
    added = [(name.encode(), value.encode()) for name, value in more.items()]
    return [*kept, *((name, value) for name, value in (*added, *(_TLS if is_tls else _DEFAULTS)) if name not in names)]
