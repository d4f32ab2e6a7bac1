"""The tasks: one file each says how an input becomes a model row and how outputs become predictions, in numpy and Pillow alone."""

from __future__ import annotations

from fmx.errors import PackageError, nearest_names
from fmx.tasks.image_classification import ImageClassification

TASKS = {ImageClassification.name: ImageClassification}


def task_named(name: str) -> type[ImageClassification]:
    """Return a task's class.

    Raises:
        PackageError: no such task in this version of fmx.
    """
    if name not in TASKS:
        raise PackageError(f"This fmx knows no task {name!r}.", hint=f"Known: {', '.join(TASKS)}. {nearest_names(name, list(TASKS))}".strip())
    return TASKS[name]
