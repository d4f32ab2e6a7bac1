"""What is exported, and the rows it is judged on: a run's network, its data as they were at the training, and the eager reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from export.stages import Key, Stages, key_of
from finetune.device import choose_device
from finetune.evaluation import eager_probabilities
from finetune.network import Network, restore_network
from finetune.text_models import TextBody
from fmx.contract import ClassesOutput, EmbeddingOutput, ModelContract, Output, ScoresOutput, SeveralOutput, TagsOutput
from fmx.data import reopen_source
from fmx.data.rows import Rows, read_splits
from fmx.errors import DataError
from fmx.run import Run, task_of
from fmx.task_names import LABELS, SCORES, TOKENS
from fmx.tasks import Task

Say = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A run that is being exported."""

    run: Run
    network: Network
    rows: dict[str, Rows]
    contract: ModelContract
    task: Task
    eager: dict[str, np.ndarray]
    """The run's eager network's probabilities on the validation and test rows: float64 [n, classes], of tokens [n, max_length, classes]"""
    key: Key
    """Of the network, for the stages that build on it."""
    may_flip: bool
    """Whether a mirrored image keeps its label."""


def key_of_run(run: Run) -> Key:
    """Give the key of a run's network with its temperature."""
    return key_of(
        "network",
        weights=run.info.weights_sha256,
        temperature=run.info.temperature,
        **({"thresholds": run.info.thresholds} if run.info.thresholds else {}),
        input=run.info.input.model_dump(mode="json"),
        files=run.info.files,
    )


def key_of_answers(run: Run, split: str) -> Key:
    """Give the key of a run's eager answers to a split."""
    return key_of("eager", key_of_run(run), rows=run.info.rows[split].sha256)


def open_subject(run: Run, stages: Stages, say: Say, *, embedding: bool = False) -> Subject:
    """Open a run with its data, to be exported with its embedding or without.

    Raises:
        DataError: the rows are not those that the run was trained with.
        ModelError: the network cannot be rebuilt.
    """
    info = run.info
    source = reopen_source(info.settings)
    task = task_of(run)
    rows = read_splits(source, task)
    for split, expected in info.rows.items():
        if rows[split].fingerprint != expected:
            raise DataError(
                f"The {split} rows of {source.name} are not those that {info.name} was trained with.",
                hint="Bring the data back as they were, or train again with: fmx train",
            )
    network = restore_network(run)
    eager = {split: stages.array(key_of_answers(run, split), _answers(network, rows[split])) for split in ("validation", "test")}
    say(f"{info.name}: {info.model}, {len(info.labels)} classes, judged on {len(rows['test'])} test rows.")
    outputs: dict[str, Output] = {TOKENS: TagsOutput(), LABELS: SeveralOutput(), SCORES: ScoresOutput()}
    output = outputs.get(task.name, ClassesOutput())
    contract = ModelContract(
        task=info.task, labels=info.labels, input=info.input, output=output, embedding=_embedding_of(network) if embedding else None
    )
    return Subject(run, network, rows, contract, task, eager, key_of_run(run), source.may_flip)


def _embedding_of(network: Network) -> EmbeddingOutput:
    assert isinstance(network.body, TextBody)  # of a run of texts, which alone is asked for one
    return EmbeddingOutput(width=network.body.classifier.in_features)


def _answers(network: Network, rows: Rows) -> Callable[[], np.ndarray]:
    return lambda: eager_probabilities(network, rows, choose_device("cpu"))
