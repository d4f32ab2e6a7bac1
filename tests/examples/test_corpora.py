"""The real texts that come in wheels."""

from __future__ import annotations

from examples.corpora import entities_of_news


def test_news_has_people_places_and_organisations_where_their_spans_say() -> None:
    rows = entities_of_news(400)
    assert len(rows) == 400
    found = [(str(row["text"])[one["start"] : one["end"]], one["label"]) for row in rows for one in row["entities"]]  # type: ignore[attr-defined]
    assert {label for _, label in found} == {"PER", "LOC", "ORG"}
    assert ("中国", "LOC") in found
    assert ("江泽民", "PER") in found  # family and given name stand apart in the corpus
    assert all(10 <= len(str(row["text"])) <= 120 for row in rows)
