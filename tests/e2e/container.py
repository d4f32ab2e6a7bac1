"""A container without an engine: what a Dockerfile lays out and starts, as a process of this host."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.conftest import Server, free_port, stop, wait_until_ready
from tests.serve.deploy.dockerfile import Dockerfile

VENV = "/opt/venv"
IN_NAMESPACES = """
set -e
mount --bind /tmp /tmp
mount -t tmpfs tmpfs /opt && mkdir /opt/venv && mount --bind "$VENV_HERE" /opt/venv
mount -t tmpfs tmpfs /srv && mkdir /srv/app /srv/package
mount --bind "$FOLDER/app" /srv/app && mount --bind "$FOLDER/package" /srv/package
mount -t tmpfs tmpfs /var && mkdir -p /var/lib/fmx && mount -t tmpfs tmpfs /var/lib/fmx
for place in /srv/app /srv/package /srv /opt/venv /opt /var /; do mount -o remount,bind,ro "$place"; done
cd /srv
exec unshare --user --map-user=10001 --map-group=10001 setpriv --bounding-set -all --inh-caps -all --no-new-privs "$@"
"""
"""The image's paths at their places, everything read-only but /tmp and the state folder; then user 10001, whom no passwd file knows, without
a capability."""
UNSHARED = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]


def has_namespaces() -> bool:
    """Say whether this host lets a process make a user and a mount namespace."""
    tried = [*UNSHARED, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        all(shutil.which(name) for name in ("unshare", "setpriv", "mount"))
        and subprocess.run(tried, capture_output=True, check=False).returncode == 0
    )


@contextmanager
def laid_out(folder: Path, root: Path, keys: Path) -> Iterator[Server]:
    """Copy what the Dockerfile copies to below a folder, and start its ENTRYPOINT with its ENV, elsewhere."""
    image = Dockerfile.read(folder / "Dockerfile")
    for source, target in image.copied().items():
        shutil.copytree(folder / source, root / target.lstrip("/"))

    def here(text: str) -> str:
        return text.replace(VENV, sys.prefix).replace("/srv/", f"{root}/srv/").replace("/var/lib/fmx", f"{root}/var/lib/fmx")

    (root / "var" / "lib" / "fmx").mkdir(parents=True)
    variables = {name: here(value) for name, value in image.environment.items()} | {"FMX_KEYS_FILE": str(keys)}
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    command = [here(word) for word in json.loads(image.one("ENTRYPOINT"))]
    with started(command, variables, elsewhere, root / "log") as server:
        yield server


@contextmanager
def contained(folder: Path, log: Path, keys: Path) -> Iterator[Server]:
    """Start the Dockerfile's ENTRYPOINT with its ENV, at its paths, on a read-only root, as its user. Needs `has_namespaces`."""
    image = Dockerfile.read(folder / "Dockerfile")
    variables = {**image.environment, "FMX_KEYS_FILE": str(keys), "FOLDER": str(folder), "VENV_HERE": sys.prefix}
    command = [*UNSHARED, "sh", "-c", IN_NAMESPACES, "sh", *json.loads(image.one("ENTRYPOINT"))]
    with started(command, variables, folder, log) as server:
        yield server


@contextmanager
def started(command: list[str], variables: dict[str, str], cwd: Path, log: Path) -> Iterator[Server]:
    """Start a server on a port of its own, wait until it is ready, and stop it."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", str(port)], env=variables, cwd=cwd, stdout=output, stderr=output)
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        stop(process)


def health(folder: Path, port: int) -> int:
    """Run the Dockerfile's HEALTHCHECK against a port, and give its exit code."""
    text = Dockerfile.read(folder / "Dockerfile").one("HEALTHCHECK")
    words = json.loads(text[text.index("[") :].replace(":3000/", f":{port}/"))
    return subprocess.run([sys.executable, *words[1:]], capture_output=True, check=False).returncode
