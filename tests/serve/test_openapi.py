"""The service and its own OpenAPI held to each other, over a real socket: every route described, no 5xx, answers as described."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fmx.package import Package
from serve.routes import EMBED, PAGES, ROUTES
from tests.serve.listening import configured, listening
from tests.serve.test_service import new_app

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

CONFIG = """
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "404", "413", "415", "422"]
# That bytes are a picture, or a number the length of another part, no schema can say.
positive_data_acceptance.enabled = false
"""


@dataclass
class Listening:
    url: str
    key: str

    def described(self) -> Any:
        return httpx.get(f"{self.url}/openapi.json").json()


@pytest.fixture(scope="module")
def service(light_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    with (
        configured(light_package, tmp_path_factory.mktemp("keys"), scopes=("predict", "admin"), FMX_ACCESS_LOG="off") as key,
        listening(new_app()) as url,
    ):
        yield Listening(url, key)


def run_schemathesis(url: str, key: str, described: Any, folder: Path, examples: int) -> str:
    """Let schemathesis look for a disagreement of a service with its description; gives what it said when it found none."""
    pytest.importorskip("schemathesis")
    (folder / "schemathesis.toml").write_text(CONFIG)
    (folder / "openapi.json").write_text(json.dumps(described))
    command = [str(Path(sys.executable).parent / "st"), "--config-file", "schemathesis.toml", "run", "openapi.json", "--url", url, "--seed", "1"]
    command += ["--phases", "coverage,fuzzing", "--max-examples", str(examples), "--continue-on-failure", "--warnings", "off", "--no-color"]
    command += ["-H", f"Authorization: Bearer {key}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_service_is_as_described(package: Package, folder: Path) -> None:
    """Serve a package and hold the service to its description, by schemathesis, and by the description's own examples."""
    with configured(package, folder, scopes=("predict", "admin"), FMX_ACCESS_LOG="off") as key, listening(new_app()) as url:
        described = httpx.get(f"{url}/openapi.json").json()
        run_schemathesis(url, key, described, folder, examples=8)
        for route, item in described["paths"].items():
            example = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            if example is not None:
                path = route.format(name=package.name, version=package.manifest.version)
                answer = httpx.post(url + path, json=example, headers={"x-api-key": key})
                assert answer.status_code == (404 if route == EMBED and package.manifest.embedding is None else 200), answer.text


def test_schemathesis_finds_nothing(service: Listening, tmp_path: Path) -> None:
    said = run_schemathesis(service.url, service.key, service.described(), tmp_path, examples=25)
    assert f"Tested: {sum(len(methods) for methods in ROUTES.values())}" in said


def test_every_route_is_described_with_its_methods_and_its_key(service: Listening) -> None:
    described = service.described()
    methods = {route: tuple(name.upper() for name in item if name != "parameters") for route, item in described["paths"].items()}
    assert methods == ROUTES
    for route, item in described["paths"].items():
        for method in (name for name in item if name != "parameters"):
            path = route.format(name="any", version="any")
            answer = httpx.request(method, service.url + path)
            assert (answer.status_code == 401) == bool(item[method]["security"]), route


def test_examples_are_answered(service: Listening, light_package: Package) -> None:
    asked = 0
    for route, item in service.described()["paths"].items():
        for kind, media in item.get("post", {}).get("requestBody", {}).get("content", {}).items():
            if "example" in media:
                path = route.format(name=light_package.name, version=light_package.manifest.version)
                headers = {"x-api-key": service.key, "content-type": kind}
                answer = httpx.post(service.url + path, json=media["example"], headers=headers)
                assert answer.status_code == 200, answer.text
                asked += 1
    assert asked == 4


def test_references_lead_somewhere(service: Listening) -> None:
    described = service.described()

    def references(part: Any) -> Iterator[str]:
        for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from [value["$ref"]] if isinstance(value, dict) and "$ref" in value else references(value)

    found = set(references(described))
    assert len(found) > 15
    for reference in found:
        _, _, kind, name = reference.split("/")
        assert name in described["components"][kind]


def test_pages_are_described_only_where_they_are(light_package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.pages.openapi import openapi
    from serve.settings import load_settings

    monkeypatch.setenv("FMX_AUTH", "off")
    monkeypatch.setenv("FMX_PAGES", "off")
    described = openapi(load_settings())
    assert not PAGES & set(described["paths"])
    assert "securitySchemes" not in described["components"]
    assert not any(operation["security"] for item in described["paths"].values() for name, operation in item.items() if name != "parameters")
