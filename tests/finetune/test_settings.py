"""Settings by flag, by file and from a run; what is written down; what is refused."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune import speed
from finetune.checkpoint import Keeper, State, load_state
from finetune.energy import EnergyMeter
from finetune.interruption import Interruption
from finetune.loop import Epoch, Fit, Trainer
from finetune.network import Network, build_network
from finetune.regularisation import set_drop_path, set_dropout
from finetune.settings import TrainSettings, check_settings
from finetune.training import train_run
from finetune.world import World
from fmx.cli.train import train
from fmx.errors import DataError, SurroundingsError, UsageError
from fmx.settings import read_config
from tests.conftest import MakeFolder, encode
from tests.finetune.test_objectives import tiny_plan

ROOT = Path(__file__).parents[2]


def test_every_setting_is_a_flag_and_every_flag_a_setting() -> None:
    make_other_tasks = {"multi_label", "scores"}
    flags = set(inspect.signature(train).parameters) - {"out", "resume", "config", "json", "seeds"} - make_other_tasks
    assert flags == set(TrainSettings.model_fields)


def test_run_json_holds_every_effective_setting_nvsubquadratic_141(digit_folder: MakeFolder) -> None:
    """BioNeMo nvSubquadratic PR#141: mixup silently brought a label smoothing of 0.1 with it."""
    run = train_run(data=str(digit_folder(2, 12)), size=32, epochs=1)
    written = run.info.settings
    assert set(written) == set(TrainSettings.model_fields)
    assert written["precision"] in ("fp32", "bf16")
    assert written["norm_statistics"] == "frozen"
    for resolved in ("lr", "head_lr_factor", "size", "batch_size"):
        assert written[resolved] is not None


@pytest.mark.parametrize("ending", ["yaml", "toml"])
def test_config_gives_options_and_flags_win(ending: str, digit_folder: MakeFolder, tmp_path: Path) -> None:
    file = tmp_path / f"c.{ending}"
    mark = ":" if ending == "yaml" else " ="
    text = "\n".join(f"{key}{mark} {json.dumps(value)}" for key, value in {"size": 40, "epochs": 7, "method": "linear-probe", "lr": 0.004}.items())
    file.write_text(f"{text}\nbatch-size{mark} 16\n" + ("weight_decay: 1e-3\n" if ending == "yaml" else "weight_decay = 1e-3\n"))
    command = [sys.executable, "-m", "fmx", "train", "--data", str(digit_folder(2, 12)), "--config", str(file), "--epochs", "2", "--json"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True, cwd=tmp_path)
    settings = json.loads(done.stdout)["settings"]
    assert (settings["size"], settings["epochs"], settings["method"]) == (40, 2, "linear-probe")
    assert (settings["lr"], settings["batch_size"], settings["weight_decay"]) == (0.004, 16, 1e-3)


def test_run_json_as_config_repeats_the_run(digit_folder: MakeFolder) -> None:
    first = train_run(data=str(digit_folder(2, 16)), size=32, epochs=2, mixup=0.2, seed=5, precision="fp32")
    again = train_run(**read_config(first.folder / "run.json"))
    assert again.info.name != first.info.name
    assert again.info.weights_sha256 == first.info.weights_sha256


@pytest.mark.parametrize(
    ("name", "content"), {"a.yaml": "epochs: [", "a.toml": "epochs = ", "a.json": "{", "b.yaml": "just words", "c.yaml": "- 1\n- 2"}.items()
)
def test_bad_config_is_said(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError):
        read_config(tmp_path / name)
    with pytest.raises(UsageError, match="no config"):
        read_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(("option", "said"), [({"lr": "fast"}, "number or auto"), ({"lr": -1}, "above 0"), ({"batch_size": 1}, "at least 2")])
