"""A run made from finished runs: a soup averages their weights, an ensemble their probabilities.

Both are judged on the validation rows that the runs share, and measured once on the test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.averaging import mean_state
from finetune.device import choose_device
from finetune.ensemble import Ensemble
from finetune.evaluation import eager_judgement
from finetune.measurement import measure_network
from finetune.network import Network, restore_network
from finetune.run_writer import write_run
from finetune.settings import TrainSettings, check_settings
from finetune.text_models import files_of
from finetune.workplace import kept_if_resumable, reserve
from fmx import storage
from fmx.contract import ImageInput, Member, TextInput
from fmx.data import reopen_source
from fmx.data.rows import Rows, read_splits
from fmx.errors import BudgetError, DataError, UsageError
from fmx.run import Run, find_run, load_run, task_of
from fmx.tasks import ImageClassification, require_images

Say = Callable[[str], None]


@dataclass(frozen=True)
class Members:
    """Runs of one task on the same rows, best on validation first."""

    runs: list[Run]
    rows: dict[str, Rows]
    judgements: list[float]
    """On the validation rows"""
    device: torch.device

    @property
    def judged(self) -> str:
        """What the judgements are."""
        return self.rows["validation"].judged.removeprefix("the ")


def make_soup(given: Sequence[str], *, out: Path | None = None, name: str | None = None, device: str = "auto", say: Say = lambda line: None) -> Run:
    """Average the weights of runs greedily: the best, and each next one that does not make validation worse (Wortsman et al. 2022, arXiv:2203.05482).

    Raises:
        UsageError: fewer than two runs, or of different models.
        DataError: their rows differ.
        BudgetError: no average is better on validation than the best run; nothing is written.
    """
    members = _open_members(given, device, say, _raw)
    models = {(run.info.model, run.info.input.model_dump_json(), *sorted(run.info.files.items())) for run in members.runs}
    if len(models) > 1 or members.runs[0].info.members:
        raise UsageError("A soup averages weights, so its runs must have one model and one size.", hint="fmx ensemble takes different ones.")
    if any(run.info.structure != members.runs[0].info.structure for run in members.runs):
        raise UsageError("A soup averages weights, so its runs must be pruned alike, or not at all.", hint="fmx ensemble takes different ones.")
    networks = [_raw(run) for run in members.runs]
    states = [network.body.state_dict() for network in networks]
    chosen, best = [0], members.judgements[0]
    trial = _raw(members.runs[0])
    for number in range(1, len(states)):
        trial.body.load_state_dict(mean_state([states[i] for i in [*chosen, number]]))
        judgement = _judgement(trial.to(members.device), members)
        say(f"with {members.runs[number].info.name}: validation {members.judged} {judgement:.2%}")
        if judgement >= best:
            chosen, best = [*chosen, number], judgement
    if len(chosen) == 1 or best <= members.judgements[0]:
        raise BudgetError(
            f"No average is better on validation than {members.runs[0].info.name} ({members.judgements[0]:.2%}).",
            hint="Soups work for runs that start from the same weights and differ in seed, rate or augmentation.",
        )
    trial.body.load_state_dict(mean_state([states[i] for i in chosen]))
    kept = [members.runs[i] for i in chosen]
    return _write(trial, kept, members, out, name, "soup", ())


def make_ensemble(
    given: Sequence[str], *, out: Path | None = None, name: str | None = None, device: str = "auto", say: Say = lambda line: None
) -> Run:
    """Average the probabilities of runs, each calibrated by its own temperature, in one network.

    Rows are resized as the best member's are; another member that was trained with another interpolation sees that small difference.

    Raises:
        UsageError: fewer than two runs, ensembles among them, or of different sizes.
        DataError: their rows differ.
    """
    members = _open_members(given, device, say, restore_network)
    specs = [require_images(run.info.input, "fmx ensemble") for run in members.runs]
    if len({spec.height for spec in specs}) > 1:
        raise UsageError("An ensemble is one graph over one row, so its runs must have one --size.", hint="Train them with one.")
    if any(run.info.members for run in members.runs):
        raise UsageError("An ensemble cannot be a member of another one.", hint="Name its members instead.")
    networks = [restore_network(run) for run in members.runs]
    body = Ensemble([network.body for network in networks], specs)
    ensemble = Network(body, specs[0])
    judgement = _judgement(ensemble.to(members.device), members)
    say(f"together: validation {members.judged} {judgement:.2%}, the best alone {members.judgements[0]:.2%}")
    described = tuple(Member(model=run.info.model, input=spec, structure=run.info.structure) for run, spec in zip(members.runs, specs, strict=True))
    return _write(ensemble, members.runs, members, out, name, "ensemble", described)


def _open_members(given: Sequence[str], device: str, say: Say, opened: Callable[[Run], Network]) -> Members:
    """Open runs and judge each by the network that is `opened` of it, as what is made of them will be."""
    if len(set(given)) < 2:
        raise UsageError("It takes two runs or more.", hint="fmx runs lists them.")
    runs = [load_run(find_run(one)) for one in dict.fromkeys(given)]
    first = runs[0].info
    for run in runs[1:]:
        if run.info.labels != first.labels or run.info.rows != first.rows:
            raise DataError(
                f"{run.info.name} was trained on other rows than {first.name}.",
                hint="Runs that are combined need the same data, split and seed of the split: train them with the same --data and --split-seed.",
            )
    source = reopen_source(first.settings)
    rows = read_splits(source, task_of(runs[0]))
    if any(rows[split].fingerprint != expected for split, expected in first.rows.items()):
        raise DataError(f"The rows of {source.name} are not those that {first.name} was trained with.", hint="Bring the data back as they were.")
    members = Members(runs, rows, [], choose_device(device))
    judgements = [_judgement(opened(run).to(members.device), members) for run in runs]
    for run, judgement in zip(runs, judgements, strict=True):
        say(f"{run.info.name}: validation {members.judged} {judgement:.2%}")
    order = np.argsort(-np.array(judgements), kind="stable")
    return Members([runs[i] for i in order], rows, [judgements[i] for i in order], members.device)


def _raw(run: Run) -> Network:
    """A run's network as trained, without its temperature."""
    return restore_network(run, calibrated=False)


