"""The service's own ASGI app in this process: guard, BentoML's shell, our app, a real package. tests/e2e talks to real processes."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from starlette.types import Message

from export.target import TARGETS, host_target
from fmx.data import open_source
from fmx.decoded import Decoded
from fmx.images import ImageReader
from fmx.package import Package
from fmx.predictor import PackagePredictor
from serve.engine import OPENING
from serve.service import FmxService, GuardedService
from tests.conftest import encode
from tests.fmx.test_images import png_header
from tests.serve.listening import configured

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

INT8 = TARGETS[host_target()].variant


def new_app() -> Any:
    """What a worker serves; the decorator makes a GuardedService of the class."""
    return cast(GuardedService, FmxService).to_asgi()


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """Start and stop an ASGI app."""
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    yield
    await received.put({"type": "lifespan.shutdown"})
    assert (await sent.get())["type"] == "lifespan.shutdown.complete"
    await task


class Service:
    """The app in an event loop of its own, for plain test functions."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.loop = asyncio.new_event_loop()
        self.app = new_app()
        self.context = lifespan(self.app)
        self.loop.run_until_complete(self.context.__aenter__())
        for _ in range(200):
            if OPENING not in self.request("GET", "/readyz").text:
                break
            self.loop.run_until_complete(asyncio.sleep(0.05))

    def close(self) -> None:
        self.loop.run_until_complete(self.context.__aexit__(None, None, None))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def request(self, method: str, path: str, *, key: str | None = None, **options: object) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
                headers = dict(options.pop("headers", {}))  # type: ignore[call-overload]
                headers |= {"x-api-key": key} if key else {}
                return await client.request(method, path, headers=headers, **options)  # type: ignore[arg-type]

        return self.loop.run_until_complete(send())

    def predict(self, content: bytes = b"", kind: str | None = "image/png", query: str = "", **options: object) -> httpx.Response:
        headers = {"content-type": kind} if kind else {}
        given = {"content": content} if content else {}
        return self.request("POST", f"/v1/predict{query}", key=self.key, headers=headers, **given, **options)


@contextmanager
def running(package: Package, folder: Path, **variables: Any) -> Iterator[Service]:
    """Run the service of a package in this process until the block ends."""
    with configured(package, folder, **variables) as key:
        made = Service(key)
        yield made
        made.close()


