"""Throughput of `train_run` itself, an epoch a turn; the time is the one that fmx writes to metrics.jsonl.

The processor's time, which metrics.jsonl has not, is taken around the trainer's epoch, whose last step it ends with.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.models import read_spec
from benchmarks.peers.turns import end_turn
from finetune.loop import Trainer
from finetune.training import train_run


def main() -> None:
    """Train until told to stop."""
    spec = read_spec()
    metrics = Path(spec["out"]) / spec["name"] / "metrics.jsonl"

    train_epoch: Any = Trainer._train_epoch
    cpu_seconds = [0.0]

    def timed(*arguments: Any) -> None:
        before = time.process_time()
        train_epoch(*arguments)
        cpu_seconds[0] = time.process_time() - before

    Trainer._train_epoch = timed  # type: ignore[assignment,method-assign]

    def say(line: str) -> None:
        if line.startswith("epoch"):
            end_turn(json.loads(metrics.read_text().splitlines()[-1])["seconds"], cpu_seconds[0])

    train_run(
        spec["out"],
        say,
        name=spec["name"],
        data=spec["data"],
        model=spec["model"],
        weights="none",
        size=spec["size"],
        batch_size=spec["batch"],
        precision=spec["precision"],
        lr=spec["lr"],
        epochs=spec["turns"] + 1,
        patience=spec["turns"] + 1,
        augment="none",
        label_smoothing=0.0,
        schedule="constant",
    )


if __name__ == "__main__":
    main()
