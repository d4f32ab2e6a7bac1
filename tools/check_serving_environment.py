"""`make serving-environment`: `pip install .[cpu,serve]` in a new environment is small, holds no torch, and serves packages of images and texts.

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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_MB = 400
PORT = 3987
FORBIDDEN = ("torch", "torchvision", "transformers", "onnx", "scipy")


def main() -> None:
    """Run the check; an assertion of it that fails ends it with exit code 1."""
    with tempfile.TemporaryDirectory(prefix="fmx-serving-") as name:
        folder = Path(name)
        given = {"images": make_image_package(folder / "images"), "texts": make_text_package(folder / "texts")}
        python = install(folder / "env")
        size_mb = sum(file.lstat().st_size for file in (folder / "env").rglob("*") if file.is_file()) / 1e6
        print(f"The serving environment takes {size_mb:.0f} MB (at most {MOST_MB}).")
        installed = {item["name"].lower() for item in json.loads(output(python, "-m", "pip", "list", "--format", "json"))}
        found = sorted(installed & set(FORBIDDEN))
        served = {kind: serve_and_ask(python, folder, asked) for kind, asked in given.items()}
        predicted = {kind: predict(python, asked) for kind, asked in given.items()}
    if size_mb > MOST_MB or found or served != predicted:
        sys.exit(f"failed: {size_mb:.0f} MB, forbidden packages {found}, served {served!r}, predicted {predicted!r}")
    print(f"It holds none of {', '.join(FORBIDDEN)}, and serves what fmx predict answers.")


@dataclass(frozen=True)
class Asked:
    """A package, and one input for it."""

    package: Path
    argument: str
    """Of `fmx predict`."""
    body: bytes
    kind: str
    """Content type of the body."""


def make_image_package(folder: Path) -> Asked:
    """Train and export a small model of images with this environment, and write one held-out image."""
    package = train_and_export(folder, "--epochs", "1", "--size", "32")
    from fmx.data import open_source

    image = folder / "image.png"
    image.write_bytes(open_source("digits").splits["test"][0].read())
    return Asked(package, str(image), image.read_bytes(), "image/png")


def make_text_package(folder: Path) -> Asked:
    """Train the head of the embedded text model with this environment, and export it."""
    folder.mkdir()
    table = folder / "texts.csv"
    lines = [
        f"{text} {number},{label}" for number in range(20) for text, label in (("where is my parcel", "delivery"), ("I want a refund", "payment"))
    ]
    table.write_text("\n".join(["text,label", *lines]) + "\n")
    options = ("--method", "linear-probe", "--epochs", "1", "--max-length", "16")
    package = train_and_export(folder, "--task", "text-classification", "--data", str(table), *options)
    return Asked(package, "where is it?", b"where is it?", "text/plain")


def train_and_export(folder: Path, *options: str) -> Path:
    """Run the two commands, and give the package."""
    home = {**os.environ, "FMX_HOME": str(folder)}
    for command in (("train", *options), ("export",)):
        subprocess.run([sys.executable, "-m", "fmx", *command], check=True, env=home, cwd=ROOT, stdout=subprocess.DEVNULL)
    return folder / "packages" / (folder / "packages" / "latest").read_text().strip()


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


def predict(python: str, asked: Asked) -> str:
    """Answer with that environment's `fmx predict`, and give the first label."""
    answer = json.loads(output(python, "-m", "fmx", "predict", str(asked.package), asked.argument, "--json"))
    return str(answer["predictions"][0]["labels"][0]["label"])


def serve_and_ask(python: str, folder: Path, asked: Asked) -> str:
    """Serve the package from that environment and return the first label of one answer."""
    variables = {**os.environ, "FMX_HOME": str(folder), "FMX_AUTH": "off", "BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    command = [python, "-m", "fmx", "serve", str(asked.package), "--port", str(PORT)]
    server = subprocess.Popen(command, cwd="/", env=variables)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{PORT}/v1/predict", data=asked.body, headers={"Content-Type": asked.kind})
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
