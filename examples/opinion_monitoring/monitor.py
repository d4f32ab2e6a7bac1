"""Rolling shares and surges of negative texts by topic, as Prometheus metrics.

A surge is how many standard deviations the negative texts of the last window are more than the share of the time before it would have them: for n
texts and a share p the binomial's sqrt(n p (1 - p)). It knows neither the hour of the day nor the day of the week.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from examples.opinion_monitoring.stream import HOUR, Arrival
from fmx.predictor import PackagePredictor

WINDOW_S = 1 * HOUR
HISTORY_S = 24 * HOUR
"""Before the window, that it is compared with."""
LEAST_TEXTS = 20
"""In the window, and three times as many before it, to say anything."""
NEGATIVE = "neg"

Sentiment = Callable[[str], str]


def sentiment_by(predictor: PackagePredictor) -> Sentiment:
    """Ask a package for the sentiment of a text; one that came before is not asked for again."""
    known: dict[str, str] = {}

    def sentiment(text: str) -> str:
        if text not in known:
            known[text] = predictor.predict([text.encode()], 1)[0]["labels"][0]["label"]
        return known[text]

    return sentiment


class Monitor:
    """Takes texts in the order of their time stamps."""

    def __init__(self, sentiment: Sentiment, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._sentiment = sentiment
        self._texts = Counter("opinions_texts_total", "Texts, by topic and sentiment.", ["topic", "sentiment"], registry=self.registry)
        self._share = Gauge("opinions_negative_share", "Share of negative texts in the last hour.", ["topic"], registry=self.registry)
        self._surge = Gauge("opinions_surge", "Standard deviations of negative texts above the day before.", ["topic"], registry=self.registry)
        self._recent: dict[str, deque[tuple[float, bool]]] = defaultdict(deque)

    def take(self, arrivals: Iterable[Arrival], now: float) -> None:
        """Count texts that have come, and bring the gauges to a moment, in the seconds of the stamps."""
        for arrival in arrivals:
            sentiment = self._sentiment(arrival.text)
            self._texts.labels(arrival.topic, sentiment).inc()
            self._recent[arrival.topic].append((arrival.at, sentiment == NEGATIVE))
        for topic, recent in self._recent.items():
            while recent and recent[0][0] < now - WINDOW_S - HISTORY_S:
                recent.popleft()
            window = [is_negative for at, is_negative in recent if at >= now - WINDOW_S]
            before = [is_negative for at, is_negative in recent if at < now - WINDOW_S]
            self._share.labels(topic).set(sum(window) / max(1, len(window)))
            self._surge.labels(topic).set(surge_of(sum(window), len(window), sum(before), len(before)))

    def surge(self, topic: str) -> float:
        """Give a topic's surge as it is exposed."""
        return self.registry.get_sample_value("opinions_surge", {"topic": topic}) or 0.0


def surge_of(negative: int, texts: int, negative_before: int, texts_before: int) -> float:
    """Give the standard deviations by which a window has more negative texts than the time before it would have; 0 where there are too few texts."""
    if texts < LEAST_TEXTS or texts_before < 3 * LEAST_TEXTS:
        return 0.0
    share = (negative_before + 1) / (texts_before + 2)
    return (negative - texts * share) / math.sqrt(texts * share * (1 - share))
