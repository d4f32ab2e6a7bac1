"""The run: what `fmx train` leaves for `fmx export`. Written by finetune/run_writer.py; read here, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmx import storage
from fmx.contract import RunInfo, parse_contract
from fmx.errors import PackageError
from fmx.tasks import Task, open_task

RUN_FILE = "run.json"
WEIGHTS_FILE = "best.safetensors"
CHECKPOINT_FOLDER = "checkpoint"
"""In a run that is not finished; finetune/checkpoint.py."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what run.json says."""

    folder: Path
    info: RunInfo

    @property
    def weights(self) -> Path:
        """The file with the best epoch's weights."""
        return self.folder / WEIGHTS_FILE


def task_of(run: Run) -> Task:
    """Open a run's task, with the tokenizer that lies in its folder."""
    return open_task(run.info.task, run.info.labels, run.info.input, run.folder)


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
    for name, expected in run.info.files.items():
        if not (folder / name).is_file() or storage.sha256_file(folder / name) != expected:
            raise PackageError(f"{folder / name} is missing or not the file that the training wrote.", hint="Copy the run again, as a whole.")
    return run


@dataclass(frozen=True)
class Listed:
    """A folder of `runs/` in a list: a finished run, or what is the matter with it."""

    name: str
    info: RunInfo | None
    trouble: str = ""

    def as_json(self) -> dict[str, Any]:
        """Give what a program may want: run.json, or name and trouble."""
        return self.info.model_dump(mode="json") if self.info else {"name": self.name, "trouble": self.trouble}


def list_runs(folder: Path) -> list[Listed]:
    """List the runs of a folder by the time they were finished; unfinished and damaged ones come last, with the reason."""
    listed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if (path / RUN_FILE).is_file():
            try:
                listed.append(Listed(path.name, parse_contract((path / RUN_FILE).read_bytes(), RunInfo, path / RUN_FILE)))
            except PackageError as error:
                listed.append(Listed(path.name, None, f"damaged: {error.message}"))
        elif (path / CHECKPOINT_FOLDER).is_dir():
            listed.append(Listed(path.name, None, f"unfinished: fmx train --resume {path.name}"))
    return sorted(listed, key=lambda run: (run.info is None, run.info.created if run.info else "", run.name))
