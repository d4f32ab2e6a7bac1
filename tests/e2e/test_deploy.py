"""`fmx deploy`: the command, the written image's contents as a process, and the written monitoring on a real service and a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from fmx.data import open_source
from fmx.package import Package, load_package
from serve.access.keys import create_key, revoke_key
from serve.scaling.capacity import keep_capacity
from tests.e2e.conftest import Server, eventually, free_port, runner, serving, stop
from tests.e2e.container import contained, has_namespaces, health, laid_out
from tests.serve.deploy.conftest import a_capacity
from tests.serve.test_certificate import write_certificate


@pytest.fixture(scope="module")
def package(light_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("deploy") / "packages" / light_package.name
    shutil.copytree(light_package.folder, folder)
    found = load_package(folder)
    keep_capacity(found, a_capacity(found, workers=1, threads=1, requests_per_second=50.0))
    return found


@pytest.fixture(scope="module")
def folder(package: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("written")
    done = runner(home)("deploy", str(package.folder), "--out", "out", "--name", "digits")
    assert done.returncode == 0, done.stderr
    assert "docker build" in done.stdout
    return home / "out"


@pytest.fixture(scope="module")
def image() -> bytes:
    return open_source("digits").splits["test"][0].read()


def predict(server: Server, image: bytes, key: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/predict", content=image, headers={"X-API-Key": key, "Content-Type": "image/png"}, timeout=30)


def test_command_refuses_in_words_what_it_cannot_do(light_package: Package, folder: Path, package: Package, tmp_path: Path) -> None:
    fmx = runner(tmp_path)
    unmeasured = fmx("deploy", str(light_package.folder), "--out", "out")
    assert unmeasured.returncode == 6
    assert f"fmx capacity {light_package.name} --slo-p99 100" in unmeasured.stderr
    assert fmx("deploy", str(package.folder), "--out", str(folder)).returncode == 2
    assert fmx("deploy", str(package.folder), "--out", "out", "--autoscaler", "magic").returncode == 2
    assert not (tmp_path / "out").exists()
    done = fmx("deploy", str(light_package.folder), "--out", "out", "--autoscaler", "none", "--json")
    assert done.returncode == 0, done.stderr
    cuda = fmx("deploy", str(package.folder), "--out", "gpu", "--device", "cuda")
    assert cuda.returncode == 0, cuda.stderr
    assert "measured on the GPU" in cuda.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "deploy.json").read_text())


def test_laid_out_image_answers_its_first_request_bentoml_5499(folder: Path, package: Package, image: bytes, tmp_path: Path) -> None:
    """BentoML#5499: the project's own packages were missing in the image."""
    _, key = create_key(tmp_path / "keys.json", "shop")
    with laid_out(folder, tmp_path / "root", tmp_path / "keys.json") as server:
        answer = predict(server, image, key)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"]["name"] == package.name
        assert httpx.get(f"{server.url}/v2", headers={"X-API-Key": key}).json()["version"]  # of fmx, whose metadata is copied beside it
        assert predict(server, image, "fmx_00000000_wrong").status_code == 401
        assert metric(server, "fmx_capacity_requests_per_second") == [50.0]  # the package brought its measurements
        port = int(server.url.rpartition(":")[2])
        assert health(folder, port) == 0
    assert health(folder, port) != 0


@pytest.mark.skipif(not has_namespaces(), reason="this host gives no user namespaces")
def test_image_serves_on_a_read_only_root_as_a_user_without_a_name(folder: Path, image: bytes, tmp_path: Path) -> None:
    _, key = create_key(tmp_path / "keys.json", "shop")
    with contained(folder, tmp_path / "log", tmp_path / "keys.json") as server:
        answer = predict(server, image, key)
        assert answer.status_code == 200, answer.text
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert re.search(r"^CapEff:\s0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s1$", status, re.MULTILINE)
        assert Path(f"/proc/{server.process.pid}/uid_map").read_text().split()[0] == "10001"
        mounts = [line.split() for line in Path(f"/proc/{server.process.pid}/mounts").read_text().splitlines()]
        assert {"/", "/srv/app", "/srv/package", "/opt/venv"} <= {place for _, place, _, options, *_ in mounts if "ro" in options.split(",")}


def metric(server: Server, name: str) -> list[float]:
    text = httpx.get(f"{server.url}/metrics").text
    return [float(value) for value in re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)]