@pytest.fixture(scope="module")
def service(small_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(small_package, tmp_path_factory.mktemp("keys"), FMX_MAX_BODY_BYTES="1000000", FMX_MAX_INPUTS="3") as made:
        yield made


@pytest.fixture(scope="module")
def digits() -> list[bytes]:
    return [item.read() for item in open_source("digits").splits["test"][:3]]


def large_noise() -> bytes:
    return encode(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, str]:
    assert answer.status_code == status, answer.text
    error: dict[str, str] = answer.json()["error"]
    assert error["code"] == code
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["message"]
    return error


def test_answer_equals_the_predictor(service: Service, digits: list[bytes], small_package: Package) -> None:
    expected = PackagePredictor.open(small_package.folder).predict(digits[:1], top_k=2)
    answer = service.predict(digits[0], query="?top_k=2")
    assert answer.status_code == 200
    assert answer.json()["predictions"] == expected
    assert answer.json()["model"] == {
        "name": small_package.name,
        "version": small_package.manifest.version,
        "variant": small_package.variant().name,
    }


def test_multipart_and_json_answer_one_prediction_an_input(service: Service, digits: list[bytes]) -> None:
    single = [service.predict(data).json()["predictions"][0]["labels"][0]["label"] for data in digits]
    files = [("any", ("a.png", digits[0], "image/png")), ("name", ("b.png", digits[1], "image/png")), ("any", ("c", digits[2], "x/y"))]
    multipart = service.request("POST", "/v1/predict", key=service.key, files=files)
    body = json.dumps({"images": [base64.b64encode(data).decode() for data in digits], "top_k": 1}).encode()
    as_json = service.predict(body, "application/json")
    for answer in (multipart, as_json):
        assert [item["labels"][0]["label"] for item in answer.json()["predictions"]] == single
    assert len(as_json.json()["predictions"][0]["labels"]) == 1


def test_request_id_is_kept_when_it_is_safe(service: Service, digits: list[bytes]) -> None:
    kept = service.request("GET", "/livez", headers={"x-request-id": "abc-123"})
    replaced = service.request("GET", "/livez", headers={"x-request-id": "a b\tc" * 30})
    assert kept.headers["x-request-id"] == "abc-123"
    assert len(replaced.headers["x-request-id"]) == 32


def test_probes_and_metrics_need_no_key_and_prediction_does_litserve_660(service: Service, digits: list[bytes]) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        assert service.request("GET", path).status_code == 200
    for headers in ({}, {"authorization": "Bearer fmx_00000000_wrong"}, {"x-api-key": "wrong"}, {"authorization": "Basic abc"}):
        answer = service.request("POST", "/v1/predict", content=digits[0], headers={"content-type": "image/png", **headers})
        error_of(answer, 401, "unauthorised")
        assert answer.headers["www-authenticate"] == "Bearer"
    bearer = {"authorization": f"Bearer {service.key}", "content-type": "image/png"}
    assert service.request("POST", "/v1/predict", content=digits[0], headers=bearer).status_code == 200


@pytest.mark.parametrize("path", ["/v1", "/v1/predict/", "/V1/PREDICT", "/docs.json", "/docs/", "/schema.json/", "/assets/x", "/a/../b", "/%00"])
@pytest.mark.parametrize("key", [True, False])
def test_unknown_path_is_404_with_or_without_a_key(service: Service, path: str, key: bool) -> None:
    error_of(service.request("GET", path, key=service.key if key else None), 404, "not_found")


def test_wrong_method_names_the_right_one(service: Service) -> None:
    answer = service.request("GET", "/v1/predict", key=service.key)
    error_of(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "image/png", 400, "bad_input"),
        (b"I am a text called photo.jpg", "image/jpeg", 400, "bad_input"),
        (large_noise()[:5000], "image/png", 400, "bad_input"),
        (png_header(30_000, 30_000), "image/png", 413, "too_large"),
        (png_header(9_500, 9_400), "image/png", 413, "too_large"),
        (large_noise(), "image/png", 413, "too_large"),
        (b"x", "text/plain", 415, "unsupported_type"),
        (b"x", None, 415, "unsupported_type"),
        (b"x", "application/vnd.bentoml+pickle", 415, "unsupported_type"),
        (b"x", "image/svg+xml", 415, "unsupported_type"),
        (b"{", "application/json", 400, "bad_input"),
        (b"[]", "application/json", 400, "bad_input"),
        (b"{}", "application/json", 400, "bad_input"),
        (b'{"image": "x", "images": []}', "application/json", 400, "bad_input"),
        (b'{"images": []}', "application/json", 400, "bad_input"),
        (b'{"image": 3}', "application/json", 400, "bad_input"),
        (b'{"image": "%%%"}', "application/json", 400, "bad_input"),
        (b'{"image": "aGk=", "url": "http://x"}', "application/json", 400, "bad_input"),
        (b'{"image": "aGk=", "top_k": true}', "application/json", 400, "bad_input"),
        (b'{"image": "\\ud800"}', "application/json", 400, "bad_input"),
        (b"x", "multipart/form-data", 400, "bad_input"),
        (b"x", "multipart/form-data; boundary=b", 400, "bad_input"),
    ],
)
def test_bad_body_gets_a_clear_answer(service: Service, content: bytes, kind: str | None, status: int, code: str) -> None:
    assert error_of(service.predict(content, kind), status, code)["hint"]


@pytest.mark.parametrize("top_k", ["0", "-1", "x", "1.5", "9999999", "²", ""])
def test_wrong_top_k_is_said(service: Service, digits: list[bytes], top_k: str) -> None:
    error_of(service.predict(digits[0], query=f"?top_k={top_k}"), 400, "bad_input")


