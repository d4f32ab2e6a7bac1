"""The desk: an intent classifier and the embeddings of one package, an index over the FAQ, and when to ask a person.

How sure an answer is comes from how near the nearest entry is, how much nearer than the next one with another answer, and how likely the classifier
thinks its topic; a logistic regression on validation queries weighs these. Below a threshold, tuned on the same queries, a person takes over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from examples.corpora import Said
from examples.customer_service.queries import Query
from fmx.errors import UsageError
from fmx.predictor import PackagePredictor

NEIGHBOURS = 8


@dataclass(frozen=True)
class Reply:
    """What a customer is told."""

    answer: str | None
    """None: a person takes over"""
    source: str
    """The question of the FAQ whose answer it is, or would be"""
    topic: str
    """What the classifier takes the question to be about"""
    confidence: float
    """The chance that the answer is right, 0 to 1"""


class Desk:
    """Answers questions from an FAQ."""

    def __init__(self, predictor: PackagePredictor, entries: Sequence[Said]) -> None:
        """Embed the FAQ.

        Args:
            predictor: of a package with an embedding, whose labels are the topics.
            entries: of the FAQ.
        """
        self._predictor, self._entries = predictor, list(entries)
        self._index = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(self._entries)), metric="cosine")
        self._answers = {entry.question: entry.answer for entry in self._entries}
        self._index.fit(predictor.embed([entry.question.encode() for entry in self._entries]))
        self._judge: LogisticRegression | None = None
        self.threshold = 1.0
        """Of the confidence, from which on the desk answers; 1 before it is tuned."""

    def look_up(self, texts: Sequence[str]) -> tuple[list[Said], list[str], np.ndarray]:
        """Find the nearest entry for each text, its topic as the classifier sees it, and what tells how sure that is: float [n, 3]."""
        labels = self._predictor.contract.labels
        rows = np.stack([self._predictor.task.row(text.encode()) for text in texts])
        probabilities, vectors = np.split(self._predictor.answer(rows), [len(labels)], axis=1)
        distances, places = self._index.kneighbors(vectors)
        found, topics, features = [], [], []
        for chances, away, near in zip(probabilities, distances, places, strict=True):
            best = self._entries[near[0]]
            next_best = next((away[i] for i in range(1, len(near)) if self._entries[near[i]].answer != best.answer), away[-1])
            found.append(best)
            topics.append(labels[int(chances.argmax())])
            features.append([1 - away[0], next_best - away[0], chances[labels.index(best.topic)]])
        return found, topics, np.array(features)

    def tune(self, queries: Sequence[Query], precision: float) -> None:
        """Learn how sure to be, and from which confidence on at least so many of the answers given are right.

        Raises:
            UsageError: no threshold gives answers of that precision.
        """
        found, _, features = self.look_up([query.text for query in queries])
        right = np.array([self._is_right(entry.answer, query) for entry, query in zip(found, queries, strict=True)])
        self._judge = LogisticRegression(C=10.0).fit(features, right)
        confidence = self._judge.predict_proba(features)[:, 1]
        order = np.argsort(-confidence)
        reached = np.flatnonzero(np.cumsum(right[order]) / np.arange(1, len(order) + 1) >= precision)
        if not len(reached):
            raise UsageError(f"No threshold gives answers of which {precision:.0%} are right.", hint="Ask for less with --precision.")
        self.threshold = float(confidence[order[reached[-1]]])

    def reply(self, texts: Sequence[str]) -> list[Reply]:
        """Answer each text, or say that a person should."""
        if self._judge is None:
            raise ValueError("The desk is not tuned.")
        found, topics, features = self.look_up(texts)
        confidence = self._judge.predict_proba(features)[:, 1]
        return [
            Reply(entry.answer if sure >= self.threshold else None, entry.question, topic, float(sure))
            for entry, topic, sure in zip(found, topics, confidence, strict=True)
        ]

    def measure(self, queries: Sequence[Query]) -> dict[str, float | int]:
        """Give shares of queries: `answered` and `precision` of those that the FAQ can answer or not, `handed_over` of those that it cannot."""
        replies = self.reply([query.text for query in queries])
        given = [(reply, query) for reply, query in zip(replies, queries, strict=True) if reply.answer is not None]
        right = [self._is_right(reply.answer, query) for reply, query in given]
        unknown = [reply.answer is None for reply, query in zip(replies, queries, strict=True) if query.means is None]
        known = len(queries) - len(unknown)
        return {
            "queries": len(queries),
            "answered": len(given) / len(queries),
            "answered_of_known": sum(right) / max(1, known),
            "precision": sum(right) / max(1, len(given)),
            "handed_over_of_unknown": sum(unknown) / max(1, len(unknown)),
        }

    def _is_right(self, answer: str | None, query: Query) -> bool:
        return query.means is not None and answer == self._answers[query.means]
