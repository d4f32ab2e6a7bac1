"""Training on entities: what is learnt, what it is measured by and must beat, and long texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score
from torch.nn import functional

from finetune.baselines import compare_entities
from finetune.evaluation import eager_probabilities, evaluate_run
from finetune.network import restore_network
from finetune.settings import check_settings
from finetune.tasks.units import answered, units_loss
from finetune.training import train_run
from fmx.data import reopen_source
from fmx.data.rows import Rows, read_splits
from fmx.entities import IGNORED
from fmx.errors import DataError, UsageError
from fmx.evaluation import drop_of
from fmx.run import Run, task_of
from fmx.tasks import TokenClassification
from tests.texts import make_entities, write_entities

TASK = "token-classification"
CPU = torch.device("cpu")


def rows_of(run: Run) -> dict[str, Rows]:
    return read_splits(reopen_source(run.info.settings), task_of(run))


def test_run_of_entities_learns_and_is_measured_as_seqeval_does(entity_run: Run) -> None:
    info = entity_run.info
    assert (info.task, info.labels) == (TASK, ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
    entities = info.metrics["entities"]
    assert entities["f1"] > 0.8
    test = rows_of(entity_run)["test"]
    said = test.picked(eager_probabilities(restore_network(entity_run), test, CPU)).argmax(axis=1)
    tags = [[[info.labels[i] for i in row] for row in test.sequences(found)] for found in (test.targets, said)]
    assert entities["f1"] == pytest.approx(f1_score(*tags))
    assert entities["entities"] == sum(len(item.spans) for item in test.items)
    assert info.accuracy.n == len(test.targets) > len(test)
    page = (entity_run.folder / "report.html").read_text()
    assert "<h2>Entities</h2>" in page
    assert f"{100 * entities['f1']:.2f}" in page


def test_run_is_measured_again_alike(entity_run: Run, entity_table: Path) -> None:
    found = evaluate_run(entity_run, str(entity_table), CPU)
    assert found.facts["entities"] == entity_run.info.metrics["entities"]
    assert found.facts["rows_of_run"]
    assert "<h2>Entities</h2>" in found.report()


def test_baselines_are_none_and_the_words_themselves(entity_run: Run) -> None:
    metrics = entity_run.info.metrics
    assert metrics["entity_baselines"]["majority"] == 0.0
    assert metrics["entity_baselines"]["tfidf"] > 0.9  # the made names are few, and told by themselves
    assert metrics["baselines"]["majority"]["value"] == pytest.approx((rows_of(entity_run)["test"].targets == 0).mean())


def test_training_that_does_not_beat_its_baseline_says_so(entity_run: Run) -> None:
    task = task_of(entity_run)
    assert isinstance(task, TokenClassification)
    said: list[str] = []
    compare_entities(rows_of(entity_run), task, entity_run.info.labels, {"entities": {"f1": 0.0}}, said.append)
    assert len(said) == 1
    assert "did not beat TF-IDF" in said[0]


@pytest.mark.parametrize("method", ["lora", "norm-bias", "ia3", "adapter"])
def test_other_methods_train_entities_too(entity_encoder: Path, entity_table: Path, tmp_path: Path, method: str) -> None:
    run = train_run(tmp_path, task=TASK, data=str(entity_table), model=str(entity_encoder), method=method, epochs=1, max_length=32, device="cpu")
    assert run.info.settings["method"] == method
    assert np.isfinite(run.info.metrics["entities"]["f1"])


def test_texts_longer_than_the_window_lose_no_entity(entity_encoder: Path, tmp_path: Path) -> None:
    """Issue: a text longer than the window was cut, and what is behind never learnt or measured."""
    rows = make_entities(60)
    joined: list[dict[str, object]] = []
    for start in range(0, 60, 6):
        text, entities = "", []
        for row in rows[start : start + 6]:
            shift = len(text)
            entities += [{**one, "start": one["start"] + shift, "end": one["end"] + shift} for one in row["entities"]]  # type: ignore[attr-defined]
            text += f"{row['text']} "
        joined.append({"text": text, "entities": entities})
    data = write_entities(tmp_path / "long.jsonl", joined)
    settings: dict[str, Any] = {"epochs": 1, "max_length": 16, "device": "cpu", "adversarial": "fgm"}
    run = train_run(tmp_path / "runs", task=TASK, data=str(data), model=str(entity_encoder), **settings)
    for split, rows_of_split in rows_of(run).items():
        if split != "train":
            continue
        assert len(rows_of_split) > len(rows_of_split.sequences(rows_of_split.targets))
        items = {item.name.partition(",")[0] for item in rows_of_split.items}
        assert len(rows_of_split.sequences(rows_of_split.targets)) == len(items)
        some = rows_of_split.taken(rows_of_split.spread(len(rows_of_split) // 2))
        assert {item.name for item in some.wholes()} < items
        assert len(some.sequences(some.targets)) == len({item.name for item in some.wholes()})
    assert run.info.metrics["entities"]["entities"] == sum(len(item.spans) for item in reopen_source(run.info.settings).splits["test"])


def test_loss_of_parts_adds_up_to_that_of_the_batch() -> None:
    torch.manual_seed(0)
    targets = torch.randint(0, 3, (8, 10))
    targets[torch.rand(8, 10) < 0.5] = IGNORED
    logits = torch.randn(8, 7, 3)
    loss = units_loss(0.1, targets)
    parts = sum(loss(logits[part], targets[part]) * len(targets[part]) / 8 for part in (slice(0, 3), slice(3, 8)))
    assert torch.allclose(loss(logits, targets), parts)  # type: ignore[arg-type]
    found, wanted = answered(logits, targets)
    units = (targets != IGNORED).sum() / 8
    expected = functional.cross_entropy(found, wanted, label_smoothing=0.1, reduction="sum") / (8 * units)
    assert torch.allclose(loss(logits, targets), expected)


def test_drop_of_entities_is_in_points_of_f1(entity_run: Run) -> None:
    test, labels = rows_of(entity_run)["test"], entity_run.info.labels
    right = np.zeros((*test.labels.shape, len(labels)))
    np.put_along_axis(right, np.maximum(test.labels, 0)[..., None], 1.0, axis=-1)
    assert drop_of(right, right, test, labels) == (0.0, 0.0, 0.0)
    nothing = np.zeros_like(right)
    nothing[..., 0] = 1.0
    drop, low, high = drop_of(right, nothing, test, labels)
    assert (drop, low, high) == (100.0, 100.0, 100.0)
    half = np.where(np.arange(len(test))[:, None, None] % 2 == 0, right, nothing)
    drop, low, high = drop_of(right, half, test, labels)
    assert 10 < low < drop < high < 60


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "linear-probe"}, "use finetune, lora, norm-bias, ia3 or adapter"),
        ({"method": "few-shot"}, "use finetune, lora, norm-bias, ia3 or adapter"),
        ({"method": "lp-ft"}, "use finetune, lora, norm-bias, ia3 or adapter"),
        ({"balance": "weights"}, "--balance is for rows of one class"),
        ({"data": "digits"}, "CoNLL"),
        ({"pair_column": "b"}, "without --task text-pair"),
        ({"size": 32}, "for texts"),
    ],
)
def test_what_has_no_sense_for_entities_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_settings({"task": TASK, "data": "a.conll", **options})


def test_leakage_between_splits_is_found(entity_encoder: Path, tmp_path: Path) -> None:
    rows = make_entities(40)
    for name, part in (("train", rows[:30]), ("test", [*rows[30:], rows[0]])):
        write_entities(tmp_path / f"{name}.jsonl", part)
    with pytest.raises(DataError, match="misled"):
        train_run(tmp_path / "runs", task=TASK, data=str(tmp_path), model=str(entity_encoder), epochs=1, max_length=32, device="cpu")


def test_epochs_are_judged_by_the_entities(entity_run: Run) -> None:
    """By accuracy of units, an epoch that finds nothing may beat one that finds much: most units are of no entity."""
    lines = [json.loads(line) for line in (entity_run.folder / "metrics.jsonl").read_text().splitlines()]
    validation = rows_of(entity_run)["validation"]
    said = validation.picked(eager_probabilities(restore_network(entity_run), validation, CPU)).argmax(axis=1)
    tags = [[[entity_run.info.labels[i] for i in row] for row in validation.sequences(found)] for found in (validation.targets, said)]
    assert lines[entity_run.info.best_epoch - 1]["validation_accuracy"] == pytest.approx(f1_score(*tags), abs=1e-6)
    assert lines[0]["validation_accuracy"] < 0.5  # of the units more are right by then
