"""Throughput of a loop in the manner of the published recipes: torchvision's (contiguous, AdamW as it comes) or timm's (channels-last, fused)."""

from __future__ import annotations

import torch
from torch.nn import functional

from benchmarks.peers.models import build, normalise, read_rows, read_spec
from benchmarks.peers.turns import Turns


def main() -> None:
    """Train until told to stop."""
    spec = read_spec()
    last: bool = spec["channels_last"]
    rows, labels = read_rows(spec["rows"])
    model = build(spec["model"], spec["classes"]).train()
    if last:
        model = model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=spec["lr"], weight_decay=0.01, fused=True if last else None)
    turns = Turns(spec["steps"])
    while True:
        for index in torch.split(torch.randperm(len(rows)), spec["batch"]):
            with torch.autocast("cpu", torch.bfloat16, enabled=spec["precision"] == "bf16"):
                loss = functional.cross_entropy(model(normalise(rows[index], channels_last=last)), labels[index])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            loss.item()
            turns.step()


if __name__ == "__main__":
    main()
