"""Writing a measured set of variants as a model package: ONNX files, golden rows, reference statistics, reports, manifest."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.audit import Audit
from export.measure import Measured
from export.ort_format import ORT_FORMATS, ort_format
from export.reference import reference_statistics
from export.settings import ExportSettings
from export.subject import Subject
from fmx import host, storage
from fmx.contract import Fingerprint, Latency, ModelContract, Requires, TextInput, Variant
from fmx.data import Columns, split_seed_of
from fmx.data.rows import Rows
from fmx.errors import disk_errors
from fmx.package import new_package, write_manifest
from fmx.predictor import Predictor
from fmx.report import charts, render
from fmx.run import Run
from fmx.tasks import Task
from fmx.texts import TOKENIZER_FILE

GOLDEN_ROWS = 8
CLASSES_SHOWN = 20
PRECISION = {
    "fp32": "float32",
    "fp16": "float16, float32 inputs and outputs",
    "int8": "uint8 activations, int8 weights",
    "int8-generic": "uint8 activations, int8 weights of 7 bits",
    "int8-arm64": "int8 activations, int8 weights",
}


@dataclass(frozen=True)
class Candidate:
    """A variant that was built and measured."""

    name: str
    model: onnx.ModelProto
    measured: Measured
    latency: tuple[Latency, ...]
    """Empty where this host is not of the variant's kind."""
    requires: Requires
    providers: tuple[str, ...]
    why: str
    exact: bool
    """It is run here without the saturation that this CPU would show and its own hosts do not."""
    audit: Audit
    embedding_cosine: float | None
    """Least cosine of its embeddings and the eager model's; None where it gives none."""
    embeddings: np.ndarray | None
    """Of the test rows, float32 [n, width]; None where it gives none."""
    trials: list[dict[str, Any]]
    """What the search for it tried."""


@dataclass(frozen=True)
class Recipe:
    """The choices that shaped the variants, the digest of contract and choices, and the training rows that calibrated (indices)."""

    choices: dict[str, Any]
    digest: str
    calibration: np.ndarray | None


def write_package(target: Path, candidates: list[Candidate], subject: Subject, recipe: Recipe, settings: ExportSettings) -> Path:
    """Write the package whole or not at all, and return its folder.

    Args:
        target: the folder to be.
        candidates: in serving order.
        subject: what was exported.
        recipe: how.
        settings: of this export.
    """
    contract, test = subject.contract, subject.rows["test"]
    with new_package(target, force=settings.force) as folder, disk_errors("writing the package"):
        variants = tuple(_write_variant(folder, candidate) for candidate in candidates)
        _write_golden_rows(folder, candidates, subject, settings)
        if isinstance(contract.input, TextInput):
            storage.write_bytes(folder / TOKENIZER_FILE, (subject.run.folder / TOKENIZER_FILE).read_bytes())
        reference = reference_statistics(subject.task, test, candidates[0].measured.probabilities, candidates[0].embeddings)
        storage.write_text(folder / "reference.json", json.dumps(reference, indent=2) + "\n")
        fields: dict[str, Any] = {
            "name": target.name,
            "version": storage.sha256_bytes(f"{recipe.digest} {subject.run.info.weights_sha256}".encode())[:12],
            **{key: getattr(contract, key) for key in ModelContract.model_fields},
            "variants": variants,
            "recipe": recipe.choices,
            "contract_digest": recipe.digest,
            "rows": {
                **({} if recipe.calibration is None else {"calibration": _fingerprint(subject.rows["train"], recipe.calibration)}),
                "validation": subject.rows["validation"].fingerprint,
                "test": test.fingerprint,
            },
            "run": {**_origin(subject.run), **({"pruned_run": recipe.choices["pruning"]["pruned_run"]} if recipe.choices["pruning"] else {})},
            "tools": host.library_versions(),
            "created": host.now(),
        }
        _write_reports(folder, fields, candidates, settings)
        write_manifest(folder, fields)
    return target


def _write_variant(folder: Path, candidate: Candidate) -> Variant:
    file = f"model.{candidate.name}.onnx"
    storage.write_bytes(folder / file, candidate.model.SerializeToString(deterministic=True))
    ort_file = None
    if candidate.name in ORT_FORMATS:
        ort_file = f"model.{candidate.name}.ort"
        storage.write_bytes(folder / ort_file, ort_format(candidate.model, ORT_FORMATS[candidate.name]))
    return Variant(
        name=candidate.name,  # type: ignore[arg-type]
        file=file,
        ort_file=ort_file,
        sha256=storage.sha256_file(folder / file),
        bytes=(folder / file).stat().st_size,
        precision=PRECISION[candidate.name],
        requires=candidate.requires,
        providers=candidate.providers,
        comparison=candidate.measured.comparison,
        embedding_cosine=candidate.embedding_cosine,
        accuracy=candidate.measured.accuracy,
        f1=candidate.measured.f1,
        pearson=candidate.measured.pearson,
        drop=candidate.measured.drop,
        parity=candidate.measured.parity,
        latency=candidate.latency,
        why=candidate.why,
    )


