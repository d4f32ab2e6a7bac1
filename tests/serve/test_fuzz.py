"""Ten thousand seeded requests, most of them damaged copies of good ones, into the service's own ASGI app."""

from __future__ import annotations

import base64
import json
import random
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.types import Message

from fmx.contract import ImageInput
from fmx.data import open_source
from fmx.package import Package
from serve.access.keys import create_key
from serve.routes import ROUTES
from tests.serve.test_service import Service

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

REQUESTS = 10_000
WARM_UP = 2_000
EXPECTED_5XX = {503, 504}
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "post", "BREW", "")
KINDS = (
    "image/png",
    "image/jpeg",
    "application/json",
    "application/octet-stream",
    "text/plain",
    "application/vnd.bentoml+pickle",
    "multipart/form-data",
    "*/*",
    "",
    "x" * 300,
    "image/png; charset=\xff",
    "multipart/form-data; boundary=",
    "application/x-www-form-urlencoded",
    "IMAGE/PNG",
)
JUNK = (
    "",
    "0",
    "-1",
    "1e9",
    "999999999999999999999",
    "\x00",
    "\xff\xfe",
    "%",
    "%00",
    "%zz",
    "é",
    "null",
    "true",
    "' OR 1=1",
    "../../etc/passwd",
    "${jndi:ldap://x}",
    "http://169.254.169.254/",
    "a" * 5000,
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
)
JSON_JUNK: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    2**70,
    1.5,
    1e308,
    "",
    "images",
    "BYTES",
    "UINT8",
    "FP64",
    [],
    {},
    [[]],
    {"a": 1},
    "http://127.0.0.1/",
    [1] * 50,
    "a" * 2000,
)
BOUNDARY = "fuzzboundary"


@dataclass
class Request:
    method: str
    path: str
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def set(self, name: str, value: str) -> None:
        self.headers = [(key, old) for key, old in self.headers if key != name.encode()] + [(name.encode(), value.encode("latin-1", "replace"))]


