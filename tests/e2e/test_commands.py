"""The three literal commands and their companions, as a user types them, on digits cut down to 32 pixels and two epochs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import torch

from export.exporter import export_body
from export.target import TARGETS, host_target
from finetune.network import restore_network
from fmx.data import open_source
from fmx.data.rows import read_splits
from fmx.run import find_run, load_run, task_of
from tests.e2e.conftest import Server, environment, eventually, runner, serving

INT8 = TARGETS[host_target()].variant

IMAGES = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which `fmx train` and `fmx export --quantize int8` were run."""
    folder = tmp_path_factory.mktemp("home")
    fmx = runner(folder)
    trained = fmx("train", "--epochs", "3", "--size", "32")
    assert trained.returncode == 0, trained.stderr
    assert "test accuracy" in trained.stdout
    assert trained.stdout.rstrip().endswith("Next: fmx export --quantize int8")
    exported = fmx("export", "--quantize", "int8", "--max-drop", "30", "--batch", "8")
    assert exported.returncode == 0, exported.stderr
    for column in ("size", "accuracy", "interval", "drop", "speed-up"):
        assert column in exported.stdout
    assert exported.stdout.rstrip().endswith("Next: bentoml serve")
    return folder


@pytest.fixture(scope="module")
def images(home: Path) -> list[Path]:
    """Held-out digits as PNG files."""
    folder = home / "images"
    folder.mkdir()
    for number, item in enumerate(open_source("digits").splits["test"][:IMAGES]):
        (folder / f"{number:02d}.png").write_bytes(item.read())
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serving(home, home / "packages" / "latest") as running:
        yield running


def eager_top1(home: Path) -> list[str]:
    run = load_run(find_run(home / "runs" / "latest"))
    rows = read_splits(open_source("digits"), task_of(run), ("test",))["test"].values[:IMAGES]
    with torch.inference_mode():
        return [run.info.labels[i] for i in restore_network(run)(torch.from_numpy(rows)).argmax(dim=1)]


def predict_json(home: Path, images: list[Path], *options: str) -> list[dict[str, Any]]:
    answer = runner(home)("predict", "latest", *map(str, images), "--json", *options)
    assert answer.returncode == 0, answer.stderr
    predictions: list[dict[str, Any]] = json.loads(answer.stdout)["predictions"]
    return predictions


def first_labels(predictions: list[dict[str, Any]]) -> list[str]:
    return [item["labels"][0]["label"] for item in predictions]


