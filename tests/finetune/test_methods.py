"""Every method on small real data: what it trains, what stays, and that its run loads again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetune.base_models import check_model_name
from finetune.evaluation import eager_logits, evaluate_run
from finetune.methods import METHODS
from finetune.methods.lora import adapted_layers
from finetune.network import Network, build_network, restore_network
from finetune.settings import EMBEDDED_MODEL, METHOD_DEFAULTS, TEXT_METHOD_DEFAULTS, TEXT_METHODS, check_settings
from finetune.settings import METHODS as METHOD_NAMES
from finetune.training import train_run
from fmx.contract import ImageInput
from fmx.data import open_source
from fmx.data.rows import read_splits
from fmx.errors import ModelError, UsageError
from fmx.run import Run, task_of
from fmx.tasks import require_images
from tests.conftest import MakeFolder


def test_every_method_has_stages_rates_and_a_place_in_the_settings() -> None:
    assert set(METHODS) == set(METHOD_NAMES) == set(TEXT_METHOD_DEFAULTS)
    assert set(METHOD_DEFAULTS) == set(METHOD_NAMES) - set(TEXT_METHODS)


@pytest.mark.parametrize("method", sorted(METHOD_DEFAULTS))
def test_method_learns_and_its_run_answers_the_same_when_restored(method: str, digit_folder: MakeFolder) -> None:
    data, said = str(digit_folder(3, 30)), list[str]()
    run = train_run(data=data, size=32, epochs=4, method=method, say=said.append, precision="fp32")
    assert run.info.accuracy.value > 0.6, method
    assert any("parameters are trained (" in line for line in said)
    network = restore_network(run)
    rows = read_splits(open_source(data, 0), task_of(run))["test"]
    answers = eager_logits(network, rows, torch.device("cpu"))
    confusion = np.zeros((3, 3), dtype=int)
    np.add.at(confusion, (rows.labels, answers.argmax(axis=1)), 1)
    assert confusion.tolist() == run.info.metrics["confusion"]


def trained_names(run: Run) -> set[str]:
    fresh, _, _ = build_network(run.info.model, "default", require_images(run.info.input, "test").height, len(run.info.labels))
    head = fresh.head.path
    before, after = fresh.body.state_dict(), load_file(run.weights)
    assert set(before) == set(after)
    return {key for key, value in before.items() if not key.startswith(head) and not torch.equal(value, after[key])}


def test_norm_bias_moves_vectors_alone(digit_folder: MakeFolder) -> None:
    run = train_run(data=str(digit_folder(2, 20)), size=32, epochs=1, method="norm-bias", precision="fp32")
    fresh, _, _ = build_network(run.info.model, "default", 32, 2)
    moved = trained_names(run)
    assert moved
    assert all(fresh.body.state_dict()[name].ndim <= 1 for name in moved)


def test_lora_is_merged_into_plain_weights_and_leaves_norms_alone(digit_folder: MakeFolder) -> None:
    run = train_run(data=str(digit_folder(2, 20)), size=32, epochs=1, method="lora", precision="fp32")
    moved = trained_names(run)
    assert moved
    assert not [name for name in moved if "bn" in name or "running" in name]


@pytest.mark.parametrize(
    ("name", "size"),
    {"resnet18": 32, "vit_b_16": 32, "swin_t": 32, "mobilenet_v3_small": 32, "squeezenet1_1": 32, "densenet121": 32, "googlenet": 32}.items(),
)
def test_trained_head_survives_adapters_peft_310(name: str, size: int, digit_folder: MakeFolder, tmp_path: Path) -> None:
    """peft#310, peft#577: a head with another name than `classifier` or `score` came back random. Loaded in a new process."""
    run = train_run(data=str(digit_folder(2, 12)), model=name, weights="none", size=size, epochs=1, method="lora", lora_rank=2, precision="fp32")
    network = restore_network(run)
    rows = torch.arange(2 * size * size * 3, dtype=torch.int64).reshape(2, size, size, 3).remainder(251).to(torch.uint8)
    with torch.inference_mode():
        here = network(rows)
    script = (
        "import sys, torch; from finetune.network import restore_network; from fmx.run import load_run; from pathlib import Path\n"
        f"s = {size}; rows = torch.arange(2*s*s*3, dtype=torch.int64).reshape(2, s, s, 3).remainder(251).to(torch.uint8)\n"
        "with torch.inference_mode(): torch.save(restore_network(load_run(Path(sys.argv[1])))(rows), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", script, str(run.folder), str(tmp_path / "there.pt")], check=True, cwd=Path(__file__).parents[2])
    assert torch.equal(here, torch.load(tmp_path / "there.pt", weights_only=True))


