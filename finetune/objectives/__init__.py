"""What a batch is trained for: cross-entropy, and what can be put around it (mixed rows, attacks, a teacher, unlabelled rows).

An objective is a function of (module, images, labels, generator) that gives the mean loss of the rows; `build_objective` composes the
parts that the settings ask for, each of which is a file here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from finetune.network import Network
from finetune.objectives.adversarial import Attack, build_attack
from finetune.objectives.distillation import distillation_loss, open_teacher
from finetune.objectives.embedding_attack import build_embedding_attack
from finetune.objectives.fixmatch import FixMatch, open_unlabelled
from finetune.objectives.mixing import mixing
from finetune.plan import Plan
from finetune.settings import TrainSettings
from finetune.tasks.image_classification import class_weights, classification_loss
from finetune.tasks.scores import scores_loss
from finetune.tasks.units import units_loss
from fmx.contract import ImageInput, Input
from fmx.scores import grades_of
from fmx.task_names import SCORES

Objective = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


def build_objective(
    settings: TrainSettings, plan: Plan, network: Network, spec: Input, labels: tuple[str, ...], may_flip: bool, device: torch.device
) -> Objective:
    """Compose the loss of a stage.

    Args:
        settings: what is asked for.
        plan: the stage; parts that need images are left out of one on stored features (the first of lp-ft).
        network: its normalisation.
        spec: the rows of the network.
        labels: the classes, which a teacher must share.
        may_flip: whether a mirrored image keeps its label.
        device: where the network lives.

    Raises:
        UsageError, ModelError, DataError: the teacher or the unlabelled folder cannot be used.
    """
    if plan.train_labels.ndim > 1:
        of_tokens = units_loss(settings.label_smoothing, plan.train_labels)
        return build_embedding_attack(settings, network, of_tokens) or (lambda module, ids, targets, generator: of_tokens(module(ids), targets))
    weights = class_weights(plan.train_labels, len(labels)).to(device) if settings.balance == "weights" else None
    loss = classification_loss(settings.label_smoothing, weights)
    if settings.task == SCORES:
        loss = scores_loss(loss, grades_of(labels))
    if not plan.on_rows or not isinstance(spec, ImageInput):
        attack_on_texts = build_embedding_attack(settings, network, loss) if plan.on_rows else None
        return attack_on_texts or (lambda module, inputs, targets, generator: loss(module(inputs), targets))
    mix = mixing(settings.mixup, settings.cutmix, len(labels))
    attack = build_attack(settings, spec, device)
    teacher = open_teacher(settings.teacher, labels, device) if settings.teacher else None
    unlabelled = open_unlabelled(settings, spec, network, may_flip, device) if settings.unlabelled else None
    return _Composed(settings, loss, mix, attack, teacher, unlabelled, network)


class _Composed:
    """The objective on images, read top to bottom."""

    def __init__(
        self,
        settings: TrainSettings,
        loss: Callable[[Tensor, Tensor], Tensor],
        mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
        attack: Attack | None,
        teacher: Network | None,
        unlabelled: FixMatch | None,
        network: Network,
    ) -> None:
        self.settings = settings
        self.loss, self.mix, self.attack, self.teacher, self.unlabelled = loss, mix, attack, teacher, unlabelled
        self.network = network

    def __call__(self, module: nn.Module, images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        if self.mix is not None:
            images, targets = self.mix(images, targets)
        if self.attack is not None:
            images = self.attack(module, images, targets)
        extra = self.unlabelled.images(len(images), generator) if self.unlabelled else None
        logits = module(images if extra is None else torch.cat([images, extra.strong]))
        loss = self.loss(logits[: len(images)], targets)
        if self.teacher is not None:
            imitation = distillation_loss(logits[: len(images)], self.teacher, self.network.pixels(images), self.settings.distill_temperature)
            loss = (1 - self.settings.distill_weight) * loss + self.settings.distill_weight * imitation
        if self.unlabelled is not None and extra is not None:
            loss = loss + self.unlabelled.loss(module, logits[len(images) :], extra)
        return loss
