"""Full fine-tuning: everything is trained, the base model at a smaller rate than the fresh head."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.augmentation import augment
from finetune.network import Network
from finetune.plan import Inputs, Plan
from finetune.schedule import parameter_groups
from finetune.settings import TrainSettings

BASE_RATE = 1e-3
"""Peak rate of the base model under AdamW unless --lr says otherwise."""


def plan_finetune(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Train every parameter on augmented rows."""
    rate = settings.lr or BASE_RATE
    head = network.head.layer
    head_ids = {id(parameter) for parameter in head.parameters()}
    groups = parameter_groups(network.body, rate, settings.weight_decay)
    groups = [{**group, "params": [parameter for parameter in group["params"] if id(parameter) not in head_ids]} for group in groups]
    groups += parameter_groups(head, rate * settings.head_lr_factor, settings.weight_decay)

    def batch(rows: Tensor, generator: torch.Generator | None) -> Tensor:
        images = network.normalise(rows.to(device, non_blocking=True))
        if generator is None or not settings.augment:
            return images
        return augment(images, generator, flip=inputs.may_flip).contiguous(memory_format=torch.channels_last)

    return Plan(
        module=network.body,
        train_inputs=torch.from_numpy(inputs.train.images),
        validation_inputs=torch.from_numpy(inputs.validation.images),
        batch=batch,
        groups=[group for group in groups if group["params"]],
    )
