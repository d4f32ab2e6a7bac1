"""A wider vocabulary: what the training texts often say and a tokenizer does not know becomes tokens of its own.

Only where a tokenizer has a token for what is unknown is anything lost: byte-level ones spell everything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from fmx.errors import UsageError

LEAST_COUNT = 2
"""A word that is said once teaches an embedding nothing."""
TABLES = ("WordPiece", "WordLevel")
"""Models of tokenizers whose vocabulary is a table of words and pieces."""


def unknown_words(tokenizer: Any, unknown_id: int | None, texts: Iterable[str], most: int) -> list[str]:
    """Find the words, of scripts without spaces the characters, that a tokenizer does not know.

    Args:
        tokenizer: of `tokenizers`.
        unknown_id: its token for what is unknown; without one nothing is.
        texts: to be trained on.
        most: how many.

    Returns:
        As the tokenizer cuts and normalises them, the most frequent first, of those that are said at least `LEAST_COUNT` times.
    """
    if unknown_id is None or tokenizer.pre_tokenizer is None:
        return []
    counts: Counter[str] = Counter()
    for text in texts:
        normalised = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer is not None else text
        counts.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalised))
    frequent = sorted((word for word, count in counts.items() if count >= LEAST_COUNT), key=lambda word: (-counts[word], word))
    return [word for word in frequent if any(token.id == unknown_id for token in tokenizer.model.tokenize(word))][:most]


def widen(serialised: str, words: Sequence[str]) -> tuple[str, int]:
    """Add words to a tokenizer.

    Args:
        serialised: its tokenizer.json.
        words: from `unknown_words`.

    Returns:
        The new tokenizer.json, and one more than its highest id.

    Raises:
        UsageError: its vocabulary is no table of words.
    """
    content = json.loads(serialised)
    model = content["model"]
    if model.get("type") not in TABLES:
        raise UsageError(
            f"--extend-vocab is for tokenizers with a table of words; this one's model is {model.get('type')}.",
            hint="Leave it out, or use a model of the BERT family.",
        )
    taken = [*model["vocab"].values(), *(token["id"] for token in content.get("added_tokens", ()))]
    first = max(taken) + 1
    model["vocab"] |= {word: first + place for place, word in enumerate(words)}
    return json.dumps(content, ensure_ascii=False), first + len(words)


def unknown_share(tokenizer: Any, unknown_id: int | None, texts: Iterable[str]) -> float:
    """Give the share of the tokens of texts that are unknown."""
    unknown = total = 0
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        unknown += ids.count(unknown_id)
        total += len(ids)
    return unknown / max(1, total)
