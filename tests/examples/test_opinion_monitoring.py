"""The opinion monitoring example: the surge detector, and the alert rule in a real Prometheus, on a planted surge and on a quiet stream."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.customer_service import __main__ as desk
from examples.opinion_monitoring import __main__ as opinions
from examples.opinion_monitoring.__main__ import HOURS, PLANTED, STEP_S, draw_reviews, main
from examples.opinion_monitoring.monitor import LEAST_TEXTS, Monitor, surge_of
from examples.opinion_monitoring.stream import HOUR, TOPICS, Arrival, simulate, topic_of
from examples.recommendation import __main__ as shop

RULES = Path(__file__).parents[2] / "examples" / "opinion_monitoring" / "rules.yml"


def test_surge_is_in_standard_deviations_of_the_binomial() -> None:
    assert surge_of(50, 100, 300, 1000) == pytest.approx((50 - 100 * 301 / 1002) / math.sqrt(100 * 301 / 1002 * 701 / 1002))
    assert surge_of(30, 100, 300, 1000) == pytest.approx(0.0, abs=0.1)
    assert surge_of(LEAST_TEXTS - 1, LEAST_TEXTS - 1, 300, 1000) == surge_of(20, 20, 3, 3 * LEAST_TEXTS - 1) == 0.0
    assert math.isfinite(surge_of(20, 20, 0, 1000))


def test_monitor_forgets_what_is_old_and_keeps_topics_apart() -> None:
    monitor = Monitor(lambda text: text)
    arrivals = [Arrival(i * 60.0, "neg" if i % 4 == 0 else "pos", topic) for i in range(24 * 60) for topic in ("hotel", "book")]
    monitor.take(arrivals, 24 * HOUR)
    assert abs(monitor.surge("hotel")) < 1
    monitor.take([Arrival(24 * HOUR + i * 60.0, "neg", "hotel") for i in range(60)], 25 * HOUR)
    assert monitor.surge("hotel") > 10
    assert monitor.surge("book") == 0.0
    assert monitor.registry.get_sample_value("opinions_negative_share", {"topic": "hotel"}) == 1.0
    assert monitor.registry.get_sample_value("opinions_texts_total", {"topic": "hotel", "sentiment": "neg"}) == 24 * 60 / 4 + 60
    monitor.take([], 60 * HOUR)
    assert monitor.surge("hotel") == 0.0


def test_stream_has_the_surge_that_was_planted_and_no_text_that_was_trained_on() -> None:
    trained, kept = draw_reviews(300)
    assert not {review.text for review in trained} & {review.text for review in kept}
    sentiment = {review.text: review.sentiment for review in kept}
    arrivals = simulate(kept, HOURS, 40, PLANTED)
    assert arrivals == sorted(arrivals)
    assert {topic_of(arrival.text) for arrival in arrivals} == set(TOPICS)

    def share(start: float, end: float, topic: str) -> float:
        found = [sentiment[arrival.text] == "neg" for arrival in arrivals if start * HOUR <= arrival.at < end * HOUR and arrival.topic == topic]
        return sum(found) / len(found)

    during = PLANTED.hour, PLANTED.hour + PLANTED.hours
    assert share(*during, PLANTED.topic) > 0.85
    assert share(*during, "book") < 0.5 > share(0, PLANTED.hour, PLANTED.topic)


@pytest.mark.parametrize(("module", "arguments"), [(opinions, ["--reviews", "20000"]), (desk, [" "])])
def test_what_cannot_be_is_told_before_the_training(module: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_errors_are_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        shop.main(["--folder", str(tmp_path / "shop"), "--impressions", "0", "--device", "cpu"])
    assert ended.value.code == 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the example says of itself, trained on few reviews."""
    folder = tmp_path_factory.mktemp("opinions")
    with pytest.MonkeyPatch.context() as patch, (folder / "said.json").open("w") as file:
        patch.setattr("sys.stdout", file)
        main(["--folder", str(folder), "--reviews", "700", "--epochs", "3", "--quantize", "none", "--device", "cpu", "--json"])
    return json.loads((folder / "said.json").read_text())


def test_model_and_its_baselines_are_told(story: Any) -> None:
    assert story["accuracy"]["n"] == story["baselines"]["tfidf"]["n"] == 140
    assert set(story["baselines"]) == {"majority", "tfidf"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")
@pytest.mark.parametrize("name", ["planted", "quiet"])
def test_alert_fires_on_the_planted_surge_and_on_nothing_else(story: Any, name: str, tmp_path: Path) -> None:
    steps = story["surge"][name]
    series = [{"series": f'opinions_surge{{topic="{topic}"}}', "values": " ".join(str(step[topic]) for step in steps.values())} for topic in TOPICS]
    summary = f"Far more negative texts about {PLANTED.topic} than the day before."
    alert = {"exp_labels": {"severity": "page", "topic": PLANTED.topic}, "exp_annotations": {"summary": summary}}
    minutes = [float(at) / 60 for at in steps]
    fires = PLANTED.hour * 60 + 120
    quiet = [at for at in minutes if name == "quiet" or at < PLANTED.hour * 60]
    wanted: list[dict[str, Any]] = [{"eval_time": f"{at - 10:g}m", "alertname": "OpinionSurge", "exp_alerts": []} for at in quiet]
    if name == "planted":
        wanted.append({"eval_time": f"{fires - 10:g}m", "alertname": "OpinionSurge", "exp_alerts": [alert]})
    shutil.copy(RULES, tmp_path / "rules.yml")
    test = {"interval": f"{STEP_S:g}s", "input_series": series, "alert_rule_test": wanted}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": f"{STEP_S:g}s", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
