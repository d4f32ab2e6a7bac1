"""LoRA (Hu et al. 2021, arXiv:2106.09685) through peft, on linear and convolution layers and on attention; merged into the weights at the end.

A run therefore holds plain weights of the base model's own architecture, and export knows nothing of adapters.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from finetune.methods.rows import plan_on_rows
from finetune.network import Network
from finetune.optimisation import network_groups
from finetune.plan import Inputs, Plan
from finetune.settings import TrainSettings
from fmx.errors import ModelError, missing_extra


def adapted_layers(body: nn.Module, head: str) -> list[str]:
    """Name the layers that get adapters: every Linear, every convolution without groups, every attention, but not the head.

    Grouped (depthwise) convolutions have so few weights that a low-rank update of them saves nothing.
    """
    attentions = [name for name, module in body.named_modules() if isinstance(module, nn.MultiheadAttention)]
    inside = tuple(f"{name}." for name in attentions)
    plain = [
        name
        for name, module in body.named_modules()
        if (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)) and name != head and not name.startswith(inside)
    ]
    return [*attentions, *plain]


def plan_lora(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Freeze the base, add low-rank updates of rank `lora_rank`, and train them with the head.

    Raises:
        ModelError: the network has no layer that could be adapted.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise missing_extra("train", "LoRA") from error

    head = network.head
    targets = adapted_layers(network.body, head.path)
    if not targets:
        raise ModelError("LoRA finds no linear or convolution layer beside the head.", hint="Use --method finetune.")
    config = LoraConfig(r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules=targets, lora_dropout=0.0)
    adapted = LoraModel(network.body, config, "default").to(device)
    layer: nn.Module = head.layer
    layer.requires_grad_(True)
    groups = network_groups(network.body, head, settings, settings.peak_rate)
    return plan_on_rows(network, inputs, settings, device, groups, partial(merge_adapted, network, adapted))


def merge_adapted(network: Network, adapted: nn.Module) -> None:
    """Put what peft has added into the weights, and leave the network as it was built."""
    network.body = adapted.merge_and_unload().requires_grad_(True)  # type: ignore[operator]
