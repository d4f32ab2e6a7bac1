"""Texts with their entities: CoNLL files, and tables or data sets whose rows hold a text and spans of characters, or tokens and tags.

Whatever the form, an item is a text and its spans in code points. Tokens are put together with spaces, but for scripts that write none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from fmx.data.conll import ENDINGS, TAG, read_conll
from fmx.data.likeness import likeness_of
from fmx.data.parts import Part, check_column, listed, open_parts
from fmx.data.source import SPLITS, Item, Source, unknown_classes
from fmx.data.splitting import complete_unlabelled
from fmx.data.tables import Reader, as_text, check_rows, first_few, is_placed, read_jsonl, read_parquet, read_split
from fmx.data.text import MOST_EMPTY, TEXT_COLUMNS, Columns, find_column
from fmx.entities import Span, kinds_of, spans_of_tags, tags_of, writes_spaces
from fmx.errors import DataError

READERS: dict[str, Reader] = {".jsonl": read_jsonl, ".parquet": read_parquet, **dict.fromkeys(ENDINGS, read_conll)}
TOKEN_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("tags", "ner_tags", "bio_tags", "labels", "ner")
SPAN_COLUMNS = ("entities", "spans", "ents", "label", "labels", "annotations", "实体")
"""What columns are called that nobody named, the likeliest first."""

_FORMS = 'Give rows such as {"text": "Ada lives in Paris", "entities": [{"start": 13, "end": 18, "label": "LOC"}]}, or with tokens and tags.'


@dataclass(frozen=True)
class _Chosen:
    """Which columns hold what; `text` and `spans`, or `tokens` and tags."""

    text: str
    answer: str
    in_tokens: bool
    split: str | None
    group: str | None


@dataclass
class _Found:
    rows: dict[str, list[Item]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    overlapping: int = 0

    def count(self) -> int:
        return sum(map(len, self.rows.values())) + len(self.empty)


def open_entities(spec: str, seed: int = 0, group_by: str | None = None, columns: Columns | None = None) -> Source:
    """Open texts with their entities; splits that are missing are dealt out of the training rows, seeded.

    Args:
        spec: the path of a CoNLL, `.jsonl` or `.parquet` file or of a folder with such a file a split, or `hf:NAME_OR_PATH[:CONFIG]`.
        seed: of the split, where the data have none.
        group_by: the column that holds the group; default `group` where there is one.
        columns: `text` and `label`, as told: of the text and its entities, or of tokens and their tags.

    Returns:
        A source whose labels are tags (`fmx.entities.tags_of`), and whose items hold a text in UTF-8 and its spans.

    Raises:
        DataError: no such data, a column that is not there, bad rows (all at once), or rows that cannot be learnt from.
        SurroundingsError: a library that reads the format is not installed.
    """
    parts, notes = open_parts(spec, set(), READERS, lists=True)
    train = next((part for part in parts if part.split in ("train", None)), parts[0])
    chosen = _choose_columns(train, columns or Columns(), group_by)
    for part in parts:
        for name in filter(None, (chosen.text, chosen.answer, group_by)):
            check_column(part, name, _FORMS)
    found = _Found()
    for part in parts:
        _read_part(part, chosen, found)
    if not found.faults and len(found.empty) > MOST_EMPTY * found.count():
        what = f"{len(found.empty)} of {found.count()} rows have no text: {first_few(found.empty)}."
        raise DataError(f"{spec}: {what}", hint=f"Repair or remove them; up to {MOST_EMPTY:.0%} are skipped.")
    check_rows(spec, found.count(), found.faults, found.rows, _FORMS)
    given = {split: found.rows[split] for split in SPLITS if split in found.rows}
    tags = tags_of(span.label for item in given["train"] for span in item.spans)
    _check_kinds(spec, given, tags)
    notes += [note for part in parts for note in part.table.notes(Path(part.where).name)]
    if found.empty:
        notes.append(f"{len(found.empty)} of {found.count()} rows have no text and were skipped: {first_few(found.empty)}.")
    if found.overlapping:
        notes.append(f"{found.overlapping} entities overlap others: the one that begins first, or is longer, is learnt.")
    splits = complete_unlabelled(given, seed, spec, "texts")
    for split, items in splits.items():
        if not any(item.spans for item in items):
            raise DataError(f"The {split} rows of {spec} hold no entity; nothing could be measured.", hint="Give more texts with entities.")
    return Source(spec, tags, splits, notes=tuple(notes), has_entities=True)


def _check_kinds(spec: str, given: Mapping[str, Sequence[Item]], tags: tuple[str, ...]) -> None:
    """Check that there are entities to learn, and no others held out. Raises: `DataError`."""
    kinds = kinds_of(tags)
    if not kinds:
        raise DataError(f"The training rows of {spec} hold no entity.", hint=_FORMS)
    for split, items in given.items():
        unknown = sorted({span.label for item in items for span in item.spans} - set(kinds))
        if unknown:
            raise unknown_classes(f"{spec} ({split})", unknown)


def _choose_columns(part: Part, told: Columns, group_by: str | None) -> _Chosen:
    """Find the columns that are not told. Raises: `DataError`."""
    columns = part.table.columns
    if not part.table.rows:
        check_rows(part.where, 0, part.table.faults, (), _FORMS)
    for name in filter(None, (told.text, told.label, group_by)):
        check_column(part, name, _FORMS)
    has_spans = find_column(columns, TEXT_COLUMNS) and find_column(columns, SPAN_COLUMNS[:3])
    text = told.text or (None if has_spans else find_column(columns, TOKEN_COLUMNS)) or find_column(columns, TEXT_COLUMNS)
    in_tokens = text is not None and any(isinstance(row.get(text), list) for _, row in part.table.rows)
    answer = told.label or find_column(columns, TAG_COLUMNS if in_tokens else SPAN_COLUMNS)
    if text is None or answer is None or text == answer:
        raise DataError(f"{part.where} has no text with its entities, nor tokens with tags; its columns: {listed(columns)}.", hint=_FORMS)
    split = None if part.split else find_column(columns, ("split",))
    return _Chosen(text, answer, in_tokens, split, group_by or find_column(columns, ("group",)))


def _read_part(part: Part, columns: _Chosen, found: _Found) -> None:
    found.faults += [part.prefix + fault for fault in part.table.faults]
    placed = columns.split is not None and is_placed(part.table.rows, columns.split)
    for place, row in part.table.rows:
        name = part.prefix + place
        try:
            text, spans = (_of_tokens if columns.in_tokens else _of_text)(row.get(columns.text), row.get(columns.answer))
            if not text.strip():
                found.empty.append(name)
                continue
            data = text.encode()
            split = part.split or read_split(row.get(columns.split or ""), placed)
        except UnicodeEncodeError as error:
            found.faults.append(f"{name}: the text has a lone surrogate (U+{ord(text[error.start]):04X} at character {error.start + 1})")
        except ValueError as fault:
            found.faults.append(f"{name}: {fault}")
        else:
            ends = [0, *accumulate((span.end for span in spans), max)]
            found.overlapping += sum(span.start < end for span, end in zip(spans, ends, strict=False))
            found.rows[split].append(_item(name, data, spans, as_text(row.get(columns.group)) if columns.group else ""))


def _item(name: str, data: bytes, spans: Sequence[Span], group: str) -> Item:
    return Item(name, 0, lambda: data, group or None, lambda: len(data), likeness_of(data) or None, spans=tuple(spans))


def _of_tokens(tokens: Any, tags: Any) -> tuple[str, list[Span]]:
    """Put tokens together to a text, and read spans out of their tags. Raises: `ValueError` with what is wrong."""
    if tokens is None:
        return "", []
    if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
        raise ValueError("there are not as many tags as tokens")
    if not all(isinstance(token, str) and token.strip() for token in tokens):
        raise ValueError("a token is no text")
    wrong = [tag for tag in tags if not isinstance(tag, str) or not TAG.fullmatch(tag) or not tag.isprintable()]
    if wrong:
        raise ValueError(f"{wrong[0]!a} is no tag of BIO or BIOES")
    text, places = joined_tokens([token.strip() for token in tokens])
    return text, [Span(kind, places[first][0], places[end - 1][1]) for kind, first, end in spans_of_tags(tags)]


def joined_tokens(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Put tokens together with spaces, but beside characters of scripts that write none; give each one's start and end."""
    text, places = "", []
    for token in tokens:
        if text and writes_spaces(text[-1]) and writes_spaces(token[0]):
            text += " "
        places.append((len(text), len(text) + len(token)))
        text += token
    return text, places


