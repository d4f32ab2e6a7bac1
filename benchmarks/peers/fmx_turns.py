"""Throughput of `train_run` itself, an epoch a turn; the time is the one that fmx writes to metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.peers.models import read_spec
from benchmarks.peers.turns import end_turn
from finetune.training import train_run


def main() -> None:
    """Train until told to stop."""
    spec = read_spec()
    metrics = Path(spec["out"]) / spec["name"] / "metrics.jsonl"

    def say(line: str) -> None:
        if line.startswith("epoch"):
            end_turn(json.loads(metrics.read_text().splitlines()[-1])["seconds"])

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
