"""The service with a model that reads texts, in this process: what it answers, refuses, describes, logs and watches."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmx import tasks, texts
from fmx.data import open_source
from fmx.drift import FEATURES
from fmx.package import Package
from fmx.predictor import PackagePredictor
from fmx.texts import TextReader
from serve import metrics
from serve.access.keys import create_key
from serve.drift import DriftMonitor, read_reference
from serve.lanes import open_lanes
from serve.scaling.capacity import golden_bodies
from serve.settings import ServeSettings
from tests.e2e.conftest import eventually
from tests.serve.test_openapi import assert_service_is_as_described
from tests.serve.test_service import Service, error_of, running
from tests.texts import CLASSES, make_texts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

TEXTS = [text for text, _ in make_texts(12, seed=5)]
ODD = [
    "a\0b late",
    "\u202elate\u202c card",
    "one\u200btwo",
    "مرحبا بالعالم",
    "👨\u200d👩\u200d👧 thanks",
    "cafe\u0301 late",
    "ｌａｔｅ",
    "[PAD] [MASK] late",
    "x" * 99_000,
    "\ufefflate",
    "\U00020000 \U0001f600",
]
JSON = "application/json"


@pytest.fixture(scope="module")
def service(text_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(text_package, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture(scope="module")
def predictor(text_package: Package) -> PackagePredictor:
    return PackagePredictor.open(text_package.folder)


def ask(service: Service, content: Any, query: str = "") -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return service.predict(body, JSON, query)


def labels(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["labels"][0]["label"] for item in answer.json()["predictions"]]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Scores may differ in the last places: rows of a batch are padded to its longest."""
    assert [[one["label"] for one in item["labels"]] for item in found] == [[one["label"] for one in item["labels"]] for item in expected]
    scores = [np.array([one["score"] for item in side for one in item["labels"]]) for side in (found, expected)]
    assert np.allclose(scores[0], scores[1], atol=1e-5)


def test_model_tells_the_texts_apart(predictor: PackagePredictor) -> None:
    """What follows would prove little with a model that answers the same to everything."""
    rows = make_texts(60, seed=9)
    found = predictor.predict([text.encode() for text, _ in rows], 1)
    assert np.mean([item["labels"][0]["label"] == label for item, (_, label) in zip(found, rows, strict=True)]) > 0.8


def test_one_text_gets_the_predictors_answer(service: Service, predictor: PackagePredictor, text_package: Package) -> None:
    for text in TEXTS[:3]:
        expected = predictor.predict([text.encode()])
        for answer in (
            ask(service, {"text": text}),
            service.predict(text.encode(), "text/plain"),
            service.predict(text.encode(), "Text/Plain; charset=UTF-8"),
        ):
            assert_same(answer.json()["predictions"], expected)
            assert answer.json()["model"]["name"] == text_package.name


def test_many_texts_are_answered_in_order(service: Service, predictor: PackagePredictor) -> None:
    answer = ask(service, {"texts": TEXTS, "top_k": 2})
    assert_same(answer.json()["predictions"], predictor.predict([text.encode() for text in TEXTS], 2))
    assert len(set(labels(answer))) == len(CLASSES)
    assert labels(ask(service, {"texts": TEXTS[::-1]})) == labels(answer)[::-1]


def test_top_k_of_the_body_goes_before_the_querys(service: Service) -> None:
    assert len(ask(service, {"text": TEXTS[0], "top_k": 1}, "?top_k=2").json()["predictions"][0]["labels"]) == 1
    assert len(service.predict(TEXTS[0].encode(), "text/plain", "?top_k=2").json()["predictions"][0]["labels"]) == 2
    assert len(ask(service, {"text": TEXTS[0], "top_k": None}).json()["predictions"][0]["labels"]) == len(CLASSES)
    error_of(ask(service, {"text": "late", "top_k": 1}, "?top_k=1001"), 400, "bad_input")
    for wrong in ({"top_k": 0}, {"top_k": True}, {"top_k": "1"}, {"top_k": 1.5}, {"top_k": 10**30}):
        error_of(ask(service, {"text": "late", **wrong}), 400, "bad_input")


