"""Text classification: a text in, its labels with scores out."""

from __future__ import annotations

from pathlib import Path

from fmx.contract import TextInput
from fmx.tasks.task import Task
from fmx.texts import TOKENIZER_FILE, TextReader, open_tokenizer


class TextClassification(Task):
    """Rows are token ids, int32 [max_length]; outputs are probabilities float32 [classes]."""

    name = "text-classification"
    input_name = "input_ids"
    content_types = ("text/plain",)
    tensor = "text"
    noun = "text"
    large_bytes = 20_000

    def __init__(self, labels: tuple[str, ...], spec: TextInput, folder: Path | None = None) -> None:
        tokenizer = open_tokenizer(folder / TOKENIZER_FILE, spec.tokenizer_sha256) if folder is not None else None
        super().__init__(labels, TextReader(spec, tokenizer), spec)
