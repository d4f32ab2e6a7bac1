"""Masked-language modelling (Devlin et al. 2019, arXiv:1810.04805): which tokens are hidden, and a module that answers what they were.

Of a row's tokens 15 % are to be told, at least one; of these 80 % become the mask, 10 % any token and 10 % stay. What stands around a text,
padding, and what the tokenizer does not know are never among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

HIDDEN = 0.15
AS_MASK, AS_ANY = 0.8, 0.1
"""Shares of what is hidden that become the mask, and any token."""
UNASKED = -100
"""Stands in the targets where nothing is asked; torch's cross-entropy leaves it out."""


@dataclass(frozen=True)
class Masking:
    """What is needed of a tokenizer to mask its rows."""

    mask_id: int
    ordinary: Tensor
    """bool [vocabulary]: tokens that stand in texts and are known."""
    continues: Tensor | None = None
    """bool [vocabulary]: pieces that go on a word, and words are hidden as a whole (Cui et al. 2021, arXiv:1906.08101). None: tokens alone."""

    def __call__(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Mask rows.

        Args:
            ids: int64 [n, length], on the CPU.
            generator: of which tokens, and what becomes of them.

        Returns:
            int64 [n, 2, length]: the ids with tokens hidden, and what was hidden, `UNASKED` elsewhere.
        """
        chosen = self._choose(ids, generator)
        targets = torch.where(chosen, ids, UNASKED)
        fate = torch.rand(ids.shape, generator=generator)
        known = self.ordinary.nonzero().squeeze(1)
        other = known[torch.randint(len(known), ids.shape, generator=generator)]
        masked = torch.where(chosen & (fate < AS_MASK), self.mask_id, ids)
        masked = torch.where(chosen & (fate >= AS_MASK) & (fate < AS_MASK + AS_ANY), other, masked)
        return torch.stack([masked, targets], dim=1)

    def _choose(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Draw tokens, or whole words: bool [n, length]."""
        ordinary = self.ordinary[ids]
        words = self._words(ids, ordinary)
        is_first = ordinary & (words == torch.arange(ids.shape[1]))
        scores = torch.rand(ids.shape, generator=generator).masked_fill(~is_first, 2.0)  # above any that is drawn
        wanted = (HIDDEN * is_first.sum(dim=1)).round().clamp(min=1)
        ranks = scores.argsort(dim=1).argsort(dim=1)
        drawn = (ranks < wanted.unsqueeze(1)) & is_first
        return drawn.gather(1, words) & ordinary

    def _words(self, ids: Tensor, ordinary: Tensor) -> Tensor:
        """Give for every token the place where its word begins: int64 [n, length]."""
        places = torch.arange(ids.shape[1]).expand_as(ids)
        if self.continues is None:
            return places
        goes_on = self.continues[ids]
        goes_on[:, 0] = False
        goes_on[:, 1:] &= ordinary[:, :-1]  # a window may begin in the middle of a word
        return torch.where(goes_on, 0, places).cummax(dim=1).values


class MaskedBody(nn.Module):
    """Masked rows int64 [n, 2, length] to logits float [hidden tokens, vocabulary], in the order of the rows.

    A head costs as much as an encoder of this size, so only what is asked goes through its last layer.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        super().__init__()
        self.model = model
        self._pad_id = pad_id

    def forward(self, rows: Tensor) -> Tensor:
        """Answer what was hidden."""
        ids, targets = rows.unbind(dim=1)
        with _gathered(self.model.get_output_embeddings(), targets != UNASKED):
            logits: Tensor = self.model(input_ids=ids, attention_mask=(ids != self._pad_id).long()).logits
        return logits


@contextmanager
def _gathered(layer: nn.Module, asked: Tensor) -> Iterator[None]:
    """Let a layer see of [n, length, width] what is asked: [hidden tokens, width]."""
    hook = layer.register_forward_pre_hook(lambda _layer, given: (given[0][asked], *given[1:]))
    try:
        yield
    finally:
        hook.remove()


def targets_of(rows: Tensor) -> Tensor:
    """Give what was hidden, in the order of the rows: int64 [hidden tokens]."""
    targets = rows[:, 1]
    return targets[targets != UNASKED]


def masked_loss(module: nn.Module, rows: Tensor, _labels: Tensor, _generator: torch.Generator) -> Tensor:
    """Give the mean cross-entropy of what was hidden; an objective of the loop."""
    return nn.functional.cross_entropy(module(rows).float(), targets_of(rows))
