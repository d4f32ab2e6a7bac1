"""One package that a worker serves: verified, its sessions measured, its golden rows replayed, its threads started."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmx.decoded import Decoded
from fmx.drift import distances_from
from fmx.package import load_package
from fmx.predictor import PackagePredictor
from fmx.signature import verify_signature
from serve.batcher import MicroBatcher
from serve.drift import DriftMonitor, read_centre, read_reference
from serve.lanes import Opened, open_lanes
from serve.scaling.capacity import read_capacity
from serve.settings import ServeSettings
from serve.shadow import Shadow, open_shadow

log = logging.getLogger("fmx.serve")


@dataclass(frozen=True)
class Served:
    """What answers."""

    opened: Opened
    batcher: MicroBatcher
    drift: DriftMonitor | None
    shadow: Shadow | None
    objective_s: float
    """Within which it should answer; infinite where nobody said."""
    centre: np.ndarray | None
    """Of the reference's embeddings, float32 [width]; None where there is none, or drift is not watched."""

    @property
    def predictor(self) -> PackagePredictor:
        """The package's predictor."""
        return self.opened.predictor

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Name, version, variant and digest, as metrics and logs give them."""
        package = self.predictor.package
        return package.name, package.manifest.version, self.predictor.variant.name, package.digest

    def close(self) -> None:
        """Answer what is inside, and end the threads."""
        self.batcher.close()
        for beside in (self.drift, self.shadow):
            if beside is not None:
                beside.close()

    def observe(self, row: Decoded, probabilities: np.ndarray, summary: np.ndarray, embedding: np.ndarray) -> None:
        """Show an answered row to those who watch.

        Args:
            row: of the task.
            probabilities: its answer, float32 [*answer_shape] of the task.
            summary: that as one row, float32 [labels].
            embedding: float32 [width], of width 0 where there is none.
        """
        if self.drift is not None:
            if self.centre is not None:
                row = row._replace(facts={**row.facts, "embedding_distance": float(distances_from(self.centre, embedding[None])[0])})
            self.drift.offer(row, summary)
        if self.shadow is not None:
            self.shadow.offer(row, probabilities)


def open_served(folder: Path, settings: ServeSettings, like: Served | None = None) -> Served:
    """Open a package to be served.

    Args:
        folder: of the package.
        settings: of the service.
        like: what is served now, under load: a model of its shape runs as it does, for nothing could be measured beside it.

    Raises:
        PackageError: damaged, altered, not signed by the key that is asked for, or computing something else here than at export.
        SurroundingsError: the device is not there.
    """
    if settings.verify_key is not None:
        verify_signature(folder, public_key=settings.verify_key)
    package = load_package(folder)
    opened = open_lanes(package, settings, like.opened if like is not None else None)
    predictor = opened.predictor
    difference = predictor.replay_golden_rows()
    shadowed = open_shadow(settings.shadow, package, predictor.device) if settings.shadow is not None else None
    (reference, centre), objective_s = _reference(predictor, settings), _objective_s(predictor, settings)
    drift = _open_drift(reference, predictor, settings)  # from here on threads run, and nothing may fail
    shadow = Shadow(shadowed, settings.shadow_share) if shadowed is not None else None
    task, limit = predictor.task, settings.limit_of(predictor.task.noun)
    batcher = MicroBatcher(opened.lanes, lambda data: task.decode(data, limit), task.row_shape, task.dtype, 2 * settings.queue_rows, task.large_bytes)
    served = Served(opened, batcher, drift, shadow, objective_s, centre)
    name, version, variant, _ = served.names
    log.info("Serving %s %s, %s; golden rows agree to %.1e.", name, version, variant, difference)
    log.info("How it runs here: %s.", opened.words)
    if shadowed is not None:
        log.info("In its shadow: %s, %s, of %g of the rows.", shadowed.package.name, shadowed.variant.name, settings.shadow_share)
    return served


def _objective_s(predictor: PackagePredictor, settings: ServeSettings) -> float:
    """Give the objective as set, or that for which the capacity of this very package was measured."""
    if settings.objective_ms is not None:
        return settings.objective_ms / 1e3
    measured = read_capacity(predictor.package, predictor.variant.name, settings.workers)
    return measured.slo_p99_ms / 1e3 if measured is not None else float("inf")


def _reference(predictor: PackagePredictor, settings: ServeSettings) -> tuple[dict[str, np.ndarray] | None, np.ndarray | None]:
    """Read the reference's counts, and the centre of its embeddings."""
    if settings.drift == "off" or not (predictor.package.folder / "reference.json").is_file():
        return None, None  # an imported file that was never evaluated has no reference
    try:
        return read_reference(predictor.package.folder, predictor.contract.labels), read_centre(predictor.package.folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("Drift is not watched: reference.json cannot be read (%s).", type(error).__name__)
        return None, None


def _open_drift(reference: dict[str, np.ndarray] | None, predictor: PackagePredictor, settings: ServeSettings) -> DriftMonitor | None:
    return DriftMonitor(reference, predictor.task.features, **_window(settings)) if reference is not None else None


def _window(settings: ServeSettings) -> dict[str, Any]:
    rows = {"window_rows": settings.drift_window_rows, "least_rows": settings.drift_least_rows}
    return {**rows, "rows_per_second": settings.drift_rows_per_second}
