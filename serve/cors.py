"""Cross-origin calls from browsers (the Fetch standard's CORS): off unless origins are listed.

Credentials are never allowed: keys travel in a header that a page sets itself, not in cookies, so `*` gives nothing away that a key guards.
"""

from __future__ import annotations

import re

ANY = "*"
ALLOWED_HEADERS = "Authorization, X-API-Key, Content-Type, traceparent, X-Request-ID, Inference-Header-Content-Length"
EXPOSED_HEADERS = "Retry-After, RateLimit, RateLimit-Policy, X-Request-ID, Inference-Header-Content-Length"
PREFLIGHT_SECONDS = 600
_ORIGIN = re.compile(r"(https?)://([a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(\d{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def read_origins(text: str) -> frozenset[str]:
    """Read a comma separated list of origins, or `*`.

    Raises:
        ValueError: an entry that no browser would ever send as its Origin, so that it would silently match nothing.
    """
    origins = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not origins or (ANY in origins and len(origins) > 1):
        raise ValueError("write origins such as https://shop.example.com, separated by commas, or * alone")
    for origin in origins:
        found = _ORIGIN.fullmatch(origin)
        if origin != ANY and (found is None or int(found[4] or 1) not in range(1, 65536)):
            raise ValueError(f"{origin!r} is no origin: scheme, host in lower case and port, without a path or a slash at the end")
        if found is not None and found[4] == _DEFAULT_PORTS[found[1]]:
            raise ValueError(f"browsers leave the port out of {origin!r}: write {origin.rpartition(':')[0]}")
    return frozenset(origins)


class Cors:
    """What browsers are told about other origins."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def headers(self, origin: str) -> dict[str, str]:
        """Give what every answer carries for an origin; nothing but Vary for one that is not listed."""
        if not self._origins:
            return {}
        if not self._allows(origin):
            return {"vary": "Origin"}
        allowed = ANY if ANY in self._origins else origin
        return {"vary": "Origin", "access-control-allow-origin": allowed, "access-control-expose-headers": EXPOSED_HEADERS}

    def preflight(self, origin: str, wanted_method: str, methods: tuple[str, ...]) -> dict[str, str] | None:
        """Give what a preflight is answered with besides `headers`; None where it is none, or from an origin that is not listed."""
        if not wanted_method or not self._allows(origin):
            return None
        return {
            "access-control-allow-methods": ", ".join(methods),
            "access-control-allow-headers": ALLOWED_HEADERS,
            "access-control-max-age": str(PREFLIGHT_SECONDS),
        }

    def _allows(self, origin: str) -> bool:
        return bool(origin) and (origin in self._origins or ANY in self._origins)
