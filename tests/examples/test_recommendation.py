"""The recommendation example, run as its README says, on a smaller click log."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from examples.recommendation.__main__ import main
from examples.recommendation.clicks import CANDIDATES, JOIN, simulate


def test_test_items_are_new_and_clicks_follow_topic_and_popularity() -> None:
    shown = simulate(200)
    assert 199 * CANDIDATES <= len(shown) <= 200 * CANDIDATES
    many = simulate(1500)
    assert len({(row.history, row.item) for row in many}) == len(many)
    texts: dict[str, set[str]] = defaultdict(set)
    for row in shown:
        texts[row.split] |= {row.item, *row.history.split(JOIN)}
    assert not texts["test"] & (texts["train"] | texts["validation"])
    clicked, passed = ([row.popularity for row in shown if row.clicked == kind] for kind in (1, 0))
    assert sum(clicked) / len(clicked) > 1.2 * sum(passed) / len(passed)
    assert simulate(20) == simulate(20) != simulate(20, seed=1)


def test_popularity_and_texts_rank_better_than_popularity_or_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--folder", str(tmp_path / "shop"), "--impressions", "200", "--quantize", "none", "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    ndcg = {name: order["ndcg"] for name, order in found["orders"].items()}
    assert len({order["queries"] for order in found["orders"].values()}) == 1
    assert ndcg["reranked"] > ndcg["popularity"] + 0.02 > ndcg["chance"], ndcg
    assert ndcg["text-pair"] > ndcg["chance"], ndcg
    assert set(ndcg) == {"reranked", "text-pair", "tfidf", "popularity", "chance"}
    assert min(found["weights"].values()) > 0
    assert (Path(found["package"]) / "manifest.json").is_file()
