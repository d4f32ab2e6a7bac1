"""The run: what `fmx train` leaves for `fmx export`. Written by finetune/run_writer.py; read here, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fmx import storage
from fmx.contract import RunInfo, parse_contract
from fmx.errors import PackageError

RUN_FILE = "run.json"
WEIGHTS_FILE = "best.safetensors"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what run.json says."""

    folder: Path
    info: RunInfo

    @property
    def weights(self) -> Path:
        """The file with the best epoch's weights."""
        return self.folder / WEIGHTS_FILE


def find_run(given: str | Path | None = None) -> Path:
    """Find a run folder from a path, a name or `latest`. Raises: `UsageError`."""
    return storage.resolve(given, "runs", RUN_FILE)


def load_run(folder: Path) -> Run:
    """Read a run and check that its weights are those that it was finished with.

    Raises:
        PackageError: run.json or the weights are missing, damaged or altered.
    """
    raw = (folder / RUN_FILE).read_bytes()
    run = Run(folder, parse_contract(raw, RunInfo, folder / RUN_FILE))
    if not run.weights.is_file() or storage.sha256_file(run.weights) != run.info.weights_sha256:
        raise PackageError(f"{run.weights} is missing or not the file that the training wrote.", hint="Train again with: fmx train")
    return run
