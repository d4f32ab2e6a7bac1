"""Never down by its own doing: a package swapped under load, a worker killed in a container, pipes and disks that go away."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from fmx.data import open_source
from fmx.package import Package
from serve.access.keys import create_key
from tests.e2e.conftest import BIN, ROOT, Server, environment, eventually, free_port, serving, wait_until_ready
from tests.e2e.test_server import metric
from tests.serve.test_swap import lay_out, point_to


@pytest.fixture(scope="module")
def image() -> bytes:
    return open_source("digits").splits["test"][0].read()


def ask(server: Server, key: str, image: bytes, client: httpx.Client) -> httpx.Response:
    return client.post(f"{server.url}/v1/predict", content=image, headers={"X-API-Key": key, "Content-Type": "image/png"}, timeout=30)


def under_load(
    server: Server, key: str, image: bytes, work: threading.Event, seen: Counter[tuple[int, str]], callers: int = 4
) -> list[threading.Thread]:
    """Ask on fresh and kept connections until `work` is set, and count statuses and versions."""

    def call(number: int) -> None:
        client = httpx.Client()
        while not work.is_set():
            if number % 2:
                client.close()
                client = httpx.Client()
            answer = ask(server, key, image, client)
            seen[answer.status_code, answer.json().get("model", {}).get("version", "")] += 1
        client.close()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    return threads


def test_package_is_swapped_in_every_worker_under_load_and_no_request_fails(small_package: Package, image: bytes, tmp_path: Path) -> None:
    lay_out(small_package, tmp_path)
    keys = tmp_path / "keys.json"
    _, key = create_key(keys, "operator", scopes=("predict", "admin"))
    with serving(tmp_path, Path("latest"), FMX_WORKERS="2", FMX_KEYS_FILE=str(keys), FMX_FOLLOW="off") as server:
        assert eventually(lambda: metric(server, "fmx_ready_workers") == 2)
        done, seen = threading.Event(), Counter[tuple[int, str]]()
        threads = under_load(server, key, image, done, seen)
        assert eventually(lambda: seen[200, "old"] > 50)
        point_to(tmp_path, "new")
        answer = httpx.post(f"{server.url}/v1/admin/reload", headers={"X-API-Key": key}, timeout=60)
        assert [worker["version"] for worker in answer.json()["workers"]] == ["new", "new"]
        count = seen[200, "new"]
        assert eventually(lambda: seen[200, "new"] > count + 50)
        done.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {(200, "old"), (200, "new")}


def test_what_was_gone_back_to_is_served_by_a_worker_that_is_started_later(small_package: Package, image: bytes, tmp_path: Path) -> None:
    lay_out(small_package, tmp_path)
    keys = tmp_path / "keys.json"
    _, key = create_key(keys, "operator", scopes=("predict", "admin"))
    with serving(tmp_path, Path("latest"), FMX_WORKERS="2", FMX_KEYS_FILE=str(keys)) as server, httpx.Client() as client:
        assert eventually(lambda: metric(server, "fmx_workers_alive") == 2)
        point_to(tmp_path, "new")
        headers = {"X-API-Key": key}
        assert httpx.post(f"{server.url}/v1/admin/reload", headers=headers, timeout=60).status_code == 200
        answer = httpx.post(f"{server.url}/v1/admin/reload", headers=headers, json={"to": "previous"}, timeout=60)
        assert [worker["version"] for worker in answer.json()["workers"]] == ["old", "old"]
        victim = server.children()[0]
        os.kill(victim, signal.SIGKILL)
        assert eventually(lambda: victim not in server.children() and metric(server, "fmx_ready_workers") == 2)
        answers = [httpx.post(f"{server.url}/v1/predict", content=image, headers={**headers, "Content-Type": "image/png"}) for _ in range(20)]
        assert {answer.json()["model"]["version"] for answer in answers} == {"old"}
        point_to(tmp_path, "old")  # the pointer moves again, and is followed again
        assert eventually(lambda: ask(server, key, image, client).json()["model"]["version"] == "old")


def test_fmx_serve_follows_latest_too(small_package: Package, image: bytes, tmp_path: Path) -> None:
    lay_out(small_package, tmp_path)
    with serving(tmp_path, Path("latest"), program="fmx", FMX_AUTH="off") as server, httpx.Client() as client:
        assert ask(server, "", image, client).json()["model"]["version"] == "old"
        point_to(tmp_path, "new")
        assert eventually(lambda: ask(server, "", image, client).json()["model"]["version"] == "new")


def test_worker_killed_in_a_container_is_replaced_mlserver_1431(small_package: Package, image: bytes, tmp_path: Path) -> None:
    """MLServer#1431, BentoML#3669: a worker was killed, and the rest went on as if nothing were missing; BentoML replaces none in a container."""
    keys = tmp_path / "keys.json"
    _, key = create_key(keys, "operator")
    variables = {"FMX_WORKERS": "2", "FMX_KEYS_FILE": str(keys), "BENTOML_CONTAINERIZED": "1"}
    with serving(tmp_path, small_package.folder, **variables) as server, httpx.Client() as client:
        assert eventually(lambda: metric(server, "fmx_workers_alive") == 2)
        victim = server.children()[0]
        os.kill(victim, signal.SIGKILL)
        assert eventually(lambda: victim not in server.children() and len(server.children()) == 2, 10)
        assert eventually(lambda: metric(server, "fmx_workers_alive") == 2 and metric(server, "fmx_ready_workers") == 2)
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert ask(server, key, image, client).status_code == 200


