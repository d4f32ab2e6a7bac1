"""What browsers are served and told: pages, headers of every answer, other origins. tests/e2e/test_page.py looks with a real browser."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from fmx.errors import UsageError
from fmx.package import Package
from serve.access.keys import create_key
from serve.cors import ALLOWED_HEADERS
from serve.headers import DEFAULTS
from serve.routes import ROUTES
from serve.settings import load_settings
from tests.serve.test_service import Service, digits, error_of  # noqa: F401 a fixture

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries

SHOP, EVIL = "https://shop.example", "https://evil.example"
Make = Callable[..., Service]


@pytest.fixture
def make(light_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Start services of the light package: `make(FMX_PAGES="off")`."""
    made: list[Service] = []
    create_key(tmp_path / "keys.json", "test")

    def start(**variables: str) -> Service:
        for name, value in {
            "FMX_PACKAGE": str(light_package.folder),
            "FMX_KEYS_FILE": str(tmp_path / "keys.json"),
            "FMX_AUTH": "off",
            **variables,
        }.items():
            monkeypatch.setenv(name, value)
        made.append(Service(""))
        return made[-1]

    yield start
    for service in made:
        service.close()


def preflight(service: Service, path: str, origin: str, method: str = "POST") -> httpx.Response:
    asked = {"origin": origin, "access-control-request-method": method, "access-control-request-headers": "authorization,content-type"}
    return service.request("OPTIONS", path, headers=asked)


def test_pages_need_no_key_and_prediction_does(make: Make, light_package: Package) -> None:
    service = make(FMX_AUTH="on")
    for path in ("/", "/docs", "/openapi.json"):
        answer = service.request("GET", path)
        assert answer.status_code == 200
        assert light_package.name not in answer.text
        assert light_package.manifest.version not in answer.text
    assert 'type="password" autocomplete="off"' in service.request("GET", "/").text
    error_of(service.predict(b"x"), 401, "unauthorised")


def test_page_of_an_open_service_asks_for_no_key(make: Make) -> None:
    page = make().request("GET", "/").text
    assert 'id="key"' not in page
    assert "<code>read -rs KEY</code>" not in page


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_holds_what_its_policy_allows_and_nothing_from_elsewhere(make: Make, path: str) -> None:
    answer = make().request("GET", path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    for tag in ("style", "script"):
        for content in re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL):
            assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy[f"{tag}-src"]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)
    assert not re.search(r"<[^>]+\s(on\w+|style)=", answer.text)
    assert "<script src" not in answer.text


def test_docs_name_every_route(make: Make) -> None:
    text = make().request("GET", "/docs").text
    assert all(f"<code>{route}</code>" in text for route in ROUTES)


def test_pages_that_are_off_are_unknown_paths(make: Make) -> None:
    service = make(FMX_PAGES="off")
    for path in ("/", "/docs", "/openapi.json", "/nowhere"):
        error = error_of(service.request("GET", path), 404, "not_found")
        assert "/docs" not in error["hint"]
        error_of(service.request("POST", path), 404, "not_found")
    assert 'route="/docs",status="404"' not in service.request("GET", "/metrics").text