@pytest.mark.parametrize("text", ODD)
def test_odd_text_gets_the_predictors_answer(service: Service, predictor: PackagePredictor, text: str) -> None:
    expected = predictor.predict([text.encode()])
    assert_same(ask(service, {"texts": ["late", text]}).json()["predictions"][1:], expected)
    assert_same(service.predict(text.encode(), "text/plain").json()["predictions"], expected)


def form(*parts: tuple[str, bytes]) -> bytes:
    made = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n" for name, value in parts]
    return b"".join(made) + b"--b--\r\n"


def png() -> bytes:
    return open_source("digits").splits["test"][0].read()


REFUSED: list[tuple[bytes, str | None, int, str]] = [
    (b"", "text/plain", 400, "bad_input"),
    (b"", JSON, 400, "bad_input"),
    (b" \t\r\n ", "text/plain", 400, "bad_input"),
    ("naïve".encode("latin-1"), "text/plain; charset=iso-8859-1", 415, "unsupported_type"),
    ("\u200b\ufeff\u200d".encode(), "text/plain", 400, "bad_input"),
    (b"\0", "text/plain", 400, "bad_input"),
    (b"\xff\xfe", "text/plain", 400, "bad_input"),
    ("grüße".encode("latin-1"), "text/plain", 400, "bad_input"),
    (b"\xed\xa0\x80", "text/plain", 400, "bad_input"),
    (b"late " * 20_001, "text/plain", 413, "too_large"),
    (b"a" * 10_000_000, "text/plain", 413, "too_large"),
    (b"a" * 21_000_000, "text/plain", 413, "too_large"),
    (b'{"text": "' + b"a" * 10_000_000 + b'"}', JSON, 413, "too_large"),
    (json.dumps({"texts": ["a" * 60_000] * 2}).encode(), JSON, 413, "too_large"),
    (b'{"text": "\\ud800"}', JSON, 400, "bad_input"),
    (b'{"text": "late \\udc00\\ud800"}', JSON, 400, "bad_input"),
    (b'{"text": "late\xff"}', JSON, 400, "bad_input"),
    (b'{"text": "\\u0000"}', JSON, 400, "bad_input"),
    (b'{"text": ""}', JSON, 400, "bad_input"),
    (b'{"text": "  "}', JSON, 400, "bad_input"),
    (b'{"texts": ["late", ""]}', JSON, 400, "bad_input"),
    (b'{"texts": ["late", " "]}', JSON, 400, "bad_input"),
    (b'{"texts": []}', JSON, 400, "bad_input"),
    (b'{"texts": "late"}', JSON, 400, "bad_input"),
    (b'{"texts": ["late", null]}', JSON, 400, "bad_input"),
    (b'{"texts": [["late"]]}', JSON, 400, "bad_input"),
    (b'{"texts": {"0": "late"}}', JSON, 400, "bad_input"),
    (b'{"text": null}', JSON, 400, "bad_input"),
    (b'{"text": 3}', JSON, 400, "bad_input"),
    (b'{"text": ["late"]}', JSON, 400, "bad_input"),
    (b'{"text": "late", "texts": ["late"]}', JSON, 400, "bad_input"),
    (b'{"text": "late", "url": "http://x"}', JSON, 400, "bad_input"),
    (b'{"image": "aGk="}', JSON, 400, "bad_input"),
    (b'{"images": ["aGk="]}', JSON, 400, "bad_input"),
    (b'["late"]', JSON, 400, "bad_input"),
    (b'"late"', JSON, 400, "bad_input"),
    (b"{" * 3000, JSON, 400, "bad_input"),
    (b'{"texts": ' + b"[" * 3000, JSON, 400, "bad_input"),
    (json.dumps({"texts": ["late"] * 1000}).encode(), JSON, 413, "too_large"),
    (png(), "image/png", 415, "unsupported_type"),
    (png(), "text/plain", 400, "bad_input"),
    (png(), JSON, 400, "bad_input"),
    (form(("text", b"late")), "multipart/form-data; boundary=b", 415, "unsupported_type"),
    (b"text=late", "application/x-www-form-urlencoded", 415, "unsupported_type"),
    (b"late", None, 415, "unsupported_type"),
    (b"late", "text/html", 415, "unsupported_type"),
    (b"late", "application/octet-stream", 415, "unsupported_type"),
]


