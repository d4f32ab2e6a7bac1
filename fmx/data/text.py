"""Labelled texts for classification: a table, a folder with a table a split, or a data set of Hugging Face's `datasets`.

Texts are taken as they stand, without any cleaning, as UTF-8 bytes; how they become tokens is not this file's.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fmx.data.huggingface import sort_classes
from fmx.data.likeness import likeness_of
from fmx.data.parts import Part, check_column, listed, open_parts
from fmx.data.source import SPLITS, Item, Source, label_items, unknown_classes
from fmx.data.splitting import complete_splits, complete_unlabelled, torn
from fmx.data.tables import Row, as_text, check_rows, first_few, is_placed, read_split
from fmx.errors import DataError
from fmx.pairs import joined
from fmx.scores import choose_grades, grades_of, nearest
from fmx.task_names import IN_PAIRS, READ_TEXTS

TEXT_COLUMNS = (
    *("text", "sentence", "content", "review", "comment", "question", "utterance", "message", "body", "title"),
    *("文本", "内容", "评论", "句子"),
)
PAIR_COLUMNS = (
    *(("text", "text_pair"), ("text1", "text2"), ("text_a", "text_b"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b")),
    *(("question1", "question2"), ("premise", "hypothesis"), ("question", "answer"), ("query", "document"), ("query", "passage")),
    *(("query", "answer"), ("query", "title"), ("history", "item"), ("history", "candidate"), ("question", "sentence"), ("问题", "答案")),
)
QUERY_COLUMNS = ("query_id", "qid", "impression_id", "session_id")
LABEL_COLUMNS = ("label", "labels", "class", "category", "intent", "sentiment", "target", "topic", "标签", "类别")
RELEVANCE_COLUMNS = ("label", "labels", "relevance", "clicked", "click", "is_duplicate", "score", "grade")
"""What columns are called that nobody named, the likeliest first; the last ones' beside two texts, where they go before the other labels'."""

SEPARATORS = ("|", ";", ",")
"""Between the labels of one row: the first of them that is there."""
MOST_NUMBERS = 20
"""Classes whose names are numbers: more of them are likely scores."""
LARGEST_SCORE = 1e100
"""Of either sign; its square is a number too."""
_NUMBER = re.compile(r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][+-]?[0-9]+)?")
MOST_EMPTY = 0.05
"""Share of rows without a text above which nothing is trained or measured."""

KNOWN = {*TEXT_COLUMNS, *LABEL_COLUMNS, *RELEVANCE_COLUMNS, *QUERY_COLUMNS, *(name for pair in PAIR_COLUMNS for name in pair), "split", "group"}
"""Names by which the delimiter of a `.csv` is found."""

_NAME_THEM = "Name the columns with --text-column and --label-column."
_NAME_PAIR = "Name the columns with --text-column, --pair-column and --label-column."


Labelled = Literal["one", "several", "score"]
"""What stands in the label column."""
OF_TEXTS = ("text", "label")
"""Of `Columns`, what a table of single texts has."""


class Columns(NamedTuple):
    """Of a table of texts, as told; None is guessed."""

    text: str | None = None
    label: str | None = None
    pair: str | None = None
    """The second text's."""
    query: str | None = None
    """What the rows of one query share: they are ranked against each other."""

    def options(self) -> dict[str, str]:
        """Give what is told as the options of a command, by their names."""
        return {f"--{name}-column": column for name, column in self._asdict().items() if column}

    def unused(self, task: str) -> list[str]:
        """Name the options that are told and for which a task has no use."""
        used = () if task not in READ_TEXTS else OF_TEXTS if task not in IN_PAIRS else self._fields
        return [f"--{name}-column" for name, column in self._asdict().items() if column and name not in used]


GUESSED = Columns()


@dataclass(frozen=True)
class _Chosen:
    """Which columns hold what."""

    texts: tuple[str, ...]
    label: str
    split: str | None
    group: str | None
    query: str | None

    def used(self) -> set[str]:
        return {name for name in (*self.texts, self.label, self.split, self.group, self.query) if name}


