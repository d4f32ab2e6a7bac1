"""What customers write: questions of the FAQ as somebody in a hurry types them, and questions that no entry answers.

The questions and answers are real (chatterbot-corpus); how they are mistyped is simulated, for no log of customers comes in a wheel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from examples.corpora import Said, conversations

TOPICS = {"english": ("tech_support", "computers", "coding", "ai"), "chinese": ("ai", "psychology", "emotion")}
"""Of the FAQ; what is said about others is what it does not know."""
OPENINGS = {"english": ("hi, ", "please help: ", "hello! ", "", ""), "chinese": ("你好，", "请问", "", "")}


class Query(NamedTuple):
    """A text, and the question of the FAQ that it means; None where there is none."""

    text: str
    means: str | None


def knowledge(language: str) -> tuple[list[Said], list[Said]]:
    """Give the entries of the FAQ, and what is said about other things."""
    said, kept = conversations(language), TOPICS[language]
    return [one for one in said if one.topic in kept], [one for one in said if one.topic not in kept]


def simulate(language: str, seed: int = 0) -> dict[str, list[Query]]:
    """Make queries for `validation` and `test`, of different questions, half of them of things that the FAQ does not know."""
    random = np.random.default_rng(seed)
    entries, others = knowledge(language)
    each = min(len(others), len(entries)) // 2
    known, unknown = random.permutation(len(entries)), random.permutation(len(others))
    made: dict[str, list[Query]] = {}
    for place, split in enumerate(("validation", "test")):
        mine = slice(place * each, (place + 1) * each)
        asked = [Query(mistyped(entries[i].question, language, random), entries[i].question) for i in known[mine]]
        made[split] = asked + [Query(mistyped(others[i].question, language, random), None) for i in unknown[mine]]
    return made


def mistyped(question: str, language: str, random: np.random.Generator) -> str:
    """Write a question as somebody in a hurry does: an opening, a word or character left out, two letters swapped, no capitals, no full stop."""
    text = question.rstrip("?.!？。！").lower()
    parts = text.split(" ") if " " in text else list(text)
    if len(parts) > 3:
        del parts[int(random.integers(len(parts)))]
    text = (" " if " " in text else "").join(parts)
    if len(text) > 6 and text.isascii():
        place = int(random.integers(1, len(text) - 2))
        text = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    return str(random.choice(OPENINGS[language])) + text