@pytest.mark.parametrize(("content", "kind", "status", "code"), REFUSED, ids=range(len(REFUSED)))
def test_bad_body_gets_a_clear_answer_about_texts(service: Service, content: bytes, kind: str | None, status: int, code: str) -> None:
    hint = error_of(service.predict(content, kind), status, code)["hint"]
    assert hint
    assert not re.search("image|picture|pixel|file", hint)


def test_compressed_body_is_refused_without_a_word_of_images(service: Service) -> None:
    headers = {"content-type": "text/plain", "content-encoding": "gzip"}
    answer = service.request("POST", "/v1/predict", key=service.key, headers=headers, content=b"late")
    assert "image" not in error_of(answer, 415, "unsupported_type")["hint"]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=200), max_size=40), body=st.binary(max_size=40))
def test_no_text_makes_a_5xx(service: Service, texts: list[str], body: bytes) -> None:
    for answer in (ask(service, {"texts": texts}), service.predict(body, "text/plain"), ask(service, body)):
        assert answer.status_code in (200, 400, 413), answer.text
        if answer.status_code == 200 and b"predictions" in answer.content:
            assert answer.json()["predictions"]


# The Open Inference Protocol


def infer(service: Service, name: str, content: Any, tail: bytes = b"") -> httpx.Response:
    head = json.dumps(content).encode()
    headers = {"inference-header-content-length": str(len(head))} if tail else {}
    return service.request("POST", f"/v2/models/{name}/infer", key=service.key, headers=headers, content=head + tail)


def tensor(shape: list[Any], data: Any = None, kind: str = "BYTES", name: str = "text", **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "shape": shape, "datatype": kind, **({} if data is None else {"data": data}), **more}]}