def test_worker_that_is_not_replaced_leaves_the_others_not_ready_mlserver_1431(small_package: Package, tmp_path: Path) -> None:
    """MLServer#1431: where a platform replaces no worker, the probes must say that one is missing."""
    keys = tmp_path / "keys.json"
    create_key(keys, "operator")
    variables = {"FMX_WORKERS": "2", "FMX_KEYS_FILE": str(keys), "BENTOCLOUD_DEPLOYMENT_URL": "http://127.0.0.1:9"}
    with serving(tmp_path, small_package.folder, **variables) as server:
        assert eventually(lambda: metric(server, "fmx_workers_alive") == 2)
        os.kill(server.children()[0], signal.SIGKILL)
        assert eventually(lambda: httpx.get(f"{server.url}/readyz").status_code == 503, 15)
        assert "1 of 2 workers is gone" in httpx.get(f"{server.url}/readyz").text
        assert metric(server, "fmx_workers_alive") == 1


def test_log_whose_reader_has_gone_costs_no_request_and_is_counted(small_package: Package, image: bytes, tmp_path: Path) -> None:
    port = free_port()
    keys = tmp_path / "keys.json"
    _, key = create_key(keys, "operator")
    command = [str(BIN / "bentoml"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    variables = environment(tmp_path, FMX_PACKAGE=str(small_package.folder), FMX_KEYS_FILE=str(keys))
    reading, writing = os.pipe()
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=writing, stderr=writing)
    os.close(writing)
    server = Server(process, f"http://127.0.0.1:{port}", Path(os.devnull))
    try:
        wait_until_ready(server)
        os.close(reading)
        with httpx.Client() as client:
            assert [ask(server, key, image, client).status_code for _ in range(5)] == [200] * 5
        assert metric(server, "fmx_logs_lost_total") >= 5
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_costs_no_request(small_package: Package, image: bytes, tmp_path: Path) -> None:
    """Counts lie in sparse files that are mapped into memory: a page that finds no room on the disk kills the process."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        keys = tmp_path / "keys.json"
        _, key = create_key(keys, "operator")
        variables = {"FMX_KEYS_FILE": str(keys), "FMX_AUDIT_FILE": str(disk / "audit.jsonl"), "BENTOML_HOME": str(disk / "bentoml")}
        with serving(tmp_path, small_package.folder, **variables) as server, httpx.Client() as client:
            assert ask(server, key, image, client).status_code == 200
            assert eventually(lambda: metric(server, "fmx_memory_bytes") > 0)  # the first vitals, and with them the space, are there
            with (disk / "filler").open("wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(b"\0" * 4096)
                except OSError:
                    pass
            statuses = [ask(server, key, image, client).status_code for _ in range(50)]
            assert statuses == [200] * 50
            assert httpx.get(f"{server.url}/nowhere").status_code == 404
            assert eventually(lambda: metric(server, "fmx_audit_lost_total") > 0)
            assert len(server.children()) == 1
    finally:
        subprocess.run(["umount", str(disk)], check=False)
