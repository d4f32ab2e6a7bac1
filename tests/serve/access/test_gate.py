"""The gate in front of the whole app: what a stranger, a key for something else, and a caller who calls too often get."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from fmx.data import open_source
from fmx.errors import SurroundingsError, UsageError
from fmx.package import Package
from serve.access.keys import create_key
from serve.audit import digest, verify_audit
from serve.service import check_before_start
from serve.settings import load_settings
from tests.serve.access.test_tokens import AUDIENCE, ISSUER, token, write_jwks
from tests.serve.test_service import Service, error_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's shell and its libraries


@dataclass
class Guarded:
    """A service with several kinds of callers."""

    service: Service
    metrics_only: str
    slow: str
    audit: Path

    def ask(self, key: str, **headers: str) -> httpx.Response:
        return self.service.request("POST", "/v1/predict", key=key, headers={"content-type": "image/png", **headers}, content=b"no image")


@pytest.fixture(scope="module")
def guarded(small_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        _, text = create_key(folder / "keys.json", "whole")
        _, metrics_only = create_key(folder / "keys.json", "scraper", scopes=("metrics",))
        _, slow = create_key(folder / "keys.json", "sluggish", rate="2/minute", quota=100)
        patch.setenv("FMX_KEYS_FILE", str(folder / "keys.json"))
        patch.setenv("FMX_PACKAGE", str(small_package.folder))
        patch.setenv("FMX_METRICS_TOKEN", "let-me-see")
        patch.setenv("FMX_AUDIT_FILE", str(folder / "audit.jsonl"))
        patch.setenv("FMX_JWT_JWKS", write_jwks(folder / "jwks.json", "rsa"))
        patch.setenv("FMX_JWT_ISSUER", ISSUER)
        patch.setenv("FMX_JWT_AUDIENCE", AUDIENCE)
        made = Service(text)
        yield Guarded(made, metrics_only, slow, folder / "audit.jsonl")
        made.close()


def refused_over_rate(guarded: Guarded) -> float:
    """Give the count of the whole process: other modules may have counted before."""
    return sum(float(value) for value in re.findall(r'^fmx_shed_total\{reason="over_rate"\} (\S+)$', metrics_text(guarded), re.MULTILINE))


def metrics_text(guarded: Guarded) -> str:
    return guarded.service.request("GET", "/metrics", headers={"authorization": "Bearer let-me-see"}).text


def test_key_for_something_else_is_403_and_no_key_is_401(guarded: Guarded) -> None:
    assert "--scope predict" in error_of(guarded.ask(guarded.metrics_only), 403, "forbidden")["hint"]
    error_of(guarded.ask(""), 401, "unauthorised")
    error_of(guarded.ask(guarded.service.key), 400, "bad_input")


def test_signed_token_is_taken_beside_keys(guarded: Guarded) -> None:
    error_of(guarded.ask("", authorization=f"Bearer {token()}"), 400, "bad_input")
    error_of(guarded.ask("", authorization=f"Bearer {token(scope='openid')}"), 403, "forbidden")
    error_of(guarded.ask("", authorization=f"Bearer {token(aud='another')}"), 401, "unauthorised")


def test_caller_over_a_rate_gets_429_with_the_seconds_to_wait(guarded: Guarded) -> None:
    """ray#22670: refused requests must not look like a broken replica: 429 with Retry-After, never 503."""
    before = refused_over_rate(guarded)
    answers = [guarded.ask(guarded.slow) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 400, 429]
    assert answers[0].headers["ratelimit-policy"] == '"rate";q=2;w=60, "quota";q=100;w=86400'
    assert answers[0].headers["ratelimit"].startswith('"rate";r=1;')
    error_of(answers[2], 429, "over_rate")
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert '"rate";r=0' in answers[2].headers["ratelimit"]
    assert refused_over_rate(guarded) == before + 1
    assert "sluggish" not in metrics_text(guarded)


def test_metrics_want_their_token_or_a_key_for_metrics_and_probes_want_nothing(guarded: Guarded) -> None:
    """LitServe#660: probes that need the key crash-loop the pod."""
    ask = guarded.service.request
    error_of(ask("GET", "/metrics"), 401, "unauthorised")
    error_of(ask("GET", "/metrics", key=guarded.service.key), 401, "unauthorised")
    error_of(ask("GET", "/metrics", headers={"authorization": "Bearer let-me-see-more"}), 401, "unauthorised")
    assert ask("GET", "/metrics", headers={"authorization": "Bearer let-me-see"}).status_code == 200
    assert ask("GET", "/metrics", key=guarded.metrics_only).status_code == 200
    for probe in ("/livez", "/readyz"):
        assert ask("GET", probe).status_code == 200


def test_token_keys_that_cannot_be_read_stop_the_start(small_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_key(tmp_path / "keys.json", "shop")
    monkeypatch.setenv("FMX_KEYS_FILE", str(tmp_path / "keys.json"))
    monkeypatch.setenv("FMX_PACKAGE", str(small_package.folder))
    monkeypatch.setenv("FMX_JWT_JWKS", str(tmp_path / "none.json"))
    monkeypatch.delenv("FMX_JWT_AUDIENCE", raising=False)
    with pytest.raises(UsageError, match="FMX_JWT_AUDIENCE"):
        load_settings()
    monkeypatch.setenv("FMX_JWT_AUDIENCE", AUDIENCE)
    with pytest.raises(SurroundingsError, match=r"none\.json"):
        check_before_start()


def test_audit_log_says_who_asked_what_and_what_came_of_it(guarded: Guarded, small_package: Package, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    image = next(iter(open_source("digits").splits["test"])).read()
    answer = guarded.service.predict(image)
    assert answer.status_code == 200
    guarded.ask("fmx_00000000_wrong")
    for _ in range(200):
        entries = [json.loads(line) for line in guarded.audit.read_bytes().splitlines()] if guarded.audit.exists() else []
        asked = [entry for entry in entries if entry["request_id"] == answer.headers["x-request-id"]]
        if asked and entries[-1]["status"] == 401:
            break
        time.sleep(0.02)
    (entry,) = asked
    assert (entry["caller"], entry["status"], entry["model"]) == ("whole", 200, small_package.digest)
    assert entry["inputs"] == [digest(image)]
    assert entry["answer"] == digest(answer.content)
    assert entries[-1]["key"] == ""
    assert verify_audit([guarded.audit]).entries == len(entries)
    lines = [vars(record)["facts"] for record in caplog.records if record.name == "fmx.access"]
    assert {"method": "POST", "route": "/v1/predict", "status": 200, "key": entry["key"]}.items() <= {**lines[0], "ms": 0}.items()
