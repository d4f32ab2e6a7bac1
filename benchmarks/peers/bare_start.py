"""The least that trains the default model on a folder with torch and timm: when is its first step, and how much memory does it take?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from benchmarks.peers.models import build, normalise, read_spec


def main() -> None:
    """Read, build, and train one epoch."""
    spec = read_spec()
    files = sorted(Path(spec["data"], "train").rglob("*.png"))
    names = sorted({file.parent.name for file in files})
    size = (spec["size"], spec["size"])
    rows = torch.from_numpy(np.stack([np.asarray(Image.open(file).convert("RGB").resize(size, Image.Resampling.BICUBIC)) for file in files]))
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    model = build("efficientnet_lite0", len(names), spec["weights"]).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    print("first step", flush=True)
    for index in torch.split(torch.randperm(len(rows)), spec["batch"]):
        loss = functional.cross_entropy(model(normalise(rows[index])), labels[index])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


if __name__ == "__main__":
    main()