class Generator:
    """Makes requests: good ones, and copies of them that are damaged in one to four places."""

    def __init__(self, seed: int, package: Package, key: str) -> None:
        self._random = random.Random(seed)
        self._key = key
        self._model = f"/v2/models/{package.name}"
        self._version = f"{self._model}/versions/{package.manifest.version}"
        spec = package.manifest.contract.input
        assert isinstance(spec, ImageInput)
        self._row = [spec.height, spec.width, 3]
        self._images = [item.read() for item in open_source("digits").splits["test"][:20]]

    def request(self) -> Request:
        request = self._good()
        if self._random.random() < 0.8:
            ways = (self._damage_body, self._damage_headers, self._damage_path, self._damage_query, self._damage_method)
            for damage in self._random.choices(ways, weights=(5, 4, 1, 2, 1), k=self._random.randint(1, 3)):
                damage(request)
        return request

    def every_route_and_refusal(self) -> Iterator[Request]:
        """Make requests for each route, good ones and such as the guard refuses, so that each pair of route and status is counted once."""
        paths = {route: self._path(route) for route in ROUTES}
        for route, path in [*paths.items(), *((route, path.replace("/v2/models/", "/v2/models/no-")) for route, path in paths.items())]:
            for method in (*ROUTES[route], "BREW", "OPTIONS"):
                for name, value in ((b"accept", b"*/*"), (b"x-api-key", b"wrong"), (b"content-encoding", b"gzip"), (b"content-length", b"999999999")):
                    key = [] if name == b"x-api-key" else [(b"x-api-key", self._key.encode())]
                    browser = [(b"origin", b"https://shop.example"), (b"access-control-request-method", b"POST")]
                    yield Request(method, path, b"", [(name, value), *key, *browser])
                    yield Request(method, path, b"\xff", [(name, value), *key])

    def _path(self, route: str) -> str:
        return route.replace("/v2/models/{name}/versions/{version}", self._version).replace("/v2/models/{name}", self._model)

    def _good(self) -> Request:
        made = self._random.choice((self._image, self._json, self._form, self._infer_json, self._infer_binary, self._plain))()
        made.set("x-api-key", self._key)
        return made

    def _image(self) -> Request:
        return Request("POST", "/v1/predict", b"top_k=2", [(b"content-type", b"image/png")], self._random.choice(self._images))

    def _json(self) -> Request:
        images = [base64.b64encode(image).decode() for image in self._random.sample(self._images, self._random.randint(1, 3))]
        content = self._damaged({"images": images, "top_k": 2} if self._random.random() < 0.5 else {"image": images[0]})
        return Request("POST", "/v1/predict", b"", [(b"content-type", b"application/json")], json.dumps(content).encode())

    def _form(self) -> Request:
        parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n2\r\n'.encode()]
        for number, image in enumerate(self._random.sample(self._images, self._random.randint(1, 4))):
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="f{number}"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
            parts.append(head.encode() + image + b"\r\n")
        body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
        return Request("POST", "/v1/predict", b"", [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())], body)

    def _infer_json(self) -> Request:
        if self._random.random() < 0.5:
            tensor = {"datatype": "BYTES", "shape": [1], "data": [base64.b64encode(self._random.choice(self._images)).decode()]}
        else:
            tensor = {"datatype": "UINT8", "shape": [1, *self._row], "data": [self._random.randrange(256)] * (self._row[0] * self._row[1] * 3)}
        content = self._damaged(
            {
                "id": "1",
                "inputs": [{"name": "images", **tensor}],
                "outputs": [{"name": "label"}, {"name": "probabilities", "parameters": {"binary_data": True}}],
            }
        )
        return Request("POST", f"{self._random.choice((self._model, self._version))}/infer", b"", [], json.dumps(content).encode())

    def _infer_binary(self) -> Request:
        image = self._random.choice(self._images)
        tail = struct.pack("<I", len(image)) + image
        content = self._damaged({"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(tail)}}]})
        head = json.dumps(content).encode()
        headers = [(b"inference-header-content-length", str(len(head)).encode()), (b"content-type", b"application/octet-stream")]
        return Request("POST", f"{self._model}/infer", b"", headers, head + tail)

    def _plain(self) -> Request:
        route = self._random.choice(list(ROUTES))
        return Request(self._random.choice(ROUTES[route]), self._path(route))

    def _damaged(self, content: Any) -> Any:
        """Put junk in one place of a JSON value, in four of ten."""
        if self._random.random() < 0.6:
            return content
        place: Any = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                return content
            key = self._random.choice(keys)
            if isinstance(place[key], dict | list) and place[key] and self._random.random() < 0.7:
                place = place[key]
                continue
            if isinstance(place, dict) and self._random.random() < 0.3:
                place[self._random.choice(JUNK)] = place.pop(key)
            else:
                place[key] = self._random.choice(JSON_JUNK)
            return content

    def _damage_body(self, request: Request) -> None:
        body, pick = bytearray(request.body), self._random
        ways = pick.randrange(8)
        if ways == 0 or not body:
            body = bytearray(pick.randbytes(pick.randrange(300)))
        elif ways == 1:
            del body[pick.randrange(len(body)) :]
        elif ways == 2:
            body += pick.randbytes(pick.randrange(1, 40))
        elif ways == 3:
            start = pick.randrange(len(body))
            del body[start : start + pick.randrange(1, 20)]
        elif ways == 4:
            body = bytearray(
                pick.choice((b"[" * 3000, b'{"a":' * 3000, b"{}", b"\x80\x04K\x01.", b"\x1f\x8b\x08" + pick.randbytes(30), b"\x00" * 120_000))
            )
        else:
            for _ in range(pick.randint(1, 8)):
                body[pick.randrange(len(body))] = pick.randrange(256)
        request.body = bytes(body)

    def _damage_headers(self, request: Request) -> None:
        pick = self._random
        name, values = pick.choice(
            (
                ("content-type", KINDS),
                ("content-length", ("0", "7", "99999", "99999999999", *JUNK)),
                ("content-encoding", ("gzip", "identity", "br", *JUNK)),
                ("inference-header-content-length", ("0", "1", "40", *JUNK)),
                ("x-api-key", ("", "wrong", "fmx_00000000_x", "a.b.c", *JUNK)),
                ("authorization", ("Bearer", "Bearer x", "Basic abc", f"bearer {self._key}", *JUNK)),
                ("x-request-id", ("mine", *JUNK)),
                ("traceparent", ("00-" + "a" * 32 + "-" + "b" * 16 + "-01", *JUNK)),
                ("origin", ("https://shop.example", "https://evil.example", "null", *JUNK)),
                ("access-control-request-method", ("POST", *JUNK)),
                ("expect", ("100-continue", *JUNK)),
                ("transfer-encoding", ("chunked", *JUNK)),
                ("host", ("[", "[::1", "a:b:c", *JUNK)),
                ("range", ("bytes=0-1", *JUNK)),
                ("accept", ("text/html", *JUNK)),
                ("cookie", JUNK),
            )
        )
        request.set(name, pick.choice(values))
        if pick.random() < 0.1:
            request.headers.append((pick.choice(JUNK)[:50].encode().lower() or b"x", pick.choice(JUNK).encode()))

    def _damage_path(self, request: Request) -> None:
        pick = self._random
        path = list(request.path or "/")
        way = pick.randrange(5)
        if way == 0:
            request.path = "/" + pick.choice(JUNK)
        elif way == 1:
            request.path = request.path + pick.choice(("/", "//", "/infer", "/ready", "/..", "/" + pick.choice(JUNK)))
        elif way == 2:
            request.path = pick.choice(
                (
                    "/schema.json",
                    "/docs.json",
                    "/assets/x",
                    "/static_content/x",
                    "/healthz",
                    "/predict",
                    "/v1/predict/submit",
                    "/v2/models//infer",
                    "/wp-login.php",
                    "*",
                    "",
                )
            )
        else:
            path[pick.randrange(len(path))] = pick.choice("/aZ0.%~\x00\xff ")
            request.path = "".join(path)

    def _damage_query(self, request: Request) -> None:
        pick = self._random
        pairs = [
            f"{pick.choice(('top_k', 'token', 'url', pick.choice(JUNK)))}={pick.choice((quote(pick.choice(JUNK)), pick.choice(JUNK)))}"
            for _ in range(pick.randint(1, 3))
        ]
        request.query = "&".join(pairs).encode("latin-1", "replace")

    def _damage_method(self, request: Request) -> None:
        request.method = self._random.choice(METHODS)


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


async def ask(app: Any, request: Request, cut: bool, chunk: int) -> Answer:
    """Send a request in chunks; one that is cut ends in a disconnection before its last chunk."""
    chunks = [request.body[start : start + chunk] for start in range(0, len(request.body), chunk)] or [b""]
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": part, "more_body": cut or place < len(chunks) - 1} for place, part in enumerate(chunks)]
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": request.query,
        "headers": request.headers,
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 3000),
        "state": {},
    }
    await app(scope, receive, send)
    assert [message["type"] for message in sent].count("http.response.start") == 1, request
    assert sent[-1]["type"] == "http.response.body", request
    assert not sent[-1].get("more_body"), request
    return Answer(sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:]))


