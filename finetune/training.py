"""The story of a training: settings, data, network, stages, measurement, run. `fmx train` and `fmx.train` are this function."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune import checkpoint
from finetune.baselines import compare_entities, compare_labels, compare_scores, compare_with_baselines, count_inexact
from finetune.blocks import checkpoint_gradients
from finetune.checkpoint import Keeper, load_state, load_weights, read_training, save_weights, write_training
from finetune.energy import EnergyMeter
from finetune.interruption import interruptible
from finetune.job import Job, Say, base_key, check_model, continued_run, model_name, open_job
from finetune.loop import Epoch, Fit, Trainer, freeze_norms, split_order
from finetune.measurement import forget_peak, measure_network
from finetune.methods import METHODS
from finetune.network import Network
from finetune.objectives import Objective, build_objective
from finetune.optimisation import range_test
from finetune.plan import Inputs, Plan, Stage
from finetune.run_writer import write_run
from finetune.settings import TrainSettings, check_settings
from finetune.speed import TRIED_ROWS, autocast, choose_batch_size, choose_precision, compiling_pays
from finetune.structure import read_structure
from finetune.trackers import Trackers
from finetune.workplace import check_space, find_unfinished, kept_if_resumable, reserve
from finetune.world import is_launched, open_world
from fmx import storage
from fmx.contract import TextInput
from fmx.errors import DataError, UsageError
from fmx.run import Run, load_run
from fmx.tasks import TokenClassification


def train_run(
    out: Path | str | None = None,
    say: Say | None = None,
    *,
    resume: str | None = None,
    on_epoch: Callable[[Fit], None] | None = None,
    **options: Any,
) -> Run:
    """Fine-tune a base model and leave a run.

    Args:
        out: the folder of runs; default `runs/` in `FMX_HOME`.
        say: called with lines for a person; default silent.
        resume: the folder or name of a run that was interrupted; its own settings are taken.
        on_epoch: called after each epoch of the last stage; what it raises ends the training.
        options: the fields of `TrainSettings`.

    Raises:
        UsageError, DataError, ModelError, SurroundingsError: see `fmx.errors`; a training that had a state keeps it, and the hint says so.
        SystemExit, KeyboardInterrupt: SIGTERM or Ctrl-C; the state is saved first.
    """
    started, meter = time.perf_counter(), EnergyMeter()
    runs = Path(out) if out else storage.home() / "runs"
    if resume is not None:
        folder = find_unfinished(resume, runs)
        settings = _settings_of(folder, options)
        if settings.shard and not is_launched():
            settings = settings.model_copy(update={"shard": False})
            if say is not None:
                say("This training was split over processes and goes on in one: the same steps, but other last digits.")
    else:
        folder, settings = None, check_settings(options)
        check_model(settings)
        if settings.name and (runs / storage.check_name(settings.name)).exists():
            reserve(runs, settings.model, settings.name)  # raises what is to be said, before the data are read
    world = open_world(settings.device, shard=settings.shard)
    if world.shards and not settings.shard:  # asked for by accelerate's configuration
        settings = check_settings({**settings.model_dump(), "shard": True})
    tell: Say = say if say and world.is_first else _nothing

    def place() -> Path:
        made: Path = folder or world.agree(reserve(runs, settings.model, settings.name) if world.is_first else None)
        return made

    job = open_job(settings, world, tell, place)
    with kept_if_resumable(job.folder, resuming=resume is not None) if world.is_first else nullcontext():
        return _train(job, started, meter, on_epoch)


def _settings_of(folder: Path, options: dict[str, Any]) -> TrainSettings:
    """Take the settings that an interrupted run began with. Raises: `UsageError` when others are given beside them."""
    given = [key.replace("_", "-") for key, value in options.items() if value is not None]
    if given:
        raise UsageError(f"--resume takes the run's own settings, so --{given[0]} has no place beside it.", hint="Leave it out.")
    return check_settings({**read_training(folder / checkpoint.FOLDER)["settings"], "name": None})


def _train(job: Job, started: float, meter: EnergyMeter, watch: Callable[[Fit], None] | None) -> Run:
    saved = _check_or_write_training(job)
    state = load_state(job.states, job.say)
    job.network.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    forget_peak(job.device)
    stages = METHODS[job.settings.method]
    first = next((i for i, stage in enumerate(stages) if state is not None and stage.name == state.facts["stage"]), 0)
    done = {name: [Epoch(**epoch) for epoch in epochs] for name, epochs in saved["stages"].items()}
    fits = [Fit(done[stage.name]) for stage in stages[:first]]
    logged = sum(len(fit.epochs) for fit in fits) + len(state.facts["epochs"] if state else ())
    with closing(Trackers(job.folder, job.settings, logged)) if job.world.is_first else nullcontext() as trackers:
        for stage in filter(_trains_base, stages[:first]):
            load_weights(job.states, stage.name, job.network.body)
        for stage in stages[first:]:
            inputs = Inputs(job.rows["train"], job.rows["validation"], job.source.may_flip, base_key(job.network, job.spec), job.source.labels)
            ready = _prepare_stage(job, stage, inputs, saved)
            if stage is stages[-1]:
                job = replace(job, settings=ready.settings)
                _write_training(job, saved)
            trainer = Trainer(ready.plan, ready.objective, ready.settings, stage.name, stage.epochs(ready.settings), job.world, job.say)
            if state is not None:
                trainer.restore(state)
                job.say(f"Resumed {stage.name} after epoch {len(trainer.fit.epochs)}, step {trainer.position}.")
            elif job.world.is_first:
                parameters = list(ready.plan.module.parameters())
                copies = 2 + bool(ready.settings.ema) + (stage is not stages[-1] and _trains_base(stage))
                trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
                check_space(job.folder, sum(p.numel() * p.element_size() for p in parameters), trained, copies=copies)
            state = None
            saved.setdefault("start_seconds", round(time.perf_counter() - started, 2))
            fits.append(_run_stage(job, trainer, fits, trackers, watch if stage is stages[-1] else None))
            ready.plan.finish()
            if stage is not stages[-1] and _trains_base(stage) and job.world.is_first:
                save_weights(job.states, stage.name, job.network.body)
            saved["stages"][stage.name] = [asdict(epoch) for epoch in fits[-1].epochs]
            _write_training(job, saved)
    return _finish(job, ready.plan, fits, saved, meter)


def _trains_base(stage: Stage) -> bool:
    """Whether a stage leaves another base model, which the stages after it begin with and their states do not hold."""
    return not stage.passes


def _run_stage(job: Job, trainer: Trainer, earlier: list[Fit], trackers: Trackers | None, watch: Callable[[Fit], None] | None) -> Fit:
    """Train one stage; only the first process writes states, metrics and curves."""
    before = [epoch for fit in earlier for epoch in fit.epochs]

    def on_epoch(fit: Fit) -> None:
        epoch = fit.epochs[-1]
        if trackers is not None:
            lines = [json.dumps(asdict(epoch)) + "\n" for epoch in [*before, *fit.epochs]]
            storage.write_text(job.folder / "metrics.jsonl", "".join(lines))
            trackers.log(len(before) + epoch.epoch, epoch)
        judged = job.rows["train"].judged.removeprefix("the ")
        job.say(
            f"epoch {epoch.epoch:>3}  loss {epoch.train_loss:.4f}  validation {judged} {epoch.validation_accuracy:.2%}  "
            f"{epoch.rows_per_second:,.0f} rows/s  {epoch.seconds:.1f} s"
        )
        if watch is not None:
            watch(fit)

    keeper = Keeper(job.states, job.settings.checkpoint_minutes) if job.world.is_first else None
    with interruptible() as interruption:
        return trainer.run(keeper, interruption, on_epoch)


@dataclass(frozen=True)
class Ready:
    """A stage with everything that was left open (`auto`) settled."""

    settings: TrainSettings
    plan: Plan
    objective: Objective


def _prepare_stage(job: Job, stage: Stage, inputs: Inputs, saved: dict[str, Any]) -> Ready:
    """Make a stage's plan and objective, and settle its precision, batch size and rate."""
    network, settings = job.network, _settle_pass(job, inputs, saved) if stage.passes else job.settings
    plan = stage.plan(network, inputs, settings, job.device)
    if plan.on_rows:
        if settings.gradient_checkpointing:
            job.say(f"{checkpoint_gradients(network.body)} blocks recompute their activations.")
        settings = _settle_speed(job, plan, saved)
    job.say(f"{settings.model} ({job.built.weights_origin}), {stage.name} on {job.device}, {settings.precision}: {_trained_share(network)}.")
    _describe_batch(job.world.size, int(settings.batch_size), job.say)
    objective = build_objective(settings, plan, network, job.spec, job.source.labels, job.source.may_flip, job.device)
    if settings.lr == "auto" and stage is METHODS[settings.method][-1]:
        settings = _settle_rate(job, settings, plan, objective, saved)
    return Ready(settings, plan, objective)


