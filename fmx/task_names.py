"""The tasks by name, and nothing else: for the command line and settings, which load no task."""

from __future__ import annotations

from typing import Final, Literal

IMAGES: Final = "image-classification"
TEXTS: Final = "text-classification"
LABELS: Final = "text-labels"
"""Several labels a text: what `--task text-classification --multi-label` means."""
TOKENS: Final = "token-classification"
PAIRS: Final = "text-pair"
SCORES: Final = "text-scores"
"""Pairs with a score on a scale: what `--task text-pair --scores` means."""
READ_TEXTS = (TEXTS, LABELS, TOKENS, PAIRS, SCORES)
"""What reads tables of texts, with an encoder and its tokenizer."""
IN_PAIRS = (PAIRS, SCORES)
"""What of it reads two texts a row."""

TaskName = Literal["image-classification", "text-classification", "text-labels", "token-classification", "text-pair", "text-scores"]
