"""A search for settings with Optuna: trials are trainings, bad ones are stopped early, and the study lives in a file or data base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from finetune.loop import Fit
from finetune.settings import TrainSettings, check_settings, method_defaults
from finetune.training import train_run
from fmx import storage
from fmx.errors import ModelError, SurroundingsError, UsageError, first_line
from fmx.task_names import IMAGES, READ_TEXTS

Say = Callable[[str], None]
CONFIG = "best.toml"
STUDY = "study.db"
ABOUT = "study.json"
"""What every trial has in common, and what is searched."""
WORKER = "FMX_TUNE_WORKER"
"""Set for the processes that --workers starts: which one it is."""

SPACE: dict[str, Callable[[Trial, TrainSettings], Any]] = {
    "lr": lambda trial, settings: trial.suggest_float("lr", _usual_rate(settings) / 10, _usual_rate(settings) * 10, log=True),
    "weight_decay": lambda trial, settings: trial.suggest_float("weight_decay", 1e-4, 0.3, log=True),
    "label_smoothing": lambda trial, settings: trial.suggest_float("label_smoothing", 0.0, 0.2),
    "augment": lambda trial, settings: trial.suggest_categorical("augment", ["none", "light", "trivial"]),
    "layer_decay": lambda trial, settings: trial.suggest_float("layer_decay", 0.6, 1.0),
    "batch_size": lambda trial, settings: trial.suggest_categorical("batch_size", [16, 32, 64]),
    "mixup": lambda trial, settings: trial.suggest_float("mixup", 0.0, 0.4),
    "ema": lambda trial, settings: trial.suggest_categorical("ema", [0.0, 0.99]),
    "head_lr_factor": lambda trial, settings: trial.suggest_float("head_lr_factor", 1.0, 20.0, log=True),
    "probe_views": lambda trial, settings: trial.suggest_int("probe_views", 0, 4),
    "token_dropout": lambda trial, settings: trial.suggest_float("token_dropout", 0.0, 0.3),
}
"""What can be searched, and where. Ranges are around the method's own defaults."""

IMAGES_ALONE = ("augment", "mixup", "probe_views")
TEXTS_ALONE = ("token_dropout",)
SEARCHED = {"linear-probe": ("lr", "weight_decay", "label_smoothing", "probe_views")}
DEFAULT_SEARCH = ("lr", "weight_decay", "label_smoothing", "augment", "token_dropout", "layer_decay")


@dataclass(frozen=True)
class Tuned:
    """What a search has found."""

    folder: Path
    settings: dict[str, Any]
    """The best trial's, without what was left at its default"""
    validation_accuracy: float
    trials: list[dict[str, Any]]
    """number, state, validation_accuracy, parameters"""


def tune(
    name: str,
    *,
    trials: int,
    search: tuple[str, ...] = (),
    out: Path | None = None,
    database: str | None = None,
    workers: int = 1,
    say: Say = lambda line: None,
    **options: Any,
) -> Tuned:
    """Search for settings until a study holds so many trials; a study that was broken off goes on where it was.

    Args:
        name: of the study; its folder lies beside the runs.
        trials: how many the study shall hold in all, those of other workers and of earlier calls included.
        search: names of `SPACE`; default by method.
        out: the folder of studies; default `studies/` in `FMX_HOME`.
        database: an Optuna storage URL; default a file in the study's folder.
        workers: processes that take trials from the study.
        say: called with lines for a person.
        options: fields of `TrainSettings` that every trial has.

    Raises:
        UsageError: unknown names to search.
        ModelError: no trial came to an end.
    """
    settings = check_settings(options)
    search = search or default_search(settings.method, settings.task)
    unknown = [one for one in search if one not in SPACE]
    if unknown:
        raise UsageError(f"{', '.join(unknown)} cannot be searched.", hint=f"These can: {', '.join(SPACE)}.")
    unfit = [one for one in search if one in _unfit(settings.task)]
    if unfit:
        raise UsageError(f"{unfit[0].replace('_', '-')} is nothing to search for {settings.task}.", hint="Leave it out of --search.")
    fixed = [one for one in search if options.get(one) is not None]
    if fixed:
        raise UsageError(f"--{fixed[0].replace('_', '-')} is both given and searched.", hint="Leave it out, or name what to --search.")
    folder = (out or storage.home() / "studies") / storage.check_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    _check_same_study(folder, settings, search)
    study = _open_study(name, database or f"sqlite:///{(folder / STUDY).resolve()}", settings.seed)
    helpers = _start_helpers(workers - 1)
    try:
        study.optimize(
            lambda trial: _run_trial(trial, settings, search, options, folder, say),
            callbacks=[optuna.study.MaxTrialsCallback(trials, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))],
            n_trials=max(0, trials - _finished(study)),
            catch=(ModelError,),  # a rate too high ends a trial; data that cannot be used end the search
        )
    except BaseException:
        for helper in helpers:
            helper.terminate()
        raise
    finally:
        for helper in helpers:
            helper.wait()
        if WORKER not in os.environ:  # another worker may still be in its last trial
            shutil.rmtree(folder / "trials", ignore_errors=True)
    return _result(study, settings, folder)


