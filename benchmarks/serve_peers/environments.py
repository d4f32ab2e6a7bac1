"""The peers' environments, one folder each: `python -m benchmarks.serve_peers.environments DIR [NAME ...]` makes them in DIR.

onnxruntime, Pillow and NumPy are the same everywhere and as in constraints.txt; the rest is what a peer's own documentation installs.
Pinned is what is asked for and what sets the pace.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SHARED = ("onnxruntime==1.32.0", "pillow==13.0.0", "numpy==2.4.6", "pydantic==2.14.4", "uvicorn==0.54.0")
FAST_LOOP = ("uvloop==0.23.0", "httptools==0.9.0")
BENTOML = (*SHARED, "bentoml==1.4.40", "starlette==1.10.0")
MLSERVER = (*SHARED, "mlserver==1.7.1", "uvloop==0.21.0", "fastapi==0.115.14", "starlette==0.46.2", "orjson==3.13.0")
"""The workers of mlserver 1.7.1 die at their start under uvloop 0.23, whose get_event_loop() makes no loop."""

ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "fastapi": (*SHARED, *FAST_LOOP, "fastapi==0.165.0", "starlette==1.10.0", "orjson==3.13.0"),
    "litserve": (*SHARED, *FAST_LOOP, "litserve==0.2.19", "fastapi==0.165.0", "starlette==1.10.0", "pyzmq==27.3.0"),
    "bentoml": BENTOML,
    "bentoml-uvloop": (*BENTOML, *FAST_LOOP),  # which bentoml does not ask for, and fmx does
    "mlserver": MLSERVER,
    "mlserver-httptools": (*MLSERVER, "httptools==0.9.0"),
}
"""What pip installs, by name."""


def python_of(folder: Path, name: str) -> Path:
    """Give the interpreter of an environment that lies in `folder`; fmx's own for the empty name."""
    return folder / f"peer-serve-{name}" / "bin" / "python" if name else Path(sys.executable)


def make_environment(folder: Path, name: str) -> None:
    """Make an environment, or bring an old one to what is pinned."""
    python = python_of(folder, name)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *ENVIRONMENTS[name]], check=True)


def main() -> None:
    """Make the environments that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ENVIRONMENTS))
    given = parser.parse_args()
    if unknown := set(given.names) - set(ENVIRONMENTS):
        parser.error(f"There is no environment {', '.join(sorted(unknown))}.")
    for name in given.names or ENVIRONMENTS:
        make_environment(given.folder, name)
        print(f"Left {python_of(given.folder, name).parent.parent}.")


if __name__ == "__main__":
    main()
