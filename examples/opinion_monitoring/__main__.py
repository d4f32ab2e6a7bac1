"""All of it: `python -m examples.opinion_monitoring` trains on reviews, replays a stream with a planted surge, and shows what an alert sees."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import prometheus_client

import fmx
from examples import corpora, parser_of, told, write_table
from examples.opinion_monitoring.monitor import Monitor, sentiment_by
from examples.opinion_monitoring.stream import HOUR, OTHER, TOPICS, Arrival, Review, Surge, simulate, topic_of
from fmx.cli import output
from fmx.errors import SurroundingsError
from fmx.predictor import PackagePredictor

STEP_S = 600.0
HOURS, PER_HOUR = 30, 60
PLANTED = Surge("hotel", 24)
STREAMED, MOST_REVIEWS = 6000, 10_000
"""Reviews that the stream draws from, and that may be trained on, of 17,410."""


@told
def main(arguments: list[str] | None = None) -> None:
    """Run it, and print a table of the hours about the surge."""
    parser = parser_of("opinion_monitoring", __doc__, "opinions")
    parser.add_argument("--reviews", type=int, default=2000, help="to train on, validate and test")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--port", type=int, help="expose the metrics there while the stream is replayed")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds that an hour of the stream takes")
    given = parser.parse_args(arguments)
    if not 50 <= given.reviews <= MOST_REVIEWS:
        parser.error(f"--reviews is from 50 to {MOST_REVIEWS}: the stream takes others")
    trained, kept = draw_reviews(given.reviews)
    predictor, facts = build(given.folder, trained, given.epochs, given.quantize, given.device)
    facts["surge"] = {
        name: dict(replay(predictor, simulate(kept, HOURS, PER_HOUR, surge), given.port if surge else None, given.pace if surge else 0.0))
        for name, surge in (("planted", PLANTED), ("quiet", None))
    }
    if given.json:
        print(json.dumps(facts, indent=2))
        return
    accuracy = [["fmx", output.interval(facts["accuracy"])], *([name, output.interval(value)] for name, value in facts["baselines"].items())]
    output.table("Sentiment of reviews", ["model", "accuracy"], accuracy)
    hours = [at for at in facts["surge"]["planted"] if at % HOUR == 0 and at >= 20 * HOUR]
    rows = [[f"{at / HOUR:.0f}", *(f"{facts['surge'][name][at][PLANTED.topic]:.1f}" for name in ("planted", "quiet"))] for at in hours]
    output.table(f"Surge of complaints about {PLANTED.topic}s; planted from hour {PLANTED.hour:g} on", ["hour", "planted", "quiet"], rows)


def draw_reviews(count: int) -> tuple[list[Review], list[Review]]:
    """Draw reviews to train on, and others, of a known topic, to come in the stream."""
    found = [Review(text, sentiment) for text, sentiment in sorted(corpora.reviews().items())]
    random.Random(0).shuffle(found)
    return found[:count], [review for review in found[count : count + STREAMED] if topic_of(review.text) != OTHER]


def build(folder: Path, reviews: Sequence[Review], epochs: int, quantize: str, device: str) -> tuple[PackagePredictor, dict[str, Any]]:
    """Train on the reviews, with their unknown characters as new tokens, and export."""
    table = write_table(folder / "reviews.csv", ("text", "label"), reviews)
    options: dict[str, Any] = {"max_length": 64, "extend_vocab": 4000, "epochs": epochs, "lr": 3e-4, "device": device}
    run = fmx.train(folder / "runs", output.say, task="text-classification", data=str(table), **options)
    package = fmx.export(run.folder, out=folder / "packages", say=output.say, quantize=quantize, on_miss="fp32")
    facts = {"package": str(package.folder), "accuracy": run.info.metrics["accuracy"], "baselines": run.info.metrics["baselines"]}
    return fmx.load(str(package.folder)), facts


def replay(predictor: PackagePredictor, arrivals: Sequence[Arrival], port: int | None, pace: float) -> Iterator[tuple[float, dict[str, float]]]:
    """Let a stream pass by a monitor, and give every topic's surge at each step, by the seconds of the stamps."""
    monitor = Monitor(sentiment_by(predictor))
    if port is not None:
        try:
            prometheus_client.start_http_server(port, addr="127.0.0.1", registry=monitor.registry)
        except OSError as error:
            raise SurroundingsError(f"Port {port} cannot be opened ({error.strerror}).", hint="Give another with --port.") from error
    done = 0
    for step in range(1, int(HOURS * HOUR / STEP_S) + 1):
        until = done
        while until < len(arrivals) and arrivals[until].at < step * STEP_S:
            until += 1
        monitor.take(arrivals[done:until], step * STEP_S)
        done = until
        yield step * STEP_S, {topic: round(monitor.surge(topic), 3) for topic in TOPICS}
        time.sleep(pace * STEP_S / HOUR)


if __name__ == "__main__":
    main()