def default_search(method: str, task: str = IMAGES) -> tuple[str, ...]:
    """Name what is searched for a method unless told."""
    return tuple(one for one in SEARCHED.get(method, DEFAULT_SEARCH) if one not in _unfit(task))


def _unfit(task: str) -> tuple[str, ...]:
    return IMAGES_ALONE if task in READ_TEXTS else TEXTS_ALONE


def _usual_rate(settings: TrainSettings) -> float:
    return method_defaults(settings.task)[settings.method][settings.optimiser]


def _check_same_study(folder: Path, settings: TrainSettings, search: tuple[str, ...]) -> None:
    """Write down what a study is about, and refuse to go on with another one. Raises: `UsageError`."""
    fixed = {key: value for key, value in settings.model_dump(mode="json").items() if key not in ("seed", "name", "device")}
    path = folder / ABOUT
    if not path.is_file():
        storage.write_text(path, json.dumps({"fixed": fixed, "search": list(search)}, indent=2) + "\n")
        return
    before = json.loads(path.read_text())
    changed = [key for key, value in fixed.items() if before["fixed"].get(key) != value]
    if changed or before["search"] != list(search):
        what = ", ".join(f"--{key.replace('_', '-')}" for key in changed) or "--search"
        raise UsageError(f"The study {folder.name} was begun with another {what}.", hint="Give the same options, or another name for a new study.")


def _open_study(name: str, database: str, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(
            study_name=name,
            storage=database,
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed + int(os.environ.get(WORKER, "0")), n_startup_trials=5),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
        )
    except Exception as error:  # SQLAlchemy's drivers each have their own
        raise SurroundingsError(f"The study's storage cannot be opened: {first_line(error)}", hint="Check --storage.") from error


def _start_helpers(count: int) -> list[subprocess.Popen[bytes]]:
    """Further workers are this very command again, without workers of their own, each with a seed of its own for the search."""
    command = [sys.executable, "-m", "fmx", *sys.argv[1:], "--workers", "1"]
    return [subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, WORKER: str(number + 1)}) for number in range(count)]


def _finished(study: optuna.Study) -> int:
    return len([trial for trial in study.trials if trial.state.is_finished()])


def _run_trial(trial: Trial, settings: TrainSettings, search: tuple[str, ...], options: dict[str, Any], folder: Path, say: Say) -> float:
    chosen = {one: SPACE[one](trial, settings) for one in search}
    runs = folder / "trials" / str(trial.number)

    def on_epoch(fit: Fit) -> None:
        trial.report(fit.best.validation_accuracy, len(fit.epochs))
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        run = train_run(runs, None, on_epoch=on_epoch, **{**options, **chosen, "name": "trial"})
    except optuna.TrialPruned:
        say(f"trial {trial.number}: stopped early  {_shown(chosen)}")
        raise
    except ModelError as error:
        say(f"trial {trial.number}: failed ({error.message})  {_shown(chosen)}")
        raise
    finally:
        shutil.rmtree(runs, ignore_errors=True)
    accuracy = float(run.info.metrics["validation_accuracy"])
    say(f"trial {trial.number}: validation accuracy {accuracy:.2%}  {_shown(chosen)}")
    return accuracy


def _shown(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in chosen.items())


def _result(study: optuna.Study, settings: TrainSettings, folder: Path) -> Tuned:
    trials = [
        {"number": trial.number, "state": trial.state.name.lower(), "validation_accuracy": trial.value, "parameters": trial.params}
        for trial in study.trials
    ]
    if not any(trial.state == TrialState.COMPLETE for trial in study.trials):
        raise ModelError("No trial came to an end.", hint="Give more --trials, or narrow --search.")
    given = {key: value for key, value in settings.model_dump(mode="json", exclude_defaults=True).items() if value is not None and key != "name"}
    best = {**given, **study.best_params}
    lines = [f"# {study.study_name}: validation accuracy {study.best_value:.4f}, best of {len(trials)} trials; fmx train --config {CONFIG}"]
    lines += [f"{key.replace('_', '-')} = {_toml(value)}" for key, value in best.items()]
    storage.write_text(folder / CONFIG, "\n".join(lines) + "\n")
    return Tuned(folder, best, float(study.best_value), trials)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)
