"""The whole story: `python -m examples.recommendation` makes a click log, trains, exports, and ranks new items beside three baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import fmx
from examples import parser_of, told, write_table
from examples.recommendation.clicks import Shown, simulate
from examples.recommendation.rerank import features_of, fit_reranker, measure, scores_of
from fmx.cli import output

NAMES = {
    "reranked": "text-pair and popularity, reranked",
    "text-pair": "text-pair alone",
    "tfidf": "TF-IDF, logistic regression",
    "popularity": "popularity alone",
    "chance": "chance",
}


@told
def main(arguments: list[str] | None = None) -> None:
    """Run it, and print a table."""
    parser = parser_of("recommendation", __doc__, "recommendation")
    parser.add_argument("--impressions", type=int, default=250)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args(arguments)
    found = run(given.folder, given.impressions, given.epochs, given.quantize, given.device)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    rows = [[NAMES[name], f"{found['orders'][name]['ndcg']:.4f}", f"{found['orders'][name]['mrr']:.4f}"] for name in NAMES]
    output.table(f"New items, {found['orders']['reranked']['queries']} impressions with a click", ["order by", "NDCG", "MRR"], rows)
    print(f"Next: fmx serve {found['package']}")


def run(folder: Path, impressions: int, epochs: int, quantize: str, device: str) -> dict[str, Any]:
    """Do it all in a folder, and give every order's measures on the test impressions."""
    shown = simulate(impressions)
    table = write_table(folder / "clicks.csv", Shown._fields, shown)
    options: dict[str, Any] = {"query_column": "impression", "max_length": 64, "epochs": epochs, "lr": 3e-4, "device": device}
    trained = fmx.train(folder / "runs", output.say, task="text-pair", data=str(table), **options)
    package = fmx.export(trained.folder, out=folder / "packages", say=output.say, quantize=quantize, on_miss="fp32")
    predictor = fmx.load(str(package.folder))
    validation, test = ([row for row in shown if row.split == split] for split in ("validation", "test"))
    scores = scores_of(predictor, test)
    reranker = fit_reranker(scores_of(predictor, validation), validation)
    popularity = np.array([row.popularity for row in test])
    orders = {
        "reranked": measure(reranker.predict_proba(features_of(scores, test))[:, 1], test),
        "text-pair": measure(scores, test),
        "tfidf": trained.info.metrics["ranking_baselines"]["tfidf"],
        "popularity": measure(popularity, test),
        "chance": measure(np.random.default_rng(0).random(len(test)), test),
    }
    weights = dict(zip(("score", "popularity"), reranker.coef_[0].round(3).tolist(), strict=True))
    return {"package": str(package.folder), "variant": predictor.variant.name, "orders": orders, "weights": weights}


if __name__ == "__main__":
    main()
