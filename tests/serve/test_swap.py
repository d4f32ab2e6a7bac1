"""Another package takes the place of the one that is served, in a running worker: by its path, by a wish, back again, and in the shadow."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fmx.data import open_source
from fmx.package import MANIFEST, Package
from serve.access.keys import create_key
from tests.e2e.conftest import eventually
from tests.serve.test_service import Service

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def copy_of(package: Package, target: Path, version: str) -> Path:
    """A package that differs by its version alone."""
    shutil.copytree(package.folder, target)
    manifest = json.loads((target / MANIFEST).read_text())
    (target / MANIFEST).write_text(json.dumps({**manifest, "version": version}))
    return target


def point_to(home: Path, name: str) -> None:
    (home / "packages" / "latest").write_text(f"{name}\n")


def lay_out(package: Package, home: Path) -> None:
    """Two packages, old and new, of which the old one is the latest."""
    for name in ("old", "new"):
        copy_of(package, home / "packages" / name, name)
    point_to(home, "old")


@pytest.fixture
def home(small_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lay_out(small_package, tmp_path)
    monkeypatch.setenv("FMX_HOME", str(tmp_path))
    monkeypatch.setenv("FMX_KEYS_FILE", str(tmp_path / "keys.json"))
    return tmp_path


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    _, text = create_key(home / "keys.json", "operator", scopes=("predict", "admin"))
    made = Service(text)
    yield made
    made.close()


@pytest.fixture(scope="module")
def image() -> bytes:
    return open_source("digits").splits["test"][0].read()


def version(service: Service, image: bytes) -> str:
    return str(service.predict(image).json()["model"]["version"])


def reload(service: Service, to: str | None = None) -> tuple[int, dict[str, object]]:
    options = {"json": {"to": to}} if to else {}
    answer = service.request("POST", "/v1/admin/reload", key=service.key, **options)
    return answer.status_code, answer.json()


def test_latest_that_was_moved_is_followed_and_no_request_fails_meanwhile(service: Service, home: Path, image: bytes) -> None:
    assert version(service, image) == "old"
    threading.Timer(0.2, point_to, (home, "new")).start()
    seen = []
    assert eventually(lambda: seen.append(service.predict(image)) or seen[-1].json()["model"]["version"] == "new")  # type: ignore[func-returns-value]
    assert {answer.status_code for answer in seen} == {200}
    assert 'result="swapped"' in service.request("GET", "/metrics").text


def test_latest_is_not_followed_when_told_so_until_a_wish(home: Path, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_FOLLOW", "off")
    _, text = create_key(home / "keys.json", "operator", scopes=("predict", "admin"))
    service = Service(text)
    try:
        point_to(home, "new")
        assert not eventually(lambda: version(service, image) == "new", 2.5)
        status, answer = reload(service)
        assert status == 200
        assert [worker["version"] for worker in answer["workers"]] == ["new"]  # type: ignore[attr-defined]
        assert version(service, image) == "new"
    finally:
        service.close()


def test_what_was_served_before_can_be_served_again(service: Service, home: Path, image: bytes) -> None:
    assert reload(service, "previous")[0] == 409
    point_to(home, "new")
    assert reload(service)[0] == 200
    assert version(service, image) == "new"
    assert reload(service, "previous")[0] == 200
    assert version(service, image) == "old"


def test_package_that_was_altered_is_refused_and_the_old_one_served_on(service: Service, home: Path, image: bytes) -> None:
    model = next((home / "packages" / "new").glob("*.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    point_to(home, "new")
    status, answer = reload(service)
    assert status == 409
    assert "not the file that was exported" in answer["error"]["message"]  # type: ignore[index]
    assert version(service, image) == "old"
    assert service.request("GET", "/readyz").status_code == 200
    assert 'fmx_swaps_total{result="refused"}' in service.request("GET", "/metrics").text


def test_package_refused_at_the_start_is_opened_once_it_is_mended(home: Path, image: bytes) -> None:
    model = next((home / "packages" / "old").glob("*.onnx"))
    whole = model.read_bytes()
    model.write_bytes(whole[:-1])
    _, text = create_key(home / "keys.json", "operator")
    service = Service(text)
    try:
        assert service.request("GET", "/readyz").status_code == 503
        point_to(home, "new")
        assert eventually(lambda: service.request("GET", "/readyz").status_code == 200)
        assert version(service, image) == "new"
    finally:
        service.close()


@pytest.mark.parametrize("body", [b"[]", b'{"to": "nowhere"}', b'{"package": "x"}', b"\xff"])
def test_wish_that_cannot_be_read_is_400(service: Service, body: bytes) -> None:
    assert service.request("POST", "/v1/admin/reload", key=service.key, content=body).status_code == 400


def test_key_for_predictions_may_not_reload(service: Service, home: Path) -> None:
    _, text = create_key(home / "keys.json", "shop")
    assert eventually(lambda: service.request("POST", "/v1/admin/reload", key=text).status_code == 403)  # keys are read once a second


def test_nobody_reloads_a_service_without_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_AUTH", "off")
    service = Service("")
    try:
        assert service.request("POST", "/v1/admin/reload").status_code == 403
    finally:
        service.close()


@pytest.mark.parametrize("shadow", ["fp32", "new"])
def test_shadow_runs_its_share_and_says_how_it_agrees(home: Path, image: bytes, shadow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_SHADOW", shadow)
    monkeypatch.setenv("FMX_SHADOW_SHARE", "0.5")
    _, text = create_key(home / "keys.json", "operator")
    service = Service(text)
    try:
        before = _agreed(service)
        for _ in range(6):
            assert service.predict(image).status_code == 200
        assert eventually(lambda: _agreed(service) == before + 3)
    finally:
        service.close()


def _agreed(service: Service) -> float:
    lines = service.request("GET", "/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('fmx_shadow_rows_total{result="agreed"}'))


def test_shadow_that_cannot_be_compared_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "packages" / "new" / MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "labels": manifest["labels"][::-1]}))
    monkeypatch.setenv("FMX_SHADOW", "new")
    _, text = create_key(home / "keys.json", "operator")
    service = Service(text)
    try:
        answer = service.request("GET", "/readyz")
        assert answer.status_code == 503
        assert "other labels" in answer.text
    finally:
        service.close()