def test_every_answer_carries_the_security_headers(make: Make) -> None:
    service = make()
    asked = [("GET", route) for route in ROUTES] + [
        ("POST", "/v1/predict"),
        ("DELETE", "/v1/predict"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/v1/predict"),
    ]
    for method, path in asked:
        answer = service.request(method, path)
        for name, value in DEFAULTS.items():
            assert answer.headers.get_list(name) == [value] or (name == "content-security-policy" and path in ("/", "/docs")), (path, name)
        assert answer.headers.get_list("x-request-id"), path
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers
        assert not [name for name in answer.headers if name.startswith(("access-control", "vary"))]


def test_hsts_is_sent_over_tls_alone(make: Make) -> None:
    service = make()
    for path in ("/", "/livez", "/nowhere"):
        assert service.request("GET", f"https://test{path}").headers["strict-transport-security"] == "max-age=31536000"


def test_preflight_from_a_listed_origin_needs_no_key(make: Make, digits: list[bytes]) -> None:  # noqa: F811
    service = make(FMX_AUTH="on", FMX_CORS_ORIGINS=f"{SHOP}, http://localhost:5173")
    for path, methods in (("/v1/predict", "POST"), ("/v2/models/any/infer", "POST"), ("/readyz", "GET, HEAD")):
        answer = preflight(service, path, SHOP)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert answer.headers["access-control-allow-methods"] == methods
        assert answer.headers["access-control-allow-headers"] == ALLOWED_HEADERS
        assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in answer.headers
    error_of(preflight(service, "/nowhere", SHOP), 404, "not_found")


def test_answers_and_errors_say_that_a_listed_origin_may_read_them(make: Make, digits: list[bytes]) -> None:  # noqa: F811
    service = make(FMX_CORS_ORIGINS=SHOP)

    def post(origin: str, content: bytes) -> httpx.Response:
        return service.request("POST", "/v1/predict", headers={"origin": origin, "content-type": "image/png"}, content=content)

    for content, status in ((digits[0], 200), (b"broken", 400)):
        answer = post(SHOP, content)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == SHOP
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {"Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-ID"} <= exposed
        stranger = post(EVIL, content)
        assert stranger.status_code == status
        assert stranger.headers["vary"] == "Origin"
        assert not [name for name in stranger.headers if name.startswith("access-control")]


def test_unlisted_origin_gets_no_preflight(make: Make) -> None:
    service = make(FMX_CORS_ORIGINS=SHOP)
    for origin in (EVIL, "null", f"{SHOP}.evil.example", SHOP.replace("https", "http"), f"{SHOP}:8443", SHOP.upper()):
        answer = preflight(service, "/v1/predict", origin)
        assert answer.status_code == 405
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_any_origin_may_be_let_in(make: Make) -> None:
    service = make(FMX_CORS_ORIGINS="*")
    assert preflight(service, "/v1/predict", EVIL).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in service.request("GET", "/livez").headers


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "write origins"),
        ("*, https://a.example", "write origins"),
        ("a.example", "is no origin"),
        ("https://a.example/", "is no origin"),
        ("https://A.example", "is no origin"),
        ("https://*.example", "is no origin"),
        ("https://a.example:443", "write https://a.example"),
        ("https://a.example:99999", "is no origin"),
        ("ftp://a.example", "is no origin"),
        ("null", "is no origin"),
    ],
)
def test_origin_that_no_browser_sends_is_refused_as_a_setting(monkeypatch: pytest.MonkeyPatch, given: str, said: str) -> None:
    monkeypatch.setenv("FMX_CORS_ORIGINS", given)
    with pytest.raises(UsageError, match="FMX_CORS_ORIGINS") as caught:
        load_settings()
    assert said in caught.value.message


def test_origins_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_CORS_ORIGINS", "https://a.example,http://localhost:5173, http://[::1]:8080,")
    assert load_settings().origins == {"https://a.example", "http://localhost:5173", "http://[::1]:8080"}


def test_limits_of_a_caller_stand_beside_the_headers_of_other_origins(make: Make, tmp_path: Path, digits: list[bytes]) -> None:  # noqa: F811
    _, key = create_key(tmp_path / "keys.json", "slow", rate="1/minute")
    service = make(FMX_AUTH="on", FMX_CORS_ORIGINS=SHOP)
    headers = {"origin": SHOP, "content-type": "image/png", "authorization": f"Bearer {key}"}
    answers = [service.request("POST", "/v1/predict", headers=headers, content=digits[0]) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert answer.headers.get_list("ratelimit")[0].startswith('"rate";r=0')
    assert int(answers[1].headers["retry-after"]) >= 1
