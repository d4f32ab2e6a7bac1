"""The customer service example, run as its README says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from examples.customer_service.__main__ import main
from examples.customer_service.queries import knowledge, mistyped, simulate

KNOWN, UNKNOWN = "my printer is not printing", "who won the football world cup in 1966 in the stadium of wembley"


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_queries_of_validation_and_test_are_of_other_questions(language: str) -> None:
    made = simulate(language)
    meant = {split: {query.means for query in queries if query.means is not None} for split, queries in made.items()}
    assert not meant["validation"] & meant["test"]
    entries, others = knowledge(language)
    assert meant["test"] <= {entry.question for entry in entries}
    assert len(others) > 10
    for queries in made.values():
        assert sum(query.means is None for query in queries) == len(queries) / 2
        assert sum(query.text == query.means for query in queries) < 0.2 * len(queries)
    assert simulate(language) == made


def test_hurry_changes_a_question_a_little() -> None:
    random = np.random.default_rng(0)
    texts = {mistyped("My printer is not printing.", "english", random) for _ in range(20)}
    assert len(texts) > 10
    assert all("." not in text and text == text.lower() for text in texts)


def test_desk_answers_what_it_knows_and_hands_over_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([KNOWN, UNKNOWN, "--folder", str(tmp_path / "desk"), "--quantize", "none", "--precision", "0.9", "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["intent_accuracy"] > 0.8
    assert found["test"]["precision"] > 0.75
    assert found["test"]["answered_of_known"] > 0.2
    assert found["test"]["handed_over_of_unknown"] > 0.75
    answered, handed_over = found["replies"]
    assert answered["answer"] is not None
    assert answered["source"] == "My printer is not printing."
    assert answered["topic"] == "tech_support"
    assert handed_over["answer"] is None
    assert answered["confidence"] > found["threshold"] > handed_over["confidence"]