def test_adapters_cover_attention_once_and_never_the_head() -> None:
    network, _, _ = build_network("vit_b_16", "none", 32, 5)
    names = adapted_layers(network.body, network.head.path)
    assert network.head.path not in names
    assert not [name for name in names if ".self_attention." in name]
    assert sum(name.endswith("self_attention") for name in names) == 12


def test_probe_on_augmented_views_uses_them(digit_folder: MakeFolder) -> None:
    options: dict[str, Any] = {"data": str(digit_folder(3, 16)), "size": 32, "epochs": 3, "method": "linear-probe", "precision": "fp32"}
    plain, viewed = train_run(**options), train_run(**options, probe_views=2)
    assert plain.info.weights_sha256 != viewed.info.weights_sha256
    assert viewed.info.weights_sha256 == train_run(**options, probe_views=2).info.weights_sha256
    with pytest.raises(UsageError, match="probe-views"):
        check_settings({"method": "finetune", "probe_views": 2})


def test_timm_model_trains_and_restores(digit_folder: MakeFolder) -> None:
    run = train_run(data=str(digit_folder(2, 12)), model="timm:resnet10t", weights="none", size=32, epochs=1)
    assert run.info.name == "resnet10t-1"
    assert run.info.model == "timm:resnet10t"
    assert restore_network(run).head.path == "fc"


def test_timm_model_for_a_fixed_size_is_built_for_ours() -> None:
    network, _, _ = build_network("timm:vit_tiny_patch16_224", "none", 64, 3)
    assert network(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape == (1, 3)


def test_timm_weights_offline_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="could not be had") as caught:
        build_network("timm:resnet10t", "default", 32, 3)
    assert "--weights" in caught.value.hint


