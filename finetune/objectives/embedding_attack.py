"""Adversarial training of texts: the embeddings of a batch moved to where the loss rises, beside the batch as it is.

FGM, one step along the gradient: Miyato et al. 2017, arXiv:1605.07725. PGD, several smaller ones: Madry et al. 2018, arXiv:1706.06083.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from finetune.network import Network
from finetune.settings import TrainSettings
from finetune.text_models import TextBody

Loss = Callable[[Tensor, Tensor], Tensor]
AGAINST_UNDERFLOW = 2.0**10
"""A loss is multiplied with, for its slope in fp16 may be 0 otherwise; only the slope's direction counts."""


class EmbeddingAttack:
    """The mean loss of a batch as it is and of the batch with its embeddings moved by at most `eps`, in the L2 norm of a row."""

    def __init__(self, loss: Loss, eps: float, steps: int) -> None:
        """Take how it is attacked.

        Args:
            loss: of logits and targets.
            eps: radius of the ball.
            steps: 1 goes to its edge; several go 1.5 eps / steps each, and are brought back into it.
        """
        self._loss, self._eps, self._steps = loss, eps, steps

    def __call__(self, module: nn.Module, ids: Tensor, targets: Tensor, _generator: torch.Generator) -> Tensor:
        """Give the mean of both losses; the module is a `TextBody`, or one in the wrapper of several processes."""
        body = getattr(module, "module", module)  # which may be a copy, as of a range test
        embeddings: nn.Module = body.encoder.get_input_embeddings()  # type: ignore[union-attr,operator]
        moved: Tensor | None = None
        plain: Tensor | None = None
        stride = self._eps if self._steps == 1 else 1.5 * self._eps / self._steps
        for _ in range(self._steps):
            with _watched(embeddings, moved) as seen:
                loss = self._loss(module(ids), targets)
            (slope,) = torch.autograd.grad(loss * AGAINST_UNDERFLOW, seen[0], retain_graph=plain is None)
            plain = loss if plain is None else plain
            moved = _within(stride * _unit(slope.float()) + (0.0 if moved is None else moved), self._eps)
        with _watched(embeddings, moved):
            attacked = self._loss(module(ids), targets)
        return (attacked if plain is None else plain + attacked) / 2


@contextmanager
def _watched(embeddings: nn.Module, moved: Tensor | None) -> Iterator[list[Tensor]]:
    """Move what the embeddings give, and keep it."""
    seen: list[Tensor] = []

    def move(_module: nn.Module, _given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if moved is not None:
            output = output + moved.to(output.dtype)
        if not output.requires_grad:  # a method that leaves the embeddings as they are
            output = output.detach().requires_grad_(True)
        seen.append(output)
        return output

    hook = embeddings.register_forward_hook(move)
    try:
        yield seen
    finally:
        hook.remove()


def _norm(rows: Tensor) -> Tensor:
    lengths: Tensor = rows.flatten(1).norm(dim=1).clamp(min=1e-12)
    return lengths.view(-1, 1, 1)


def _unit(slope: Tensor) -> Tensor:
    unit: Tensor = slope / _norm(slope)
    return unit.detach()


def _within(moved: Tensor, eps: float) -> Tensor:
    held: Tensor = moved * (eps / _norm(moved)).clamp(max=1.0)
    return held


def build_embedding_attack(settings: TrainSettings, network: Network, loss: Loss) -> EmbeddingAttack | None:
    """Return the objective that the settings ask for, or None."""
    if settings.adversarial == "none" or not isinstance(network.body, TextBody):
        return None
    return EmbeddingAttack(loss, settings.adversarial_eps, 1 if settings.adversarial == "fgm" else settings.adversarial_steps)
