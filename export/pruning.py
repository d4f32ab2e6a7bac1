"""Structured pruning within the accuracy budget: whole residual blocks by their measured effect, then channels through Torch-Pruning, step by
step, each step followed by recovery training. What comes out is a run like any other.

Channels are chosen by the group importance of DepGraph (Fang et al. 2023, arXiv:2301.12900) with Taylor's criterion (Molchanov et al. 2019,
arXiv:1906.10771) from gradients on training rows, ranked within groups of one shape (isomorphic pruning, Fang et al. 2024, arXiv:2407.04616).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from export.settings import ExportSettings
from export.stages import key_of
from export.subject import Subject, key_of_run
from finetune.blocks import layers_in_order
from finetune.evaluation import eager_accuracy
from finetune.loop import Fit
from finetune.measurement import measure_network
from finetune.network import Network, restore_network
from finetune.recovery import recover, recovery_settings
from finetune.run_writer import write_run
from finetune.structure import mend_attributes, read_structure, replace_module, timm_attention
from fmx import storage
from fmx.data.rows import Rows
from fmx.errors import BudgetError, ModelError, first_line, foreign_errors, missing_extra
from fmx.run import RUN_FILE, Run, load_run

Say = Callable[[str], None]

STEP = 0.15
"""Share of the channels that one step takes out."""

MOST = 0.9
DEFAULT_RECOVERY = 4
"""Epochs of recovery a step, unless --recover says."""

GRADIENT_ROWS = 512
CHANNEL_MULTIPLE = 8
LAYER_CAP = 0.9
"""No layer loses more than this share of its channels, whatever its importance."""

REFUSED = {
    "SwinTransformer": "its windows and shifts hold sizes that pruning does not see",
    "ShuffleNetV2": "its channel shuffle needs two halves of one size",
    "MaxVit": "its relative positions hold sizes that pruning does not see",
    "Ensemble": "its members are pruned each by themselves",
}
"""Architectures that Torch-Pruning cannot prune (or not without harm), by class name, and why."""


@dataclass
class Pruned:
    """A network while it is pruned."""

    network: Network
    removed: list[str]
    ratio: float
    accuracy: float
    """On the validation rows."""
    fits: list[Fit]


def prune_run(subject: Subject, settings: ExportSettings, deadline: float, say: Say) -> Run:
    """Prune a run under the budget of an export, and give the pruned run, made anew or found from before.

    Args:
        subject: the dense run with its rows.
        settings: `prune`, `max_drop`, `recover`.
        deadline: on `time.monotonic`; `--prune auto` takes the last step that held the budget by then.
        say: called with lines for a person.

    Raises:
        ModelError: an architecture that cannot be pruned.
        BudgetError: not even the first step holds the budget (with `--prune auto`).
    """
    run = subject.run
    epochs = recovery_epochs(settings)
    folder = pruned_folder(run, settings)
    if (folder / RUN_FILE).is_file():
        say(f"Pruned before: {folder.name}.")
        return load_run(folder)
    network = restore_network(run, calibrated=False)
    before = (run.info.structure or {}).get("removed", [])
    check_prunable(network, run.info.model)
    dense = eager_accuracy(network, subject.rows["validation"])
    pruned = _remove_blocks(Pruned(network, list(before), 0.0, dense, []), subject, dense, settings, say)
    pruned = _prune_steps(pruned, subject, dense, settings, epochs, deadline, say)
    return _write(folder, pruned, subject, settings, epochs)


def recovery_epochs(settings: ExportSettings) -> int:
    """Give the epochs of recovery after each step."""
    return settings.recover or DEFAULT_RECOVERY


def pruned_folder(run: Run, settings: ExportSettings) -> Path:
    """Name the folder of a pruned run by what it is made from and how, so that the same pruning is found again."""
    choices = {"ratio": settings.prune, "budget": settings.max_drop, "epochs": recovery_epochs(settings)}
    key = key_of("pruned", key_of_run(run), **choices, minutes=settings.time_budget)
    return run.folder.parent / f"{run.info.name[:80]}-pruned-{key.digest[:8]}"


def check_prunable(network: Network, model: str) -> None:
    """Refuse architectures that cannot be pruned. Raises: `ModelError`."""
    for module in network.body.modules():
        kind = type(module).__name__
        if kind in REFUSED:
            raise ModelError(f"{model} ({kind}) cannot be pruned: {REFUSED[kind]}.", hint="Export it without --prune.")


def _remove_blocks(pruned: Pruned, subject: Subject, dense: float, settings: ExportSettings, say: Say) -> Pruned:
    """Take out residual blocks one by one, the one that costs least each time, while half the budget holds without any recovery."""
    validation = subject.rows["validation"]
    names = removable_blocks(pruned.network.body, pruned.network.image_size[0])
    while names:
        costs = {name: dense - _without(pruned.network, name, validation) for name in names}
        cheapest = min(names, key=lambda name: costs[name])
        if 100 * costs[cheapest] > settings.max_drop / 2:
            break
        replace_module(pruned.network.body, cheapest, nn.Identity())
        names.remove(cheapest)
        pruned.removed.append(cheapest)
        say(f"Block {cheapest} taken out: {100 * costs[cheapest]:.2f} points of validation accuracy without recovery.")
    return pruned


def removable_blocks(body: nn.Module, size: int) -> list[str]:
    """Name the blocks whose output has the shape of their input: what a residual connection spans."""
    names = {module: name for name, module in body.named_modules()}
    candidates = [module for layer in layers_in_order(body) for module in layer if any(True for _ in module.children())]
    shapes: dict[nn.Module, bool] = {}

    def look(module: nn.Module, given: Any, answer: Any) -> None:
        shapes[module] = isinstance(answer, torch.Tensor) and len(given) == 1 and given[0].shape == answer.shape

    hooks = [module.register_forward_hook(look) for module in candidates]
    try:
        with torch.inference_mode():
            body.eval()(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    return [names[module] for module in candidates if shapes.get(module)]


def _without(network: Network, name: str, rows: Rows) -> float:
    kept = network.body.get_submodule(name)
    replace_module(network.body, name, nn.Identity())
    try:
        return eager_accuracy(network, rows)
    finally:
        replace_module(network.body, name, kept)


def _prune_steps(pruned: Pruned, subject: Subject, dense: float, settings: ExportSettings, epochs: int, deadline: float, say: Say) -> Pruned:
    """Prune channels in steps of about `STEP`, recovering after each; `auto` goes on while the budget holds and keeps the last that held it."""
    goal = MOST if settings.prune == "auto" else float(settings.prune or 0.0)
    steps = max(1, math.ceil(goal / STEP - 1e-9))
    pruner = _pruner(pruned.network, goal, steps)
    held: Pruned | None = None
    for step in range(1, steps + 1):
        _accumulate_gradients(pruned.network, subject.rows["train"], subject.run.info.settings["seed"])
        with _library_errors(subject.run.info.model):
            pruner.step()
        mend_attributes(pruned.network.body)
        pruned.network.zero_grad(set_to_none=True)
        pruned.ratio = goal * step / steps
        _check_shape(pruned.network, subject)
        pruned.fits.append(recover(pruned.network, subject.run, subject.rows, epochs, subject.may_flip, say, f"recovery {step}"))
        pruned.accuracy = pruned.fits[-1].best.validation_accuracy
        drop = 100 * (dense - pruned.accuracy)
        say(f"{pruned.ratio:.0%} of the channels taken out: {drop:.2f} points below the dense network on validation rows.")
        if settings.prune != "auto":
            continue
        if drop > settings.max_drop:
            break
        held = Pruned(copy.deepcopy(pruned.network), list(pruned.removed), pruned.ratio, pruned.accuracy, list(pruned.fits))
        if time.monotonic() > deadline:
            break
    if settings.prune != "auto":
        return pruned
    if held is None:
        raise BudgetError(
            f"Pruning is not worth it here: {STEP:.0%} of the channels cost more than the {settings.max_drop:g} points that are allowed.",
            hint="Allow more with --max-drop, recover longer with --recover, or leave --prune out.",
        )
    return held


def _pruner(network: Network, ratio: float, steps: int) -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise missing_extra("export", "Pruning") from error
    network.requires_grad_(True)  # the library traces gradients
    whole = {module: module.num_heads for module in network.body.modules() if isinstance(module, nn.MultiheadAttention)}
    split = {module.qkv: module.num_heads for module in timm_attention(network.body)}
    with _library_errors(type(network.body).__name__):
        return torch_pruning.pruner.BasePruner(
            network.body,
            torch.zeros(1, 3, *network.image_size),
            importance=torch_pruning.importance.GroupTaylorImportance(),
            global_pruning=True,
            isomorphic=True,
            pruning_ratio=ratio,
            max_pruning_ratio=max(LAYER_CAP, ratio),
            iterative_steps=steps,
            ignored_layers=[network.head.layer],  # instances: a type is ignored without a word
            round_to=math.lcm(CHANNEL_MULTIPLE, *whole.values(), *split.values()),
            in_channel_groups={},
            out_channel_groups=whole,  # as many channels from each head
            num_heads=split,
            channel_groups={},
            unwrapped_parameters=_bare_parameters(network.body),
        )


def _bare_parameters(body: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """List parameters outside layers with the axis that is their channels: ConvNeXt's scales [channels, 1, 1], ViT's positions [1, n, channels]."""
    layers = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.PReLU, nn.MultiheadAttention)
    bare = [parameter for module in body.modules() if not isinstance(module, layers) for parameter in module.parameters(recurse=False)]
    bare = [parameter for parameter in bare if parameter.numel() > 1]
    return [(parameter, max(axis for axis, size in enumerate(parameter.shape) if size > 1)) for parameter in bare]


def _library_errors(model: str) -> AbstractContextManager[None]:
    return foreign_errors(ModelError, f"{model} cannot be pruned by Torch-Pruning", "Export it without --prune.")


def _accumulate_gradients(network: Network, rows: Rows, seed: int) -> None:
    """Add up the gradients of the loss on training rows, for Taylor's criterion."""
    network.eval()
    network.requires_grad_(True)
    network.zero_grad(set_to_none=True)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:GRADIENT_ROWS]
    for start in range(0, len(chosen), 32):
        part = chosen[start : start + 32]
        logits = network(torch.from_numpy(rows.values[part]))
        functional.cross_entropy(logits, torch.from_numpy(rows.labels[part])).backward()  # type: ignore[no-untyped-call]


