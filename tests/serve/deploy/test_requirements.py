from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fmx.errors import SurroundingsError
from serve.deploy import requirements
from serve.deploy.requirements import cuda_major, pinned


def test_pins_are_the_installed_versions_of_everything_that_serving_needs() -> None:
    pins = pinned("cpu")
    assert {name: f"=={version(name)}" for name in pins} == pins
    assert {"bentoml", "onnxruntime", "numpy", "pillow", "prometheus-client", "uvloop", "pyyaml", "packaging"} <= pins.keys()
    assert not {"torch", "transformers", "onnx", "pytest", "fmx-toolkit"} & pins.keys()
    for name in pins:
        for text in distribution(name).requires or []:
            needed = Requirement(text)
            if needed.marker is None:
                assert canonicalize_name(needed.name) in pins, (name, text)


def test_gpus_runtime_takes_the_place_of_the_cpus() -> None:
    cpu, gpu = pinned("cpu"), pinned("cuda")
    assert "onnxruntime" not in gpu
    assert gpu.keys() - {"onnxruntime-gpu"} == cpu.keys() - {"onnxruntime"}
    try:
        assert gpu["onnxruntime-gpu"] == f"=={version('onnxruntime-gpu')}"
    except PackageNotFoundError:
        assert re.fullmatch(r">=[\d.]+,<=" + re.escape(version("onnxruntime")), gpu["onnxruntime-gpu"])
    assert cuda_major() in (12, 13)


def test_library_that_is_not_installed_cannot_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> object:
        if name == "orjson":
            raise PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(requirements, "distribution", gone)
    with pytest.raises(SurroundingsError, match="orjson") as caught:
        pinned("cpu")
    assert "fmx-toolkit[cpu,serve]" in caught.value.hint
