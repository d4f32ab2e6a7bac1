"""Every text of a source read once: counts, lengths, scripts, copies, and personal data. Memory stays below 1 KB a text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmx.data.check.checked import Checked
from fmx.data.check.classes import class_findings, class_names, count_rows
from fmx.data.check.duplicates import Table, exact_findings, table_of
from fmx.data.check.findings import Finding, Severity, finding, worst_first
from fmx.data.check.languages import MISSING, UNTOLD, language_teller
from fmx.data.check.scripts import mean_shares, shift_findings
from fmx.data.check.text_duplicates import normalised_findings
from fmx.data.check.texts import TextFacts, read_text_facts
from fmx.data.parallel import in_threads
from fmx.data.rows import MOST_UNREADABLE
from fmx.data.source import Source
from fmx.texts import MAX_LENGTH, encoded, open_tokenizer

MOST_APART = 0.2
"""Of the scale, between the scores of copies"""
MANY_LONG = 0.10
"""Share of texts that are cut above which it is a warning"""


@dataclass(frozen=True)
class Lengths:
    """How long the texts are that can be used."""

    unit: str
    """tokens, special ones included, or characters"""
    least: int
    median: int
    p95: int
    most: int
    max_length: int | None = None
    """The window they are compared with; None for characters"""
    longer_share: float | None = None
    """Share of the texts that are longer than the window"""


@dataclass(frozen=True)
class TextCheck(Checked):
    """What a source of texts holds, and what is wrong with it."""

    lengths: Lengths | None
    """None where no text can be used"""
    scripts: dict[str, dict[str, float]]
    """By split: the shares of scripts among letters, each text counting the same"""
    languages: dict[str, dict[str, float]]
    """By split: the shares of texts in a language; empty where they are not told apart"""

    def facts_json(self) -> dict[str, Any]:
        """Return the lengths, scripts and languages."""
        return {"lengths": asdict(self.lengths) if self.lengths else None, "scripts": self.scripts, "languages": self.languages}


def check_texts(source: Source, *, near: bool = True, tokenizer: Path | None = None, max_length: int = MAX_LENGTH, noun: str = "text") -> TextCheck:
    """Read every text of a source and say what is wrong with the data; no finding shows anything of a text.

    Args:
        source: labelled texts, or pairs of them, whose items give UTF-8.
        near: look for copies that differ only in case, width, spaces, invisible characters or final punctuation too.
        tokenizer: a tokenizer.json to measure lengths with; characters are counted without.
        max_length: of the model's window in tokens, with a tokenizer.
        noun: what the rows are: text or pair.

    Raises:
        PackageError: the tokenizer cannot be read.
        SurroundingsError: a tokenizer is given, and `tokenizers` is not installed.
    """
    items = [(split, item) for split, found in source.splits.items() for item in found]
    measure = _token_count(tokenizer) if tokenizer is not None else _character_count
    tell_language = language_teller()
    facts: list[TextFacts] = [TextFacts(b"", ())] * len(items)

    def read(index: int) -> None:
        facts[index] = read_text_facts(items[index][1], measure, tell_language)

    in_threads(read, len(items), "checking texts")
    table = table_of(source, items, [fact.digest for fact in facts], noun)
    window = max_length if tokenizer is not None else None
    counts = count_rows(source)
    scripts = _by_split(table, facts, lambda fact: fact.scripts)
    languages = _by_split(table, facts, lambda fact: {fact.language: 1.0}) if tell_language is not None else {}
    return TextCheck(
        source=source.name,
        labels=class_names(source),
        counts=counts,
        rows={split: len(found) for split, found in source.splits.items()},
        notes=source.notes if tell_language is not None else (*source.notes, MISSING),
        lengths=_lengths(facts, window),
        scripts={split: mean_shares(shares) for split, shares in scripts.items()},
        languages={split: mean_shares(shares) for split, shares in languages.items()},
        findings=worst_first(
            [
                *class_findings(source, counts, noun),
                *exact_findings(table),
                *_scores_apart(source, table, [item.score for _, item in items]),
                *(normalised_findings(table, [fact.normalised for fact in facts]) if near else ()),
                *_marked(table, facts),
                *_unusable(table, facts),
                *(_long(table, facts, window) if not source.has_entities else ()),
                *shift_findings("script-shift", scripts),
                *shift_findings("language-shift", {split: [share for share in shares if UNTOLD not in share] for split, shares in languages.items()}),
            ]
        ),
    )


def _scores_apart(source: Source, table: Table, scores: list[float | None]) -> tuple[Finding, ...]:
    """Report copies whose scores are far apart."""
    if not source.has_scores:
        return ()
    span = MOST_APART * float(np.ptp([score for score in scores if score is not None]))
    rows: dict[bytes, list[int]] = defaultdict(list)
    for place, digest in enumerate(table.digests):
        if digest:
            rows[digest].append(place)
    apart = []
    for places in rows.values():
        low, high = min(places, key=lambda i: scores[i] or 0.0), max(places, key=lambda i: scores[i] or 0.0)
        if (scores[high] or 0.0) - (scores[low] or 0.0) > span:
            apart.append(f"{table.names[low]} ({scores[low]:g}) and {table.names[high]} ({scores[high]:g})")
    return finding("scores-apart", apart, noun=table.noun)


def _token_count(path: Path) -> Callable[[list[str]], int]:
    tokenizer = open_tokenizer(path)
    return lambda texts: len(encoded(tokenizer, texts).ids)


def _character_count(texts: list[str]) -> int:
    return sum(map(len, texts))


def _by_split(table: Table, facts: list[TextFacts], shares_of: Callable[[TextFacts], dict[str, float]]) -> dict[str, list[dict[str, float]]]:
    """Gather the shares of the usable texts."""
    shares: dict[str, list[dict[str, float]]] = defaultdict(list)
    for split, fact in zip(table.splits, facts, strict=True):
        if fact.usable:
            shares[split].append(shares_of(fact))
    return dict(shares)


def _lengths(facts: list[TextFacts], window: int | None) -> Lengths | None:
    found = np.array([fact.length for fact in facts if fact.usable], dtype=np.int64)
    if not len(found):
        return None
    least, median, p95, most = (int(value) for value in np.percentile(found, (0, 50, 95, 100), method="higher"))
    if window is None:
        return Lengths("characters", least, median, p95, most)
    return Lengths("tokens", least, median, p95, most, window, float(np.mean(found > window)))


def _marked(table: Table, facts: list[TextFacts]) -> list[Finding]:
    marked: dict[str, list[str]] = defaultdict(list)
    for index, fact in enumerate(facts):
        for kind, detail in fact.marks:
            marked[kind].append(table.describe(index) + (f": {detail}" if detail else ""))
    return [one for kind, names in marked.items() for one in finding(kind, names, noun=table.noun)]


def _unusable(table: Table, facts: list[TextFacts]) -> tuple[Finding, ...]:
    """Report texts that cannot be used where they are more than training accepts."""
    unusable = [table.describe(index) for index, fact in enumerate(facts) if not fact.usable]
    return finding("many-unreadable", unusable if len(unusable) > MOST_UNREADABLE * len(facts) else [], noun=table.noun)


def _long(table: Table, facts: list[TextFacts], window: int | None) -> tuple[Finding, ...]:
    if window is None:
        return ()
    long = [f"{table.describe(index)}: {fact.length:,} tokens" for index, fact in enumerate(facts) if fact.length > window]
    severity: Severity = "warning" if len(long) > MANY_LONG * sum(fact.usable for fact in facts) else "note"
    return finding("long", long, severity, table.noun)