def binary(texts: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def test_protocol_gives_the_predictors_answer(service: Service, predictor: PackagePredictor) -> None:
    name, encoded = predictor.package.name, [text.encode() for text in [*TEXTS, ODD[3], ODD[6]]]
    expected = np.concatenate([predictor.run(predictor.task.row(text)[None]) for text in encoded])
    tail, count = binary(encoded), [len(encoded)]
    for content, rest in (
        (tensor(count, [text.decode() for text in encoded]), b""),
        (tensor(count, parameters={"binary_data_size": len(tail)}), tail),
    ):
        answer = infer(service, name, content, rest)
        assert answer.status_code == 200, answer.text
        outputs = {output["name"]: output for output in answer.json()["outputs"]}
        assert outputs["probabilities"]["shape"] == [*count, len(CLASSES)]
        assert np.allclose(np.reshape(outputs["probabilities"]["data"], expected.shape), expected, atol=1e-5)
        assert outputs["label"]["data"] == [predictor.contract.labels[int(row.argmax())] for row in expected]


def test_tritons_own_client_is_understood(service: Service, predictor: PackagePredictor) -> None:
    client = pytest.importorskip("tritonclient.http")
    given = client.InferInput("text", [3], "BYTES")
    given.set_data_from_numpy(np.array([text.encode() for text in TEXTS[:3]], dtype=object), binary_data=True)
    wanted = [client.InferRequestedOutput("label", binary_data=True), client.InferRequestedOutput("probabilities", binary_data=True)]
    body, length = client.InferenceServerClient.generate_request_body([given], outputs=wanted)
    headers = {"inference-header-content-length": str(length)}
    answer = service.request("POST", f"/v2/models/{predictor.package.name}/infer", key=service.key, headers=headers, content=body)
    assert answer.status_code == 200, answer.text
    header = int(answer.headers["inference-header-content-length"])
    read = client.InferenceServerClient.parse_response_body(answer.content, header_length=header)
    expected = predictor.predict([text.encode() for text in TEXTS[:3]], 1)
    assert [label.decode() for label in read.as_numpy("label")] == [item["labels"][0]["label"] for item in expected]
    assert read.as_numpy("probabilities").shape == (3, len(CLASSES))


@pytest.mark.parametrize(
    ("content", "tail", "status"),
    [
        (tensor([1], ["late"], name="images"), b"", 422),
        (tensor([1], ["late"], name="input_ids"), b"", 422),
        (tensor([1], ["late"], kind="UINT8"), b"", 422),
        (tensor([1, 32], [0] * 32, kind="INT32"), b"", 422),
        (tensor([1], ["late"], kind="FP32"), b"", 422),
        (tensor([1, 1], [["late"]]), b"", 422),
        (tensor([], ["late"]), b"", 400),
        (tensor([0], []), b"", 400),
        (tensor([2], ["late"]), b"", 422),
        (tensor([1], [3]), b"", 422),
        (tensor([1], [["late"]]), b"", 422),
        (tensor([1], "late"), b"", 422),
        (tensor([1]), b"", 422),
        (tensor([1], [""]), b"", 400),
        (tensor([1], [" \u200b"]), b"", 400),
        (tensor([2], ["late", "\0"]), b"", 400),
        (tensor([33], ["late"] * 33), b"", 413),
        (tensor([1], ["a" * 100_001]), b"", 413),
        (tensor([1], parameters={"binary_data_size": 6}), binary([b"\xff\xfe"]), 400),
        (tensor([1], parameters={"binary_data_size": 4}), binary([b""]), 400),
        (tensor([1], parameters={"binary_data_size": 4}), b"late", 422),
        (tensor([1], parameters={"binary_data_size": 9}), binary([b"late"]), 400),
        (tensor([2], parameters={"binary_data_size": 8}), binary([b"late"]), 422),
        (tensor([1], parameters={"binary_data_size": 16}), binary([b"late", b"card"]), 422),
        (tensor([1], ["late"]) | {"outputs": [{"name": "logits"}]}, b"", 422),
    ],
)
def test_what_is_no_request_is_a_4xx_with_the_protocols_error(
    service: Service, predictor: PackagePredictor, content: Any, tail: bytes, status: int
) -> None:
    answer = infer(service, predictor.package.name, content, tail)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_metadata_describe_texts(service: Service, predictor: PackagePredictor) -> None:
    model = service.request("GET", f"/v2/models/{predictor.package.name}", key=service.key).json()
    assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert model["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(CLASSES)]}
    assert "encoded_images" not in model["parameters"]
    client = service.request("GET", "/schema.json", key=service.key).json()["routes"][0]
    assert set(client["input"]["properties"]) == {"text", "texts", "top_k"}


# What browsers and programs are told


def test_page_has_a_field_for_a_text_and_keeps_its_policy(service: Service) -> None:
    answer = service.request("GET", "/")
    assert re.search(r'<label for="text">.*<textarea id="text"', answer.text, re.DOTALL)
    assert 'type="file"' not in answer.text
    assert "picture" not in answer.text.lower()
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    for tag in ("style", "script"):
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert found
        for content in found:
            assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy[f"{tag}-src"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not re.search(r"<[^>]+\s(on\w+|style)=", answer.text)
    wanted = set(re.findall(r'byId\("([\w-]+)"\)', answer.text))
    assert wanted - {"key"} <= set(re.findall(r'id="([\w-]+)"', answer.text))


def test_description_is_of_texts(service: Service) -> None:
    described = service.request("GET", "/openapi.json").json()
    content = described["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"text/plain", JSON}
    assert content[JSON]["schema"]["$ref"].endswith("/Texts")
    assert "Images" not in described["components"]["schemas"]
    assert described["components"]["schemas"]["InferInput"]["properties"]["name"] == {"const": "text"}
    for page in (json.dumps(described), service.request("GET", "/docs").text):
        assert "text" in page
        assert not re.search(r"\b(image|picture)s?\b", page, re.IGNORECASE)


def test_description_and_service_agree(text_package: Package, tmp_path: Path) -> None:
    assert_service_is_as_described(text_package, tmp_path)


# Under load, in the logs, over time


def test_short_and_long_texts_at_once_get_their_own_answers(service: Service, predictor: PackagePredictor) -> None:
    chooser = np.random.default_rng(0)
    texts = [" ".join([text] * int(chooser.integers(1, 40))) for text, _ in make_texts(60, seed=7)]
    chooser.shuffle(texts)
    expected = [predictor.predict([text.encode()])[0] for text in texts]

    async def all_at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://test") as client:
            headers = {"x-api-key": service.key}
            return await asyncio.gather(*(client.post("/v1/predict", json={"text": text}, headers=headers) for text in texts))

    answers = service.loop.run_until_complete(all_at_once())
    assert_same([answer.json()["predictions"][0] for answer in answers], expected)


SECRET = "xyzzy7secret"


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_text_is_ever_logged(
    text_package: Package,
    tmp_path: Path,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FMX_PACKAGE", str(text_package.folder))
    monkeypatch.setenv("FMX_AUTH", "off")
    monkeypatch.setenv("FMX_LOG_FORMAT", form)
    monkeypatch.setenv("FMX_AUDIT_FILE", str(tmp_path / "audit.jsonl"))
    caplog.set_level(logging.DEBUG)
    service = Service("")
    try:
        name = text_package.name
        for content in ({"text": f"late {SECRET}"}, {"texts": [SECRET] * 1000}, {SECRET: "late"}, {"text": "late", SECRET: 1}, {"text": [SECRET]}):
            ask(service, content)
        ask(service, b'{"text": "' + SECRET.encode() + b"\xff")
        service.predict(SECRET.encode() + b"\xff", "text/plain")
        service.predict(SECRET.encode(), f"text/{SECRET}")
        service.predict(SECRET.encode() * 20_000, "text/plain")
        infer(service, name, tensor([1], [f"late {SECRET}"]))
        infer(service, name, tensor([2], [SECRET]))
        infer(service, name, tensor([1], [SECRET], name=SECRET))
        batcher = service_batcher(service)
        for broken, attribute in ((batcher, "_decode"), (texts, "batch_length")):  # in reading, and on the way into the graph
            with monkeypatch.context() as patch:
                patch.setattr(broken, attribute, fail)
                assert ask(service, {"text": f"late {SECRET}"}).status_code == 500
                assert infer(service, name, tensor([1], [f"late {SECRET}"])).status_code == 500
    finally:
        service.close()
    said = "".join(capsys.readouterr())
    for log in (said, caplog.text):
        assert log.count("a fault of ours") >= 4
        assert SECRET not in log
    assert (tmp_path / "audit.jsonl").read_text().count("\n") > 10
    assert SECRET not in (tmp_path / "audit.jsonl").read_text()


def fail(*_: object) -> None:
    raise KeyError("a fault of ours")


def service_batcher(service: Service) -> Any:
    return engine_of(service)._served.batcher


def engine_of(service: Service) -> Any:
    app = service.app
    while not hasattr(app, "_engine"):
        app = app._app if hasattr(app, "_app") else app.app
    return app._engine


def watched(predictor: PackagePredictor, texts: list[str]) -> dict[str, float]:
    for name in FEATURES:
        metrics.drift_alarm.labels(name).set(0)
    reference = read_reference(predictor.package.folder, predictor.contract.labels)
    monitor = DriftMonitor(reference, predictor.task.features, window_rows=2000, least_rows=100, rows_per_second=1e9)
    monitor.show(shown=True)
    decoded = [predictor.task.decode(text.encode()) for text in texts]
    for row, probabilities in zip(decoded, predictor.run_all(np.stack([row.values for row in decoded])), strict=True):
        while monitor._rows.full():
            pass
        monitor.offer(row, probabilities)
    monitor.close()
    return {name: metrics.drift_alarm.labels(name)._value.get() for name in FEATURES}


def test_reference_holds_what_is_measured_of_texts(predictor: PackagePredictor) -> None:
    reference = read_reference(predictor.package.folder, predictor.contract.labels)
    assert set(reference) == {"tokens", "unknown_share", "latin_share", "han_share", "confidence", "entropy", "class_share"}
    assert reference["latin_share"][0] > 0  # texts in Chinese
    assert reference["latin_share"][-1] > 0  # texts in English


def test_texts_like_the_reference_raise_no_alarm(predictor: PackagePredictor) -> None:
    assert not any(watched(predictor, [text for text, _ in make_texts(300, seed=11)]).values())


@pytest.mark.parametrize(
    ("texts", "names"), [("Cyrillic", {"latin_share"}), ("Chinese", {"latin_share", "han_share"}), ("English", {"latin_share", "han_share"})]
)
def test_texts_in_another_script_raise_the_alarm(predictor: PackagePredictor, texts: str, names: set[str]) -> None:
    made = [text for text, _ in make_texts(600, seed=12)]
    chosen = {
        "Cyrillic": ["где моя посылка", "верните деньги", "спасибо большое"] * 100,
        "Chinese": [text for text in made if not text.isascii()],
        "English": [text for text in made if text.isascii()],
    }[texts]
    alarms = watched(predictor, chosen)
    assert names <= {name for name, alarm in alarms.items() if alarm}


def test_sessions_of_a_package_share_its_tokenizer(text_package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def open_tokenizer(path: Path, sha256: str | None = None) -> Any:
        read.append(path)
        return texts.open_tokenizer(path, sha256)

    monkeypatch.setattr(tasks, "open_tokenizer", open_tokenizer)
    lanes = open_lanes(text_package, ServeSettings(threads=2))
    assert lanes.predictor.predict([b"the courier was late"])
    assert read == [text_package.folder / texts.TOKENIZER_FILE]


def test_every_length_has_batches_of_its_own_size(text_package: Package) -> None:
    window = text_package.manifest.input.max_length  # type: ignore[union-attr]
    measured = open_lanes(text_package, ServeSettings(threads=2)).lanes.bucket_rows
    assert list(measured) == list(range(texts.STEP.bit_length(), window.bit_length() + 1))
    told = open_lanes(text_package, ServeSettings(threads=2, batch_rows=7)).lanes
    assert [told.together(bucket) for bucket in measured] == [7] * len(measured)


# A model of images in its place, and back


@pytest.fixture
def both(light_package: Package, text_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name, package in (("images", light_package), ("texts", text_package)):
        shutil.copytree(package.folder, tmp_path / "packages" / name)
    (tmp_path / "packages" / "latest").write_text("images\n")
    monkeypatch.setenv("FMX_HOME", str(tmp_path))
    monkeypatch.setenv("FMX_KEYS_FILE", str(tmp_path / "keys.json"))
    _, key = create_key(tmp_path / "keys.json", "operator", scopes=("predict", "admin"))
    made = Service(key)
    yield made
    made.close()


def test_each_request_is_answered_by_the_package_that_read_it(both: Service, light_package: Package, text_package: Package, tmp_path: Path) -> None:
    picture, headers = png(), {"x-api-key": both.key}
    known = {"image": set(light_package.manifest.labels), "text": set(text_package.manifest.labels)}

    async def ask_both(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        of_image = client.post("/v1/predict", content=picture, headers={**headers, "content-type": "image/png"})
        of_text = client.post("/v1/predict", json={"text": "the courier was late"}, headers=headers)
        found = await asyncio.gather(of_image, of_text)
        return found[0], found[1]

    async def while_swapping(name: str) -> list[tuple[httpx.Response, httpx.Response]]:
        (tmp_path / "packages" / "latest").write_text(f"{name}\n")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(both.app), base_url="http://test", timeout=60) as client:
            swap = asyncio.create_task(client.post("/v1/admin/reload", headers=headers))
            found = []
            while not swap.done():
                found.append(await ask_both(client))
            assert swap.result().status_code == 200, swap.result().text
            return [*found, await ask_both(client)]

    def check(found: list[tuple[httpx.Response, httpx.Response]]) -> None:
        for pair in found:
            for answer, noun in zip(pair, ("image", "text"), strict=True):
                assert answer.status_code in (200, 400, 415), answer.text
                if answer.status_code == 200:
                    assert {one["label"] for one in answer.json()["predictions"][0]["labels"]} <= known[noun]

    def page() -> str:
        return both.request("GET", "/").text

    assert 'type="file"' in page()
    for name, statuses in (("texts", [415, 200]), ("images", [200, 400])):
        found = both.loop.run_until_complete(while_swapping(name))
        check(found)
        assert [answer.status_code for answer in found[-1]] == statuses
        assert ("<textarea" in page()) == (name == "texts")
        described = both.request("GET", "/openapi.json").json()["components"]["schemas"]
        assert ("Texts" in described) == (name == "texts")


def test_alarm_of_a_package_ends_with_it(both: Service, tmp_path: Path) -> None:
    """An alarm of brightness would stand for ever where texts are read."""

    def alarm(name: str) -> float:
        return float(metrics.drift_alarm.labels(name)._value.get())

    metrics.drift_alarm.labels("brightness").set(1)
    (tmp_path / "packages" / "latest").write_text("texts\n")
    assert both.request("POST", "/v1/admin/reload", key=both.key).status_code == 200
    assert eventually(lambda: alarm("brightness") == 0, 2)


def test_reader_of_the_service_takes_the_limit_that_is_set(text_package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_PACKAGE", str(text_package.folder))
    monkeypatch.setenv("FMX_AUTH", "off")
    monkeypatch.setenv("FMX_MAX_CHARACTERS", "5")
    service = Service("")
    try:
        assert ask(service, {"text": "late!"}).status_code == 200
        assert ask(service, {"text": "太慢太慢太"}).status_code == 200
        assert "5" in error_of(ask(service, {"text": "later!"}), 413, "too_large")["message"]
    finally:
        service.close()


Spoil = Callable[[Path], None]


def cut_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()[:-1])


def lose_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("spoil", [cut_tokenizer, lose_tokenizer])
def test_package_with_another_tokenizer_is_never_ready(text_package: Package, tmp_path: Path, spoil: Spoil, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(text_package.folder, tmp_path / "copy"))
    spoil(copy)
    monkeypatch.setenv("FMX_PACKAGE", str(copy))
    monkeypatch.setenv("FMX_AUTH", "off")
    service = Service("")
    try:
        assert "tokenizer.json" in error_of(service.request("GET", "/readyz"), 503, "not_ready")["message"]
        error_of(ask(service, {"text": "late"}), 503, "not_ready")
    finally:
        service.close()


def test_text_is_not_read_past_its_deadline_or_twice(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tokenisation a text, and none where the request was refused for its number."""
    seen: list[bytes] = []
    batcher = service_batcher(service)
    decode = batcher._decode

    def counted(data: bytes) -> Any:
        seen.append(data)
        return decode(data)

    monkeypatch.setattr(batcher, "_decode", counted)
    ask(service, {"texts": TEXTS[:4]})
    ask(service, {"texts": TEXTS[:4] * 10})
    assert sorted(seen) == sorted(text.encode() for text in TEXTS[:4])
    assert isinstance(engine_of(service)._served.predictor.task.decode.__self__, TextReader)


def test_golden_rows_become_texts_again_without_what_is_unknown(text_package: Package, predictor: PackagePredictor, tmp_path: Path) -> None:
    bodies = golden_bodies(text_package)
    assert len(bodies) == 8
    assert {kind for _, kind in bodies} == {"text/plain"}
    copy = Path(shutil.copytree(text_package.folder, tmp_path / "copy"))
    row = predictor.task.row("late 🎉 my card".encode())
    assert (row == text_package.manifest.input.unknown_id).any()  # type: ignore[union-attr]
    np.savez(copy / "golden.npz", rows=row[None])
    assert golden_bodies(Package(copy, text_package.manifest, "")) == [(b"late my card", "text/plain")]