def test_too_many_images_are_refused(service: Service, digits: list[bytes]) -> None:
    files = [("f", (f"{i}.png", digits[0], "image/png")) for i in range(5)]
    error_of(service.request("POST", "/v1/predict", key=service.key, files=files), 413, "too_large")
    body = json.dumps({"images": [base64.b64encode(digits[0]).decode()] * 4}).encode()
    error_of(service.predict(body, "application/json"), 413, "too_large")


def test_text_fields_of_a_form_are_no_images(service: Service) -> None:
    error_of(service.request("POST", "/v1/predict", key=service.key, files=[("path", (None, "/etc/passwd"))]), 400, "bad_input")


def test_form_may_say_how_many_labels_and_nothing_else(service: Service, digits: list[bytes]) -> None:
    file = ("file", ("a.png", digits[0], "image/png"))
    answer = service.request("POST", "/v1/predict?top_k=9", key=service.key, files=[file, ("top_k", (None, "2"))])
    assert len(answer.json()["predictions"][0]["labels"]) == 2
    error_of(service.request("POST", "/v1/predict", key=service.key, files=[file, ("top_k", (None, "two"))]), 400, "bad_input")
    error = error_of(service.request("POST", "/v1/predict", key=service.key, files=[file, ("url", (None, "http://a/b.png"))]), 400, "bad_input")
    assert "url" in error["message"]


def test_form_that_breaks_off_is_refused_rather_than_answered_in_part(service: Service, digits: list[bytes]) -> None:
    parts = [b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + image + b"\r\n" for image in digits[:2]]
    kind = "multipart/form-data; boundary=b"
    assert len(service.predict(b"".join(parts) + b"--b--\r\n", kind).json()["predictions"]) == 2
    assert "breaks off" in error_of(service.predict(b"".join(parts)[:-20], kind), 400, "bad_input")["message"]


def test_compressed_body_is_refused(service: Service, digits: list[bytes]) -> None:
    headers = {"content-type": "image/png", "content-encoding": "gzip"}
    answer = service.request("POST", "/v1/predict", key=service.key, headers=headers, content=digits[0])
    error_of(answer, 415, "unsupported_type")


def test_paths_of_strangers_make_no_series_sglang_31193(service: Service) -> None:
    """sglang PR#31193: a label a raw path blew /metrics up."""

    def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in service.request("GET", "/metrics").text.splitlines() if not line.startswith("#")}

    service.request("GET", "/first-stranger")
    before = series()
    for number in range(100):
        service.request("GET", f"/wp-admin/{number}.php?x={number}")
    assert len(series() - before) <= 2


def test_counters_that_alerts_look_at_are_there_before_they_count(service: Service) -> None:
    """The first increment of a series that was not there before is none to Prometheus."""
    text = service.request("GET", "/metrics").text
    reasons = set(re.findall(r'^fmx_shed_total\{reason="(\w+)"\}', text, re.MULTILINE))
    assert reasons >= {"overloaded", "deadline", "over_rate", "over_quota", "slow_body", "too_large"}
    assert 'fmx_requests_total{route="/v1/predict",status="500"} 0.0' in text


