"""The tasks: one file each says how an input becomes a model row and how outputs become predictions, without torch."""

from __future__ import annotations

from pathlib import Path

from fmx.contract import ImageInput, TextInput
from fmx.errors import PackageError, UsageError, nearest_names
from fmx.tasks.image_classification import ImageClassification
from fmx.tasks.task import Answer, Piece, Task
from fmx.tasks.text_classification import TextClassification
from fmx.tasks.text_labels import TextLabels
from fmx.tasks.text_pair import TextPair
from fmx.tasks.text_scores import TextScores
from fmx.tasks.token_classification import TokenClassification
from fmx.texts import TOKENIZER_FILE, open_tokenizer

TEXT_TASKS: dict[str, type[TextClassification]] = {
    task.name: task for task in (TextClassification, TextLabels, TokenClassification, TextPair, TextScores)
}
TASKS: dict[str, type[ImageClassification] | type[TextClassification]] = {ImageClassification.name: ImageClassification, **TEXT_TASKS}

__all__ = [
    "TASKS",
    "TEXT_TASKS",
    "Answer",
    "ImageClassification",
    "Piece",
    "Task",
    "TextClassification",
    "TextLabels",
    "TextPair",
    "TextScores",
    "TokenClassification",
    "open_task",
    "require_images",
    "require_texts",
]


def open_task(name: str, labels: tuple[str, ...], spec: ImageInput | TextInput, folder: Path | None = None) -> Task:
    """Open a task for a model.

    Args:
        name: of the task.
        labels: the model's.
        spec: what its inputs are made into.
        folder: of the run or package, where its tokenizer lies; without it a text task turns no texts into rows.

    Raises:
        PackageError: no such task in this version of fmx, one that does not take such inputs, or a tokenizer that is not the model's.
    """
    if name not in TASKS:
        raise PackageError(f"This fmx knows no task {name!r}.", hint=f"Known: {', '.join(TASKS)}. {nearest_names(name, list(TASKS))}".strip())
    if name == ImageClassification.name and isinstance(spec, ImageInput):
        return ImageClassification(labels, spec)
    if name in TEXT_TASKS and isinstance(spec, TextInput) and spec.texts == TEXT_TASKS[name].texts:
        tokenizer = open_tokenizer(folder / TOKENIZER_FILE, spec.tokenizer_sha256) if folder is not None else None
        return TEXT_TASKS[name](labels, spec, tokenizer)
    raise PackageError(f"{name} does not take inputs of the kind {spec.kind!r}.", hint="The contract was altered: export again.")


def require_images(spec: ImageInput | TextInput, what: str) -> ImageInput:
    """Give an image model's input contract. Raises: `UsageError`: `what` is asked of a model that reads something else."""
    if not isinstance(spec, ImageInput):
        raise UsageError(f"{what} is for models of images; this one reads texts.", hint="Leave it out, or name a model of images.")
    return spec


def require_texts(spec: ImageInput | TextInput, what: str) -> TextInput:
    """Give a text model's input contract. Raises: `UsageError`: `what` is asked of a model that reads something else."""
    if not isinstance(spec, TextInput):
        raise UsageError(f"{what} is for models of texts; this one reads images.", hint="Leave it out, or name a model of texts.")
    return spec
