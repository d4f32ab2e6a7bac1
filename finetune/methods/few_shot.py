"""Few-shot training on texts in the manner of SetFit (Tunstall et al. 2022, arXiv:2209.11055), for 4 to 64 rows a class.

The encoder learns from pairs of training rows whether they have one label; then a linear probe is trained on what it gives. Pairs are
drawn, never listed: setfit lists all n^2 of them and runs out of memory (setfit#628, #472, #547). A pair's loss hangs on no other row of
its batch, so parts of a batch and several processes take the same steps as one.

The defaults (512 pairs once, at 1e-4) are from the MiniLM on the English topics, 8 rows a class, medians of three seeds: 92.4 % of the
test rows, where a probe of 40 epochs has 83.7 %, `finetune` as it stands (5 epochs) 87.7 %, and `finetune --epochs 15` 93.8 %. A rate of
3e-4 is worse by two points on the same pairs, setfit's loss (the mean square of the cosine's error) level. On Chinese reviews, most of
whose tokens MiniLM does not know, every method stays at chance with so few rows.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.augmentation import token_dropout
from finetune.methods.linear_probe import plan_linear_probe
from finetune.network import Network
from finetune.optimisation import network_groups
from finetune.plan import Inputs, Plan
from finetune.settings import TrainSettings
from finetune.text_models import TextBody
from fmx.contract import TextInput
from fmx.errors import DataError, ModelError
from fmx.texts import lengths_of

SCALE, MIDDLE = 10.0, 0.5
"""Of the cosine: two texts are said to have one label where theirs is above the middle."""
PAIRS_A_HELD_OUT_ROW = 4
HEAD_DECAY = 10.0
"""Weight decay of the head, whose weights outnumber the rows many times: on the base MiniLM, 8 rows a class, a head with 10 tells 88.2 % of the
English topics, as logistic regression does, and one with the usual 0.01 83.5 %."""


class Pairs(nn.Module):
    """Token ids int64 [n, 2, length] to logits float32 [n, 2]: of two labels, of one."""

    def __init__(self, body: TextBody) -> None:
        super().__init__()
        self.body = body

    def forward(self, ids: Tensor) -> Tensor:
        """Encode all texts together and compare the two of each pair."""
        means = self.body.mean(ids.flatten(0, 1)).reshape(len(ids), 2, -1)  # [n, 2, width]
        alike = SCALE * (functional.cosine_similarity(means[:, 0], means[:, 1], dim=1) - MIDDLE)
        return torch.stack([-alike, alike], dim=1)


def draw_pairs(labels: Tensor, partners: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs, every second of one label, each label as often as the others; memory is linear in rows and pairs.

    Args:
        labels: of the rows that come first in a pair, int64 [n].
        partners: of those that come second, int64 [m], of two labels or more; where it is `labels` itself, a row is paired with itself only
            if it is the only one of its label.
        count: of pairs.
        generator: of all draws.

    Returns:
        Indices of both rows int64 [count, 2], and whether their labels are one, int64 [count].
    """
    within = int(partners is labels)
    order = torch.argsort(partners, stable=True)
    kinds, sizes = torch.unique(partners, return_counts=True)
    starts = sizes.cumsum(0) - sizes
    kind_of = torch.searchsorted(kinds, labels).clamp(max=len(kinds) - 1)
    known = kinds[kind_of] == labels
    weights = torch.where(known, 1.0 / torch.bincount(kind_of[known], minlength=len(kinds)).clamp(min=1)[kind_of].double(), 0.0)
    first = torch.multinomial(weights, count, replacement=True, generator=generator)
    own = kind_of[first]

    def drawn(most: Tensor) -> Tensor:
        return (torch.rand(count, generator=generator, dtype=torch.float64) * most).long()

    places = torch.argsort(order)[first] - starts[own] if within else torch.zeros_like(first)
    same = starts[own] + (places + within + drawn((sizes[own] - within).clamp(min=1))) % sizes[own]
    other = (own + 1 + drawn(torch.full((count,), len(kinds) - 1))) % len(kinds)
    different = starts[other] + drawn(sizes[other])
    is_same = torch.arange(count) % 2 == 0
    return torch.stack([first, order[torch.where(is_same, same, different)]], dim=1), is_same.long()


def plan_contrastive(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Train the encoder alone on pairs of training rows; held-out rows are paired with training rows.

    The last epoch is kept: a few dozen held-out rows cannot tell epochs apart, and the rate has come down to nothing by then.

    Raises:
        DataError: all training rows have one label.
        ModelError: the network reads no texts.
    """
    body, spec = network.body, network.spec
    if not isinstance(body, TextBody) or not isinstance(spec, TextInput):
        raise ModelError("--method few-shot is for texts.", hint="Use --method linear-probe or lp-ft.")
    labels, held_out = torch.from_numpy(inputs.train.labels), torch.from_numpy(inputs.validation.labels)
    if labels.min() == labels.max():
        raise DataError("--method few-shot learns from pairs of two labels, and all training rows have one.", hint="Add rows of another label.")
    body.requires_grad_(True)
    body.classifier.requires_grad_(False)
    generator = torch.Generator().manual_seed(settings.seed)
    pairs, is_same = draw_pairs(labels, labels, settings.contrastive_pairs, generator)
    held_pairs, held_same = draw_pairs(held_out, labels, PAIRS_A_HELD_OUT_ROW * len(held_out), generator)
    train, validation = (torch.from_numpy(rows.values) for rows in (inputs.train, inputs.validation))
    held_pairs[:, 0] += len(train)
    values = torch.cat([train, validation])
    lengths = torch.from_numpy(lengths_of(values.numpy(), spec.pad_id))
    augment = token_dropout(spec, settings.token_dropout)

    def batch(chosen: Tensor, generator: torch.Generator | None) -> Tensor:
        rows = values[chosen.flatten()]
        ids = network.prepare(rows.to(device)) if generator is None else augment(rows, network.prepare, device, generator)
        return ids.reshape(len(chosen), 2, -1)

    return Plan(
        module=Pairs(body),
        train_inputs=pairs,
        train_labels=is_same,
        validation_inputs=held_pairs,
        validation_labels=held_same,
        batch=batch,
        groups=network_groups(body, network.head, settings, settings.peak_rate),
        lengths=(lengths[pairs].amax(dim=1), lengths[held_pairs].amax(dim=1)),
        keeps_last=True,
    )


def plan_head(network: Network, inputs: Inputs, settings: TrainSettings, device: torch.device) -> Plan:
    """Probe the tuned encoder with a head that its decay holds small; the last epoch is kept here too."""
    plan = plan_linear_probe(network, inputs, settings, device)
    groups = [{**group, "weight_decay": HEAD_DECAY if group["params"][0].ndim > 1 else 0.0} for group in plan.groups]
    return replace(plan, groups=groups, keeps_last=True)