def test_served_answer_equals_fmx_predict_and_the_eager_model(home: Path, images: list[Path], server: Server) -> None:
    predicted = predict_json(home, images, "--top-k", "10")
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "image/png"}
    served = []
    for image in images:
        answer = httpx.post(f"{server.url}/v1/predict?top_k=10", content=image.read_bytes(), headers=headers)
        assert answer.status_code == 200, answer.text
        served.append(answer.json()["predictions"][0])
    for ours, theirs in zip(predicted, served, strict=True):
        scores = [{item["label"]: item["score"] for item in answer["labels"]} for answer in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    eager = eager_top1(home)
    assert first_labels(predict_json(home, images, "--variant", "fp32")) == eager
    agreeing = np.mean([ours == theirs for ours, theirs in zip(first_labels(served), eager, strict=True)])
    assert agreeing >= 0.75  # int8 of a model of three epochs; fp32 is exact


def test_fp32_service_agrees_with_the_eager_model_on_every_image(home: Path, images: list[Path], tmp_path: Path) -> None:
    with serving(tmp_path, home / "packages" / "latest", FMX_VARIANT="fp32", FMX_AUTH="off") as running:
        files = [("f", (image.name, image.read_bytes(), "image/png")) for image in images]
        answer = httpx.post(f"{running.url}/v1/predict", files=files)
    assert first_labels(answer.json()["predictions"]) == eager_top1(home)


def test_service_is_closed_without_a_key_and_open_to_probes(server: Server, images: list[Path]) -> None:
    answer = httpx.post(f"{server.url}/v1/predict", content=images[0].read_bytes(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 401
    for path in ("/livez", "/readyz", "/metrics"):
        assert httpx.get(server.url + path).status_code == 200
    assert httpx.get(server.url + "/anything").status_code == 404


def test_keys_come_and_go_under_a_running_service(home: Path, server: Server, images: list[Path]) -> None:
    fmx = runner(home)
    made = json.loads(fmx("keys", "create", "shop", "--json").stdout)

    def status() -> int:
        headers = {"X-API-Key": made["key"], "Content-Type": "image/png"}
        return httpx.post(f"{server.url}/v1/predict", content=images[0].read_bytes(), headers=headers).status_code

    assert eventually(lambda: status() == 200)
    listed = json.loads(fmx("keys", "list", "--json").stdout)
    assert [key["name"] for key in listed] == ["first", "shop"]
    assert made["key"].split("_", 2)[2] not in fmx("keys", "list").stdout
    assert fmx("keys", "revoke", "shop").returncode == 0
    assert eventually(lambda: status() == 401)


def test_second_start_shows_no_key_and_the_first_key_still_works(home: Path, server: Server, images: list[Path], tmp_path: Path) -> None:
    variables = {"FMX_KEYS_FILE": str(home / ".fmx" / "keys.json")}
    with serving(tmp_path, home / "packages" / "latest", **variables) as second:
        assert "fmx_" not in second.output.replace("fmx_ready", "")
        headers = {"X-API-Key": server.key, "Content-Type": "image/png"}
        assert httpx.post(f"{second.url}/v1/predict", content=images[0].read_bytes(), headers=headers).status_code == 200


def test_predict_takes_folders_and_standard_input_and_names_what_it_cannot_read(home: Path, images: list[Path], tmp_path: Path) -> None:
    fmx = runner(home)
    from_folder = json.loads(fmx("predict", "latest", str(images[0].parent), "--json").stdout)["predictions"]
    assert [Path(item["input"]).name for item in from_folder] == [image.name for image in images]
    from_stdin = json.loads(fmx("predict", "latest", "-", "--json", stdin=images[0].read_bytes()).stdout)["predictions"]
    assert from_stdin[0]["labels"] == from_folder[0]["labels"]
    table = fmx("predict", "latest", str(images[0]), "--top-k", "2")
    assert images[0].name in table.stdout
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    mixed = fmx("predict", "latest", str(images[0]), str(broken), "--json")
    assert mixed.returncode == 3
    assert json.loads(mixed.stdout)["errors"][0]["input"] == str(broken)
    assert len(json.loads(mixed.stdout)["predictions"]) == 1


def test_eval_verify_inspect_doctor_and_version_answer(home: Path) -> None:
    fmx = runner(home)
    manifest = json.loads(fmx("inspect", "--json").stdout)
    evaluated = json.loads(fmx("eval", "latest", "--data", "digits", "--json").stdout)
    assert evaluated["accuracy"] == manifest["variants"][0]["accuracy"]
    assert "labels" in fmx("inspect").stdout
    verified = json.loads(fmx("verify", "--json").stdout)
    assert set(verified["golden_rows"]) == {INT8, "fp32"}
    assert fmx("verify").stdout.rstrip().endswith("Next: bentoml serve")
    doctor = json.loads(fmx("doctor", "--json").stdout)
    assert doctor["extras"]["serve"] == []
    assert "onnxruntime" in doctor["versions"]
    assert fmx("--version").stdout.startswith("fmx ")


def test_help_loads_no_heavy_library_and_core_and_service_load_no_torch() -> None:
    import subprocess
    import sys

    heavy = "('torch', 'onnxruntime', 'bentoml', 'numpy', 'pydantic', 'PIL')"
    checks = (
        f"import sys, fmx.cli.main; assert not set({heavy}) & set(sys.modules), set({heavy}) & set(sys.modules)",
        "import sys, fmx.predictor, fmx.evaluation, serve.service; assert 'torch' not in sys.modules",
    )
    for code in checks:
        done = subprocess.run([sys.executable, "-c", code], env=environment(Path.cwd()), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_bench_times_a_package_and_a_file(home: Path) -> None:
    fmx = runner(home)
    answer = fmx("bench", "latest", "--batch", "1,4", "--seconds", "0.2", "--json")
    assert answer.returncode == 0, answer.stderr
    timings = json.loads(answer.stdout)["timings"]
    assert set(timings) == {INT8, "fp32"}
    assert [one["batch"] for one in timings["fp32"]] == [1, 4]
    package = home / "packages" / "efficientnet_lite0-1"
    table = fmx("bench", str(package / "model.fp32.onnx"), "--seconds", "0.2")
    assert table.returncode == 0, table.stderr
    assert "rows/s" in table.stdout
    assert fmx("bench", "latest", "--batch", "none").returncode == 2
    assert fmx("bench", "nowhere.onnx").returncode == 2


def test_check_exits_5_for_a_file_that_should_not_be_used(home: Path) -> None:
    fmx = runner(home)
    package = home / "packages" / "efficientnet_lite0-1"
    good = fmx("check", str(package / f"model.{INT8}.onnx"), "--json")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["precision"] == "int8"
    torn = home / "torn.onnx"
    torn.write_bytes((package / "model.fp32.onnx").read_bytes()[:5000])
    bad = fmx("check", str(torn))
    assert bad.returncode == 5
    assert "error" in bad.stdout
    assert "Traceback" not in bad.stderr


def test_compare_is_a_gate(home: Path) -> None:
    fmx = runner(home)
    same = fmx("compare", "latest", "latest", "--data", "digits", "--max-slower", "1000")
    assert same.returncode == 0, same.stderr
    assert "Nothing got worse" in same.stdout
    exported = fmx("export", "--name", "plain")
    assert exported.returncode == 0, exported.stderr
    larger = fmx("compare", "efficientnet_lite0-1", "plain", "--data", "digits", "--max-slower", "1000000", "--json")
    assert larger.returncode == 5
    assert "larger" in json.loads(larger.stdout)["worse"][0]


def test_dry_run_writes_nothing_and_says_what_is_kept(home: Path) -> None:
    fmx = runner(home)
    before = sorted(path.name for path in (home / "packages").iterdir())
    kept = fmx("export", "--quantize", "int8", "--max-drop", "30", "--batch", "8", "--dry-run")
    assert kept.returncode == 0, kept.stderr
    assert kept.stdout.count("would run") == 1
    other = fmx("export", "--quantize", "int8", "--max-drop", "29", "--batch", "8", "--dry-run", "--json")
    stages = {one["stage"]: one["kept"] for one in json.loads(other.stdout)}
    assert [stage for stage, is_kept in stages.items() if not is_kept] == [f"int8-{host_target()}", "measure"]
    assert sorted(path.name for path in (home / "packages").iterdir()) == before


def test_signed_package_is_verified_and_an_unsigned_one_not_served(home: Path, tmp_path: Path) -> None:
    from tests.fmx.test_signature import write_keys

    private, public = write_keys(tmp_path, "ours")
    fmx = runner(home)
    assert fmx("verify", "latest", "--key", str(public)).returncode == 6
    signed = fmx("sign", "efficientnet_lite0-1", "--key", str(private))
    assert signed.returncode == 0, signed.stderr
    verified = fmx("verify", "efficientnet_lite0-1", "--key", str(public))
    assert verified.returncode == 0, verified.stderr
    assert "signature holds" in verified.stdout
    assert fmx("sign", "latest", "--key", str(public)).returncode == 2
    with serving(home, home / "packages" / "efficientnet_lite0-1", FMX_VERIFY_KEY=str(public)) as running:
        assert httpx.get(f"{running.url}/readyz").status_code == 200


def test_file_from_elsewhere_becomes_a_package(home: Path, tmp_path: Path) -> None:
    fmx = runner(home)
    refused = fmx("export", "--from", "absent.onnx", "--labels", "a,b")
    assert refused.returncode == 2
    body = export_body(restore_network(load_run(find_run(home / "runs" / "latest"))), load_run(find_run(home / "runs" / "latest")).info.input, 20)
    onnx.save(body, tmp_path / "theirs.onnx")
    options = ("--labels", "0,1,2,3,4,5,6,7,8,9", "--mean", "127,127,127", "--std", "128,128,128", "--interpolation", "bicubic", "--name", "theirs")
    made = fmx("export", "--from", str(tmp_path / "theirs.onnx"), "--data", "digits", *options)
    assert made.returncode == 0, made.stderr
    assert fmx("verify", "theirs").returncode == 0
    measured = json.loads(fmx("eval", "theirs", "--data", "digits", "--json").stdout)
    assert measured["rows_of_export"]
    assert measured["accuracy"] == load_run(find_run(home / "runs" / "latest")).info.accuracy.model_dump()
    assert fmx("export", "latest", "--from", "x.onnx", "--labels", "a").returncode == 2
    assert fmx("export", "--labels", "a").returncode == 2
