"""(IA)^3 (Liu et al. 2022, arXiv:2205.05638) through peft: one factor for each key, value and hidden unit, multiplied into the weights at the end."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from finetune.bottleneck import down_projections
from finetune.methods.lora import merge_adapted
from finetune.methods.rows import plan_on_rows
from finetune.network import Network
from finetune.optimisation import network_groups
from finetune.plan import Inputs, Plan
from finetune.settings import TrainSettings
from fmx.errors import ModelError, missing_extra

KEYS_AND_VALUES = ("key", "value", "key_proj", "value_proj", "k_proj", "v_proj", "k_lin", "v_lin", "k", "v")
"""Names of BERT's and RoBERTa's, DeBERTa-v2's, BART's, DistilBERT's and MPNet's layers."""


def scaled_layers(body: nn.Module) -> list[str]:
    """Name the layers whose answers are scaled: keys and values, or queries too where one layer gives all three (ModernBERT, DeBERTa)."""
    return [
        name
        for name, module in body.named_modules()
        if isinstance(module, nn.Linear) and (name.rpartition(".")[2] in KEYS_AND_VALUES or module.out_features == 3 * module.in_features)
    ]


def plan_ia3(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Freeze the base, and train factors of keys, of values and of what enters each block's down-projection, with the head.

    Raises:
        ModelError: the network has no layer of the kind.
    """
    try:
        from peft import IA3Config, IA3Model
    except ImportError as error:
        raise missing_extra("train", "(IA)^3") from error

    head = network.head
    hidden = [f"encoder.{name}" for name in down_projections(network.body.get_submodule("encoder"))]
    targets = [*scaled_layers(network.body), *hidden]
    if not targets:
        raise ModelError("(IA)^3 finds no keys, values or blocks that it knows.", hint="Use --method lora or finetune.")
    config = IA3Config(target_modules=targets, feedforward_modules=hidden)
    adapted = IA3Model(network.body, config, "default").to(device)
    layer: nn.Module = head.layer
    layer.requires_grad_(True)
    groups = network_groups(network.body, head, settings, settings.peak_rate)
    return plan_on_rows(network, inputs, settings, device, groups, partial(merge_adapted, network, adapted))
