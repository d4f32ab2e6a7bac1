"""`make demo`: the three literal commands in this folder, a real request with its answer shown, and the server stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from serve.scaling.replica import becomes_ready

BIN = Path(sys.executable).parent
PORT = 3000
START_SECONDS = 90


def main() -> None:
    """Run the demo; any step that fails ends it with that step's exit code."""
    run("fmx", "train")
    run("fmx", "export", "--quantize", "int8")
    image, label = write_example()
    with tempfile.TemporaryDirectory(prefix="fmx-demo-") as folder:
        log = Path(folder) / "server.log"
        server = start_server(log, Path(folder))
        try:
            if not becomes_ready(f"http://127.0.0.1:{PORT}", server, START_SECONDS):
                sys.exit(f"The server did not become ready:\n{log.read_text()}")
            print(log.read_text())
            key = find_key(log)
            print(f"$ curl --data-binary @{image.name} -H 'Content-Type: image/png' -H 'Authorization: Bearer KEY' localhost:{PORT}/v1/predict")
            print(ask(image.read_bytes(), key))
            print(f"(the image shows a {label})")
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)
    print("The server is stopped. Start it again with: bentoml serve")


def run(*command: str) -> None:
    """Show and run a command of this environment."""
    print(f"$ {' '.join(command)}", flush=True)
    result = subprocess.run([str(BIN / command[0]), *command[1:]], check=False)
    if result.returncode:
        sys.exit(result.returncode)


def write_example() -> tuple[Path, str]:
    """Write a held-out digit as a PNG file and return it with its label."""
    from fmx.data import open_source

    source = open_source("digits")
    item = source.splits["test"][0]
    path = Path("runs") / "example.png"
    path.write_bytes(item.read())
    return path, source.labels[item.label]


def start_server(log: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start `bentoml serve` in this folder with its output in a file."""
    print("$ bentoml serve", flush=True)
    environment = {**os.environ, "BENTOML_HOME": str(folder), "BENTOML_DO_NOT_TRACK": "True"}
    return subprocess.Popen([str(BIN / "bentoml"), "serve"], stdout=log.open("wb"), stderr=subprocess.STDOUT, env=environment)


def find_key(log: Path) -> str:
    """Take the key from the server's first start, or make one when this is a later start."""
    shown = re.search(r"fmx_[0-9a-f]{8}_\S+", log.read_text())
    if shown:
        return shown[0]
    made = subprocess.run([str(BIN / "fmx"), "keys", "create", f"demo-{int(time.time())}"], check=True, capture_output=True, text=True)
    time.sleep(1.5)
    return re.search(r"fmx_[0-9a-f]{8}_\S+", made.stdout)[0]  # type: ignore[index]


def ask(image: bytes, key: str) -> str:
    """Send one request and return the answer's body."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/predict", data=image, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    main()
