"""A package measured on labelled data by the predictor that serves; no torch. What a run's evaluation shares with it is here too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fmx import statistics
from fmx.data import GUESSED, Columns, columns_with, open_source, split_of
from fmx.data.rows import Rows, read_splits
from fmx.entities import entity_counts, entity_measures, f1_of
from fmx.errors import DataError, nearest_names
from fmx.predictor import PackagePredictor
from fmx.progress import progress
from fmx.ranking import ranking_of
from fmx.report import charts, render
from fmx.report.gallery import galleries
from fmx.scores import correlation_of, expected, pearson, score_measures, sums_of
from fmx.tasks import Task

RESAMPLES = 1000


@dataclass(frozen=True)
class Evaluation:
    """What a model answered to labelled rows."""

    facts: dict[str, Any]
    """For `--json`: the model, the data and every measure."""
    labels: tuple[str, ...]
    probabilities: np.ndarray
    """float [n, labels], of tokens [n, max_length, labels]"""
    rows: Rows
    """Their labels are positions in `labels`."""

    def report(self) -> str:
        """Give a self-contained HTML page."""
        return render(
            "evaluation.html.j2",
            facts=self.facts,
            confusion_chart=charts.matrix(self.facts["confusion"], tuple(self.facts.get("confusion_names", self.labels))),
            **galleries(self.labels, self.probabilities, self.rows),
        )


def evaluate_package(
    folder: Path,
    data: str,
    *,
    variant: str | None = None,
    split_seed: int | None = None,
    group_by: str | None = None,
    columns: Columns = GUESSED,
    device: str = "auto",
) -> Evaluation:
    """Measure a package on the test rows of a source; labels are matched by name, never by position.

    Args:
        folder: of the package.
        data: a source's name or path.
        variant: default the first that fits this host.
        split_seed: of the split where the data have none; default the run's.
        group_by: see `fmx.data.open_source`; default what the run was trained with, where the data are the same.
        columns: of a table of texts; default as for the groups.
        device: auto, cpu or cuda.

    Raises:
        DataError: the data hold a label that the package does not know.
    """
    predictor = PackagePredictor.open(folder, variant=variant, device=device)
    manifest = predictor.package.manifest
    seed, group_by = split_of(manifest.run, data, split_seed, group_by)
    rows = labelled_rows(data, seed, group_by, predictor.task, manifest.name, columns_with(manifest.run, data, columns, predictor.task.name))
    with progress("evaluating", len(rows)) as advance:
        probabilities = predictor.run_all(rows.values, advance)
    facts = {
        "package": manifest.name,
        "version": manifest.version,
        "variant": predictor.variant.name,
        "data": data,
        "rows_of_export": rows.fingerprint == manifest.rows.get("test"),
    }
    return describe_answers(facts, manifest.labels, probabilities, rows)


def labelled_rows(data: str, seed: int, group_by: str | None, task: Task, name: str, columns: Columns = GUESSED) -> Rows:
    """Read the test rows of a source with labels as positions in a model's own list.

    Raises:
        DataError: the data hold a label that the model does not know.
    """
    labels = task.labels
    source = open_source(data, seed, group_by, task=task.name, columns=columns, labels_of_model=labels)
    unknown = [] if source.has_scores else [label for label in source.labels if label not in labels]
    if unknown:
        near = nearest_names(unknown[0], list(labels))
        raise DataError(
            f"{data} has labels that {name} does not know: {', '.join(unknown)}.",
            hint=f"Its labels: {', '.join(labels[:10])}{' ...' if len(labels) > 10 else ''}" + (f" (near: {near})" if near else ""),
        )
    rows = read_splits(source, task, ("test",))["test"]
    if source.has_scores or source.has_entities:  # their grades and tags are the model's own
        return rows
    position = np.array([labels.index(label) for label in source.labels])
    if source.has_several:
        moved = np.zeros_like(rows.labels)
        moved[:, position] = rows.labels[:, : len(position)]
        return replace(rows, labels=moved)
    return replace(rows, labels=position[rows.labels])


def describe_answers(facts: dict[str, Any], labels: tuple[str, ...], probabilities: np.ndarray, rows: Rows) -> Evaluation:
    """Put the measures of a model's answers beside what is known of it."""
    skipped = [f"{name}: {reason}" for name, reason in rows.skipped]
    return Evaluation({**facts, **measures_of(probabilities, rows, labels), "skipped": skipped}, labels, probabilities, rows)


