"""Norms and biases only (BitFit, Ben Zaken et al. 2022, arXiv:2106.10199, with the norms' scales): some thousand parameters and the head."""

from __future__ import annotations

import torch
from torch import nn

from finetune.methods.rows import plan_on_rows
from finetune.network import Network
from finetune.optimisation import network_groups
from finetune.plan import Inputs, Plan
from finetune.settings import TrainSettings


def plan_norm_bias(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Train the head, every bias, and every vector of a norm."""
    for parameter in network.body.parameters():
        parameter.requires_grad_(parameter.ndim <= 1)
    layer: nn.Module = network.head.layer
    layer.requires_grad_(True)
    groups = network_groups(network.body, network.head, settings, settings.peak_rate)
    return plan_on_rows(network, inputs, settings, device, groups)
