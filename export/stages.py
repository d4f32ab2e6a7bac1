"""Stages of an export, addressed by content: a second export with one option changed repeats only what depends on it.

A stage's key is the digest of its name, its own choices, the keys of what it builds on, the versions of the tools and our own source. Keys
are therefore known before anything runs, which is what `--dry-run` shows.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from fmx import host, storage

FOLDER = "export"
T = TypeVar("T")


@functools.cache
def _surroundings() -> str:
    """Digest what shapes every stage: our source, but for the command line, and the versions of the libraries."""
    root = Path(__file__).parent.parent
    sources = sorted(path for room in ("export", "finetune", "fmx") for path in (root / room).rglob("*.py") if "cli" not in path.parts)
    return storage.sha256_bytes(b"".join(path.read_bytes() for path in sources) + json.dumps(host.library_versions(), sort_keys=True).encode())


@dataclass(frozen=True)
class Key:
    """A stage's name and digest."""

    stage: str
    digest: str


def key_of(stage: str, *builds_on: Key, **choices: Any) -> Key:
    """Give the key of a stage from what it builds on and its own choices (anything that JSON can hold)."""
    content = json.dumps([stage, [key.digest for key in builds_on], choices, _surroundings()], sort_keys=True, default=str)
    return Key(stage, storage.sha256_bytes(content.encode())[:24])


@dataclass
class Stages:
    """Results of stages on disk, in one folder."""

    folder: Path = field(default_factory=lambda: storage.cache_home() / FOLDER)

    def has(self, key: Key) -> bool:
        """Say whether a stage's result is kept."""
        return any(self.folder.glob(f"{key.stage}-{key.digest}.*"))

    def forget(self, key: Key) -> None:
        """Take a stage's result away."""
        for path in self.folder.glob(f"{key.stage}-{key.digest}.*"):
            path.unlink(missing_ok=True)

    def model(self, key: Key, build: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
        """Give a stage's graph, built unless it is kept."""
        return self._kept(key, "onnx", build, lambda model: model.SerializeToString(deterministic=True), onnx.load_from_string)

    def array(self, key: Key, build: Callable[[], np.ndarray]) -> np.ndarray:
        """Give a stage's array, built unless it is kept."""
        return self._kept(key, "npy", build, _encode_array, lambda raw: np.load(io.BytesIO(raw), allow_pickle=False))

    def facts(self, key: Key, build: Callable[[], Any]) -> Any:
        """Give a stage's facts, built unless they are kept; what JSON cannot tell apart (tuples, lists) comes back as lists."""
        return json.loads(json.dumps(self._kept(key, "json", build, lambda facts: json.dumps(facts).encode(), json.loads)))

    def _kept(self, key: Key, suffix: str, build: Callable[[], T], encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> T:
        path = self.folder / f"{key.stage}-{key.digest}.{suffix}"
        try:
            return decode(path.read_bytes())
        except (OSError, ValueError, EOFError, DecodeError):  # not there, or damaged: built (again)
            content = build()
            storage.write_bytes(path, encode(content))
            return content


def _encode_array(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
