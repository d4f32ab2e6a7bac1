from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.serve.deploy.conftest import Written
from tests.serve.deploy.dockerfile import Dockerfile


def test_image_is_multi_stage_non_root_and_asks_after_its_health(written: Written) -> None:
    folder = written()
    image = Dockerfile.read(folder / "Dockerfile")
    assert len(image.stages) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim( AS build)?", start) for start in image.starts)
    user = image.one("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert json.loads(image.one("ENTRYPOINT"))[:3] == ["/opt/venv/bin/bentoml", "serve", "serve.service:FmxService"]
    assert "/livez" in image.one("HEALTHCHECK")
    assert image.environment["BENTOML_CONTAINERIZED"] == "1"
    assert image.environment["BENTOML_DO_NOT_TRACK"] == "True"  # BentoML takes no other word for yes
    for name in ("BENTOML_HOME", "FMX_HOME", "HOME"):
        assert image.environment[name].startswith(("/var/lib/fmx", "/tmp"))
    assert image.environment["FMX_WORKERS"] == "2"
    pip = [line for line in image.stages[-1] if line[0] == "RUN" and "pip" in line[1]]
    assert not pip, "what builds stays in the first stage"


def test_image_takes_in_what_it_copies_and_nothing_else(written: Written) -> None:
    """BentoML#5499: a project's own packages were missing in the bento."""
    folder = written()
    image = Dockerfile.read(folder / "Dockerfile")
    sources = [text.split()[0] for stage in image.stages for name, text in stage if name == "COPY" and "--from" not in text]
    assert sorted(sources) == ["app", "package", "requirements.txt"]
    ignored = (folder / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {f"!{source}" for source in sources} == {line for line in ignored if line.startswith("!")}
    assert not list(folder.rglob("__pycache__"))
    assert not (folder / "app" / "serve" / "deploy").exists()
    for path in (*(folder / "app").rglob("*"), *(folder / "package").rglob("*")):
        assert path.stat().st_mode & 0o004, f"{path} is closed to the container's user"


def test_copied_code_is_imported_from_its_folder_without_torch(written: Written) -> None:
    folder = written()
    code = (
        "import sys, serve.service, fmx, importlib.metadata as m;"
        "print(serve.service.__file__, fmx.__file__, m.distribution('fmx-toolkit')._path, sorted({'torch', 'export', 'finetune'} & set(sys.modules)))"
    )
    clean = {"PYTHONPATH": str(folder / "app"), "BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, cwd="/", capture_output=True, text=True, check=True)
    service, core, about, heavy = done.stdout.split(maxsplit=3)
    assert all(Path(path).is_relative_to(folder / "app") for path in (service, core, about))
    assert heavy.strip() == "[]"


def test_gpu_image_stands_on_cuda_and_asks_for_one(written: Written) -> None:
    folder = written(device="cuda")
    image = Dockerfile.read(folder / "Dockerfile")
    assert re.fullmatch(r"nvidia/cuda:1[23]\.[\d.]+-cudnn-runtime-\w+[\d.]*", image.starts[-1])
    assert image.environment["FMX_DEVICE"] == "cuda"
    listed = (folder / "requirements.txt").read_text()
    assert re.search(r"^onnxruntime-gpu[=>]=", listed, re.MULTILINE)
    assert not re.search(r"^onnxruntime=", listed, re.MULTILINE)
    assert "nothing ran on CUDA" in (folder / "README.md").read_text()
