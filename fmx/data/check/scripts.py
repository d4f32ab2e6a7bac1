"""In which scripts texts are written, and whether the splits are alike in that, or in their languages (languages.py)."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from fmx.data.check.findings import Finding, finding
from fmx.texts import LOOKED_AT

SCRIPTS = ("Latin", "Han", "Kana", "Hangul", "Cyrillic", "Arabic", "Hebrew", "Devanagari", "Thai", "Greek", "other")
"""Texts without a letter are `other`."""
MOST_SHIFT = 0.20
"""Difference of a share from the training split's above which a split is of other texts"""
LEAST_TEXTS = 30
"""Texts a split needs for its shares to say anything"""
_BY_WORD = {
    "LATIN": "Latin",
    "CJK": "Han",
    "IDEOGRAPHIC": "Han",
    "HIRAGANA": "Kana",
    "KATAKANA": "Kana",
    **{script.upper(): script for script in ("Hangul", "Cyrillic", "Arabic", "Hebrew", "Devanagari", "Thai", "Greek")},
}
"""The words of a character's Unicode name that tell its script"""


def script_shares(text: str) -> dict[str, float]:
    """Give the share of each script among a text's letters; they sum to 1."""
    letters: Counter[str] = Counter()
    for character, count in Counter(text[:LOOKED_AT]).items():
        if character.isalpha():
            letters[_script_of(character)] += count
    total = letters.total()
    return {script: count / total for script, count in letters.items()} if total else {"other": 1.0}


def mean_shares(texts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average the shares of texts, of scripts or of languages, each text counting the same: the largest first."""
    sums: Counter[str] = Counter()
    for shares in texts:
        sums.update(shares)
    return {name: total / len(texts) for name, total in sums.most_common()}


def shift_findings(kind: str, splits: Mapping[str, Sequence[Mapping[str, float]]]) -> tuple[Finding, ...]:
    """Report splits that are written in other scripts, or languages, than the training split.

    Args:
        kind: of the finding.
        splits: the `script_shares` of every text, by split, or its language as a share of 1.
    """
    train = splits.get("train", ())
    learnt = mean_shares(train)
    shifted = []
    for split, texts in splits.items():
        if split == "train" or min(len(texts), len(train)) < LEAST_TEXTS:
            continue
        shares = mean_shares(texts)
        script = max(sorted({*shares, *learnt}), key=lambda name: (abs(shares.get(name, 0.0) - learnt.get(name, 0.0)), learnt.get(name, 0.0)))
        share, usual = shares.get(script, 0.0), learnt.get(script, 0.0)
        if abs(share - usual) > MOST_SHIFT:
            shifted.append(f"{split} ({script} {share:.0%}, in train {usual:.0%})")
    return finding(kind, shifted, noun="text")


@functools.lru_cache(maxsize=1 << 16)
def _script_of(character: str) -> str:
    words = re.split("[ -]", unicodedata.name(character, ""))
    return next((_BY_WORD[word] for word in words if word in _BY_WORD), "other")
