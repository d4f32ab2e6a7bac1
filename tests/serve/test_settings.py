from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fmx.errors import SurroundingsError, UsageError
from serve.settings import key_path, load_settings

ROOT = Path(__file__).parents[2]


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_WORKERS", "many")
    monkeypatch.setenv("FMX_AUTH", "maybe")
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert "FMX_WORKERS is 'many'" in caught.value.message
    assert "FMX_AUTH is 'maybe'" in caught.value.message


def test_misspelt_setting_is_refused_and_a_clusters_variable_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_SERVE_PORT_3000_TCP", "tcp://10.0.0.1:3000")
    monkeypatch.setenv("FMX_SERVE_SERVICE_HOST", "10.0.0.1")
    load_settings()
    monkeypatch.setenv("FMX_WROKERS", "2")
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert "FMX_WORKERS" in caught.value.hint


def test_request_that_could_never_be_taken_is_refused_as_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMX_QUEUE_ROWS", "8")
    with pytest.raises(UsageError, match="FMX_MAX_INPUTS"):
        load_settings()
    monkeypatch.setenv("FMX_MAX_INPUTS", "8")
    assert load_settings().queue_rows == 8


def test_threads_share_the_cpus_between_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.settings.usable_cpus", lambda: 8)
    for workers, threads in (("1", 8), ("3", 2), ("16", 1)):
        monkeypatch.setenv("FMX_WORKERS", workers)
        assert load_settings().worker_threads == threads


@pytest.mark.parametrize("sign", ["BENTOML_CONTAINERIZED", "KUBERNETES_SERVICE_HOST"])
def test_container_without_a_key_file_is_refused(monkeypatch: pytest.MonkeyPatch, sign: str, tmp_path: Path) -> None:
    monkeypatch.setenv(sign, "true")
    with pytest.raises(SurroundingsError, match="keys must be given"):
        key_path(load_settings())
    monkeypatch.setenv("FMX_KEYS_FILE", str(tmp_path / "keys.json"))
    assert key_path(load_settings()) == tmp_path / "keys.json"


def test_bento_installs_what_the_extras_say() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = [line for line in (ROOT / "requirements" / "serve.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(listed) == sorted([*project["dependencies"], *extras["cpu"], *extras["serve"]])
