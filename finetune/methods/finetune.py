"""Full fine-tuning: everything is trained, the base model at a smaller rate than the fresh head."""

from __future__ import annotations

import torch

from finetune.methods.rows import plan_on_rows
from finetune.network import Network
from finetune.optimisation import network_groups
from finetune.plan import Inputs, Plan
from finetune.settings import TrainSettings


def plan_finetune(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Train every parameter on augmented rows."""
    network.requires_grad_(True)
    groups = network_groups(network.body, network.head, settings, settings.peak_rate)
    return plan_on_rows(network, inputs, settings, device, groups)
