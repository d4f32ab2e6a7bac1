"""The whole story: `python -m examples.customer_service` trains and exports the classifier, tunes the desk, and answers what it is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fmx
from examples import parser_of, told, write_table
from examples.customer_service.desk import Desk
from examples.customer_service.queries import knowledge, simulate
from fmx.cli import output

SETTINGS: dict[str, dict[str, Any]] = {
    "english": {"method": "linear-probe"},
    "chinese": {"method": "finetune", "extend_vocab": 3000, "epochs": 8},
}
"""MiniLM reads English as it is; of Chinese it knows few characters, so new ones are learnt, which a frozen model could not."""


@told
def main(arguments: list[str] | None = None) -> None:
    """Run it, print how good the desk is, and answer the questions that are given."""
    parser = parser_of("customer_service", __doc__, "customer-service")
    parser.add_argument("questions", nargs="*", help="to be answered at the end")
    parser.add_argument("--language", default="english", choices=sorted(SETTINGS))
    parser.add_argument("--precision", type=float, default=0.95, help="share of the answers given that must be right, on validation queries")
    given = parser.parse_args(arguments)
    if not all(question.strip() for question in given.questions):
        parser.error("a question is empty")
    desk, facts = build(given.folder, given.language, given.precision, given.quantize, given.device)
    replies = desk.reply(given.questions) if given.questions else []
    if given.json:
        print(json.dumps({**facts, "replies": [vars(reply) for reply in replies]}, indent=2, ensure_ascii=False))
        return
    measured = facts["test"]
    rows = [
        ["intent accuracy", f"{facts['intent_accuracy']:.2%}"],
        ["queries", str(measured["queries"])],
        ["answered", f"{measured['answered']:.1%}"],
        ["right, of the answers given", f"{measured['precision']:.1%}"],
        ["answered rightly, of what the FAQ knows", f"{measured['answered_of_known']:.1%}"],
        ["handed over, of what it does not know", f"{measured['handed_over_of_unknown']:.1%}"],
    ]
    output.table("Test queries", ["measure", "value"], rows)
    for question, reply in zip(given.questions, replies, strict=True):
        said = f"{reply.answer} (from: {reply.source})" if reply.answer is not None else "A person will answer this."
        print(f"{question}\n  {said} [{reply.topic}, {reply.confidence:.2f}]")


def build(folder: Path, language: str, precision: float, quantize: str, device: str) -> tuple[Desk, dict[str, Any]]:
    """Train, export with embeddings, index the FAQ, tune on validation queries and measure on test queries."""
    entries, _ = knowledge(language)
    table = write_table(folder / "questions.csv", ("text", "label"), [(entry.question, entry.topic) for entry in entries])
    options: dict[str, Any] = {"max_length": 64, "device": device, **SETTINGS[language]}
    run = fmx.train(folder / "runs", output.say, task="text-classification", data=str(table), **options)
    package = fmx.export(run.folder, out=folder / "packages", say=output.say, quantize=quantize, on_miss="fp32", embedding=True)
    desk = Desk(fmx.load(str(package.folder)), entries)
    queries = simulate(language)
    desk.tune(queries["validation"], precision)
    measured = {split: desk.measure(asked) for split, asked in queries.items()}
    return desk, {"package": str(package.folder), "intent_accuracy": run.info.accuracy.value, "threshold": desk.threshold, **measured}


if __name__ == "__main__":
    main()