def _judgement(network: Network, members: Members) -> float:
    """Judge a network on the validation rows as an epoch is judged."""
    rows = members.rows["validation"]
    spec = network.spec
    if isinstance(spec, ImageInput) and (spec.height, spec.width) != rows.values.shape[1:3]:
        source = reopen_source(members.runs[0].info.settings)
        rows = read_splits(source, ImageClassification(source.labels, spec), ("validation",))["validation"]
    return eager_judgement(network, rows, members.runs[0].info.labels)


def _write(network: Network, kept: list[Run], members: Members, out: Path | None, name: str | None, kind: str, described: tuple[Member, ...]) -> Run:
    first = kept[0].info
    names = ", ".join(run.info.name for run in kept)
    of_attack = ("adversarial", "adversarial_eps", "adversarial_steps")
    known = {key: value for key, value in first.settings.items() if key in TrainSettings.model_fields and key not in of_attack}
    settings = check_settings({**known, "name": None})
    folder = reserve(out or storage.home() / "runs", f"{kind}-{first.model}", name)
    facts: dict[str, Any] = {
        "name": folder.name,
        "task": first.task,
        "model": "ensemble" if described else first.model,
        "members": described,
        "structure": None if described else first.structure,
        "weights_origin": f"{kind} of {names}",
        "labels": first.labels,
        "input": network.spec,
        "settings": {**first.settings, "name": folder.name},
        "rows": first.rows,
        "skipped_files": first.skipped_files,
        "train_seconds": round(sum(run.info.train_seconds for run in kept), 2),
    }
    with kept_if_resumable(folder, resuming=False):
        measured = measure_network(network.to(members.device), members.rows, first.labels, settings, network.spec, members.device)
        files = files_of(kept[0].folder) if isinstance(network.spec, TextInput) else {}
        info = write_run(folder, facts, [], measured, members.rows["test"], files)
        storage.point_latest(folder)
    return Run(folder, info)
