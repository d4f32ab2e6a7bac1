"""Two real gloo processes on the CPU under torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune.training import train_run
from fmx.errors import UsageError
from fmx.run import load_run
from tests.conftest import MakeFolder

ROOT = Path(__file__).parents[2]


@contextmanager
def launch(processes: int, *arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "FMX_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments]
    process = subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


def test_two_processes_reach_what_one_reaches_and_write_once(digit_folder: MakeFolder, tmp_path: Path) -> None:
    """SGD at a small rate: Adam blows the last bit of a gradient up to a row or two within an epoch."""
    data = str(digit_folder(3, 40))
    settings: dict[str, Any] = {"size": 32, "epochs": 3, "optimiser": "sgd", "lr": 0.005, "augment": "none", "precision": "fp32", "device": "cpu"}
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    with launch(2, "-m", "fmx", "train", "--data", data, *flags, "--name", "two", "--json", home=tmp_path) as process:
        answer, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    two = json.loads(answer)
    assert said.count("epoch   1") == 1
    assert "effective batch size" in said
    one = train_run(data=data, name="one", **settings)
    assert abs(two["accuracy"]["value"] - one.info.accuracy.value) <= 1.5 / 24  # of 24 rows one on the edge may fall to either side
    losses = [json.loads((tmp_path / "runs" / name / "metrics.jsonl").read_text().splitlines()[-1])["train_loss"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert load_run(tmp_path / "runs" / "two").info.accuracy.value == two["accuracy"]["value"]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_uneven_validation_rows_are_each_counted_once_pytorch_25162(processes: int, tmp_path: Path) -> None:
    """vision#4559, pytorch#25162: padded rows were counted twice, so the metric depended on the number of processes."""
    script = tmp_path / "judge.py"
    script.write_text(
        "import torch\n"
        "from torch import nn\n"
        "from finetune.loop import evaluate\n"
        "from finetune.plan import Plan\n"
        "from finetune.world import open_world\n"
        "torch.manual_seed(0)\n"
        "inputs, labels = torch.randn(21, 5), torch.randint(0, 3, (21,))\n"
        "plan = Plan(nn.Linear(5, 3), inputs, labels, inputs, labels, lambda rows, generator: rows, [])\n"
        "world = open_world('cpu')\n"
        "judged = evaluate(plan.module, plan, world, 'fp32', batch_size=4)\n"
        "if world.is_first:\n"
        "    print(repr(round(judged.loss, 9)), repr(judged.accuracy), judged.classes_answered)\n"
        "if world.accelerator is not None:\n"
        "    world.accelerator.end_training()\n"
    )
    with launch(processes, str(script), home=tmp_path) as process:
        answer, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    import torch
    from torch import nn

    torch.manual_seed(0)
    inputs, labels = torch.randn(21, 5), torch.randint(0, 3, (21,))
    with torch.inference_mode():
        logits = nn.Linear(5, 3)(inputs)
    loss, accuracy, classes = answer.split()
    assert float(loss) == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), abs=1e-6)
    assert float(accuracy) == float((logits.argmax(1) == labels).double().mean())
    assert int(classes) == len(logits.argmax(1).unique())


def test_death_of_one_process_ends_the_other(digit_folder: MakeFolder, tmp_path: Path) -> None:
    options = ["--data", str(digit_folder(2, 40)), "--size", "32", "--epochs", "5000", "--patience", "5000", "--precision", "fp32"]
    with launch(2, "-m", "fmx", "train", *options, "--name", "two", "--device", "cpu", home=tmp_path) as launcher:
        begun = time.monotonic()
        while not (tmp_path / "runs" / "two" / "metrics.jsonl").exists():
            assert launcher.poll() is None, launcher.communicate()[1]
            assert time.monotonic() - begun < 120
            time.sleep(0.1)
        workers = [child for child in psutil.Process(launcher.pid).children(recursive=True) if "train" in child.cmdline()]
        assert len(workers) == 2
        workers[-1].send_signal(signal.SIGKILL)
        launcher.communicate(timeout=120)
        assert launcher.returncode != 0
        assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]


def test_batch_that_is_too_small_for_the_processes_is_refused_and_uneven_parts_do_not_hang(digit_folder: MakeFolder, tmp_path: Path) -> None:
    data = str(digit_folder(2, 19))
    with launch(3, "-m", "fmx", "train", "--data", data, "--batch-size", "4", "--size", "32", "--device", "cpu", home=tmp_path) as process:
        said = process.communicate(timeout=200)[1]
    assert process.returncode != 0
    assert "shared by 3 processes" in said
    options = ["--size", "32", "--epochs", "1", "--accumulate", "8", "--batch-size", "16", "--precision", "fp32", "--device", "cpu"]
    with launch(2, "-m", "fmx", "train", "--data", data, *options, home=tmp_path) as process:
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said


def test_split_over_two_processes_reaches_what_one_reaches_and_resumes_as_one(digit_folder: MakeFolder, tmp_path: Path) -> None:
    """FSDP: the same steps as alone, a whole state, and a resumed training, nothing random in its steps, that ends as the unbroken one."""
    data = str(digit_folder(3, 40))
    settings: dict[str, Any] = {"size": 32, "epochs": 4, "optimiser": "sgd", "lr": 0.005, "augment": "none", "precision": "fp32", "device": "cpu"}
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    train = ["-m", "fmx", "train", "--data", data, *flags, "--shard", "--clip-norm", "5", "--checkpoint-minutes", "0.0001"]
    with launch(2, *train, "--name", "split", "--json", home=tmp_path) as process:
        answer, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    one = train_run(data=data, name="one", clip_norm=5.0, **settings)
    assert abs(json.loads(answer)["accuracy"]["value"] - one.info.accuracy.value) <= 0.005
    assert losses(tmp_path, "split") == pytest.approx(losses(tmp_path, "one"), rel=1e-2)  # sums in another order

    with launch(2, *train, "--name", "broken", home=tmp_path) as launcher:
        while not (tmp_path / "runs" / "broken" / "checkpoint" / "index.json").exists():
            assert launcher.poll() is None, launcher.communicate()[1]
            time.sleep(0.02)
        for child in psutil.Process(launcher.pid).children(recursive=True):
            child.kill()
        launcher.communicate(timeout=60)
    with launch(2, "-m", "fmx", "train", "--resume", "broken", home=tmp_path) as process:
        said = process.communicate(timeout=400)[1]
    assert process.returncode == 0, said
    assert "Resumed finetune" in said
    assert losses(tmp_path, "broken") == losses(tmp_path, "split")
    assert load_run(tmp_path / "runs" / "broken").info.weights_sha256 == load_run(tmp_path / "runs" / "split").info.weights_sha256


def losses(home: Path, name: str) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (home / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def test_splitting_needs_others_to_split_with_and_no_average() -> None:
    with pytest.raises(UsageError, match="there is one"):
        train_run(data="digits", shard=True)
    with pytest.raises(UsageError, match="--ema"):
        train_run(data="digits", shard=True, ema=0.9)
