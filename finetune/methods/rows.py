"""What the methods that train on rows have in common: the plan over decoded rows, augmented and prepared on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from finetune.augmentation import Augment, augmentation, token_dropout
from finetune.network import Network
from finetune.plan import Inputs, Plan
from finetune.settings import TrainSettings
from finetune.tasks.judging import judge_of
from fmx.contract import Input, TextInput
from fmx.texts import lengths_of


def plan_on_rows(
    network: Network,
    inputs: Inputs,
    settings: TrainSettings,
    device: torch.device,
    groups: list[dict[str, Any]],
    finish: Callable[[], None] = lambda: None,
) -> Plan:
    """Plan to train the network's body, as far as its parameters require gradients, on augmented rows."""
    augment = _augmentation(network.spec, settings, may_flip=inputs.may_flip)

    def batch(rows: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            return network.prepare(rows.to(device, non_blocking=True))
        return augment(rows, network.prepare, device, generator)

    return Plan(
        module=network.body,
        train_inputs=torch.from_numpy(inputs.train.values),
        train_labels=torch.from_numpy(inputs.train.labels),
        validation_inputs=torch.from_numpy(inputs.validation.values),
        validation_labels=torch.from_numpy(inputs.validation.labels),
        batch=batch,
        groups=groups,
        freeze_statistics=settings.norm_statistics == "frozen",
        lengths=_lengths_of(network.spec, inputs),
        judge=judge_of(inputs.train, inputs.labels),
        finish=finish,
    )


def _augmentation(spec: Input, settings: TrainSettings, *, may_flip: bool) -> Augment:
    if isinstance(spec, TextInput):
        return token_dropout(spec, settings.token_dropout)
    return augmentation(settings.augment, may_flip=may_flip)


def _lengths_of(spec: Input, inputs: Inputs) -> tuple[Tensor, Tensor] | None:
    if not isinstance(spec, TextInput):
        return None
    train, validation = (torch.from_numpy(lengths_of(rows.values, spec.pad_id)) for rows in (inputs.train, inputs.validation))
    return train, validation
