"""Interrupted trainings: killed, terminated, with damaged states, on a full disk. Real processes, real signals."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from finetune import checkpoint
from finetune.checkpoint import Keeper, State, load_state
from finetune.interruption import Interruption
from finetune.loop import Trainer
from finetune.plan import Plan
from finetune.settings import TrainSettings
from finetune.training import train_run
from finetune.world import World
from fmx.errors import DataError, SurroundingsError, UsageError
from fmx.run import load_run
from tests.conftest import MakeFolder, encode

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {
    "model": "squeezenet1_1",
    "weights": "none",
    "size": 32,
    "batch_size": 8,
    "lr": 2e-4,
    "ema": 0.9,
    "augment": "trivial",
    "precision": "fp32",
}
"""Dropout, torchvision's augmentations, the loop's own generator and a moving average: everything random and everything that has a state."""

TIMES = {"seconds", "rows_per_second", "waiting"}


def command(data: Path, epochs: int, *more: str) -> list[str]:
    flags = [part for key, value in OPTIONS.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "fmx", "train", "--data", str(data), "--epochs", str(epochs), *flags, *more]


def start(arguments: list[str], home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "FMX_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, env=environment, cwd=home, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def test_killed_ten_times_ends_as_the_unbroken_run_transformers_40691(digit_folder: MakeFolder, tmp_path: Path) -> None:
    """transformers#40691, ms-swift#10050: a resumed epoch replayed another order and the loss jumped."""
    data, epochs = digit_folder(3, 60), 80
    unbroken = train_run(data=str(data), epochs=epochs, patience=epochs, name="unbroken", **OPTIONS)
    more = ("--patience", str(epochs), "--checkpoint-minutes", "0.0005")
    arguments, kills, chance = command(data, epochs, "--name", "broken", *more), 0, random.Random(0)
    folder = tmp_path / "runs" / "broken"
    index = folder / "checkpoint" / "index.json"
    while kills < 10 and not (folder / "run.json").exists():
        process, last = start(arguments, tmp_path), index.stat().st_mtime_ns if index.exists() else 0
        while process.poll() is None and (not index.exists() or index.stat().st_mtime_ns == last):
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.8))
        process.kill()
        said = process.communicate()[1]
        assert process.returncode in (-signal.SIGKILL, 0), said
        kills += process.returncode != 0
        arguments = [sys.executable, "-m", "fmx", "train", "--resume", "broken"]
    if not (folder / "run.json").exists():
        final = start(arguments, tmp_path)
        said = final.communicate(timeout=300)[1]
        assert final.returncode == 0, said
    broken = load_run(folder)
    assert kills >= 5, "the training was over before it could be killed"
    assert metrics(folder) == metrics(unbroken.folder)
    assert broken.info.weights_sha256 == unbroken.info.weights_sha256
    assert broken.info.metrics["accuracy"] == unbroken.info.metrics["accuracy"]
    assert not (folder / "checkpoint").exists()


class Recorder(Keeper):
    """Keeps the state after every step and every epoch."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def is_due(self, *, epoch_ended: bool) -> bool:
        return True

    def save(self, state: State) -> None:
        self.states.append(copy.deepcopy(state))


def test_state_after_any_step_goes_on_to_the_same_metrics_and_weights() -> None:
    """Also the state between an epoch's last step and its judgement, which a kill at random hits only now and then."""
    drawn = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn((10, 4), generator=drawn), torch.arange(10) % 2
    settings = TrainSettings(data="", epochs=3, batch_size=4, ema=0.9, optimiser="adamw", precision="fp32", device="cpu")

    def trainer() -> Trainer:
        torch.manual_seed(1)
        module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 2))
        groups = [{"params": list(module.parameters()), "lr": 0.1, "peak": 0.1}]
        plan = Plan(module, inputs, labels, inputs, labels, lambda rows, generator: rows, groups)
        loss = torch.nn.functional.cross_entropy
        return Trainer(plan, lambda net, rows, targets, _: loss(net(rows), targets), settings, "finetune", 3, World(), lambda line: None)

    def result(resumed: Trainer, keeper: Keeper | None = None) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
        fit = resumed.run(keeper, Interruption(), lambda fit: None)
        return [{key: value for key, value in asdict(epoch).items() if key not in TIMES} for epoch in fit.epochs], fit.best_state

    recorder = Recorder()
    unbroken, weights = result(trainer(), recorder)
    assert len(recorder.states) == 3 * (3 + 1)
    for state in recorder.states:
        resumed = trainer()
        resumed.restore(state)
        epochs, best = result(resumed)
        assert epochs == unbroken
        assert all(torch.equal(best[key], weights[key]) for key in weights)


