"""Writing a measured set of variants as a model package: ONNX files, golden rows, reference statistics, reports, manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.measure import Measured
from export.reference import reference_statistics
from export.settings import ExportSettings
from export.subject import Subject
from fmx import host, storage
from fmx.contract import Fingerprint, Latency, ModelContract, Requires, Variant
from fmx.data import split_seed_of
from fmx.data.rows import Rows
from fmx.errors import disk_errors
from fmx.package import new_package, write_manifest
from fmx.predictor import Predictor
from fmx.report import charts, render
from fmx.run import Run

GOLDEN_ROWS = 8
PRECISION = {"fp32": "float32", "int8": "uint8 activations, int8 weights"}


@dataclass(frozen=True)
class Candidate:
    """A variant that was built and measured."""

    name: str
    model: onnx.ModelProto
    measured: Measured
    latency: tuple[Latency, ...]
    requires: Requires
    why: str


@dataclass(frozen=True)
class Recipe:
    """The choices that shaped the variants, the digest of contract and choices, and the training rows that calibrated (indices)."""

    choices: dict[str, Any]
    digest: str
    calibration: np.ndarray


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
        _write_golden_rows(folder, candidates, contract, test, settings)
        reference = reference_statistics(test.images, candidates[0].measured.probabilities, contract.labels)
        storage.write_text(folder / "reference.json", json.dumps(reference, indent=2) + "\n")
        fields: dict[str, Any] = {
            "name": target.name,
            "version": storage.sha256_bytes(f"{recipe.digest} {subject.run.info.weights_sha256}".encode())[:12],
            **{key: getattr(contract, key) for key in ModelContract.model_fields},
            "variants": variants,
            "recipe": recipe.choices,
            "contract_digest": recipe.digest,
            "rows": {
                **({"calibration": _fingerprint(subject.rows["train"], recipe.calibration)} if settings.quantize != "none" else {}),
                "validation": subject.rows["validation"].fingerprint,
                "test": test.fingerprint,
            },
            "run": _origin(subject.run),
            "tools": host.library_versions(),
            "created": host.now(),
        }
        _write_reports(folder, fields)
        write_manifest(folder, fields)
    return target


def _write_variant(folder: Path, candidate: Candidate) -> Variant:
    file = f"model.{candidate.name}.onnx"
    storage.write_bytes(folder / file, candidate.model.SerializeToString(deterministic=True))
    return Variant(
        name=candidate.name,  # type: ignore[arg-type]
        file=file,
        sha256=storage.sha256_file(folder / file),
        bytes=(folder / file).stat().st_size,
        precision=PRECISION[candidate.name],
        requires=candidate.requires,
        accuracy=candidate.measured.accuracy,
        drop=candidate.measured.drop,
        parity=candidate.measured.parity,
        latency=candidate.latency,
        why=candidate.why,
    )


def _write_golden_rows(folder: Path, candidates: list[Candidate], contract: ModelContract, test: Rows, settings: ExportSettings) -> None:
    """Keep a few rows with each variant's answers, as the file on disk gives them."""
    if settings.samples:
        rows = test.images[np.linspace(0, len(test) - 1, GOLDEN_ROWS).astype(int)]
    else:
        rows = np.random.default_rng(0).integers(0, 256, (GOLDEN_ROWS, *test.images.shape[1:]), dtype=np.uint8)
    answers = {
        candidate.name: Predictor(folder / f"model.{candidate.name}.onnx", contract, threads=host.usable_cpus()).run(rows) for candidate in candidates
    }
    np.savez(folder / "golden.npz", allow_pickle=False, rows=rows, **answers)


def _fingerprint(rows: Rows, chosen: np.ndarray) -> Fingerprint:
    return Fingerprint(rows=len(chosen), sha256=storage.sha256_bytes(rows.images[chosen].tobytes() + rows.labels[chosen].tobytes()))


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
        **({"data": info.settings["data"], "group_by": info.settings["group_by"]} if info.settings.get("group_by") else {}),
        "weights_sha256": info.weights_sha256,
        "accuracy": info.accuracy.model_dump(),
        "created": info.created,
    }


def _write_reports(folder: Path, fields: dict[str, Any]) -> None:
    variants: tuple[Variant, ...] = fields["variants"]
    storage.write_text(
        folder / "report.html",
        render(
            "package.html.j2",
            package=fields,
            host=host.describe(),
            size_chart=charts.bars({v.name: v.bytes / 1e6 for v in variants}, "size", "MB"),
            latency_charts=[
                charts.bars({v.name: v.latency[i].median_ms for v in variants}, f"latency at batch {at.batch} (median)", "ms")
                for i, at in enumerate(variants[0].latency)
            ],
            accuracy_chart=charts.intervals(
                {v.name: (v.accuracy.low, v.accuracy.value, v.accuracy.high) for v in variants}, "accuracy with 95 % interval"
            ),
        ),
    )
    report = {"name": fields["name"], "host": host.describe(), "variants": [v.model_dump(mode="json") for v in variants], "recipe": fields["recipe"]}
    storage.write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
