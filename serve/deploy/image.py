"""The folder that an image is built of: Dockerfile, pinned requirements, the code of fmx and the package.

The code is copied from the fmx that runs, so that an installed one needs no checkout.
"""

from __future__ import annotations

import importlib
import shutil
from importlib.metadata import version
from pathlib import Path

from fmx.package import load_package
from serve.deploy.plan import KEYS_FOLDER, PORT, SRV, STATE, USER, Plan
from serve.deploy.requirements import DISTRIBUTION, cuda_major, pinned
from serve.deploy.text import render

ROOMS = ("fmx", "serve")
NOT_SERVED = shutil.ignore_patterns("__pycache__", "*.pyc", "deploy")
CUDA_IMAGES = {12: "nvidia/cuda:12.9.1-cudnn-runtime-ubuntu24.04", 13: "nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04"}


def write_image(plan: Plan, folder: Path) -> None:
    """Write what `docker build` takes.

    Raises:
        PackageError: the copy of the package is not what was exported.
        SurroundingsError: something to pin is not installed.
    """
    is_cuda = plan.options.device == "cuda"
    pins = pinned(plan.options.device)
    places = {"srv": SRV, "state": STATE, "keys": KEYS_FOLDER, "user": USER, "port": PORT}
    (folder / "Dockerfile").write_text(render("Dockerfile.j2", plan=plan, cuda=CUDA_IMAGES[cuda_major()] if is_cuda else "", **places))
    (folder / ".dockerignore").write_text(render("dockerignore.j2"))
    (folder / "requirements.txt").write_text(render("requirements.txt.j2", plan=plan, pins=pins, fmx=version(DISTRIBUTION)))
    _copy_code(folder / "app")
    shutil.copytree(plan.package.folder, folder / "package")
    load_package(folder / "package")


def _copy_code(target: Path) -> None:
    for room in ROOMS:
        shutil.copytree(Path(next(iter(importlib.import_module(room).__path__))), target / room, ignore=NOT_SERVED)
    about = target / f"{DISTRIBUTION.replace('-', '_')}-{version(DISTRIBUTION)}.dist-info"
    about.mkdir()  # importlib.metadata finds the version there, which /v2 tells
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version(DISTRIBUTION)}\n")
