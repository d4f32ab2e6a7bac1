"""Real processes: the command `fmx`, and `bentoml serve` in the repository's root."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 60

Fmx = Callable[..., subprocess.CompletedProcess[str]]


def environment(home: Path, **variables: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("FMX_", "BENTOML_", "PROMETHEUS_"))}
    return {**clean, "FMX_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), "BENTOML_DO_NOT_TRACK": "True", **variables}


@pytest.fixture
def fmx(tmp_path: Path) -> Fmx:
    """Run `fmx ...` in an empty home and return what it did; a traceback on the screen fails the test."""
    return runner(tmp_path)


def runner(home: Path) -> Fmx:
    def run(*arguments: str, stdin: bytes | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "fmx"), *arguments]
        done = subprocess.run(command, env=environment(home, **variables), cwd=home, input=stdin, capture_output=True, check=False)
        result = subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in result.stderr, result.stderr
        return result

    return run


@dataclass
class Server:
    """A running `bentoml serve`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    certificate: str = ""

    @property
    def trust(self) -> ssl.SSLContext | bool:
        """What httpx checks the server's certificate with."""
        return ssl.create_default_context(cafile=self.certificate) if self.certificate else True

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def key(self) -> str:
        found = re.search(r"fmx_[0-9a-f]{8}_\S+", self.output)
        assert found, self.output
        return found[0]

    def children(self) -> list[int]:
        """Process ids of the workers."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in listed if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(home: Path, package: Path, *options: str, program: str = "bentoml", certificate: str = "", **variables: str) -> Iterator[Server]:
    """Start `bentoml serve` or `fmx serve` in the repository's root, wait until it is ready, and stop it."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"server-{port}.log"
    command = [str(BIN / program), "serve", "--host", "127.0.0.1", "--port", str(port), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(home, FMX_PACKAGE=str(package), **variables), stdout=output, stderr=output)
    server = Server(process, f"{'https' if certificate else 'http'}://127.0.0.1:{port}", log, certificate)
    try:
        wait_until_ready(server)
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server, by force when it takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(server: Server) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/readyz", timeout=2, verify=server.trust).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not ready (exit code {server.process.poll()}):\n{server.output}")


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Say whether something comes to hold."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.1)
    return False