def _check_shape(network: Network, subject: Subject) -> None:
    """Check that a pruned network still answers every class. Raises: `ModelError`."""
    classes = len(subject.contract.labels)
    try:
        with torch.inference_mode():
            answer = network.eval()(torch.from_numpy(subject.rows["test"].values[:2]))
    except Exception as error:  # a network that pruning broke raises what it likes
        raise ModelError(f"{subject.run.info.model} does not run once pruned: {first_line(error)}", hint="Export it without --prune.") from error
    if answer.shape[1] != classes:
        raise ModelError(f"Pruning left {answer.shape[1]} of {classes} classes.", hint="Export it without --prune.")


def _write(folder: Path, pruned: Pruned, subject: Subject, settings: ExportSettings, epochs: int) -> Run:
    """Write the pruned network as a run beside the one that it came from."""
    info = subject.run.info
    structure = read_structure(pruned.network.body, pruned.removed)
    told = recovery_settings(subject.run, epochs)
    pruned.network.requires_grad_(False)
    body = pruned.network.body.to(memory_format=torch.contiguous_format)
    pruned.network.body = body
    measured = measure_network(pruned.network, subject.rows, info.labels, told, info.input, next(body.parameters()).device)
    measured.metrics["validation_accuracy"] = pruned.accuracy
    facts = {
        "name": folder.name,
        "task": info.task,
        "model": info.model,
        "weights_origin": f"run {info.name}, {pruned.ratio:.0%} of its channels and {len(pruned.removed)} blocks pruned",
        "labels": info.labels,
        "input": info.input,
        "settings": {**info.settings, "name": folder.name},
        "rows": info.rows,
        "skipped_files": info.skipped_files,
        "train_seconds": round(sum(epoch.seconds for fit in pruned.fits for epoch in fit.epochs), 2),
        "structure": structure,
        "pruned_from": {"run": info.name, "ratio": pruned.ratio, "recovery_epochs": epochs, "max_drop": settings.max_drop},
    }
    with storage.new_folder(folder) as working:
        written = write_run(working, facts, pruned.fits, measured, subject.rows["test"])
        restore_network(Run(working, written))  # what cannot be rebuilt must not be left
    return load_run(folder)
