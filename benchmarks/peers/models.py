"""Networks and rows for the peers' scripts: torch, torchvision and timm alone, so that they run in an environment without fmx."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MEAN, STD = 127.0, 128.0
"""EfficientNet-Lite0's, on 0..255; random weights do not care."""


def read_spec() -> dict[str, Any]:
    """Read what to measure: one JSON object, the only argument."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    return spec


def build(name: str, classes: int, weights: str | None = None) -> nn.Module:
    """Build a classifier, its weights from a state dict without the head where one is given."""
    if name == "efficientnet_lite0":
        import timm

        model: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
    else:
        from torchvision import models

        model = models.get_model(name, weights=None, num_classes=classes)
    if weights:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        own = model.state_dict()
        own.update({key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))})
        model.load_state_dict(own)
    return model


def head_of(model: nn.Module) -> nn.Module:
    """Return the last layer of a ResNet or an EfficientNet of timm."""
    head = getattr(model, "fc", None) or getattr(model, "classifier", None)
    if not isinstance(head, nn.Linear):
        raise SystemExit("The head is not where it is looked for.")
    return head


def read_rows(path: str, split: str = "train") -> tuple[Tensor, Tensor]:
    """Read rows uint8 [n, h, w, 3] and labels int64 [n]."""
    with np.load(Path(path)) as stored:
        return torch.from_numpy(stored[f"{split}_images"]), torch.from_numpy(stored[f"{split}_labels"])


def normalise(rows: Tensor, *, channels_last: bool = True) -> Tensor:
    """Turn uint8 [n, h, w, 3] into float32 [n, 3, h, w]."""
    images = (rows.permute(0, 3, 1, 2).float() - MEAN) / STD
    return images if channels_last else images.contiguous()


class OnRows(nn.Module):
    """A classifier that takes uint8 rows, as the rows in memory are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        """Give logits."""
        logits: Tensor = self.model(normalise(rows, channels_last=False))
        return logits


@torch.inference_mode()
def accuracy(model: nn.Module, rows: Tensor, labels: Tensor, batch: int = 128) -> float:
    """Give the share of rows answered right."""
    model.eval()
    right = sum(int((model(normalise(rows[i : i + batch])).argmax(1) == labels[i : i + batch]).sum()) for i in range(0, len(rows), batch))
    return right / len(rows)