def test_metrics_count_what_happened(service: Service, digits: list[bytes]) -> None:
    def value(name: str) -> float:
        lines = service.request("GET", "/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))

    ok = 'fmx_requests_total{route="/v1/predict",status="200"}'
    before, rows, shed = value(ok), value("fmx_predictions_total"), value("fmx_shed_total")
    service.predict(digits[0])
    service.predict(json.dumps({"images": [base64.b64encode(data).decode() for data in digits]}).encode(), "application/json")
    service.predict(large_noise())
    assert value(ok) == before + 2
    assert value("fmx_predictions_total") == rows + 4
    assert value("fmx_shed_total") == shed + 1
    assert value("fmx_ready_workers") == 1


def test_making_the_service_twice_in_one_process_works(service: Service, digits: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_AUTH", "off")
    new_app()
    assert service.predict(digits[0]).status_code == 200


def test_altered_package_is_never_ready(small_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    copy = Path(shutil.copytree(small_package.folder, tmp_path / "copy"))
    with (copy / f"model.{INT8}.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    monkeypatch.setenv("FMX_PACKAGE", str(copy))
    monkeypatch.setenv("FMX_AUTH", "off")
    refused = Service("")
    try:
        assert f"model.{INT8}.onnx" in error_of(refused.request("GET", "/readyz"), 503, "not_ready")["message"]
        assert refused.request("GET", "/livez").status_code == 200
        error_of(refused.predict(b"x"), 503, "not_ready")
    finally:
        refused.close()


def test_body_that_comes_too_slowly_is_408(small_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_PACKAGE", str(small_package.folder))
    monkeypatch.setenv("FMX_AUTH", "off")
    monkeypatch.setenv("FMX_BODY_SECONDS", "0.3")
    service = Service("")

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x"
            await asyncio.sleep(0.05)

    error_of(service.predict(content=cast(bytes, drip())), 408, "slow_body")
    service.close()


def slow_decoding(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[float]:
    """Make every decoding of a service that is started from now on take so long, and give the list of when each begins."""
    begun: list[float] = []
    decode = ImageReader.decode

    def slow(self: ImageReader, data: bytes, limit: int) -> Decoded:
        begun.append(time.monotonic())
        time.sleep(seconds)
        return decode(self, data, limit)

    monkeypatch.setattr(ImageReader, "decode", slow)
    return begun


def test_bad_image_takes_its_neighbours_work_back_too(small_package: Package, digits: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """bentoml/BentoML#5642: what a refused request brought must not be worked on behind its answer."""
    monkeypatch.setenv("FMX_PACKAGE", str(small_package.folder))
    monkeypatch.setenv("FMX_AUTH", "off")
    monkeypatch.setenv("FMX_THREADS", "1")
    monkeypatch.setenv("FMX_MAX_INPUTS", "32")
    begun = slow_decoding(monkeypatch, 0.2)
    service = Service("")
    content = {"images": [base64.b64encode(image).decode() for image in (b"broken", *digits * 4)]}
    answer = service.predict(json.dumps(content).encode(), kind="application/json")
    service.close()
    error_of(answer, 400, "bad_input")
    assert 1 <= len(begun) <= 3  # of 13: one by each of two threads, and one that began in the very moment of the failure


def test_bodies_that_would_fill_the_memory_are_429(small_package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_PACKAGE", str(small_package.folder))
    monkeypatch.setenv("FMX_AUTH", "off")
    monkeypatch.setenv("FMX_MAX_BODY_BYTES", "1000")
    monkeypatch.setenv("FMX_BODIES_BYTES", "1500")
    service = Service("")

    async def both() -> list[int]:
        async def drip() -> AsyncIterator[bytes]:
            for _ in range(8):
                yield b"x"
                await asyncio.sleep(0.05)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://test") as client:
            asked = [client.post("/v1/predict", content=drip(), headers={"content-type": "image/png"}) for _ in range(2)]
            return sorted(answer.status_code for answer in await asyncio.gather(*asked))

    assert service.loop.run_until_complete(both()) == [400, 429]
    service.close()


def test_deadline_covers_decoding_and_what_is_past_it_is_not_decoded(
    small_package: Package, digits: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """bentoml/BentoML#5642: work went on behind an answer that was given up, more of it at once than there were slots."""
    monkeypatch.setenv("FMX_PACKAGE", str(small_package.folder))
    monkeypatch.setenv("FMX_AUTH", "off")
    monkeypatch.setenv("FMX_THREADS", "1")
    monkeypatch.setenv("FMX_TIMEOUT_SECONDS", "0.5")
    monkeypatch.setenv("FMX_MAX_INPUTS", "6")
    begun = slow_decoding(monkeypatch, 0.4)
    service = Service("")
    content = {"images": [base64.b64encode(image).decode() for image in (*digits, *digits)]}
    error_of(service.predict(json.dumps(content).encode(), kind="application/json"), 504, "deadline")
    service.close()
    assert len(begun) == 4  # two by each of two threads
