"""`make serving-environment`: `pip install .[cpu,serve]` in a new environment is small, holds no torch, and serves a package.

It needs the package index, so it is no test; CI runs it beside them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_MB = 400
PORT = 3987
FORBIDDEN = ("torch", "torchvision", "transformers", "onnx", "scipy")


def main() -> None:
    """Run the check; an assertion of it that fails ends it with exit code 1."""
    with tempfile.TemporaryDirectory(prefix="fmx-serving-") as name:
        folder = Path(name)
        package, image = make_package(folder)
        python = install(folder / "env")
        size_mb = sum(file.lstat().st_size for file in (folder / "env").rglob("*") if file.is_file()) / 1e6
        print(f"The serving environment takes {size_mb:.0f} MB (at most {MOST_MB}).")
        installed = {item["name"].lower() for item in json.loads(output(python, "-m", "pip", "list", "--format", "json"))}
        found = sorted(installed & set(FORBIDDEN))
        label = serve_and_ask(python, folder, package, image)
        predicted = json.loads(output(python, "-m", "fmx", "predict", str(package), str(image), "--json"))["predictions"][0]["labels"][0]["label"]
    if size_mb > MOST_MB or found or label != predicted:
        sys.exit(f"failed: {size_mb:.0f} MB, forbidden packages {found}, served {label!r}, predicted {predicted!r}")
    print(f"It holds none of {', '.join(FORBIDDEN)}, and serves what fmx predict answers.")


def make_package(folder: Path) -> tuple[Path, Path]:
    """Train and export a small model with this environment, and write one held-out image."""
    home = {**os.environ, "FMX_HOME": str(folder)}
    for command in (("train", "--epochs", "1", "--size", "32"), ("export",)):
        subprocess.run([sys.executable, "-m", "fmx", *command], check=True, env=home, cwd=ROOT, stdout=subprocess.DEVNULL)
    from fmx.data import open_source

    image = folder / "image.png"
    image.write_bytes(open_source("digits").splits["test"][0].read())
    return folder / "packages" / (folder / "packages" / "latest").read_text().strip(), image


def install(environment: Path) -> str:
    """Install the wheel of this folder with what serving needs, and return the environment's Python."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = str(environment / "bin" / "python")
    target = f"{ROOT}[cpu,serve]"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), target], check=True)
    return python


def output(*command: str) -> str:
    """Run a command outside the repository and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout


def serve_and_ask(python: str, folder: Path, package: Path, image: Path) -> str:
    """Serve the package from that environment and return the first label of one answer."""
    variables = {**os.environ, "FMX_HOME": str(folder), "FMX_AUTH": "off", "BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    command = [python, "-m", "fmx", "serve", str(package), "--port", str(PORT)]
    server = subprocess.Popen(command, cwd="/", env=variables)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(
                    f"http://127.0.0.1:{PORT}/v1/predict", data=image.read_bytes(), headers={"Content-Type": "image/png"}
                )
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return str(json.load(answer)["predictions"][0]["labels"][0]["label"])
            except OSError:
                if time.monotonic() > until or server.poll() is not None:
                    raise
                time.sleep(0.3)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


if __name__ == "__main__":
    main()
