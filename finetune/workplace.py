"""The folder of a run while it is trained: reserved before step one, kept when a state is worth going on from, removed otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune import checkpoint
from finetune.checkpoint import load_state
from fmx import storage
from fmx.errors import FmxError, ModelError, SurroundingsError, UsageError, disk_errors
from fmx.run import RUN_FILE


def reserve(runs: Path, model: str, name: str | None) -> Path:
    """Make a run's folder, under its name or the next free `<model>-<n>`; two trainings at once get two.

    Raises:
        UsageError: the name is taken.
        SurroundingsError: the folder cannot be written.
    """
    stem = storage.stem_of(model)
    with disk_errors(f"making {runs}"):
        runs.mkdir(parents=True, exist_ok=True)
        while True:
            folder = runs / (storage.check_name(name) if name else storage.next_name(runs, stem))
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                if name:
                    unfinished = not (folder / RUN_FILE).is_file() and (folder / checkpoint.FOLDER).is_dir()
                    hint = f"It is unfinished; go on with: fmx train --resume {name}" if unfinished else "Choose another --name, or remove it first."
                    raise UsageError(f"{folder} exists.", hint=hint) from None


def find_unfinished(given: str, runs: Path) -> Path:
    """Find a run that was interrupted, by folder or name. Raises: `UsageError` when there is none or it is finished."""
    for folder in (Path(given), runs / given):
        if (folder / RUN_FILE).is_file():
            raise UsageError(f"{folder} is finished; there is nothing to resume.", hint=f"To train on from it: --model run:{folder.name}")
        if (folder / checkpoint.FOLDER / checkpoint.TRAINING).is_file():
            return folder
    unfinished = sorted(path.parent.parent.name for path in runs.glob(f"*/{checkpoint.FOLDER}/{checkpoint.TRAINING}"))
    hint = f"Unfinished: {', '.join(unfinished)}" if unfinished else "No run in this folder is unfinished."
    raise UsageError(f"There is no unfinished run {given!r}.", hint=hint)


@contextmanager
def kept_if_resumable(folder: Path, resuming: bool, again: str | None = None) -> Iterator[None]:
    """Remove the folder of a training that failed or was broken off before it had a state to go on from.

    A termination (SIGTERM) keeps it in every case: whoever starts the command again with --resume must find it.

    Args:
        folder: of the training.
        resuming: whether it had a state before.
        again: the command that goes on; default that of a run.
    """
    try:
        with disk_errors(f"writing {folder}"):
            yield
    except BaseException as error:
        states = folder / checkpoint.FOLDER
        is_worth_keeping = resuming or load_state(states, lambda line: None) is not None
        is_terminated = isinstance(error, SystemExit) and checkpoint.is_begun(states)
        if not is_worth_keeping and not is_terminated:
            shutil.rmtree(folder, ignore_errors=True)
        elif isinstance(error, FmxError) and not isinstance(error, ModelError):  # the same settings would diverge again
            error.hint = f"{error.hint} The state is kept: {again or f'fmx train --resume {folder.name}'}".strip()
        raise


def check_space(folder: Path, model_bytes: int, trained_bytes: int, copies: int) -> None:
    """Check before step one that the states of a training will fit on the disk.

    Two states and one being written, each of so many `copies` of the module's weights and two optimiser moments of what is trained, and the run.

    Args:
        folder: of the run.
        model_bytes: of all weights.
        trained_bytes: of those that are trained.
        copies: of the weights in a state: as they are, at their best, and the moving average where there is one.

    Raises:
        SurroundingsError: they will not.
    """
    needed = (3 * copies + 1) * model_bytes + 6 * trained_bytes + (8 << 20)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SurroundingsError(
            f"The disk has {free / 1e6:,.0f} MB free; this training may need {needed / 1e6:,.0f} MB for its states.",
            hint="Free some space, or choose another disk with --out or FMX_HOME.",
        )