def choose_golden_rows(test: Rows | None, task: Task) -> np.ndarray:
    """Choose a few rows, evenly spread, or make them from noise where there are none to keep: [8, *row_shape]."""
    if test is not None:
        return np.asarray(test.values[np.linspace(0, len(test) - 1, GOLDEN_ROWS).astype(int)])
    return task.noise(GOLDEN_ROWS)


def _write_golden_rows(folder: Path, candidates: list[Candidate], subject: Subject, settings: ExportSettings) -> None:
    """Keep a few rows with each variant's answers, as the file on disk gives them."""
    rows, contract = choose_golden_rows(subject.rows["test"] if settings.samples else None, subject.task), subject.contract
    threads = host.usable_cpus()
    opened = {one.name: Predictor(folder / f"model.{one.name}.onnx", contract, threads=threads, exact=one.exact) for one in candidates}
    answers = {name: predictor.run_golden(rows) for name, predictor in opened.items()}
    np.savez(folder / "golden.npz", allow_pickle=False, rows=rows, **answers)


def _fingerprint(rows: Rows, chosen: np.ndarray) -> Fingerprint:
    return Fingerprint(rows=len(chosen), sha256=storage.sha256_bytes(rows.values[chosen].tobytes() + rows.labels[chosen].tobytes()))


def _origin(run: Run) -> dict[str, Any]:
    info = run.info
    return {
        "name": info.name,
        "model": info.model,
        "weights_origin": info.weights_origin,
        "method": info.settings["method"],
        "seed": info.settings["seed"],
        "split_seed": split_seed_of(info.settings),
        "temperature": info.temperature,
        **_choices_of_data(info.settings),
        "weights_sha256": info.weights_sha256,
        "accuracy": info.accuracy.model_dump(),
        "created": info.created,
    }


def _choices_of_data(settings: dict[str, Any]) -> dict[str, Any]:
    """Give what of the data was chosen, with their name, so that an evaluation on the same data chooses it too."""
    chosen = {key: settings[key] for key in ("group_by", *(f"{name}_column" for name in Columns._fields)) if settings.get(key)}
    return {"data": settings["data"], **chosen} if chosen else {}


def _write_reports(folder: Path, fields: dict[str, Any], candidates: list[Candidate], settings: ExportSettings) -> None:
    variants: tuple[Variant, ...] = fields["variants"]
    timed = [variant for variant in variants if variant.latency]
    at = next(item.batch for item in timed[0].latency if item.batch == settings.batch)
    storage.write_text(
        folder / "report.html",
        render(
            "package.html.j2",
            package=fields,
            host=host.describe(),
            command=command_of(fields["run"]["name"], settings),
            audits={one.name: one.audit for one in candidates},
            trials={one.name: one.trials for one in candidates if one.trials},
            front=charts.front({v.name: _place(v, at) for v in timed}, f"latency at batch {at} (ms)", "accuracy (%)"),
            size_chart=charts.bars({v.name: v.bytes / 1e6 for v in variants}, "size", "MB"),
            latency_charts=[
                charts.bars({v.name: v.latency[i].median_ms for v in timed}, f"latency at batch {each.batch} (median)", "ms")
                for i, each in enumerate(timed[0].latency)
            ],
            accuracy_chart=charts.intervals(
                {v.name: (v.accuracy.low, v.accuracy.value, v.accuracy.high) for v in variants if v.accuracy}, "accuracy with 95 % interval"
            ),
            classes=_class_changes(candidates, fields["labels"]),
        ),
    )
    report = {
        "name": fields["name"],
        "host": host.describe(),
        "command": command_of(fields["run"]["name"], settings),
        "variants": [v.model_dump(mode="json") for v in variants],
        "recipe": fields["recipe"],
        "trials": {one.name: one.trials for one in candidates if one.trials},
        "audit": {one.name: one.audit.as_json() for one in candidates},
    }
    storage.write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")


def command_of(run: str, settings: ExportSettings) -> str:
    """Write the command that repeats an export."""
    parts = ["fmx", "export", run]
    for key, value in settings.model_dump(exclude_defaults=True, exclude={"name", "force"}).items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            parts.append(option if value else f"--no-{option.removeprefix('--')}")
        else:
            parts += [option, ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(parts)


def _place(variant: Variant, batch: int) -> tuple[float, float, float]:
    """Give a variant's milliseconds at a batch, accuracy in percent, and megabytes."""
    median = next(item.median_ms for item in variant.latency if item.batch == batch)
    return median, 100 * variant.accuracy.value if variant.accuracy else 0.0, variant.bytes / 1e6


def _class_changes(candidates: list[Candidate], labels: tuple[str, ...]) -> list[dict[str, Any]]:
    """Give each class's recall a variant, the classes that change most first."""
    recalls = {one.name: one.measured.recalls for one in candidates}
    rows = [{"label": label, "recalls": {name: values[i] for name, values in recalls.items()}} for i, label in enumerate(labels)]
    return sorted(rows, key=lambda row: -float(np.ptp(list(row["recalls"].values()))))[:CLASSES_SHOWN]  # type: ignore[attr-defined]
