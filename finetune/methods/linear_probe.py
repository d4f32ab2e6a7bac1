"""Linear probe: the base model is frozen, its features are computed once and kept on disk, and only the head is trained."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from finetune.augmentation import Augment, augmentation
from finetune.features import BATCH, cached_features
from finetune.network import Network
from finetune.optimisation import parameter_groups
from finetune.plan import Inputs, Plan
from finetune.settings import TrainSettings, method_defaults
from finetune.tasks.judging import judge_of
from fmx.data.rows import Rows


class _Head(nn.Module):
    """The head and what follows it, on features."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.layer = network.head.layer
        self._tail = network.head.tail

    def forward(self, features: Tensor) -> Tensor:
        return self._tail(self.layer(features))

    @torch.inference_mode()
    def answer(self, features: Tensor, device: torch.device) -> np.ndarray:
        """Give logits float32 [n, classes]."""
        self.eval()
        return np.concatenate([self(part.to(device)).cpu().numpy() for part in torch.split(features, BATCH)])


def _changed(augment: Augment, network: Network, device: torch.device, generator: torch.Generator, rows: Tensor) -> Tensor:
    """Torchvision's policies draw from torch's own random state, so each batch of a view gets one that depends on nothing before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return augment(rows, network.prepare, device, generator)


def plan_linear_probe(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Freeze the base model, norm statistics included, and train the head on cached features, of augmented views too where asked."""
    network.requires_grad_(False)
    head = _Head(network)
    head.requires_grad_(True)
    key = inputs.cache_key
    precision = settings.precision
    views = [cached_features(network, inputs.train, key, device, "train features", precision=precision)]
    augment = augmentation(settings.augment, may_flip=inputs.may_flip)
    for view in range(settings.probe_views):
        change = f"{key} {settings.augment} {inputs.may_flip} {settings.seed} drawn alone {view}"
        generator = torch.Generator().manual_seed(settings.seed * 1_009 + view)
        change_rows = partial(_changed, augment, network, device, generator)
        views.append(cached_features(network, inputs.train, change, device, f"view {view + 1} features", change_rows, precision))
    features = torch.stack(views, dim=1) if len(views) > 1 else views[0]  # [n, views, ...] or [n, ...]

    def batch(rows: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is not None and len(views) > 1:
            rows = rows[torch.arange(len(rows)), torch.randint(len(views), (len(rows),), generator=generator)]
        return rows.to(device, non_blocking=True)

    held_out = cached_features(network, inputs.validation, key, device, "validation features", precision=precision)

    def answers(rows: Rows) -> np.ndarray:
        """Rows that are looked at for the first time are passed in full precision, as whoever serves the network does."""
        return head.answer(held_out if rows is inputs.validation else cached_features(network, rows, key, device, "test features"), device)

    # in lp-ft --lr speaks of the second stage
    rate = settings.peak_rate if settings.method == "linear-probe" else method_defaults(settings.task)["linear-probe"][settings.optimiser]
    return Plan(
        module=head,
        train_inputs=features,
        train_labels=torch.from_numpy(inputs.train.labels),
        validation_inputs=held_out,
        validation_labels=torch.from_numpy(inputs.validation.labels),
        batch=batch,
        groups=parameter_groups(head.parameters(), rate, settings.weight_decay),
        on_rows=False,
        judge=judge_of(inputs.train, inputs.labels),
        answers=answers,
    )