def test_sigterm_saves_and_exits_143_and_resume_goes_on(digit_folder: MakeFolder, tmp_path: Path) -> None:
    data = digit_folder(3, 60)
    process = start(command(data, 500, "--name", "spot", "--patience", "500"), tmp_path)
    folder = tmp_path / "runs" / "spot"
    while not (folder / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == 143, said
    assert "state is saved" in said
    state = load_state(folder / "checkpoint", lambda line: None)
    assert state is not None
    with pytest.raises(UsageError, match="exists") as caught:
        train_run(data=str(data), name="spot")
    assert "--resume spot" in caught.value.hint


def test_damaged_last_state_falls_back_to_the_one_before(tmp_path: Path) -> None:
    keeper, said = Keeper(tmp_path, minutes=1), list[str]()
    for number in (1, 2, 3):
        keeper.save(State({"x": torch.full((3,), float(number))}, {"number": number}))
    assert len(list(tmp_path.glob("state-*"))) == checkpoint.KEPT
    newest = sorted(tmp_path.glob("state-*"))[-1]
    data = bytearray(newest.read_bytes())
    data[-2] ^= 1
    newest.write_bytes(bytes(data))
    state = load_state(tmp_path, said.append)
    assert state is not None
    assert state.facts == {"number": 2}
    assert float(state.tensors["x"][0]) == 2.0
    assert newest.name in said[0]


def test_state_that_does_not_fit_on_the_disk_leaves_the_one_before_open_lm_154(tmp_path: Path) -> None:
    """open_lm#154, SimpleTuner#2353: a full disk during the last checkpoint cost the whole training."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        keeper = Keeper(disk, minutes=1)
        keeper.save(State({"x": torch.zeros(300_000)}, {"number": 1}))
        with pytest.raises(SurroundingsError, match="disk is full"):
            keeper.save(State({"x": torch.zeros(600_000)}, {"number": 2}))
        state = load_state(disk, lambda line: None)
        assert state is not None
        assert state.facts == {"number": 1}
        assert sorted(path.name for path in disk.iterdir()) == ["index.json", "state-000001.safetensors"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_training_that_cannot_fit_its_states_on_the_disk_is_refused_before_step_one(digit_folder: MakeFolder, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(SurroundingsError, match="MB free"):
            train_run(out=disk, data=str(digit_folder(2, 12)), size=32, epochs=1)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_resume_refuses_other_rows_other_options_and_finished_runs(digit_folder: MakeFolder, tmp_path: Path) -> None:
    data = digit_folder(2, 20)

    def interrupt(line: str) -> None:
        if line.startswith("epoch   2"):
            os.kill(os.getpid(), signal.SIGTERM)

    options = {**OPTIONS, "augment": "light"}
    with pytest.raises(SystemExit) as stopped:
        train_run(data=str(data), epochs=3, name="r", say=interrupt, **options)
    assert stopped.value.code == 143
    with pytest.raises(UsageError, match="--epochs"):
        train_run(resume="r", epochs=9)
    with pytest.raises(UsageError, match="no unfinished run 'x'"):
        train_run(resume="x")
    moved = data / "class-0" / "000.png"
    content = moved.read_bytes()
    moved.write_bytes(encode(Image.new("L", (8, 8), 77)))
    with pytest.raises(DataError, match="not those"):
        train_run(resume="r")
    moved.write_bytes(content)
    run = train_run(resume="r")
    assert run.info.epochs == 3
    with pytest.raises(UsageError, match="finished"):
        train_run(resume="r")
    straight = train_run(data=str(data), epochs=3, name="s", **options)
    assert straight.info.weights_sha256 == run.info.weights_sha256


def test_two_stages_resume_in_the_second(digit_folder: MakeFolder) -> None:
    data = digit_folder(2, 20)
    options = {**OPTIONS, "augment": "light", "method": "lp-ft", "probe_epochs": 2, "epochs": 3}
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line)
        if line.startswith("epoch   1") and sum("parameters are trained" in said for said in seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train_run(data=str(data), name="r", say=interrupt, **options)
    said: list[str] = []
    resumed = train_run(resume="r", say=said.append)
    assert any("Resumed finetune after epoch 1" in line for line in said)
    straight = train_run(data=str(data), name="s", **options)
    assert resumed.info.weights_sha256 == straight.info.weights_sha256
    assert metrics(resumed.folder) == metrics(straight.folder)
    assert [line["stage"] for line in metrics(resumed.folder)] == ["linear-probe"] * 2 + ["finetune"] * 3


def test_two_trainings_at_once_get_two_names(digit_folder: MakeFolder) -> None:
    data, names = digit_folder(2, 12), list[str]()

    def second(line: str) -> None:
        if line.startswith("epoch") and not names:
            names.append("")
            names.append(train_run(data=str(data), size=32, epochs=1, method="linear-probe").info.name)

    first = train_run(data=str(data), size=32, epochs=1, method="linear-probe", say=second)
    assert first.info.name == "efficientnet_lite0-1"
    assert names[1] == "efficientnet_lite0-2"
