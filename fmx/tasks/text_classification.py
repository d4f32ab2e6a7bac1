"""Text classification: a text in, its labels with scores out."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from fmx.contract import TextInput
from fmx.task_names import TEXTS
from fmx.tasks.task import Task
from fmx.texts import TextReader

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TextClassification(Task):
    """Rows are token ids, int32 [max_length]; outputs are probabilities float32 [classes]."""

    name = TEXTS
    input_name = "input_ids"
    content_types: ClassVar[tuple[str, ...]] = ("text/plain",)
    tensor = "text"
    noun = "text"
    large_bytes = 20_000
    texts: ClassVar[Literal[1, 2]] = 1
    """Of one row."""

    def __init__(self, labels: tuple[str, ...], spec: TextInput, tokenizer: Tokenizer | None = None) -> None:
        self._reader = TextReader(spec, tokenizer)
        super().__init__(labels, self._reader, spec)
