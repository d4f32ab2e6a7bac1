"""Two packages on the same rows: a gate for a pipeline that must not let a worse model pass. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fmx import statistics
from fmx.data import GUESSED, Columns, columns_with, split_of
from fmx.data.rows import Rows
from fmx.entities import Span, f1_of
from fmx.errors import DataError
from fmx.evaluation import drop_of_f1, drop_of_scores, labelled_rows
from fmx.predictor import PackagePredictor
from fmx.progress import progress
from fmx.scores import expected, nearest, pearson
from fmx.task_names import SCORES
from fmx.timing import interleaved

BATCH = 1


@dataclass(frozen=True)
class Limits:
    """How much worse the new package may be."""

    drop: float = 0.5
    """Points of accuracy."""
    slower: float = 10.0
    """Percent of the old median latency at batch 1."""
    larger: float = 10.0
    """Percent of the old file's bytes."""


@dataclass(frozen=True)
class Compared:
    """What two packages came to, and what got worse, in sentences."""

    facts: dict[str, Any]
    worse: tuple[str, ...]


def compare_packages(
    old: Path, new: Path, data: str, limits: Limits, *, variant: str | None = None, device: str = "auto", columns: Columns = GUESSED
) -> Compared:
    """Compare two packages, each on the variant that this host would serve.

    Args:
        old: a package's folder.
        new: another's.
        data: a source's name or path; its test rows are used.
        limits: what counts as worse.
        variant: of both, in place of the first that fits.
        device: auto, cpu or cuda.
        columns: of a table of texts; default what each package was trained with, where the data are the same.

    Raises:
        DataError: the data hold a label that a package does not know.
    """
    sides = {name: PackagePredictor.open(folder, variant=variant, device=device) for name, folder in (("old", old), ("new", new))}
    worse = _contract_changes(sides["old"], sides["new"])
    same_task = sides["old"].contract.task == sides["new"].contract.task
    kept = set(sides["old"].contract.labels) <= set(sides["new"].contract.labels) or bool(sides["old"].task.grades)
    if not (same_task and kept):  # rows of labels that are gone have no right answer any more, and answers of two kinds no common measure
        return Compared({"data": data, "worse": worse}, tuple(worse))
    answers, counts, scores, first = {}, {}, {}, None
    grades = sides["old"].task.grades
    seed, group_by = split_of(sides["old"].package.manifest.run, data)  # the same rows for both
    for name, predictor in sides.items():
        manifest = predictor.package.manifest
        rows = labelled_rows(data, seed, group_by, predictor.task, manifest.name, columns_with(manifest.run, data, columns, predictor.task.name))
        if rows.grades:
            names, (scores[name], likeliest) = rows.names, _scores_of(predictor, rows, name)
            said, labels = (nearest(values, grades) for values in (likeliest, rows.scores))
        else:
            names, said, labels = _entities_of(predictor, rows) if rows.has_tags else _labels_of(predictor, rows, name)
        if rows.has_units:
            counts[name] = np.array([[len(one & other), len(one), len(other)] for one, other in zip(said, labels, strict=True)])
        if first is not None and first != names:
            raise DataError("The packages cannot be compared: each reads other rows of these data.", hint="Repair the files that one skips.")
        first, answers[name] = names, said
    right = {name: said == labels for name, said in answers.items()}
    if scores:
        what, (drop, low, high) = "Correlation", drop_of_scores(scores["old"], scores["new"], rows.scores)
    elif counts:
        what, (drop, low, high) = "F1", drop_of_f1(counts["old"], counts["new"])
    else:
        what, (drop, low, high) = "Accuracy", statistics.paired_drop(right["old"], right["new"])
    medians = _medians(sides)
    sizes = {name: predictor.variant.bytes for name, predictor in sides.items()}
    slower, larger = (100.0 * (pair["new"] / pair["old"] - 1) for pair in (medians, sizes))
    if drop > limits.drop:
        worse.append(f"{what} fell by {drop:.2f} points (95 %: {low:.2f} to {high:.2f}), more than {limits.drop:g}.")
    if slower > limits.slower:
        worse.append(f"A row takes {slower:.0f} % longer ({medians['old']:.2f} to {medians['new']:.2f} ms), more than {limits.slower:g} %.")
    if larger > limits.larger:
        worse.append(f"The file is {larger:.0f} % larger ({sizes['old'] / 1e6:.2f} to {sizes['new'] / 1e6:.2f} MB), more than {limits.larger:g} %.")
    sums = {
        name: {
            "package": predictor.package.name,
            "version": predictor.package.manifest.version,
            "variant": predictor.variant.name,
            **({"f1": f1_of(counts[name])} if counts else {}),
            **({"pearson": pearson(scores[name], rows.scores)} if scores else {}),
            "accuracy": statistics.wilson_interval(int(right[name].sum()), len(right[name])).model_dump(),
            "median_ms": medians[name],
            "bytes": sizes[name],
        }
        for name, predictor in sides.items()
    }
    paired = {
        "drop": round(drop, 4),
        "drop_low": round(low, 4),
        "drop_high": round(high, 4),
        "p_value": round(statistics.mcnemar_p(right["old"], right["new"]), 6),
        "changed": round(float((answers["old"] != answers["new"]).mean()), 6),
    }
    return Compared({**sums, **paired, "data": data, "worse": worse}, tuple(worse))


