"""`bentoml serve` as a process: two workers, large bodies, the drain, and starts that are refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from fmx.data import open_source
from fmx.package import Package
from fmx.predictor import PackagePredictor
from tests.e2e.conftest import BIN, ROOT, Server, environment, eventually, free_port, serving


@pytest.fixture(scope="module")
def image() -> bytes:
    return open_source("digits").splits["test"][0].read()


@pytest.fixture(scope="module")
def server(small_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("two"), small_package.folder, FMX_WORKERS="2", FMX_DRAIN_SECONDS="2") as running:
        yield running


def post(server: Server, image: bytes, client: httpx.Client | None = None) -> httpx.Response:
    headers = {"X-API-Key": server.key, "Content-Type": "image/png"}
    return (client or httpx).post(f"{server.url}/v1/predict", content=image, headers=headers, timeout=30)


def metric(server: Server, line: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_two_workers_show_one_key_and_count_exactly_bentoml_5056(server: Server, image: bytes) -> None:
    """BentoML#5056, kserve#2979: counts lost or doubled with several workers."""
    assert len(set(re.findall(r"fmx_[0-9a-f]{8}_\S+", server.output))) == 1
    deadline = time.monotonic() + 30
    while metric(server, "fmx_ready_workers") < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert metric(server, "fmx_ready_workers") == 2
    line = 'fmx_requests_total{route="/v1/predict",status="200"}'
    before, rows = metric(server, line), metric(server, "fmx_batch_rows_sum")

    def fresh_connection(_: int) -> int:
        return post(server, image).status_code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh_connection, range(200))) == [200] * 200
    assert metric(server, line) == before + 200
    assert metric(server, "fmx_batch_rows_sum") == rows + 200
    assert metric(server, "fmx_in_flight") == 1  # the scrape itself


def resident_bytes(pids: list[int]) -> int:
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return sum(int(line.split()[1]) for line in lines) * 1024


@pytest.mark.parametrize("chunked", [False, True])
def test_200_mb_body_is_refused_before_it_is_read_whole_bentoml_2147(server: Server, chunked: bool) -> None:
    before = resident_bytes(server.children())
    block = b"\0" * 1_000_000

    def body() -> Iterator[bytes]:
        for _ in range(200):
            yield block

    headers = {"X-API-Key": server.key, "Content-Type": "image/png"}
    if not chunked:
        headers["Content-Length"] = "200000000"
    answer = httpx.post(f"{server.url}/v1/predict", content=body(), headers=headers, timeout=30)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"
    assert resident_bytes(server.children()) - before < 80_000_000


def test_log_holds_no_key_and_no_body(server: Server, image: bytes) -> None:
    marker = b"SECRET-BODY-MARKER"
    httpx.post(f"{server.url}/v1/predict?token=SECRET-QUERY", content=marker, headers={"X-API-Key": server.key, "Content-Type": "image/png"})
    httpx.post(f"{server.url}/v1/predict", content=marker, headers={"X-API-Key": "fmx_SECRET-KEY", "Content-Type": "image/png"})
    assert "SECRET" not in server.output
    assert server.output.count(server.key) == 1


def test_killed_worker_is_replaced_and_its_counts_are_kept(server: Server, image: bytes) -> None:
    line = 'fmx_requests_total{route="/v1/predict",status="200"}'
    post(server, image)
    before = metric(server, line)
    victim = server.children()[0]
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        alive = [pid for pid in server.children() if pid != victim]
        if len(alive) == 2 and metric(server, "fmx_ready_workers") == 2:
            break
        time.sleep(0.3)
    assert metric(server, "fmx_ready_workers") == 2
    assert metric(server, line) == before
    assert post(server, image).status_code == 200


def test_sigterm_under_load_loses_no_request_triton_6230(small_package: Package, image: bytes, tmp_path: Path) -> None:
    """triton#6230, tensorflow/serving#1853: requests failed during a roll-out."""
    with serving(tmp_path, small_package.folder, FMX_DRAIN_SECONDS="3") as running:
        stop, statuses, ready = threading.Event(), [], []

        def load() -> None:
            with httpx.Client() as client:
                while not stop.is_set():
                    statuses.append(post(running, image, client).status_code)

        def probe() -> None:
            while not stop.is_set():
                ready.append((time.monotonic(), httpx.get(f"{running.url}/readyz").status_code))
                time.sleep(0.02)

        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(load) for _ in range(3)] + [pool.submit(probe)]
            time.sleep(1.0)
            told = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            time.sleep(2.0)
            stop.set()
            for future in futures:
                future.result()
        assert set(statuses) == {200}
        assert len(statuses) > 20
        not_ready = [moment for moment, status in ready if status == 503]
        assert not_ready
        assert not_ready[0] - told < 1.0
        assert all(status == 503 for moment, status in ready if moment > not_ready[0])
        assert running.process.wait(30) == 0