def _settle_pass(job: Job, inputs: Inputs, saved: dict[str, Any]) -> TrainSettings:
    """Choose the precision in which rows are passed through a frozen network, once: a resumed training must not measure otherwise.

    The head on their features takes any batch size.
    """
    settings = job.settings
    if "pass_precision" not in saved:
        images = job.network.prepare(torch.from_numpy(inputs.train.values[:TRIED_ROWS]).to(job.device))
        measured = choose_precision(settings.precision, job.network.body, images, job.device, job.say, learns=False)
        saved["pass_precision"] = job.world.agree(measured)
        _write_training(job, saved)
    size = 32 if settings.batch_size == "auto" else settings.batch_size
    return settings.model_copy(update={"precision": saved["pass_precision"], "batch_size": size})


def _settle_speed(job: Job, plan: Plan, saved: dict[str, Any]) -> TrainSettings:
    """Choose precision, batch size and compilation by measurement where they are left open; every process takes the first one's.

    What is measured is what is trained: with the norms frozen that stay frozen, and in the parts that memory asks for.
    """
    plan.module.train()
    freeze_norms(plan.module, every=plan.freeze_statistics)
    example = _full_batch(plan, 32)
    precision = job.world.agree(choose_precision(job.settings.precision, plan.module, example, job.device, job.say))
    size = job.settings.batch_size
    if size == "auto":
        size = job.world.agree(choose_batch_size(plan.module, example[:1], len(plan.train_labels), precision, job.device, job.say))
    if job.settings.compile and "compiled" not in saved:  # a resumed training must not measure otherwise
        part = _full_batch(plan, int(size) // job.settings.accumulate)
        saved["compiled"] = job.world.agree(compiling_pays(plan.module, part, precision, job.device, job.say))
        _write_training(job, saved)
    return job.settings.model_copy(update={"precision": precision, "batch_size": size, "compile": saved.get("compiled", False)})


def _full_batch(plan: Plan, size: int) -> torch.Tensor:
    """Give one batch of training rows as the module takes them."""
    return plan.batch(plan.train_inputs[: min(size, len(plan.train_inputs))], None)


def _settle_rate(job: Job, settings: TrainSettings, plan: Plan, objective: Objective, saved: dict[str, Any]) -> TrainSettings:
    """Find the peak rate by a range test, and scale the plan's groups to it."""
    order = torch.randperm(len(plan.train_labels), generator=torch.Generator().manual_seed(settings.seed))
    batches = split_order(order, int(settings.batch_size))
    generator = torch.Generator().manual_seed(settings.seed)
    precision = settings.precision if plan.on_rows and settings.precision != "fp16" else "fp32"  # fp16 would need a scaler

    def batch_loss(module: torch.nn.Module, step: int) -> torch.Tensor:
        index = batches[step % len(batches)]
        index = index[: max(2, len(index) // settings.accumulate)]
        with autocast(precision, job.device):
            return objective(module, plan.batch(plan.train_inputs[index], generator), plan.train_labels[index].to(job.device), generator)

    plan.module.train()
    freeze_norms(plan.module, every=plan.freeze_statistics)
    found, curve = range_test(plan.module, plan.groups, settings.optimiser, batch_loss)
    rate = float(job.world.agree(float(f"{found:.2g}")))
    job.say(f"Range test: the peak learning rate is {rate:g} (a tenth of the rate with the lowest loss).")
    saved["range_test"] = curve
    for group in plan.groups:
        group["peak"] = rate * group["share"]
    return settings.model_copy(update={"lr": rate})


def _finish(job: Job, plan: Plan, fits: list[Fit], saved: dict[str, Any], meter: EnergyMeter) -> Run:
    """Measure the network on the test rows and write the run; the states are then no longer needed."""
    world, settings = job.world, job.settings
    if world.is_first:
        measured = measure_network(job.network, job.rows, job.source.labels, settings, job.spec, job.device, plan.answers)
        energy = meter.joules()
        if energy is not None:
            measured.metrics["energy_joules"] = energy  # of this process's part, where it was resumed
        measured.metrics["validation_accuracy"] = fits[-1].best.validation_accuracy
        if isinstance(job.task, TokenClassification):
            measured.metrics.update(compare_entities(job.rows, job.task, job.source.labels, measured.metrics, job.say))
            measured.metrics["inexact_entities"] = count_inexact(job.task, job.rows["test"], job.say)
        elif job.task.grades:
            measured.metrics.update(compare_scores(job.rows, measured.metrics, job.say))
        elif job.task.has_several:
            measured.metrics.update(compare_labels(job.rows, job.source.labels, measured.metrics, job.say))
        elif isinstance(job.spec, TextInput):
            measured.metrics.update(compare_with_baselines(job.rows, job.source.labels, measured.metrics, job.say))
        if "range_test" in saved:
            measured.metrics["range_test"] = saved["range_test"]
        before = continued_run(settings.model)
        facts = {
            "name": job.folder.name,
            "task": settings.task,
            "model": before.info.model if before else model_name(settings),
            "structure": read_structure(job.network.body, before.info.structure["removed"]) if before and before.info.structure else None,
            "weights_origin": job.built.weights_origin,
            "labels": job.source.labels,
            "input": job.spec,
            "settings": {**settings.model_dump(mode="json"), "lr": settings.peak_rate, **_head_factor(settings)},
            "rows": {split: split_rows.fingerprint for split, split_rows in job.rows.items()},
            "skipped_files": tuple(f"{file}: {reason}" for split in job.rows.values() for file, reason in split.skipped),
            "train_seconds": round(sum(epoch.seconds for fit in fits for epoch in fit.epochs), 2),
            "start_seconds": saved.get("start_seconds", 0.0),
        }
        info = write_run(job.folder, facts, fits, measured, job.rows["test"], job.built.files)
        storage.point_latest(job.folder)
        checkpoint.remove(job.states)
    world.wait()
    return Run(job.folder, info) if world.is_first else load_run(job.folder)


def _head_factor(settings: TrainSettings) -> dict[str, float]:
    """A stage of a probe trains nothing but the head, so its rate has no factor."""
    return {} if settings.method in ("linear-probe", "few-shot") else {"head_lr_factor": settings.head_factor}


def _check_or_write_training(job: Job) -> dict[str, Any]:
    """Write down what is trained; when it is resumed, check that the rows are still the same.

    Raises:
        DataError: they are not.
    """
    rows = {split: split_rows.fingerprint.model_dump() for split, split_rows in job.rows.items()}
    if job.world.agree(checkpoint.is_begun(job.states)):
        saved = read_training(job.states)
    else:
        saved = {"rows": rows, "stages": {}}
        _write_training(job, saved)
    if saved["rows"] != rows:
        raise DataError(f"The rows of {job.source.name} are not those that {job.folder.name} began with.", hint="Bring the data back, or train anew.")
    job.world.wait()
    return saved


def _write_training(job: Job, saved: dict[str, Any]) -> None:
    if job.world.is_first:
        saved["settings"] = job.settings.model_dump(mode="json")
        write_training(job.states, saved)


def _nothing(line: str) -> None:
    """Say nothing."""


def _describe_batch(processes: int, rows: int, say: Say) -> None:
    """Say how many rows take a step together, which no number of processes changes, and why the rate therefore stays."""
    if processes > 1:
        say(
            f"{processes} processes share each batch of {rows} rows (about {rows / processes:g} each), "
            "so the effective batch size and the learning rate are those of one process."
        )


def _trained_share(network: Network) -> str:
    total = sum(parameter.numel() for parameter in network.parameters())
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return f"{trained:,} of {total:,} parameters are trained ({trained / total:.1%})"
