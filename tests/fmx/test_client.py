"""What `fmx predict --url` does, against the service behind a socket and against what is no service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from fmx.client import ServiceClient
from fmx.data import open_source
from fmx.errors import FmxError, InputError, SurroundingsError, UsageError
from fmx.package import Package
from fmx.predictor import PackagePredictor
from serve.access.keys import create_key
from tests.serve.listening import listening
from tests.serve.test_service import new_app

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

LIMITS: dict[str, dict[str, Any]] = {"free": {}, "slow": {"rate": "1/second"}, "poor": {"quota": 1}}


@dataclass
class Running:
    url: str
    keys: dict[str, str]


@pytest.fixture(scope="module")
def service(light_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {name: create_key(file, name, **limits)[1] for name, limits in LIMITS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMX_KEYS_FILE", str(file))
        patch.setenv("FMX_PACKAGE", str(light_package.folder))
        with listening(new_app()) as address:
            yield Running(address, keys)


@pytest.fixture
def image() -> bytes:
    return open_source("digits").splits["test"][0].read()


def refusal(kind: type[FmxError], ask: Callable[[], object]) -> FmxError:
    with pytest.raises(FmxError) as caught:
        ask()
    assert type(caught.value) is kind, caught.value
    assert caught.value.hint
    return caught.value


def test_answer_is_the_packages_own(service: Running, image: bytes, light_package: Package) -> None:
    key = service.keys["free"]
    for address in (service.url, f"{service.url}/"):
        answer = ServiceClient(address, key).predict(image, 2)
        assert answer["predictions"] == PackagePredictor.open(light_package.folder).predict([image], 2)
        assert answer["model"]["name"] == light_package.name


def test_refused_input_is_told_with_hint_and_request_id(service: Running) -> None:
    key = service.keys["free"]
    error = refusal(InputError, lambda: ServiceClient(service.url, key).predict(b"no image", 1))
    assert "cannot be read" in error.message
    assert "Request id: " in error.hint
    assert error.exit_code == 3
    refusal(InputError, lambda: ServiceClient(service.url, key).predict(b"", 1))


@pytest.mark.parametrize("key", [None, "fmx_00000000_wrong"])
def test_wrong_key_is_a_fault_of_usage(service: Running, image: bytes, key: str | None) -> None:
    error = refusal(UsageError, lambda: ServiceClient(service.url, key).predict(image, 1))
    assert error.exit_code == 2
    assert "key" in error.message


def test_full_service_is_waited_for(service: Running, image: bytes) -> None:
    key = service.keys["slow"]
    said: list[str] = []
    asking = ServiceClient(service.url, key, say=said.append)
    for _ in range(3):
        asking.predict(image, 1)
    assert said
    assert all("trying again in 1 s" in line or "trying again in 2 s" in line for line in said)


def test_used_up_quota_is_not_waited_for(service: Running, image: bytes) -> None:
    key = service.keys["poor"]
    said: list[str] = []
    asking = ServiceClient(service.url, key, say=said.append)
    asking.predict(image, 1)
    error = refusal(SurroundingsError, lambda: asking.predict(image, 1))
    assert "quota" in error.message
    assert error.exit_code == 7
    assert not said


def test_nobody_there_is_told(image: bytes) -> None:
    error = refusal(SurroundingsError, lambda: ServiceClient("http://127.0.0.1:9").predict(image, 1))
    assert "http://127.0.0.1:9 does not answer" in error.message


@pytest.mark.parametrize(
    "address", ["", "localhost:3000", "ftp://a", "http://", "http://a:99999", "http://a:0", "http://a b", "http://a/?x=1", "file:///etc/passwd"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    refusal(UsageError, lambda: ServiceClient(address))


def test_secret_in_an_address_or_a_damaged_key_is_refused_unshown() -> None:
    for error in (
        refusal(UsageError, lambda: ServiceClient("http://user:SECRET@a")),
        refusal(UsageError, lambda: ServiceClient("http://a", "SECRET\n")),
        refusal(UsageError, lambda: ServiceClient("http://a", "SECRET\r\nX-Other: 1")),
    ):
        assert "SECRET" not in error.message + error.hint


def test_key_over_an_open_line_is_warned_of() -> None:
    said: list[str] = []
    ServiceClient("http://models.example", "fmx_key", say=said.append)
    ServiceClient("https://models.example", "fmx_key", say=said.append)
    ServiceClient("http://models.example", say=said.append)
    ServiceClient("http://127.0.0.1:3000", "fmx_key", say=said.append)
    assert len(said) == 1
    assert "unencrypted" in said[0]


class Stranger(BaseHTTPRequestHandler):
    """Answers as what is no fmx service might; `/prefix` of the address chooses how."""

    seen: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.path)
        kind = self.path.split("/")[1]
        status = {"moved": 302, "gateway": 502, "cut": 200}.get(kind, 200)
        body = {"html": b"<html>", "empty": b'{"predictions": []}', "list": b"[]"}.get(kind, b"{}")
        self.send_response(status)
        if kind == "moved":
            self.send_header("Location", f"http://{self.headers['Host']}/elsewhere")
        self.send_header("Content-Length", "1000" if kind == "cut" else str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stranger() -> Iterator[str]:
    Stranger.seen = []
    server = HTTPServer(("127.0.0.1", 0), Stranger)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("html", UsageError), ("empty", UsageError), ("list", UsageError), ("gateway", SurroundingsError), ("cut", SurroundingsError)],
)
def test_what_is_no_service_is_told(stranger: str, path: str, kind: type[FmxError], image: bytes) -> None:
    refusal(kind, lambda: ServiceClient(f"{stranger}/{path}").predict(image, 1))


def test_key_follows_no_redirect(stranger: str, image: bytes) -> None:
    """CVE-2018-20060 (urllib3): a redirect took the Authorization header to another host."""
    error = refusal(UsageError, lambda: ServiceClient(f"{stranger}/moved", "fmx_key").predict(image, 1))
    assert "/elsewhere" in error.message
    assert Stranger.seen == ["/moved/v1/predict?top_k=1"]
