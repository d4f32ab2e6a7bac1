"""The interface as OpenAPI 3.1, made from the service's own routes and settings: a route that is not described here is an error at start."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fmx.tasks import TASKS, ImageClassification
from serve import metrics
from serve.client_schema import WHAT_IS_DONE
from serve.inputs import DEFAULT_LABELS
from serve.oip import HEADER_LENGTH
from serve.pages.schemas import COUNT, FILE, PICTURE, TEXT, TOP_K, Schema, components, ref
from serve.routes import AUTOSCALE, CLIENT_SCHEMA, DOCS, EMBED, OPENAPI, PAGE, PREDICT, RELOAD, SCOPES, open_routes
from serve.settings import ServeSettings

Described = dict[str, Any]

REFUSALS = {
    400: "The request or its input cannot be read.",
    401: "No key, or one that is not known, revoked or past its end.",
    403: "The key is for something else.",
    404: "There is no such model or version here, or it does not give what is asked for.",
    408: "The body came too slowly.",
    409: "A worker refused the package, and serves on what it served.",
    413: "Too many bytes, pixels, characters or inputs.",
    415: "The content type or a compressed body is not taken.",
    422: "A tensor of another name, type or shape.",
    429: "The queue is full, or a limit of the caller's own is used up.",
    503: "Not ready.",
    504: "The answer would have come too late.",
}
"""Statuses of errors, and what they mean."""
OF_ANY_CALLER = (401, 403, 413, 415, 429, 503)
OF_A_BODY = (400, 408, 504)

ABOUT = """{does} {noun}s. Keys go into the header Authorization, as Bearer KEY, or into X-API-Key.
An unknown path is answered 404, another method 405 with Allow, in the form of every other error. Every answer names its request in X-Request-ID,
which is the caller's own where they sent one of at most 64 letters, digits, dots, dashes and underscores."""


def openapi(settings: ServeSettings, task: str = ImageClassification.name) -> Described:
    """Describe the service under these settings, where a model of this task is served."""
    described = _operations(settings, task)
    paths: Described = {}
    for route, methods in open_routes(settings).items():
        paths[route] = {**_path_parameters(route), **{method.lower(): described[route] for method in methods}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fmx",
            "version": version("fmx-toolkit"),
            "description": ABOUT.format(does=_does(task), noun=TASKS[task].noun),
        },
        "paths": paths,
        "components": {"schemas": components(settings, task), "headers": HEADERS, **_security_schemes(settings)},
    }


def _does(task: str) -> str:
    return {"labels": "Classifies", "entities": "Finds entities in", "score": "Scores"}[TASKS[task].answers_with]


HEADERS: Described = {
    "X-Request-ID": {"description": "Names the request in logs and errors.", "schema": TEXT},
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}},
    "RateLimit": {"description": "Where the caller stands with each limit.", "schema": TEXT},
    "RateLimit-Policy": {"description": "The caller's limits.", "schema": TEXT},
    "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"const": "Bearer"}},
    "Inference-Header-Content-Length": {"description": "Length of the JSON before the binary tensors.", "schema": COUNT},
}