def measures_of(probabilities: np.ndarray, rows: Rows, labels: tuple[str, ...]) -> dict[str, Any]:
    """Measure answers, float [n, labels], of tokens [n, max_length, labels], of several labels a row [n, labels, 2].

    As classes, of rows or of the units of texts; under `entities` as spans, under `scores` as numbers; and under `ranking`, where rows have
    queries, as an order of each one's candidates.
    """
    picked = rows.picked(probabilities)
    if rows.has_several:
        said, wanted = (given.reshape(rows.labels.shape).astype(bool) for given in (picked.argmax(axis=1), rows.targets))
        return statistics.several_measures(said, wanted, picked, labels)
    measures = statistics.classification_measures(picked, rows.targets, labels)
    if rows.grades:
        measures.pop("top5_accuracy", None)  # of grades it says nothing
    if rows.has_tags:
        return {**measures, "entities": entity_measures(counts_of(picked.argmax(axis=1), rows, labels), labels)}
    scored = {"scores": score_measures(expected(probabilities, rows.grades), rows.scores)} if rows.grades else {}
    ranked = ranking_of(probabilities, rows, labels)
    return {**measures, **scored, **({"ranking": ranked} if ranked else {})}


def judgement_of(probabilities: np.ndarray, rows: Rows, labels: tuple[str, ...]) -> float:
    """Give what `fmx.data.rows.Rows.judged` names: accuracy, F1 or correlation, as a fraction.

    Args:
        probabilities: float [n, labels], of tokens [n, max_length, labels], of several labels a row [n, labels, 2].
        rows: that were answered.
        labels: of the model.
    """
    if rows.grades:
        return pearson(expected(probabilities, rows.grades), rows.scores)
    said = rows.picked(probabilities).argmax(axis=1)
    return f1_of(counts_of(said, rows, labels)) if rows.has_units else float((said == rows.targets).mean())


def drop_of(reference: np.ndarray, answers: np.ndarray, rows: Rows, labels: tuple[str, ...]) -> tuple[float, float, float]:
    """Give how many points are lost, of accuracy, of the F1 of entities or of several labels, or of a correlation, and the 95 % interval.

    Args:
        reference: probabilities, float [n, labels], of tokens [n, max_length, labels].
        answers: those of the other, of the same shape.
        rows: that both answered.
        labels: of the model.
    """
    if rows.grades:
        return drop_of_scores(expected(reference, rows.grades), expected(answers, rows.grades), rows.scores)
    before, after = (rows.picked(given).argmax(axis=1) for given in (reference, answers))
    if not rows.has_units:
        return statistics.paired_drop(before == rows.targets, after == rows.targets)
    return drop_of_f1(*(counts_of(said, rows, labels).sum(axis=1) for said in (before, after)))


def drop_of_f1(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """Give the points of F1 that are lost, and the 95 % interval.

    Args:
        before: of each text how many entities are right, found and there, int64 [texts, 3].
        after: the same of the other.
    """
    return _drop_of_sums(before, after, lambda sums: 2 * sums[..., 0] / np.maximum(1, sums[..., 1] + sums[..., 2]))


def drop_of_scores(before: np.ndarray, after: np.ndarray, wanted: np.ndarray) -> tuple[float, float, float]:
    """Give the points of Pearson's correlation that are lost, and the 95 % interval.

    Args:
        before: scores of the reference, float [rows].
        after: those of the other.
        wanted: the true ones.
    """
    middle, span = wanted.mean(), np.ptp(wanted) or 1.0  # scores far from 0 beside their spread would lose digits
    one, other, truth = ((values - middle) / span for values in (before, after, wanted))
    return _drop_of_sums(sums_of(one, truth), sums_of(other, truth), correlation_of)


def _drop_of_sums(before: np.ndarray, after: np.ndarray, measure: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float, float]:
    """Give the points that are lost of a measure of sums over rows, and the 95 % interval.

    The interval is of `RESAMPLES` draws of rows with replacement, the same for both (a paired bootstrap: Berg-Kirkpatrick et al. 2012, "An
    empirical investigation of statistical significance in NLP").

    Args:
        before: of each row what is summed, [rows, k].
        after: the same of the other.
        measure: float [..., k] to [...].
    """
    sides = np.stack([before, after])  # [2, rows, k]
    drawn = np.random.default_rng(0).integers(0, sides.shape[1], (RESAMPLES, sides.shape[1]))
    found = measure(np.stack([[side[chosen].sum(axis=0) for chosen in drawn] for side in sides]))  # [2, RESAMPLES]
    low, high = np.quantile(100 * (found[0] - found[1]), (0.025, 0.975))
    whole = measure(sides.sum(axis=1))
    return 100 * float(whole[0] - whole[1]), float(low), float(high)


def counts_of(said: np.ndarray, rows: Rows, labels: tuple[str, ...]) -> np.ndarray:
    """Count entities a text, as `fmx.entities.entity_counts` does, or labels a text in the same way, from what is answered, int [m]."""
    if rows.has_several:
        found = said.reshape(rows.labels.shape)
        return np.stack([found & rows.labels, found, rows.labels], axis=2).astype(np.int64)
    return entity_counts(rows.sequences(rows.targets), rows.sequences(said), labels)
