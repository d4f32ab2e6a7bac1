"""Linear probe: the base model is frozen, its features are computed once and kept on disk, and only the head is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finetune.features import cached_features
from finetune.network import Network
from finetune.plan import Inputs, Plan
from finetune.schedule import parameter_groups
from finetune.settings import TrainSettings

HEAD_RATE = 1e-2
"""Peak rate of the head under AdamW unless --lr says otherwise."""


class _Head(nn.Module):
    """The head and what follows it, on features."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.layer = network.head.layer
        self._tail = network.head.tail

    def forward(self, features: Tensor) -> Tensor:
        return self._tail(self.layer(features))


def plan_linear_probe(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Freeze the base model, norm statistics included, and train the head on cached features."""
    network.requires_grad_(False)
    head = _Head(network)
    head.requires_grad_(True)
    return Plan(
        module=head,
        train_inputs=cached_features(network, inputs.train, inputs.cache_key, device, "train features"),
        validation_inputs=cached_features(network, inputs.validation, inputs.cache_key, device, "validation features"),
        batch=lambda features, generator: features.to(device, non_blocking=True),
        groups=parameter_groups(head, settings.lr or HEAD_RATE, settings.weight_decay),
    )
