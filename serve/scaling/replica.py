"""One replica of the service on this host, started for a measurement and ended after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmx.errors import SurroundingsError
from fmx.package import Package

START_SECONDS = 120
NOT_HERE = frozenset({"FMX_AUDIT_FILE", "FMX_REDIS_URL", "FMX_KEYS_FILE", "FMX_METRICS_TOKEN", "FMX_JWT_JWKS", "FMX_JWT_AUDIENCE", "FMX_JWT_ISSUER"})
"""Settings of a production service that a measurement must not touch."""


@contextmanager
def replica_of(package: Package, workers: int) -> Iterator[str]:
    """Serve a package on loopback, open to this measurement alone by its port, and give the URL.

    Raises:
        SurroundingsError: it does not become ready; with its last lines.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="fmx-capacity-") as home:
        log = Path(home) / "log"
        own = {"FMX_AUTH": "off", "FMX_PACKAGE": str(package.folder), "FMX_WORKERS": str(workers), "FMX_ACCESS_LOG": "off", "FMX_HOME": home}
        own["FMX_OBJECTIVE_MS"] = "1e9"  # what is too slow must be seen, not refused
        kept = {key: value for key, value in os.environ.items() if key not in NOT_HERE}
        variables = {**kept, **own, "BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "True"}
        command = [sys.executable, "-m", "bentoml", "serve", "serve.service:FmxService", "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as output:
            server = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            if not becomes_ready(url, server, START_SECONDS):
                last = " ".join(log.read_text(errors="replace").split())[-300:]
                raise SurroundingsError(f"The service did not become ready: {last}", hint="Start it by itself to see why: fmx serve")
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def becomes_ready(url: str, server: subprocess.Popen[bytes], seconds: float, path: str = "/readyz") -> bool:
    """Wait until a server that was started answers that it is ready; false when it ends before, or takes longer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}{path}", timeout=2) as answer:
                if answer.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False
