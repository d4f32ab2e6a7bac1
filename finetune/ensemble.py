"""Several trained networks whose probabilities are averaged, as one network: it exports as one graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fmx.contract import ImageInput


class Ensemble(nn.Module):
    """Logits float32 [n, classes] whose softmax is the mean of the members' probabilities (before the temperature).

    It takes images normalised for the first member; for the others the normalisation is undone and theirs applied.
    """

    def __init__(self, members: list[nn.Module], specs: list[ImageInput]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.temperature = 1.0
        first = specs[0]
        for number, spec in enumerate(specs):
            scale = [own / other for own, other in zip(first.std, spec.std, strict=True)]
            offset = [(a - b) / other for a, b, other in zip(first.mean, spec.mean, spec.std, strict=True)]
            self.register_buffer(f"scale{number}", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
            self.register_buffer(f"offset{number}", torch.tensor(offset).view(1, 3, 1, 1), persistent=False)
        self._same = [spec.mean == first.mean and spec.std == first.std for spec in specs]

    def forward(self, images: Tensor) -> Tensor:
        """Give logits float32 [n, classes] for images normalised for the first member."""
        logs = []
        for number, member in enumerate(self.members):
            own = images if self._same[number] else images * self.get_buffer(f"scale{number}") + self.get_buffer(f"offset{number}")
            logs.append(torch.log_softmax(member(own), dim=1))
        return (torch.logsumexp(torch.stack(logs), dim=0) - math.log(len(logs))) / self.temperature