def _security_schemes(settings: ServeSettings) -> Described:
    if settings.auth == "off" and settings.metrics_token is None:
        return {}
    bearer = {"type": "http", "scheme": "bearer", "description": "A key, or a signed token where an identity provider is configured."}
    return {"securitySchemes": {"bearer": bearer, "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}}


def _operations(settings: ServeSettings, task: str) -> dict[str, Described]:
    described = {**_probes(settings), **_pages(), **_callers(task), **_protocol(task)}
    for route, operation in described.items():
        is_guarded = settings.metrics_token is not None if route == "/metrics" else route in SCOPES and settings.auth == "on"
        operation["security"] = [{"bearer": []}, {"key": []}] if is_guarded else []
    return described


def _probes(settings: ServeSettings) -> dict[str, Described]:
    live = _operation("probes", "Whether the process lives", _answers("State"))
    ready = _operation("probes", "Whether new traffic should come", _answers("State"), 503)
    text = {200: _answer("Prometheus' text format, summed over the workers.", {metrics.CONTENT_TYPE: {"schema": TEXT}})}
    scrape = _operation("probes", "Metrics", text, *((401,) if settings.metrics_token is not None else ()))
    protocol = {"is_protocol": True}
    return {
        "/livez": live,
        "/readyz": ready,
        "/metrics": scrape,
        "/v2/health/live": _operation("open inference protocol", "Whether the process lives", _answers("State"), **protocol),
        "/v2/health/ready": _operation("open inference protocol", "Whether new traffic should come", _answers("State"), 503, **protocol),
    }


def _pages() -> dict[str, Described]:
    html = {200: _answer("The page.", {"text/html; charset=utf-8": {"schema": TEXT}})}
    itself = {200: _answer("OpenAPI 3.1.", {"application/json": {"schema": {"type": "object", "required": ["openapi", "info", "paths"]}}})}
    return {
        PAGE: _operation("pages", "A page to try the model", html),
        DOCS: _operation("pages", "This interface, to read", html),
        OPENAPI: _operation("pages", "This interface, for programs", itself),
    }


def _callers(task: str) -> dict[str, Described]:
    labels = {**TOP_K, "default": DEFAULT_LABELS}
    top_k = {"name": "top_k", "in": "query", "description": "Labels an input; a body's own goes before it.", "schema": labels}
    noun = TASKS[task].noun
    body, about = _bodies(task)
    what = WHAT_IS_DONE[TASKS[task].answers_with].format(noun=noun)
    predict = _operation("prediction", what, _answers("Predictions"), *OF_ANY_CALLER, *OF_A_BODY)
    options = {"parameters": [top_k]} if TASKS[task].answers_with == "labels" else {}
    embed = _operation("prediction", f"Embed {noun}s", _answers("Embeddings"), *OF_ANY_CALLER, *OF_A_BODY, 404)
    to_embed = {"schema": ref("ToEmbed"), **({} if noun == "image" else {"example": EXAMPLES[noun]})}
    of_embedding = "A vector of length 1 for each, in their order; 404 where the package was exported without --embedding."
    load = _operation("prediction", "Offered load, capacity, and how many replicas that wants", _answers("Load"), *OF_ANY_CALLER)
    client = _operation("prediction", "What BentoML's clients read first", _answers("ClientSchema"), *OF_ANY_CALLER)
    wish = {"required": False, "content": {"application/json": {"schema": ref("Wish"), "example": {"to": "current"}}}}
    reported = {202: _answer("Not all workers have seen to it yet.", {"application/json": {"schema": ref("Reports")}}, 202)}
    reload = _operation("administration", "Have every worker open the package anew", _answers("Reports") | reported, *OF_ANY_CALLER, *OF_A_BODY, 409)
    return {
        RELOAD: {**reload, "description": "Wants a key for admin.", "requestBody": wish},
        PREDICT: {**predict, "description": about, **options, "requestBody": {"required": True, "content": body}},
        EMBED: {**embed, "description": of_embedding, "requestBody": {"required": True, "content": {**_plain(task), "application/json": to_embed}}},
        AUTOSCALE: load,
        CLIENT_SCHEMA: client,
    }


PAIR = ["where is my order?", "Your parcel is on its way."]
EXAMPLES: dict[str, Described] = {"image": {"image": PICTURE}, "text": {"text": PAIR[0]}, "pair": {"pair": PAIR}}
"""Of a body of JSON, by what the model reads."""
ABOUT_BODIES = {
    "image": "One prediction an image, in their order. The files of a form may have any names; an address in place of a file is not fetched.",
    "text": "One prediction a text, in their order. Plain texts are UTF-8.",
    "pair": "One prediction a pair, in their order. Its score, to rank by, stands where the labels say how relevant the one text is to the other.",
}


ABOUT_ENTITIES = "Positions of entities count Unicode code points, from 0; a text longer than the model's window is read in pieces that overlap."

ABOUT_SCORES = "One score a pair, in their order, on the scale of the scores that the model learnt from."


def _bodies(task: str) -> tuple[dict[str, Described], str]:
    """Give what a prediction's body may be, and what is said about it."""
    noun = TASKS[task].noun
    files = {"multipart/form-data": {"schema": ref("Files")}} if noun == "image" else {}
    options = {"top_k": 3} if TASKS[task].answers_with == "labels" else {}
    json = {"schema": ref(f"{noun.capitalize()}s"), "example": {**EXAMPLES[noun], **options}}
    about = {"labels": ABOUT_BODIES[noun], "entities": f"{ABOUT_BODIES[noun]} {ABOUT_ENTITIES}", "score": ABOUT_SCORES}[TASKS[task].answers_with]
    return {**_plain(task), **files, "application/json": json}, about


def _plain(task: str) -> dict[str, Described]:
    """Give the bodies that are one input."""
    return {kind: {"schema": FILE} for kind in TASKS[task].content_types}


def _protocol(task: str) -> dict[str, Described]:
    header = {"name": HEADER_LENGTH, "in": "header", **HEADERS["Inference-Header-Content-Length"]}
    data = {"image": [PICTURE], "text": PAIR[:1], "pair": PAIR}[TASKS[task].noun]
    shape = [1, 2] if TASKS[task].noun == "pair" else [1]
    example = {"inputs": [{"name": TASKS[task].tensor, "datatype": "BYTES", "shape": shape, "data": data}]}
    content = {"application/json": {"schema": ref("InferRequest"), "example": example}, "application/octet-stream": {"schema": FILE}}
    answers = {200: _answer("The outputs.", {"application/json": {"schema": ref("InferAnswer")}, "application/octet-stream": {"schema": FILE}})}
    tag, described = "open inference protocol", {}
    described["/v2"] = _operation(tag, "The server", _answers("Server"), *OF_ANY_CALLER, is_protocol=True)
    for route in (route for route in SCOPES if route.startswith("/v2/")):
        if route.endswith("/infer"):
            infer = _operation(tag, "Run the model", answers, *OF_ANY_CALLER, *OF_A_BODY, 404, 422, is_protocol=True)
            described[route] = {**infer, "parameters": [header], "requestBody": {"required": True, "content": content}}
        elif route.endswith("/ready"):
            described[route] = _operation(tag, "Whether the model is ready", _answers("ModelReady"), *OF_ANY_CALLER, 404, is_protocol=True)
        else:
            described[route] = _operation(tag, "What the model takes and gives", _answers("ModelMetadata"), *OF_ANY_CALLER, 404, is_protocol=True)
    return described


def _path_parameters(route: str) -> Described:
    names = [name for name in ("name", "version") if f"{{{name}}}" in route]
    return {"parameters": [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in names]} if names else {}


def _operation(tag: str, summary: str, answers: dict[int, Described], *refusals: int, is_protocol: bool = False) -> Described:
    shape = "ProtocolError" if is_protocol else "Error"
    refused = {status: _answer(REFUSALS[status], {"application/json": {"schema": ref(shape)}}, status) for status in refusals}
    return {"tags": [tag], "summary": summary, "responses": {str(status): answer for status, answer in sorted({**answers, **refused}.items())}}


def _answers(schema: str) -> dict[int, Described]:
    return {200: _answer("The answer.", {"application/json": {"schema": ref(schema)}})}


def _answer(description: str, content: dict[str, Schema], status: int = 200) -> Described:
    names = ["X-Request-ID"]
    if status in (200, 202, 429):
        names += ["RateLimit", "RateLimit-Policy"]
    names += {401: ["WWW-Authenticate"], 429: ["Retry-After"]}.get(status, [])
    return {"description": description, "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}, "content": content}