Answers = tuple[tuple[str, ...], np.ndarray, np.ndarray]
"""Names of rows or texts, what was said of each, and what is right: [n] each, of strings or, where several things may be said, of sets."""


def _labels_of(predictor: PackagePredictor, rows: Rows, side: str) -> Answers:
    """Give the labels that a package says of rows, by name."""
    labels = predictor.contract.labels
    with progress(f"evaluating {side}", len(rows)) as advance:
        said = predictor.run_all(rows.values, advance).argmax(axis=-1)
    if not rows.has_several:
        return rows.names, np.array([labels[i] for i in said]), np.array([labels[i] for i in rows.labels])
    sets = np.empty((2, len(rows)), object)
    sets[:] = [[{labels[i] for i in np.flatnonzero(row)} for row in given] for given in (said, rows.labels)]
    return rows.names, sets[0], sets[1]


def _scores_of(predictor: PackagePredictor, rows: Rows, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the scores that a package expects of rows, and its likeliest grades: float64 [n] each."""
    with progress(f"evaluating {side}", len(rows)) as advance:
        probabilities = predictor.run_all(rows.values, advance)
    grades = predictor.task.grades
    return expected(probabilities, grades), np.array(grades)[probabilities.argmax(axis=1)]


def _entities_of(predictor: PackagePredictor, rows: Rows) -> Answers:
    """Give the entities that a package finds in the texts of rows, as sets of spans.

    Spans of characters, and not tags: each package's tokenizer cuts texts in its own way.
    """
    texts = {item.name: item for item in rows.wholes()}
    said, there = np.empty(len(texts), object), np.empty(len(texts), object)
    for place, (item, answer) in enumerate(zip(texts.values(), predictor.predict([item.read() for item in texts.values()]), strict=True)):
        said[place] = {Span(one["label"], one["start"], one["end"]) for one in answer["entities"]}
        there[place] = {*item.spans}
    return tuple(texts), said, there


def _contract_changes(old: PackagePredictor, new: PackagePredictor) -> list[str]:
    """Say what a caller of the old package would notice."""
    before, after = old.contract, new.contract
    changes = []
    if before.task != after.task:
        changes.append(f"The task is {after.task}, no longer {before.task}.")
    gone = [label for label in before.labels if label not in after.labels]
    if before.task == after.task == SCORES:
        pass  # grades are the model's own affair
    elif gone:
        changes.append(f"Labels are gone: {', '.join(gone[:5])}.")
    elif before.labels != after.labels[: len(before.labels)]:
        changes.append("The order of the labels changed.")
    old_input, new_input = before.input.model_dump(), after.input.model_dump()
    for what in ("kind", "height", "width", "colour_order", "max_length"):
        old_value, new_value = old_input.get(what), new_input.get(what)
        if old_value != new_value and (what == "kind" or old_input["kind"] == new_input["kind"]):
            changes.append(f"The input's {what.replace('_', ' ')} is {new_value}, no longer {old_value}.")
    if before.output != after.output:
        changes.append("The output contract changed.")
    if before.embedding is not None and before.embedding != after.embedding:
        changes.append("There are no embeddings any more." if after.embedding is None else "The embeddings have another width.")
    return changes


def _medians(sides: dict[str, PackagePredictor]) -> dict[str, float]:
    """Time both on a row of their own size, interleaved: milliseconds."""
    rows = {name: np.repeat(predictor.task.example(), BATCH, axis=0) for name, predictor in sides.items()}
    times = interleaved({name: partial(predictor.run, rows[name]) for name, predictor in sides.items()})
    return {name: round(1e3 * float(np.median(seconds)), 4) for name, seconds in times.items()}