def refused_start(tmp_path: Path, code: int, said: str, **variables: str) -> None:
    command = [str(BIN / "bentoml"), "serve", "--host", "127.0.0.1", "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path, **variables), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_start_is_refused_in_words_with_the_right_exit_code(small_package: Package, tmp_path: Path) -> None:
    package = str(small_package.folder)
    refused_start(tmp_path, 2, "No package", FMX_PACKAGE=str(tmp_path / "nowhere"))
    refused_start(tmp_path, 2, "FMX_WORKERS", FMX_PACKAGE=package, FMX_WORKERS="many")
    refused_start(tmp_path, 2, "FMX_WORKERS", FMX_PACKAGE=package, FMX_WROKERS="2")
    refused_start(tmp_path, 7, "FMX_KEYS_FILE", FMX_PACKAGE=package, KUBERNETES_SERVICE_HOST="10.0.0.1")
    refused_start(tmp_path, 7, "no key file", FMX_PACKAGE=package, FMX_KEYS_FILE=str(tmp_path / "none.json"))
    assert not (tmp_path / ".fmx").exists()


def test_bento_serves_from_another_folder_bentoml_5499(small_package: Package, image: bytes, tmp_path: Path) -> None:
    """BentoML#5499: the project's own packages were missing in the bento."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("fmx", "serve", "requirements"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(project / name)], check=True)
    subprocess.run(["cp", str(ROOT / "bentofile.yaml"), str(ROOT / ".bentoignore"), str(project)], check=True)
    packages = project / "packages"
    packages.mkdir()
    subprocess.run(["cp", "-r", str(small_package.folder), str(packages / small_package.name)], check=True)
    (packages / "latest").write_text(small_package.name + "\n")
    built = subprocess.run(
        [str(BIN / "bentoml"), "build", "--output", "tag"], cwd=project, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    tag = built.stdout.strip().removeprefix("__tag__:")
    subprocess.run(["rm", "-rf", str(project)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    port = free_port()
    log = (tmp_path / "bento.log").open("wb")
    process = subprocess.Popen(
        [str(BIN / "bentoml"), "serve", tag, "--host", "127.0.0.1", "--port", str(port)],
        cwd=elsewhere,
        env=environment(tmp_path, FMX_AUTH="off"),
        stdout=log,
        stderr=log,
    )
    try:
        deadline = time.monotonic() + 60
        status = 0
        while time.monotonic() < deadline and process.poll() is None and status != 200:
            try:
                status = httpx.post(f"http://127.0.0.1:{port}/v1/predict", content=image, headers={"Content-Type": "image/png"}).status_code
            except httpx.TransportError:
                time.sleep(0.2)
        assert status == 200, (tmp_path / "bento.log").read_text()
        assert "<h1>Try the model</h1>" in httpx.get(f"http://127.0.0.1:{port}/").text
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        log.close()


def test_tritons_own_client_works_unchanged(server: Server, image: bytes, small_package: Package) -> None:
    http = pytest.importorskip("tritonclient.http")
    headers = {"X-API-Key": server.key}
    with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert eventually(lambda: all(client.is_server_ready() for _ in range(8)))  # either worker
        assert client.is_model_ready(small_package.name, headers=headers)
        assert client.get_model_metadata(small_package.name, headers=headers)["outputs"][0]["name"] == "probabilities"
        predictor = PackagePredictor.open(small_package.folder)
        row = predictor.task.row(image)[None]
        expected = predictor.run(row)
        rows = http.InferInput("images", list(row.shape), "UINT8")
        encoded = http.InferInput("images", [1], "BYTES")
        encoded.set_data_from_numpy(np.array([image], dtype=object))
        for binary in (True, False):
            rows.set_data_from_numpy(row, binary_data=binary)
            for given in (rows, encoded):
                answer = client.infer(small_package.name, [given], headers=dict(headers), request_id="mine")  # the client writes into it
                assert np.allclose(answer.as_numpy("probabilities"), expected, atol=1e-6)
                assert answer.as_numpy("label")[0].decode() == small_package.manifest.labels[int(expected.argmax())]
        with pytest.raises(http.InferenceServerException, match="no such model"):
            client.infer("another", [rows], headers=headers)
