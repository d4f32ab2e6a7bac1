"""Full fine-tuning in the manner of timm's recipes: AdamW at 5e-4, cosine, label smoothing 0.1, random resized crops; for a given time."""

from __future__ import annotations

import json
import math
import time

import torch
from torch.nn import functional
from torchvision.transforms import v2

from benchmarks.peers.models import accuracy, build, normalise, read_rows, read_spec

RATE, WARMUP = 5e-4, 0.05


def main() -> None:
    """Train until the time is up; the schedule goes by the share of it that is used."""
    spec = read_spec()
    torch.manual_seed(spec["seed"])
    rows, labels = read_rows(spec["rows"])
    model = build("efficientnet_lite0", int(labels.max()) + 1, spec["weights"]).to(memory_format=torch.channels_last)
    crop = v2.RandomResizedCrop(rows.shape[1], scale=(0.7, 1.0), ratio=(0.9, 1.1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05, fused=True)
    model.train()
    started, seen, used = time.perf_counter(), 0, 0.0
    while used < 1:
        for index in torch.split(torch.randperm(len(rows)), spec["batch"]):
            used = (time.perf_counter() - started) / spec["budget_s"]
            if used >= 1:
                break
            rate = RATE * min(used / WARMUP + 0.01, 0.5 * (1 + math.cos(math.pi * used)))
            for group in optimiser.param_groups:
                group["lr"] = rate
            images = torch.stack([crop(row) for row in rows[index].permute(0, 3, 1, 2)]).permute(0, 2, 3, 1)
            loss = functional.cross_entropy(model(normalise(images)), labels[index], label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            seen += len(index)
    seconds = time.perf_counter() - started
    print(json.dumps({"accuracy": accuracy(model, *read_rows(spec["rows"], "test")), "seconds": seconds, "epochs": seen / len(rows)}))


if __name__ == "__main__":
    main()