@dataclass
class _Found:
    """What the rows of all tables come to: labelled items by split, and the places of rows that are none."""

    rows: dict[str, list[tuple[str, Item]]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    padded: int = 0
    """Labels that had white space around them."""

    def count(self) -> int:
        return sum(map(len, self.rows.values())) + len(self.empty)


def open_text(
    spec: str,
    seed: int = 0,
    group_by: str | None = None,
    *,
    columns: Columns = GUESSED,
    in_pairs: bool = False,
    labelled: Labelled = "one",
    labels_of_model: tuple[str, ...] | None = None,
) -> Source:
    """Open labelled texts, or pairs of them; splits that are missing are dealt out of the training rows, stratified and seeded.

    Args:
        spec: the path of a `.csv`, `.tsv`, `.jsonl` or `.parquet` file or of a folder with such a file a split, or `hf:NAME_OR_PATH[:CONFIG]`.
        seed: of the split, where the data have none.
        group_by: the column that holds the group; default `group` where there is one.
        columns: a text's that is not told is the first of `TEXT_COLUMNS` that is there, or of two unknown columns the one with longer values; a
            pair's are the first two of `PAIR_COLUMNS` that are both there, or the only two that are left and are no ids, in their order; a label's
            is the first of `LABEL_COLUMNS`, of pairs rather one of `RELEVANCE_COLUMNS`, or the only one that is left; a query's the first of
            `QUERY_COLUMNS`, if there is one.
        in_pairs: a row has two texts.
        labelled: a row has `one` label; `several`, or none: a list, or a string with `SEPARATORS` between them; or a `score`, a number.
        labels_of_model: of a model of scores that the rows are to measure, which brings its own grades.

    Returns:
        A source whose items' `read` gives the text in UTF-8, or a pair of them as `fmx.pairs.joined` does.

    Raises:
        DataError: no such data, a column that is not there, bad rows (all at once), or rows that cannot be learnt from.
        SurroundingsError: a library that reads the format is not installed.
    """
    parts, notes = open_parts(spec, KNOWN | {name.lower() for name in (*columns, group_by) if name}, lists=labelled == "several")
    train = next((part for part in parts if part.split in ("train", None)), parts[0])
    chosen = _choose_columns(train, columns, group_by, in_pairs)
    for part in parts:
        check_columns(part, [*chosen.texts, chosen.label, *filter(None, (group_by, columns.query))], _hint(in_pairs))
    found = _Found()
    for part in parts:
        _read_part(part, chosen, found, labelled)
    _check_found(spec, found, in_pairs)
    notes += [*_encoding_notes(parts), *_column_notes(train, chosen, columns)]
    if labelled == "several":
        return _several(spec, found, seed, [*notes, *_row_notes(found, (), in_pairs)])
    if labelled == "score":
        return _scored(spec, found, seed, [*notes, *_row_notes(found, (), in_pairs)], labels_of_model)
    labels = sort_classes(train.classes.get(chosen.label), (label for label, _ in found.rows["train"]))
    given = label_items({split: found.rows[split] for split in SPLITS if split in found.rows}, labels, spec)
    notes += [*_row_notes(found, labels, in_pairs), *_torn_queries(given)]
    try:
        splits = complete_splits(given, labels, seed, spec, "pairs" if in_pairs else "texts")
    except DataError as error:
        raise _with_hint_of_scores(error, spec, labels, in_pairs) from error
    return Source(spec, labels, splits, notes=tuple(notes))


def _with_hint_of_scores(error: DataError, spec: str, labels: tuple[str, ...], in_pairs: bool) -> DataError:
    """Say of classes with too few rows what they are, where they look like numbers on a scale; other errors stay."""
    if not in_pairs or len(labels) <= MOST_NUMBERS or not all(map(_NUMBER.fullmatch, labels)):
        return error
    return DataError(
        f"The labels of {spec} are {len(labels)} different numbers, such as {labels[0]} and {labels[-1]}, and some have too few rows to be classes.",
        hint="Add --scores (--task text-scores) to learn a score on their scale, or give each pair one of a few classes.",
    )


def _scored(spec: str, found: _Found, seed: int, notes: list[str], labels: tuple[str, ...] | None) -> Source:
    """Make a source of rows whose labels are numbers as text.

    Args:
        spec: what messages call the data.
        found: the rows.
        seed: of the split.
        notes: so far.
        labels: the grades of a model that is only measured; None chooses them.

    Raises:
        DataError: scores that nothing can be learnt from, or held-out ones that are all the same.
    """
    given = {split: [replace(item, label=0, score=float(score)) for score, item in found.rows[split]] for split in SPLITS if split in found.rows}
    scores = _scores_of(given["train"])
    if labels is None:
        labels = choose_grades(scores, spec)
        notes = [*notes, f"Scores go from {scores.min():g} to {scores.max():g}; they are learnt as {len(labels)} grades."]
    grades, splits = grades_of(labels), _dealt_by_thirds(given, seed, spec)
    for split, items in splits.items():
        held = _scores_of(items)
        if split != "train" and len(held) and held.min() == held.max():
            raise DataError(
                f"All {split} rows of {spec} have the score {held[0]:g}.", hint="Give more rows, or another --split-seed: they tell nothing."
            )
        splits[split] = [replace(item, label=int(place)) for item, place in zip(items, nearest(held, grades), strict=True)]
    return Source(spec, labels, splits, notes=(*notes, *_torn_queries(given)), has_scores=True)


def _scores_of(items: list[Item]) -> np.ndarray:
    return np.array([item.score for item in items], np.float64)


def _dealt_by_thirds(given: dict[str, list[Item]], seed: int, spec: str) -> dict[str, list[Item]]:
    """Deal missing splits so that each has of the low, the middling and the high scores; as they come, where groups are too few for that."""
    thirds = np.quantile(_scores_of(given["train"]), (1 / 3, 2 / 3))
    placed = {
        split: [replace(item, label=int(third)) for item, third in zip(items, np.searchsorted(thirds, _scores_of(items)), strict=True)]
        for split, items in given.items()
    }
    there = sorted({item.label for item in placed["train"]})
    numbered = {
        split: [replace(item, label=there.index(item.label) if item.label in there else 0) for item in items] for split, items in placed.items()
    }
    try:
        return complete_splits(numbered, tuple(map(str, there)), seed, spec, "pairs")
    except DataError:  # what is wrong beside that is told again
        return complete_unlabelled(given, seed, spec, "pairs")


def _several(spec: str, found: _Found, seed: int, notes: list[str]) -> Source:
    """Make a source of rows whose labels stand joined by `SEPARATORS[0]`."""
    names = {split: [(tuple(filter(None, joint.split(SEPARATORS[0]))), item) for joint, item in rows] for split, rows in found.rows.items()}
    labels = sort_classes(None, (name for own, _ in names["train"] for name in own))
    if len(labels) < 2:
        raise DataError(
            f"{spec} holds {len(labels)} different labels; several a text need two or more.", hint="Leave out --multi-label for one each."
        )
    index = {label: i for i, label in enumerate(labels)}
    for split, rows in names.items():
        unknown = sorted({name for own, _ in rows for name in own} - set(index))
        if unknown:
            raise unknown_classes(f"{spec} ({split})", unknown)
    given = {
        split: [replace(item, label=0, several=tuple(sorted(index[name] for name in set(own)))) for own, item in names[split]] for split in names
    }
    splits = complete_unlabelled(given, seed, spec, "texts")
    missing = sorted(set(labels) - {labels[i] for item in splits["train"] for i in item.several})
    if missing:
        raise DataError(
            f"No training row of {spec} has the label {missing[0]} after the split.", hint="Give more rows with it, or another --split-seed."
        )
    return Source(spec, labels, splits, notes=tuple(notes), has_several=True)


def _choose_columns(part: Part, told: Columns, group_by: str | None, in_pairs: bool) -> _Chosen:
    """Find the columns that are not told. Raises: `DataError`."""
    check_columns(part, [name for name in (*told, group_by) if name], _hint(in_pairs))
    columns = part.table.columns
    split = find_column([name for name in columns if name not in told], ("split",))
    query = (told.query or find_column(columns, QUERY_COLUMNS)) if in_pairs else None
    group = group_by or find_column([name for name in columns if name not in told], ("group",))
    set_apart = {split, group, query} - {told.text, told.pair, told.label}
    free = [name for name in columns if name not in set_apart]
    texts, label = _guess_pair(columns, free, told) if in_pairs else guess_text(part, free, told)
    if len(texts) < 1 + in_pairs or not label:
        lacks = " and ".join(what for what, is_there in ((_wanted(in_pairs), len(texts) == 1 + in_pairs), ("a label", label)) if not is_there)
        raise DataError(f"{part.where} has no column known to hold {lacks}; its columns: {listed(columns)}.", hint=_hint(in_pairs))
    twice = [name for name in (*texts, label) if [*texts, label].count(name) > 1]
    if twice:
        what = "both text and label" if twice[0] == label else "both texts of a pair"
        raise DataError(f"{part.where}: the column {twice[0]} cannot be {what}.", hint=_hint(in_pairs))
    return _Chosen(texts, label, None if part.split else split, group, query)


def guess_text(part: Part, columns: list[str], told: Columns) -> tuple[tuple[str, ...], str | None]:
    """Choose the columns of the text and the label, as far as names, or there being no other, tell."""
    free = [name for name in columns if name not in told]
    text = told.text or find_column(free, TEXT_COLUMNS)
    label = told.label or find_column(free, LABEL_COLUMNS)
    left = [name for name in free if name not in (text, label)]
    if not text and not label and len(left) == 2:
        text, label = sorted(left, key=lambda name: _mean_length(part.table.rows, name), reverse=True)
    elif len(left) == 1 and (text or label):
        text, label = text or left[0], label or left[0]
    return (text,) if text else (), label


def _guess_pair(columns: list[str], free: list[str], told: Columns) -> tuple[tuple[str, ...], str | None]:
    """Choose the columns of both texts and the label: what is told, the first two that are known to go together, or what is left.

    Args:
        columns: all; a text may name the query or the group too.
        free: those that are nothing else, in their order.
        told: by name.
    """
    label = told.label or find_column([name for name in columns if name not in told], (*RELEVANCE_COLUMNS, *LABEL_COLUMNS))
    for names in PAIR_COLUMNS:
        known = find_column(columns, names[:1]), find_column(columns, names[1:])
        if None not in known and label not in known and told.text in (None, known[0]) and told.pair in (None, known[1]):
            texts = tuple(filter(None, known))
            return texts, label or _only([name for name in free if name not in texts])
    given = [told.text, told.pair]
    left = [name for name in free if name not in (*given, label) and not _is_id(name)]
    if len(left) == given.count(None):
        given = [name or left.pop(0) for name in given]
    texts = tuple(filter(None, given))
    return texts, label or _only([name for name in free if name not in texts])


def _only(names: list[str]) -> str | None:
    """Return the one name that there is."""
    return names[0] if len(names) == 1 else None


def _is_id(name: str) -> bool:
    """Say whether a column is called like a number of rows, which no text is."""
    return name.lower() in ("id", "index", "uid", "guid") or name.lower().endswith("_id")


def find_column(columns: list[str], wanted: Iterable[str]) -> str | None:
    """Return the first wanted column that is there, in any case."""
    there = {name.lower(): name for name in reversed(columns)} | {name: name for name in columns}
    return next((there[name] for name in wanted if name in there), None)


def _mean_length(rows: list[Row], column: str) -> float:
    return float(np.mean([len(as_text(row.get(column))) for _, row in rows] or [0]))


def _hint(in_pairs: bool) -> str:
    return _NAME_PAIR if in_pairs else _NAME_THEM


def _wanted(in_pairs: bool) -> str:
    return "two texts" if in_pairs else "a text"


def _lack(in_pairs: bool) -> str:
    return "do not have two texts" if in_pairs else "have no text"


def check_columns(part: Part, needed: list[str], hint: str, rows: str = "Give rows with a text and a label.") -> None:
    """Check that columns are there and hold plain values.

    Args:
        part: the table.
        needed: names of columns.
        hint: how columns are named.
        rows: what an empty table should hold.

    Raises:
        DataError: one is not, or the table is empty.
    """
    table = part.table
    if not table.columns:
        check_rows(part.where, 0, table.faults, (), rows)
    for name in needed:
        check_column(part, name, hint)
        if table.rows and not any(name in row for _, row in table.rows):  # bytes in Parquet, images or lists in `datasets`
            raise DataError(f"{part.where}: the column {name} holds no text or numbers.", hint=hint)


def _read_part(part: Part, columns: _Chosen, found: _Found, labelled: Labelled) -> None:
    """Turn the rows of a table into labelled items."""
    found.faults += [part.prefix + fault for fault in part.table.faults]
    placed = columns.split is not None and is_placed(part.table.rows, columns.split)
    read = {"one": _read_label, "several": _read_labels, "score": _read_score}[labelled]
    for place, row in part.table.rows:
        name = part.prefix + place
        try:
            texts = [read_text(row.get(column)) for column in columns.texts]
            if not all(texts):
                found.empty.append(name)
                continue
            label = read(row.get(columns.label))
            split = part.split or read_split(row.get(columns.split or ""), placed)
            group = as_text(row.get(columns.group)) if columns.group else ""
            query = as_text(row.get(columns.query)) if columns.query else ""
            _encode(group + query, "group")
        except ValueError as fault:
            found.faults.append(f"{name}: {fault}")
        else:
            found.padded += labelled == "one" and row[columns.label] != label and isinstance(row[columns.label], str)
            found.rows[split].append((label, _item(name, texts, group, query)))


def read_text(value: Any) -> bytes:
    """Encode a text; empty where there is none, or only white space. Raises: `ValueError` with what is wrong."""
    if value is None or value != value:  # NaN
        return b""
    if not isinstance(value, str):
        raise ValueError(f"text is no string but {type(value).__name__}")
    return _encode(value, "text") if value.strip() else b""


def _read_label(value: Any) -> str:
    """Return a label's name. Raises: `ValueError` with what is wrong."""
    if isinstance(value, (list, dict, bytes)):
        raise ValueError(f"label is no string or number but {type(value).__name__}")
    label = as_text(value)
    if label in ("", "nan", "NaN"):  # written out by pandas for a missing one
        raise ValueError("no label")
    _encode(label, "label")
    return label


def _read_labels(value: Any) -> str:
    """Return the names of a row's labels, none perhaps, with `SEPARATORS[0]` between them. Raises: `ValueError` with what is wrong."""
    if isinstance(value, list):
        names = [_read_label(one) for one in value]
    else:
        given = as_text(value)
        separator = next((mark for mark in SEPARATORS if mark in given), SEPARATORS[0])
        names = [_read_label(one) for one in given.split(separator) if one.strip()]
    if any(SEPARATORS[0] in name for name in names):
        raise ValueError(f"a label with {SEPARATORS[0]!r} in it")
    return SEPARATORS[0].join(names)


def _read_score(value: Any) -> str:
    """Return a score as text. Raises: `ValueError` with what is wrong."""
    label = _read_label(value)
    if not _NUMBER.fullmatch(label) or abs(float(label)) > LARGEST_SCORE:
        raise ValueError(f"score is no number but {label[:30]!r}" + (", which is too large" if _NUMBER.fullmatch(label) else ""))
    return label


def _encode(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # from an escape in JSON
        raise ValueError(f"{what} has a lone surrogate (U+{ord(text[error.start]):04X} at character {error.start + 1})") from error


def _item(name: str, texts: list[bytes], group: str, query: str) -> Item:
    data = joined(texts)
    return Item(name, -1, lambda: data, group or None, lambda: len(data), likeness_of(data) or None, query or None)


def _check_found(spec: str, found: _Found, in_pairs: bool) -> None:
    """Check the rows of all tables. Raises: `DataError`."""
    if not found.faults and len(found.empty) > MOST_EMPTY * found.count():
        raise DataError(
            f"{spec}: {len(found.empty)} of {found.count()} rows {_lack(in_pairs)}: {first_few(found.empty)}.",
            hint=f"Repair or remove them; up to {MOST_EMPTY:.0%} are skipped. {_hint(in_pairs)}",
        )
    check_rows(spec, found.count(), found.faults, found.rows, f"Give rows with {_wanted(in_pairs)} and a label.")


def _encoding_notes(parts: list[Part]) -> list[str]:
    return [note for part in parts for note in part.table.notes(Path(part.where).name)]


def _column_notes(part: Part, columns: _Chosen, told: Columns) -> list[str]:
    """Say which columns were taken on a guess, and which are not used."""
    guessed = (
        (not told.text and columns.texts[0] != "text") or (not told.label and columns.label != "label") or (len(columns.texts) > 1 and not told.pair)
    )
    of_texts = f"the column {columns.texts[0]}" if len(columns.texts) == 1 else f"the columns {' and '.join(columns.texts)}"
    taken = [f"Texts are taken from {of_texts}, labels from {columns.label}."] if guessed else []
    if columns.query and not told.query:
        taken.append(f"Rows with the same {columns.query} are candidates of one query.")
    unused = [name for name in part.table.columns if name not in columns.used()]
    return taken + ([f"Columns not used: {', '.join(unused)}."] if unused else [])


def _torn_queries(given: dict[str, list[Item]]) -> list[str]:
    """Say which queries the data themselves put into several splits: each part is ranked by itself, which is easier."""
    queries, count = torn(given, lambda item: item.query)
    return [f"{len(queries)} of {count} queries are in more than one split; each part is ranked by itself."] if queries else []


def _row_notes(found: _Found, labels: tuple[str, ...], in_pairs: bool) -> list[str]:
    """Say what was left out or altered, and which labels are alike."""
    notes = []
    if found.empty:
        notes.append(f"{len(found.empty)} of {found.count()} rows {_lack(in_pairs)} and were skipped: {first_few(found.empty)}.")
    if found.padded:
        notes.append(f"White space around the label was removed in {found.padded} rows.")
    alike: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        alike[label.casefold()].append(label)
    pairs = [" and ".join(names) for names in alike.values() if len(names) > 1]
    if pairs:
        notes.append(f"Labels that differ only by case are different classes: {first_few(pairs, '; ')}.")
    return notes
