"""Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751), which stay in the network: finetune/bottleneck.py."""

from __future__ import annotations

import torch
from torch import nn

from finetune.bottleneck import adapters_of
from finetune.methods.rows import plan_on_rows
from finetune.network import Network
from finetune.optimisation import network_groups
from finetune.plan import Inputs, Plan
from finetune.settings import TrainSettings


def plan_adapter(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Freeze the base, and train the adapters that it was built with, and the head."""
    encoder = network.body.get_submodule("encoder")
    network.requires_grad_(False)
    trained: list[nn.Module] = [network.head.layer, *adapters_of(encoder)]
    for module in trained:
        module.requires_grad_(True)
    groups = network_groups(network.body, network.head, settings, settings.peak_rate)
    return plan_on_rows(network, inputs, settings, device, groups)
