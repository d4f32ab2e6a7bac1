"""The classic transfer-learning loop: a frozen base, a new head, every image decoded and passed through the whole network every epoch."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch.nn import functional
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.peers.models import MEAN, STD, build, head_of, read_spec


def main() -> None:
    """Train the head and say what it is worth on the test rows."""
    spec = read_spec()
    torch.manual_seed(spec["seed"])
    size: int = spec["size"]
    prepare = transforms.Compose(
        [
            transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize([MEAN / 255] * 3, [STD / 255] * 3),
        ]
    )
    folders = {split: ImageFolder(f"{spec['data']}/{split}", prepare) for split in ("train", "val", "test")}
    loaders: dict[str, Any] = {
        split: torch.utils.data.DataLoader(folder, spec["batch"], shuffle=split == "train", num_workers=spec["workers"])
        for split, folder in folders.items()
    }
    model = build(spec["model"], len(folders["train"].classes), spec["weights"]).requires_grad_(False).eval()
    head = head_of(model).requires_grad_(True)
    optimiser = torch.optim.SGD(head.parameters(), lr=spec["lr"], momentum=0.9)
    steps, step = spec["epochs"] * len(loaders["train"]), 0
    curve = []
    for _ in range(spec["epochs"]):
        for images, labels in loaders["train"]:
            for group in optimiser.param_groups:
                group["lr"] = spec["lr"] * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = functional.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
        curve.append(accuracy(model, loaders["val"]))
    print(json.dumps({"accuracy": accuracy(model, loaders["test"]), "validation": curve}))


@torch.inference_mode()
def accuracy(model: torch.nn.Module, loader: Any) -> float:
    """Give the share answered right."""
    right = rows = 0
    for images, labels in loader:
        right += int((model(images).argmax(1) == labels).sum())
        rows += len(labels)
    return right / rows


if __name__ == "__main__":
    main()
