"""The state of a training on disk: complete enough that a kill at any moment costs nothing but the steps since the last one.

`checkpoint/` in a run's folder holds `training.json` (the settings as resolved, written before step one), up to two states, and `index.json`
which names them with their SHA-256; also the weights after a stage, where later ones begin with them. Every file is written beside its
place, flushed and renamed; the index is written after the state that it names, and what it no longer names is removed after that. A state
that is damaged falls back to the one before it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fmx import storage
from fmx.errors import PackageError
from fmx.run import CHECKPOINT_FOLDER

FOLDER = CHECKPOINT_FOLDER
TRAINING = "training.json"
INDEX = "index.json"
KEPT = 2
LEAST_SECONDS = 1.0
"""Epochs that take less than this do not each leave a state: repeating them is cheaper than writing it."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """What a training needs to go on: tensors by name, and plain values."""

    tensors: Tensors
    facts: dict[str, Any]


@dataclass
class Keeper:
    """Writes states into a run's folder."""

    folder: Path
    minutes: float
    _last: float = field(default_factory=time.monotonic)

    def is_due(self, *, epoch_ended: bool) -> bool:
        """Say whether a state should be written now."""
        age = time.monotonic() - self._last
        return age >= LEAST_SECONDS if epoch_ended else age >= 60 * self.minutes

    def save(self, state: State) -> None:
        """Write a state and forget all but the last two. Raises: `SurroundingsError` on a full disk; the states before it stay valid."""
        entries = _entries(self.folder)
        name = f"state-{1 + max((_number(entry['file']) for entry in entries), default=0):06d}.safetensors"
        data = save(_apart(state.tensors), {"facts": json.dumps(state.facts)})
        storage.write_bytes(self.folder / name, data)
        kept = [*entries, {"file": name, "sha256": storage.sha256_bytes(data)}][-KEPT:]
        storage.write_text(self.folder / INDEX, json.dumps(kept, indent=2) + "\n")
        for path in self.folder.glob("*state-*.safetensors*"):
            if path.name not in {entry["file"] for entry in kept}:
                path.unlink(missing_ok=True)
        self._last = time.monotonic()


def load_state(folder: Path, say: Callable[[str], None]) -> State | None:
    """Read the newest state that is whole, or None when there is none; each that is not is named."""
    for entry in reversed(_entries(folder)):
        path = folder / str(entry["file"])
        if not path.is_file() or storage.sha256_file(path) != entry["sha256"]:
            say(f"{path.name} is damaged or missing; the state before it is taken.")
            continue
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return State(load(data), json.loads(header["__metadata__"]["facts"]))
    return None


def save_weights(folder: Path, stage: str, module: nn.Module) -> None:
    """Write what a finished stage has made of a network, for a training that is resumed in a later one. Raises: `SurroundingsError`."""
    storage.write_bytes(folder / _weights_file(stage), save(_apart(module.state_dict())))


def load_weights(folder: Path, stage: str, module: nn.Module) -> None:
    """Go back to what a finished stage had made of a network. Raises: `PackageError` when it is missing or damaged."""
    path = folder / _weights_file(stage)
    try:
        module.load_state_dict(load(path.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise PackageError(f"{path} is missing or damaged.", hint="This training cannot be resumed; start it again.") from error


def _weights_file(stage: str) -> str:
    return f"after-{stage}.safetensors"


def write_training(folder: Path, content: dict[str, Any]) -> None:
    """Write down what is being trained, before step one."""
    storage.write_text(folder / TRAINING, json.dumps(content, indent=2) + "\n")


def is_begun(folder: Path) -> bool:
    """Say whether a training was written down here."""
    return (folder / TRAINING).is_file()


def read_training(folder: Path) -> dict[str, Any]:
    """Read what was being trained. Raises: `PackageError` when it is missing or damaged."""
    try:
        return dict(json.loads((folder / TRAINING).read_text()))
    except (OSError, ValueError) as error:
        raise PackageError(f"{folder / TRAINING} is missing or damaged.", hint="This training cannot be resumed; start it again.") from error


def remove(folder: Path) -> None:
    """Remove the states of a training that is finished."""
    shutil.rmtree(folder, ignore_errors=True)


def _entries(folder: Path) -> list[dict[str, str]]:
    try:
        return list(json.loads((folder / INDEX).read_text()))
    except (OSError, ValueError):
        return []


def _apart(tensors: Tensors) -> Tensors:
    """Copy tensors that share their memory (tied weights), which safetensors refuses."""
    seen: set[int] = set()
    apart = {}
    for key, value in tensors.items():
        plain = value.detach().cpu().contiguous()
        apart[key] = plain.clone() if plain.data_ptr() in seen else plain
        seen.add(plain.data_ptr())
    return apart


def _number(name: str) -> int:
    return int(name.removeprefix("state-").removesuffix(".safetensors"))