def test_own_callable_trains_and_faults_are_named(digit_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_model.py").write_text(
        "from torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 10)\n\n"
        "    def forward(self, x):\n"
        "        return self.fc(self.conv(x).relu().mean(dim=(2, 3)))\n\n"
        "def number():\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = train_run(data=str(digit_folder(2, 12)), model="my_model:Net", size=32, epochs=1)
    assert run.info.name == "my_model-Net-1"
    assert isinstance(restore_network(run), Network)
    for name, message in {"my_model:absent": "no callable", "no_such_module:x": "cannot be imported"}.items():
        with pytest.raises(ModelError, match=message):
            check_model_name(name)
    with pytest.raises(ModelError, match="returned int"):
        build_network("my_model:number", "default", 32, 2)


def test_run_is_continued_with_its_head_or_a_fresh_one(digit_folder: MakeFolder, tmp_path: Path) -> None:
    first = train_run(data=str(digit_folder(3, 24)), size=32, epochs=5, precision="fp32", name="first")
    more = train_run(data=str(digit_folder(3, 24)), model="run:first", epochs=1, lr=1e-6, precision="fp32")
    assert more.info.model == first.info.model
    assert "run first" in more.info.weights_origin
    assert more.info.accuracy.value >= first.info.accuracy.value - 0.15
    assert isinstance(more.info.input, ImageInput)
    assert more.info.input.height == 32
    other = train_run(data=str(digit_folder(2, 24, root=tmp_path / "two")), model="run:first", epochs=1)
    assert len(other.info.labels) == 2
    with pytest.raises(UsageError):
        train_run(data="digits", model="run:absent")


_START = (
    "class build(nn.Module):\n"
    "    def __init__(self):\n"
    "        super().__init__()\n"
    "        self.fc = nn.Linear(3, 2)\n"
    "    def forward(self, x):\n        "
)
FAULTY = {
    "def build(size): return None": "failed",
    f"{_START}assert False": "cannot take",
    f"{_START}return (self.fc(x.mean((2, 3))),)": "answers tuple",
}


@pytest.mark.parametrize(("body", "message"), FAULTY.items())
def test_faults_of_an_own_network_are_said(body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"own_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"from torch import nn\n\n{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=message):
        build_network(f"{name}:build", "default", 32, 2)


def test_network_with_two_heads_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be given a head"):
        build_network("timm:deit_tiny_distilled_patch16_224", "none", 224, 3)


def test_views_of_a_probe_do_not_depend_on_what_was_cached_before(digit_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "data": str(digit_folder(2, 16)),
        "size": 32,
        "epochs": 2,
        "method": "linear-probe",
        "augment": "trivial",
        "precision": "fp32",
    }
    train_run(**options, probe_views=1)
    grown = train_run(**options, probe_views=2)
    monkeypatch.setenv("FMX_CACHE", str(tmp_path / "another"))
    fresh = train_run(**options, probe_views=2)
    assert grown.info.weights_sha256 == fresh.info.weights_sha256
    kept = [np.load(path) for path in sorted((tmp_path / "another" / "features").glob("*.npy"))]
    same = [np.array_equal(a, b) for i, a in enumerate(kept) for b in kept[i + 1 :] if a.shape == b.shape]
    assert same
    assert not any(same)


def test_dropout_is_before_the_head_of_a_probe_too() -> None:
    from finetune.methods.linear_probe import _Head
    from finetune.regularisation import set_dropout

    network, _, _ = build_network("mobilenet_v3_small", "none", 32, 3)
    set_dropout(network, 0.5)
    head, features = _Head(network).train(), torch.ones(4, 1024)
    assert not torch.equal(head(features), head(features))


def test_evaluation_of_a_grouped_run_uses_its_groups(tmp_path: Path, digit_folder: MakeFolder) -> None:
    root = digit_folder(2, 24)
    for folder in root.iterdir():
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"patient{number // 2:02d}_{number % 2}.png")
    run = train_run(data=str(root), size=32, epochs=1, method="linear-probe", group_by=r"(patient\d+)_")
    result = evaluate_run(run, str(root), torch.device("cpu"))
    assert result.facts["rows_of_run"]
    assert result.facts["accuracy"] == run.info.metrics["accuracy"]


def test_best_epoch_is_kept_whatever_came_after_transformers_10896(digit_folder: MakeFolder) -> None:
    """transformers#10896, #12915, #35070: best and last checkpoint were confused. A rate that ruins the last epochs leaves the best one's weights."""
    data = str(digit_folder(3, 30))
    options: dict[str, Any] = {"lr": 0.5, "optimiser": "sgd", "schedule": "constant", "precision": "fp32", "augment": "none"}
    run = train_run(data=data, size=32, epochs=6, patience=6, **options)
    epochs = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    best = max(epochs, key=lambda epoch: (epoch["validation_accuracy"], -epoch["validation_loss"]))
    assert best["epoch"] < len(epochs), "no epoch came after the best one"
    assert run.info.best_epoch == best["epoch"]
    rows = read_splits(open_source(data, 0), task_of(run))["validation"]
    answers = eager_logits(restore_network(run), rows, torch.device("cpu")).argmax(axis=1)
    assert float((answers == rows.labels).mean()) == best["validation_accuracy"] == run.info.metrics["validation_accuracy"]


@pytest.mark.parametrize("model", [EMBEDDED_MODEL, "squeezenet1_1", "timm:resnet10t"])
def test_run_needs_nothing_but_its_folder_autogluon_4873(model: str, digit_folder: MakeFolder) -> None:
    """autogluon#4873, #1115: a saved model still downloaded its backbone when it was loaded. Loaded in a process without any socket."""
    weights = "default" if model == EMBEDDED_MODEL else "none"
    run = train_run(data=str(digit_folder(2, 12)), model=model, weights=weights, size=32, epochs=1, precision="fp32")
    code = (
        "import socket, sys, torch\n"
        "def refuse(*arguments, **options): raise OSError('a socket was opened')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from finetune.network import restore_network\n"
        "from fmx.run import load_run\n"
        "from pathlib import Path\n"
        "print(restore_network(load_run(Path(sys.argv[1])))(torch.zeros((1, 32, 32, 3), dtype=torch.uint8)).shape)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(run.folder / "none"), "TORCH_HOME": str(run.folder / "none")}
    done = subprocess.run([sys.executable, "-c", code, str(run.folder)], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "torch.Size([1, 2])", done.stderr


def test_compiling_is_measured_and_its_training_is_an_ordinary_run(digit_folder: MakeFolder) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"model": "alexnet", "weights": "none", "size": 64, "precision": "fp32"}
    run = train_run(data=str(digit_folder(2, 12)), epochs=1, compile=True, say=said.append, **options)
    (line,) = [line for line in said if "compiled step" in line]
    assert run.info.settings["compile"] is ("so nothing is compiled" not in line)
    assert restore_network(run).body.state_dict().keys() == load_file(run.weights).keys()


def test_probe_passes_rows_once_in_the_precision_that_is_asked_for_and_is_judged_in_full(digit_folder: MakeFolder) -> None:
    data = str(digit_folder(3, 30))
    runs = {precision: train_run(data=data, size=32, epochs=4, method="linear-probe", precision=precision) for precision in ("fp32", "bf16")}
    assert {precision: run.info.settings["precision"] for precision, run in runs.items()} == {"fp32": "fp32", "bf16": "bf16"}
    assert runs["fp32"].info.weights_sha256 != runs["bf16"].info.weights_sha256
    rows = read_splits(open_source(data, 0), task_of(runs["bf16"]))["test"]
    for run in runs.values():
        answers = eager_logits(restore_network(run), rows, torch.device("cpu"))
        confusion = np.zeros((3, 3), dtype=int)
        np.add.at(confusion, (rows.labels, answers.argmax(axis=1)), 1)
        assert confusion.tolist() == run.info.metrics["confusion"]