def asked_for(folder: Path) -> set[str]:
    """Every metric of ours that a written file asks for, without the suffixes of histograms."""
    texts = [(folder / name).read_text() for name in ("prometheus/rules.yml", "grafana/dashboard.json", "kubernetes/prometheusrule.yaml")]
    adapter = yaml.safe_load((folder / "kubernetes" / "prometheus-adapter.yaml").read_text())
    texts += [rule["seriesQuery"] for rule in adapter["rules"]["custom"]]
    found = {name for text in texts for name in re.findall(r"(?<![\w:])fmx_[a-z0-9_]+", text)}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_every_metric_that_is_asked_for_is_one_that_a_service_makes(folder: Path, package: Package, image: bytes, tmp_path: Path) -> None:
    """kserve#4259, #2156: dashboards and autoscalers that name what no server exports."""
    keys, certificate = tmp_path / "keys.json", tmp_path / "tls.pem"
    _, key = create_key(keys, "shop", expires="30d")
    write_certificate(certificate)
    settings = {"FMX_DRIFT_LEAST_ROWS": "2", "FMX_DRIFT_WINDOW_ROWS": "4", "FMX_DRIFT_ROWS_PER_SECOND": "1000", "FMX_MAX_BODY_BYTES": "100000"}
    with serving(tmp_path, package.folder, FMX_KEYS_FILE=str(keys), FMX_TLS_CERTIFICATE=str(certificate), **settings) as server:
        assert predict(server, bytes(100_001), key).status_code == 413  # shed is counted by reason, so it shows when something was
        for _ in range(6):
            assert predict(server, image, key).status_code == 200
        assert eventually(lambda: bool(metric(server, "fmx_drift_psi") and metric(server, "fmx_memory_bytes")))
        made = set(re.findall(r"^# TYPE (fmx_\w+) ", httpx.get(f"{server.url}/metrics").text, re.MULTILINE))
    asked = asked_for(folder)
    assert len(asked) > 20
    assert asked <= made, asked - made


def test_ends_of_keys_come_and_go_with_the_file_over_several_workers(package: Package, tmp_path: Path) -> None:
    """A revoked key's series must go from every worker's answer, also where the worker that is asked has not seen the change."""
    keys = tmp_path / "keys.json"
    create_key(keys, "for ever")
    with serving(tmp_path, package.folder, FMX_KEYS_FILE=str(keys), FMX_WORKERS="2", FMX_THREADS="1") as server:
        assert eventually(lambda: metric(server, "fmx_ready_workers") == [2.0])
        assert metric(server, "fmx_key_expires_timestamp_seconds") == []
        assert metric(server, "fmx_certificate_expires_timestamp_seconds") == []
        key, _ = create_key(keys, "shop", expires="30d")
        assert eventually(lambda: metric(server, "fmx_key_expires_timestamp_seconds") == [key.expires_at()])
        created = metric(server, "fmx_model_created_timestamp_seconds")
        revoke_key(keys, "shop")
        assert eventually(lambda: metric(server, "fmx_key_expires_timestamp_seconds") == [])
        assert all(metric(server, "fmx_key_expires_timestamp_seconds") == [] for _ in range(10))
    assert created[0] > 1.7e9


@contextmanager
def prometheus(folder: Path, server: Server, home: Path) -> Iterator[str]:
    """Start a Prometheus with the written configuration; its target is the server here, and it scrapes and evaluates every second."""
    home.mkdir()
    config = yaml.safe_load((folder / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [server.url.removeprefix("http://")]}]
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(folder / "prometheus" / "rules.yml", home)
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data", f"--web.listen-address={address}"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://{address}/api/v1"
    finally:
        stop(process)


def asked(api: str, path: str) -> Any:
    """Ask Prometheus; nothing is what it answers while it starts."""
    try:
        answer = httpx.get(f"{api}/{path}", timeout=5)
    except httpx.TransportError:
        return {}
    return answer.json()["data"] if answer.status_code == 200 else {}


def alerts(api: str) -> dict[str, str]:
    return {alert["labels"]["alertname"]: alert["state"] for alert in asked(api, "alerts").get("alerts", [])}


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_prometheus_fires_for_a_key_that_ends_and_for_nothing_else(folder: Path, package: Package, image: bytes, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    _, key = create_key(keys, "shop")
    with serving(tmp_path, package.folder, FMX_KEYS_FILE=str(keys)) as server, prometheus(folder, server, tmp_path / "prometheus") as api:
        assert eventually(lambda: any(target["health"] == "up" for target in asked(api, "targets").get("activeTargets", [])), 60)
        for _ in range(5):
            assert predict(server, image, key).status_code == 200
        assert eventually(lambda: evaluated(api) and alerts(api) == {}, 60), alerts(api)
        create_key(keys, "visitor", expires="1d")
        assert eventually(lambda: alerts(api) == {"FmxKeyExpires": "firing"}, 60), alerts(api)
        revoke_key(keys, "visitor")
        assert eventually(lambda: alerts(api) == {}, 60), alerts(api)
        stop(server.process)
        assert eventually(lambda: alerts(api).get("FmxDown") == "pending", 60), alerts(api)


def evaluated(api: str) -> bool:
    """Say whether every rule was evaluated on what the service made, and none failed."""
    rules = [rule for group in asked(api, "rules").get("groups", []) for rule in group["rules"]]
    assert not [rule for rule in rules if rule["health"] == "err"], rules
    recorded = asked(api, "query?query=job:fmx_requests:rate5m").get("result", [])
    return bool(rules) and all(rule["health"] == "ok" for rule in rules) and bool(recorded)
