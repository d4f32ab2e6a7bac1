"""One package that a worker serves: verified, its sessions measured, its golden rows replayed, its threads started."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from fmx.package import load_package
from fmx.predictor import PackagePredictor
from fmx.signature import verify_signature
from serve.batcher import MicroBatcher
from serve.drift import DriftMonitor, read_reference
from serve.lanes import open_lanes
from serve.settings import ServeSettings

log = logging.getLogger("fmx.serve")


@dataclass(frozen=True)
class Served:
    """What answers."""

    predictor: PackagePredictor
    batcher: MicroBatcher
    drift: DriftMonitor | None

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Name, version, variant and digest, as metrics and logs give them."""
        package = self.predictor.package
        return package.name, package.manifest.version, self.predictor.variant.name, package.digest

    def close(self) -> None:
        """Answer what is inside, and end the threads."""
        self.batcher.close()
        if self.drift is not None:
            self.drift.close()


def open_served(folder: Path, settings: ServeSettings) -> Served:
    """Open a package to be served.

    Raises:
        PackageError: damaged, altered, not signed by the key that is asked for, or computing something else here than at export.
        SurroundingsError: the device is not there.
    """
    if settings.verify_key is not None:
        verify_signature(folder, public_key=settings.verify_key)
    package = load_package(folder)
    opened = open_lanes(package, settings)
    predictor = opened.predictor
    difference = predictor.replay_golden_rows()
    drift = _open_drift(predictor, settings)
    batcher = MicroBatcher(opened.lanes, lambda data: predictor.task.row(data, settings.max_pixels), predictor.task.row_shape)
    served = Served(predictor, batcher, drift)
    name, version, variant, _ = served.names
    log.info("Serving %s %s, %s; golden rows agree to %.1e.", name, version, variant, difference)
    log.info("How it runs here: %s.", opened.words)
    return served


def _open_drift(predictor: PackagePredictor, settings: ServeSettings) -> DriftMonitor | None:
    if settings.drift == "off" or not (predictor.package.folder / "reference.json").is_file():
        return None  # an imported file that was never evaluated has no reference
    window = {"window_rows": settings.drift_window_rows, "least_rows": settings.drift_least_rows}
    try:
        reference = read_reference(predictor.package.folder, predictor.contract.labels)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("Drift is not watched: reference.json cannot be read (%s).", type(error).__name__)
        return None
    return DriftMonitor(reference, **window, rows_per_second=settings.drift_rows_per_second)
