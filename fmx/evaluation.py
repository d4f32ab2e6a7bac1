"""A package measured on labelled data by the predictor that serves; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fmx import statistics
from fmx.data import open_source
from fmx.data.rows import read_splits
from fmx.errors import DataError, nearest_names
from fmx.predictor import PackagePredictor
from fmx.progress import progress


def evaluate_package(folder: Path, data: str, *, variant: str | None = None, seed: int | None = None, device: str = "auto") -> dict[str, Any]:
    """Measure a package on the test rows of a source; labels are matched by name, never by position.

    Args:
        folder: of the package.
        data: a source's name or folder.
        variant: default the first that fits this host.
        seed: of the split where the data have none; default the run's.
        device: auto, cpu or cuda.

    Raises:
        DataError: the data hold a label that the package does not know.
    """
    predictor = PackagePredictor.open(folder, variant=variant, device=device)
    manifest = predictor.package.manifest
    source = open_source(data, int(manifest.run["seed"]) if seed is None else seed)
    unknown = [label for label in source.labels if label not in manifest.labels]
    if unknown:
        near = nearest_names(unknown[0], list(manifest.labels))
        raise DataError(
            f"{data} has labels that {manifest.name} does not know: {', '.join(unknown)}.",
            hint=f"Its labels: {', '.join(manifest.labels[:10])}{' ...' if len(manifest.labels) > 10 else ''}" + (f" (near: {near})" if near else ""),
        )
    rows = read_splits(source, manifest.input, ("test",))["test"]
    position = np.array([manifest.labels.index(label) for label in source.labels])
    wanted = position[rows.labels]
    with progress("evaluating", len(rows)) as advance:
        probabilities = predictor.run_all(rows.images, advance)
    matrix = statistics.confusion_matrix(probabilities.argmax(axis=1), wanted, len(manifest.labels))
    return {
        "package": manifest.name,
        "version": manifest.version,
        "variant": predictor.variant.name,
        "data": data,
        "accuracy": statistics.accuracy_of(probabilities, wanted).model_dump(),
        "macro_f1": statistics.macro_f1(matrix),
        "calibration_error": statistics.calibration_error(probabilities, wanted),
        "classes": statistics.class_table(matrix, manifest.labels),
        "rows_of_export": rows.fingerprint == manifest.rows.get("test"),
        "skipped": [f"{name}: {reason}" for name, reason in rows.skipped],
    }