def _of_text(text: Any, entities: Any) -> tuple[str, list[Span]]:
    """Read a text and its spans. Raises: `ValueError` with what is wrong."""
    if text is None:
        return "", []
    if not isinstance(text, str):
        raise ValueError(f"text is no string but {type(text).__name__}")
    if entities is None:
        entities = []
    if isinstance(entities, dict) and entities and all(isinstance(values, list) for values in entities.values()):  # as `datasets` gives lists of them
        entities = [dict(zip(entities, values, strict=False)) for values in zip(*entities.values(), strict=False)]
    if not isinstance(entities, list):
        raise ValueError(f"entities are no list but {type(entities).__name__}")
    return text, sorted((_span(text, entity) for entity in entities), key=lambda span: (span.start, -span.end))


def _span(text: str, entity: Any) -> Span:
    """Read one entity: an object with start, end and a label, or the three in a list, in either order."""
    if isinstance(entity, dict):
        label = next((entity[name] for name in ("label", "type", "tag", "entity", "entity_type", "kind") if isinstance(entity.get(name), str)), None)
        start, end = (next((entity[name] for name in names if name in entity), None) for names in (("start", "start_offset"), ("end", "end_offset")))
    elif isinstance(entity, (list, tuple)) and len(entity) == 3:
        label, start, end = entity if isinstance(entity[0], str) else (entity[2], entity[0], entity[1])
    else:
        raise ValueError("an entity is no object with start, end and label")
    if not isinstance(label, str) or not label.strip():
        raise ValueError("an entity has no label")
    if not label.strip().isprintable():  # a lone surrogate is not, nor what would break a line
        raise ValueError(f"an entity's label {label!a} cannot be written on a line")
    if isinstance(start, bool) or isinstance(end, bool) or not isinstance(start, int) or not isinstance(end, int):
        raise ValueError("an entity's start and end are no whole numbers")
    if not 0 <= start < end <= len(text):
        raise ValueError(f"an entity from {start} to {end} is not in the text of {len(text)} characters")
    if not text[start:end].strip():
        raise ValueError(f"an entity from {start} to {end} is white space")
    return Span(label.strip(), start, end)