def test_number_or_auto_is_checked_once(option: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_settings(option)
    assert caught.value.message.count(said) == 1


def test_batch_size_auto_is_settled_and_written_down(digit_folder: MakeFolder) -> None:
    said: list[str] = []
    run = train_run(data=str(digit_folder(2, 20)), size=32, epochs=1, batch_size="auto", model="squeezenet1_1", weights="none", say=said.append)
    assert isinstance(run.info.settings["batch_size"], int)
    assert any(line.startswith("Batch size") for line in said)


def test_leakage_stops_training_plantseg_11(tmp_path: Path, digit_folder: MakeFolder) -> None:
    """PlantSeg#11: 265 groups of copies, 70 of them in test and train. A file in two splits stops the run; --allow-leakage says it and goes on."""
    root = tmp_path / "split"
    for split in ("train", "val", "test"):
        digit_folder(2, 12, root=root / split)
    with pytest.raises(DataError, match="two splits") as caught:
        train_run(data=str(root), size=32, epochs=1, method="linear-probe")
    assert "--allow-leakage" in caught.value.hint
    said: list[str] = []
    train_run(data=str(root), size=32, epochs=1, method="linear-probe", allow_leakage=True, say=said.append)
    assert any("two splits" in line for line in said)


def test_bad_image_stops_training_where_none_may_be_skipped(digit_folder: MakeFolder) -> None:
    root = digit_folder(2, 30)
    (root / "class-1" / "003.png").write_bytes(encode_truncated())
    with pytest.raises(DataError, match=r"003\.png"):
        train_run(data=str(root), size=32, epochs=1, on_bad_image="error")


def encode_truncated() -> bytes:
    from PIL import Image

    return encode(Image.effect_noise((64, 64), 50))[:200]


def epochs_that_answered(*classes: int) -> list[Epoch]:
    return [Epoch("x", n, 1.0, 1.0 + n, 0.5, answered, 0.1, 1.0, 0.0, 1.0) for n, answered in enumerate(classes, start=1)]


def test_collapse_ends_the_training_with_advice_and_keeps_the_best_transformers_297() -> None:
    """transformers#297: accuracy fell from 99.7 % to chance in an epoch and training went on."""
    assert not Fit(epochs_that_answered(1, 1, 1, 1, 1)).has_collapsed  # has not learnt yet
    assert not Fit(epochs_that_answered(3, 1, 1, 2, 1)).has_collapsed
    settings = check_settings({"augment": "none", "epochs": 20, "precision": "fp32"})
    _, plan, _ = tiny_plan(settings)
    said: list[str] = []
    trainer = Trainer(plan, lambda *_: torch.zeros(()), settings, "x", 20, World(), said.append)
    best = {key: torch.ones_like(value) for key, value in plan.module.state_dict().items()}
    trainer.fit = Fit(epochs_that_answered(3, 1, 1, 1, 1), best)
    assert trainer.run(None, Interruption(), lambda fit: None).best.epoch == 1
    assert "--lr" in said[-1]
    assert all(bool((value == 1).all()) for value in plan.module.state_dict().values())


def test_dropout_is_set_where_the_model_has_it_and_added_where_not() -> None:
    for name in ("mobilenet_v3_small", "resnet18"):
        network, _, _ = build_network(name, "none", 32, 3)
        set_dropout(network, 0.9)
        rows = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
        network.train()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        assert not torch.equal(network(rows), network(rows)), name
        network.eval()
        assert torch.equal(network(rows), network(rows)), name


def test_stochastic_depth_rises_with_depth_and_is_refused_where_there_is_none() -> None:
    network, _, _ = build_network("efficientnet_b0", "none", 32, 3)
    set_drop_path(network.body, 0.4)
    rates: list[Any] = [module.p for module in network.body.modules() if type(module).__name__ == "StochasticDepth"]
    assert rates == sorted(rates)
    assert rates[-1] == 0.4
    resnet, _, _ = build_network("resnet18", "none", 32, 3)
    with pytest.raises(UsageError, match="no stochastic depth"):
        set_drop_path(resnet.body, 0.1)
    assert isinstance(network, Network)


def test_seeds_show_their_spread_on_the_same_rows(digit_folder: MakeFolder, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fmx", "train", "--data", str(digit_folder(2, 20)), "--size", "32", "--epochs", "2"]
    command += ["--method", "linear-probe", "--seeds", "2", "--json"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True, cwd=tmp_path)
    runs = json.loads(done.stdout)
    assert [run["settings"]["seed"] for run in runs] == [0, 1]
    assert runs[0]["rows"] == runs[1]["rows"]
    assert runs[0]["weights_sha256"] != runs[1]["weights_sha256"]


def test_tracker_that_is_not_installed_is_said(digit_folder: MakeFolder) -> None:
    from accelerate.tracking import get_available_trackers

    if "mlflow" in {str(name) for name in get_available_trackers()}:
        pytest.skip("mlflow is installed here")
    with pytest.raises(SurroundingsError, match="mlflow"):
        train_run(data=str(digit_folder(2, 12)), size=32, epochs=1, method="linear-probe", track=("mlflow",))


def test_tracker_gets_every_epoch_and_the_settings(digit_folder: MakeFolder, tmp_path: Path) -> None:
    """Weights & Biases itself, offline, in a process of its own; without a key and online it is refused in words."""
    command = [sys.executable, "-m", "fmx", "train", "--data", str(digit_folder(2, 12)), "--size", "32", "--epochs", "3", "--method", "linear-probe"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = {**clean, "PYTHONPATH": str(ROOT), "FMX_HOME": str(tmp_path), "HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
    offline = [*command, "--track", "wandb"]
    subprocess.run(offline, env={**environment, "WANDB_MODE": "offline"}, check=True, capture_output=True, cwd=tmp_path)
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    written = kept.read_bytes()
    assert written.count(b"validation_accuracy") >= 3
    assert b"label_smoothing" in written
    refused = subprocess.run(offline, env=environment, check=False, capture_output=True, cwd=tmp_path, text=True)
    assert refused.returncode == 7, refused.stderr
    assert "WANDB_MODE=offline" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_energy_is_read_from_the_counters_and_over_their_wrap(tmp_path: Path) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, which is counted already
    (package / "max_energy_range_uj").write_text("10000000\n")
    (package / "energy_uj").write_text("9000000\n")
    meter = EnergyMeter(tmp_path)
    (package / "energy_uj").write_text("2000000\n")
    assert meter.joules() == 3.0
    assert EnergyMeter(tmp_path / "nothing").joules() is None or torch.cuda.is_available()


def test_average_of_weights_is_what_is_kept(digit_folder: MakeFolder) -> None:
    options: dict[str, Any] = {"data": str(digit_folder(2, 16)), "size": 32, "epochs": 3, "batch_size": 4, "precision": "fp32"}
    plain, averaged = train_run(**options), train_run(**options, ema=0.9)
    assert plain.info.weights_sha256 != averaged.info.weights_sha256


UNUSED: list[dict[str, Any]] = [
    {"lora_rank": 4},
    {"probe_epochs": 3},
    {"adversarial_eps": 2.0},
    {"adversarial": "fgsm", "adversarial_steps": 5},
    {"distill_weight": 0.9},
    {"unlabelled_ratio": 3},
    {"model": "run:x", "weights": "w.pth"},
    {"method": "linear-probe", "head_lr_factor": 3.0},
    {"method": "linear-probe", "norm_statistics": "batch"},
    {"method": "linear-probe", "augment": "rand"},
]


@pytest.mark.parametrize("options", UNUSED)
def test_option_that_would_be_ignored_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="does nothing"):
        check_settings(options)


def test_settings_that_fit_together_are_taken() -> None:
    check_settings({"mixup": 0.2, "unlabelled": "pool"})
    check_settings({"method": "linear-probe", "augment": "rand", "probe_views": 1})
    with pytest.raises(UsageError, match="less than two rows"):
        check_settings({"batch_size": 32, "accumulate": 32})
    with pytest.raises(UsageError, match="number or auto"):
        check_settings({"lr": [0.001]})


def test_probe_repeats_from_its_run_json(digit_folder: MakeFolder) -> None:
    first = train_run(data=str(digit_folder(2, 16)), size=32, epochs=2, method="linear-probe")
    again = train_run(**read_config(first.folder / "run.json"))
    assert again.info.weights_sha256 == first.info.weights_sha256


def test_latest_is_written_down_as_the_run_that_it_was(digit_folder: MakeFolder) -> None:
    options: dict[str, Any] = {"data": str(digit_folder(2, 16)), "size": 32, "epochs": 1, "precision": "fp32"}
    train_run(**options, method="linear-probe", name="first")
    more = train_run(**options, model="run:latest", teacher="latest")
    assert more.info.settings["model"] == "run:first"
    assert more.info.settings["teacher"] == "first"


def test_batch_size_auto_survives_a_memory_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*arguments: object) -> float:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(speed, "_step_seconds", no_room)
    network, _, _ = build_network("squeezenet1_1", "none", 32, 2)
    assert speed.choose_batch_size(network.body, torch.zeros(1, 3, 32, 32), 1000, "fp32", torch.device("cpu"), lambda line: None) == 16


def test_tied_weights_are_kept(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    Keeper(tmp_path, minutes=1).save(State({"a": shared, "b": shared}, {}))
    state = load_state(tmp_path, lambda line: None)
    assert state is not None
    assert torch.equal(state.tensors["b"], shared)
