"""The story of a training: settings, data, network, method, loop, measurement, run. `fmx train` and `fmx.train` are this function."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from finetune.base_models import check_model_name
from finetune.downloads import ensure_downloaded
from finetune.evaluation import eager_probabilities
from finetune.loop import Epoch, fit
from finetune.methods import METHODS
from finetune.network import Network, build_network
from finetune.plan import Inputs
from finetune.run_writer import write_run
from finetune.settings import check_settings
from finetune.tasks.image_classification import measure, smoothed_cross_entropy
from fmx import storage
from fmx.contract import ImageInput
from fmx.data import Source, open_source
from fmx.data.rows import Rows, read_splits
from fmx.errors import SurroundingsError
from fmx.run import Run
from fmx.tasks.image_classification import ImageClassification

Say = Callable[[str], None]
"""Takes a line for a person."""


def train_run(out: Path | str | None = None, say: Say | None = None, **options: Any) -> Run:
    """Fine-tune a base model and leave a run.

    Args:
        out: the folder of runs; default `runs/` in `FMX_HOME`.
        say: called with lines for a person; default silent.
        options: the fields of `TrainSettings`.

    Raises:
        UsageError, DataError, ModelError, SurroundingsError: see `fmx.errors`; nothing is left behind.
    """
    settings = check_settings(options)
    say = say or _nothing
    check_model_name(settings.model)
    runs = Path(out) if out else storage.home() / "runs"
    name = storage.check_name(settings.name) if settings.name else storage.next_name(runs, settings.model)
    storage.check_free(runs / name)
    device = choose_device(settings.device)
    torch.manual_seed(settings.seed)

    ensure_downloaded(settings.data)
    source = open_source(settings.data, settings.seed)
    size = settings.size or source.suggested_size
    network, base, spec = build_network(settings.model, settings.weights, size, len(source.labels))
    rows = read_splits(source, spec)
    _describe(source, rows, size, say)

    with storage.new_folder(runs / name) as folder:
        started = time.perf_counter()
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = Inputs(rows["train"], rows["validation"], source.may_flip, _base_key(network, spec))
        plan = METHODS[settings.method](network, inputs, settings, device)
        say(f"{settings.model} ({base.weights_origin}), {settings.method} on {device}: {_trained_share(network)}.")
        fitted = fit(
            plan,
            torch.from_numpy(rows["train"].labels),
            torch.from_numpy(rows["validation"].labels),
            smoothed_cross_entropy(settings.label_smoothing),
            settings,
            device,
            lambda epoch: _record(epoch, folder, say),
        )
        seconds = time.perf_counter() - started
        probabilities = eager_probabilities(network, rows["test"], device)
        facts = {
            "name": name,
            "task": ImageClassification.name,
            "model": settings.model,
            "weights_origin": base.weights_origin,
            "labels": source.labels,
            "input": spec,
            "settings": {**settings.model_dump(), "size": size, "name": name, "lr": plan.groups[0]["peak"]},
            "rows": {split: split_rows.fingerprint for split, split_rows in rows.items()},
            "skipped_files": tuple(f"{file}: {reason}" for split in rows.values() for file, reason in split.skipped),
            "metrics": measure(probabilities, rows["test"].labels, source.labels),
            "train_seconds": round(seconds, 2),
        }
        info = write_run(folder, network, facts, fitted, probabilities, rows["test"])
    storage.point_latest(runs / name)
    return Run(runs / name, info)


def _nothing(line: str) -> None:
    """Say nothing."""


def _describe(source: Source, rows: dict[str, Rows], size: int, say: Say) -> None:
    skipped = [fault for split in rows.values() for fault in split.skipped]
    for file, reason in skipped:
        say(f"Skipped {file}: {reason}.")
    counts = ", ".join(f"{len(split_rows)} {split}" for split, split_rows in rows.items())
    say(
        f"{source.name}: {len(source.labels)} classes, {counts} rows of {size} x {size} pixels"
        + (f"; {len(skipped)} files skipped." if skipped else ".")
    )


def choose_device(asked: str) -> torch.device:
    """Resolve `auto` to CUDA where torch has it. Raises: `SurroundingsError` when CUDA is asked for and not there."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise SurroundingsError("Device cuda was asked for, and torch sees no GPU.", hint="fmx doctor says what is missing; --device cpu works.")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def _record(epoch: Epoch, folder: Path, say: Say) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(asdict(epoch)) + "\n")
    say(
        f"epoch {epoch.epoch:>3}  loss {epoch.train_loss:.4f}  validation accuracy {epoch.validation_accuracy:.2%}  "
        f"{epoch.rows_per_second:,.0f} images/s  {epoch.seconds:.1f} s"
    )


def _trained_share(network: Network) -> str:
    total = sum(parameter.numel() for parameter in network.parameters())
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return f"{trained:,} of {total:,} parameters are trained ({trained / total:.1%})"


def _base_key(network: Network, spec: ImageInput) -> str:
    head = f"body.{network.head.path}."
    hashes = [
        storage.sha256_bytes(f"{key} {tuple(value.shape)}".encode() + value.detach().cpu().contiguous().numpy().tobytes())
        for key, value in network.state_dict().items()
        if not key.startswith(head)
    ]
    return storage.sha256_bytes(("".join(hashes) + spec.model_dump_json()).encode())
