"""A peer as a process: started on a port, ready, and gone with everything it started."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serve_peers.environments import python_of
from benchmarks.serve_peers.peers import Peer
from serve.scaling.replica import becomes_ready

ROOT = Path(__file__).parents[2]
START_SECONDS = 60
STOP_SECONDS = 30
OTHERS = ("FMX_", "BENTOML_", "MLSERVER_", "UVICORN_", "LIT_", "PROMETHEUS_")
"""Variables that begin so are not passed on: a peer has the settings that its entry says."""


@dataclass(frozen=True)
class Running:
    """A peer that answers."""

    url: str
    """Where it predicts."""
    pid: int
    ready_s: float
    """From the start of the process to the first answer that it is ready."""
    log: Path


@contextmanager
def running(peer: Peer, *, environments: Path, port: int, package: Path, variant: str, answer: str | None = None) -> Iterator[Running]:
    """Serve a package by a peer on loopback; the two ports after `port` may be taken too.

    Args:
        peer: of `PEERS`.
        environments: the folder that `environments.py` filled.
        port: where it listens.
        package: a package folder.
        variant: the variant to serve, the same for all that are compared.
        answer: what the null server says, to be as long as another's answer.

    Raises:
        SystemExit: it does not become ready; with its last lines.
    """
    python = python_of(environments, peer.environment)
    with tempfile.TemporaryDirectory(prefix="fmx-peer-") as home:
        places = {"python": python, "bin": python.parent, "home": home, "port": port, "second_port": port + 1, "third_port": port + 2}
        own = {key: value.format(**places) for key, value in peer.variables.items()}
        own |= {"FMX_PEER_PACKAGE": str(package.resolve()), "FMX_PEER_VARIANT": variant, "PYTHONPATH": str(ROOT)}
        own |= {"FMX_PEER_ANSWER": answer} if answer else {}
        variables = {key: value for key, value in os.environ.items() if not key.startswith(OTHERS)} | own
        log = Path(home) / "log"
        started = time.perf_counter()
        with log.open("wb") as output:
            command = [part.format(**places) for part in peer.command]
            server = subprocess.Popen(command, env=variables, cwd=home, stdout=output, stderr=subprocess.STDOUT)
        try:
            if not becomes_ready(f"http://127.0.0.1:{port}", server, START_SECONDS, peer.ready):
                raise SystemExit(f"{' '.join(command)} did not become ready:\n{log.read_text(errors='replace')[-3000:]}")
            yield Running(f"http://127.0.0.1:{port}{peer.path}", server.pid, time.perf_counter() - started, log)
        finally:
            _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Interrupt a server as Ctrl-C does, and kill what of it is left."""
    family = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
    server.send_signal(signal.SIGINT)
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    _, left = psutil.wait_procs(family, timeout=5)
    for process in left:
        process.kill()
