"""A click log to learn from: real sentences as items, simulated readers, for no click log comes in a wheel.

A reader cares for one topic. They have read two items of it, are shown candidates, and click by chance: likelier on their topic,
and on what is popular. The items of the test impressions are in no other split, so that what is measured is new items.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from examples.corpora import topics_of_conversations

CANDIDATES, OF_TOPIC = 6, 2
READ = 2
BASE, FOR_TOPIC, FOR_POPULARITY = -2.5, 3.5, 0.8
"""Of the logit of a click: the topic counts most, popularity too."""
SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}
JOIN = " / "
"""Between the items of a history."""


class Shown(NamedTuple):
    """One candidate that a reader was shown."""

    impression: str
    history: str
    item: str
    clicked: int
    popularity: float
    """Readers that it had before, a thousand."""
    split: str


def simulate(impressions: int, seed: int = 0) -> list[Shown]:
    """Make a click log.

    Args:
        impressions: of all splits; each shows `CANDIDATES` items.
        seed: of everything.
    """
    random = np.random.default_rng(seed)
    topics = topics_of_conversations()
    items = sorted(topics)
    order = random.permutation(len(items))
    popularity = dict(zip(items, np.exp(random.normal(size=len(items))), strict=True))
    shown: list[Shown] = []
    seen: set[tuple[str, str]] = set()  # nobody is shown an item twice after the same history, or one row would be both clicked and not
    start = 0
    for split, share in SPLITS.items():
        end = len(items) if split == "test" else start + round(share * len(items))
        by_topic: dict[str, list[str]] = {}
        for place in order[start:end]:
            by_topic.setdefault(topics[items[place]], []).append(items[place])
        start = end
        for number in range(round(share * impressions)):
            shown += _impression(f"{split}-{number}", split, by_topic, popularity, random, seen)
    return shown


def _impression(
    name: str, split: str, by_topic: dict[str, list[str]], popularity: dict[str, float], random: np.random.Generator, seen: set[tuple[str, str]]
) -> list[Shown]:
    topic = str(random.choice(sorted(by_topic)))
    own = random.permutation(by_topic[topic])
    others = random.permutation([text for other, texts in sorted(by_topic.items()) if other != topic for text in texts])
    candidates = [*own[READ : READ + OF_TOPIC], *others[: CANDIDATES - OF_TOPIC]]
    history = JOIN.join(own[:READ])
    rows = []
    for item in random.permutation([item for item in candidates if (history, item) not in seen]):
        seen.add((history, str(item)))
        logit = BASE + FOR_TOPIC * (item in by_topic[topic]) + FOR_POPULARITY * math.log(popularity[item])
        clicked = int(random.random() < 1 / (1 + math.exp(-logit)))
        rows.append(Shown(name, history, str(item), clicked, round(popularity[item], 3), split))
    return rows
