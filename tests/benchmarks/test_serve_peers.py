"""The serving benchmark's peers: that they are given the same as fmx. Whether they answer the same, each in its own environment, says
`python -m benchmarks.serve_peers.check`."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from benchmarks.serve_peers.check import photographs
from benchmarks.serve_peers.environments import ENVIRONMENTS, SHARED
from benchmarks.serve_peers.model import Model, image_row
from benchmarks.serve_peers.peers import PEERS
from benchmarks.serve_peers.processes import running
from fmx import images
from fmx.contract import ImageInput
from fmx.package import Package
from fmx.predictor import PackagePredictor
from tests.conftest import encode

ROOT = Path(__file__).parents[2]
SHAPES = {"small": (32, 32), "wide": (96, 224), "default": (224, 224)}


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("shape", SHAPES)
def test_peer_row_equals_the_row_of_the_service(shape: str, resize: str, crop_fraction: float, interpolation: str) -> None:
    height, width = SHAPES[shape]
    given = {"resize": resize, "crop_fraction": crop_fraction, "interpolation": interpolation}
    spec = ImageInput(height=height, width=width, mean=(0, 0, 0), std=(1, 1, 1), **given)  # type: ignore[arg-type]
    grey = encode(Image.linear_gradient("L").resize((301, 97)), "JPEG")
    for data in (*photographs(), grey):
        np.testing.assert_array_equal(image_row(data, spec.model_dump()), images.image_row(data, spec))


def test_peer_model_answers_as_the_predictor(light_package: Package) -> None:
    variant = light_package.manifest.variants[-1].name
    expected = PackagePredictor.open(light_package.folder, variant=variant, threads=1).predict(photographs())
    model = Model(light_package.folder, variant, threads=1)
    assert [model.predict(image) for image in photographs()] == expected


def test_every_environment_has_what_fmx_runs_with() -> None:
    pins = set((ROOT / "constraints.txt").read_text().splitlines())
    assert set(SHARED) <= pins
    assert all(set(SHARED) <= set(requirements) for requirements in ENVIRONMENTS.values())
    assert all("==" in requirement for requirements in ENVIRONMENTS.values() for requirement in requirements)


def test_every_peer_has_an_environment_and_fills_only_known_places() -> None:
    known = {"python", "bin", "home", "port", "second_port", "third_port"}
    for name, peer in PEERS.items():
        assert peer.environment in ENVIRONMENTS or name == "null"
        assert set(re.findall(r"{(\w+)}", " ".join((*peer.command, *peer.variables.values())))) <= known


def test_v2_answer_is_read_as_labels_with_scores() -> None:
    outputs = [{"name": "labels", "data": ["4", "0"]}, {"name": "scores", "data": [0.75, 0.25]}]
    answer = json.dumps({"model_name": "classifier", "outputs": outputs}).encode()
    assert PEERS["mlserver"].labels(answer) == [{"label": "4", "score": 0.75}, {"label": "0", "score": 0.25}]


def test_null_server_says_what_it_is_told_and_is_gone_afterwards(tmp_path: Path, free_port: int) -> None:
    peer, answer = PEERS["null"], '{"labels": [{"label": "daisy", "score": 0.5}]}'
    with running(peer, environments=tmp_path, port=free_port, package=tmp_path, variant="fp32", answer=answer) as server:
        request = urllib.request.Request(server.url, photographs()[0], {"Content-Type": peer.content_type})
        with urllib.request.urlopen(request, timeout=10) as found:
            assert peer.labels(found.read()) == [{"label": "daisy", "score": 0.5}]
    assert not psutil.pid_exists(server.pid)


def test_a_peer_that_ends_at_once_stops_the_benchmark_with_its_last_lines(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "peer-serve-fastapi" / "bin").mkdir(parents=True)
    (tmp_path / "peer-serve-fastapi" / "bin" / "python").symlink_to("/bin/false")
    with (
        pytest.raises(SystemExit, match="did not become ready"),
        running(PEERS["fastapi"], environments=tmp_path, port=free_port, package=tmp_path, variant="fp32"),
    ):
        pass