def series(service: Service) -> set[str]:
    return {line.rpartition(" ")[0] for line in service.request("GET", "/metrics").text.splitlines() if not line.startswith("#")}


@pytest.fixture
def key(tmp_path: Path) -> str:
    return create_key(tmp_path / "keys.json", "test")[1]


@pytest.fixture
def service(light_package: Package, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    variables = {
        "FMX_KEYS_FILE": str(tmp_path / "keys.json"),
        "FMX_PACKAGE": str(light_package.folder),
        "FMX_MAX_BODY_BYTES": "100000",
        "FMX_MAX_INPUTS": "3",
        "FMX_CORS_ORIGINS": "https://shop.example",
        "FMX_AUDIT_FILE": str(tmp_path / "audit.jsonl"),
        "FMX_ACCESS_LOG": "off",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = Service(key)
    yield made
    made.close()


def test_no_request_makes_a_5xx_or_a_time_series(service: Service, light_package: Package, key: str) -> None:
    generator, chooser = Generator(1, light_package, key), random.Random(2)
    statuses: Counter[int] = Counter()

    def send(requests: Iterable[Request]) -> None:
        async def one_after_another() -> None:
            for request in requests:
                answer = await ask(service.app, request, cut=chooser.random() < 0.03, chunk=chooser.choice((200, 5_000, 200_000)))
                statuses[answer.status] += 1
                assert answer.status < 500 or answer.status in EXPECTED_5XX, (answer, request)
                assert answer.headers[b"x-content-type-options"] == b"nosniff", request
                assert answer.headers[b"x-request-id"], request
                if answer.status >= 400 and answer.status != 499:
                    assert "error" in json.loads(answer.body), (answer, request)

        service.loop.run_until_complete(one_after_another())

    send(generator.every_route_and_refusal())
    send(generator.request() for _ in range(WARM_UP))
    known = series(service)
    send(generator.request() for _ in range(REQUESTS))
    assert len(series(service) - known) <= 2
    assert statuses[200] > REQUESTS / 20
    assert {200, 204, 400, 401, 404, 405, 413, 415, 422, 499} <= set(statuses), statuses
