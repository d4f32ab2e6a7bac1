"""Every path that the service has, and its methods: a closed set, whatever a stranger asks for.

What is not here is 404, BentoML's own routes included.
"""

from __future__ import annotations

import re

from serve.errors import MethodError, UnknownPathError
from serve.settings import ServeSettings

PREDICT = "/v1/predict"
EMBED = "/v1/embed"
AUTOSCALE = "/v1/autoscale"
RELOAD = "/v1/admin/reload"
V2_MODEL = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
CLIENT_SCHEMA = "/schema.json"
"""What BentoML's clients read first; see serve/service.py."""
PAGE, DOCS, OPENAPI = "/", "/docs", "/openapi.json"

ROUTES = {
    "/livez": ("GET", "HEAD"),
    "/readyz": ("GET", "HEAD"),
    "/v2/health/live": ("GET", "HEAD"),
    "/v2/health/ready": ("GET", "HEAD"),
    "/metrics": ("GET",),
    PAGE: ("GET", "HEAD"),
    DOCS: ("GET", "HEAD"),
    OPENAPI: ("GET", "HEAD"),
    PREDICT: ("POST",),
    EMBED: ("POST",),
    AUTOSCALE: ("GET",),
    RELOAD: ("POST",),
    CLIENT_SCHEMA: ("GET",),
    "/v2": ("GET",),
    **dict.fromkeys(V2_MODEL, ("GET",)),
    **{f"{path}/ready": ("GET",) for path in V2_MODEL},
    **{f"{path}/infer": ("POST",) for path in V2_MODEL},
}
"""Every path, as a template, and its methods."""
LIVE, READY = frozenset({"/livez", "/v2/health/live"}), frozenset({"/readyz", "/v2/health/ready"})
PROBES = LIVE | READY | {"/metrics"}
PAGES = frozenset({PAGE, DOCS, OPENAPI})
SCOPES = {**dict.fromkeys(ROUTES.keys() - PROBES - PAGES, "predict"), RELOAD: "admin"}
"""What a caller must be allowed; probes, scrapers and whoever looks at a page are no callers."""
UNKNOWN = "unknown"

_TEMPLATES = [(re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route)), route) for route in ROUTES if "{" in route]


def open_routes(settings: ServeSettings) -> dict[str, tuple[str, ...]]:
    """Give the routes that are there under these settings."""
    return {route: methods for route, methods in ROUTES.items() if settings.pages == "on" or route not in PAGES}


def route_of(path: str, routes: dict[str, tuple[str, ...]]) -> tuple[str, dict[str, str]]:
    """Give the template of a path and what it names, or `UNKNOWN`."""
    if path in routes and "{" not in path:
        return path, {}
    if path.startswith("/v2/models/"):
        for pattern, route in _TEMPLATES:
            if found := pattern.fullmatch(path):
                return route, found.groupdict()
    return UNKNOWN, {}


def check_route(route: str, method: str, routes: dict[str, tuple[str, ...]]) -> None:
    """Refuse what is not there. Raises: `UnknownPathError`, `MethodError`."""
    if route == UNKNOWN:
        raise UnknownPathError("There is no such path.", hint=f"Paths: {', '.join(route for route in routes if 'version' not in route)}.")
    if method not in routes[route]:
        raise MethodError(f"{route} takes {' or '.join(routes[route])}.", hint=f"curl -X {routes[route][0]} ...")
