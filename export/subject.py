"""What is exported, and the rows it is judged on: a run's network, its data as they were at the training, and the eager reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.device import choose_device
from finetune.evaluation import eager_probabilities
from finetune.network import Network, restore_network
from fmx.contract import ModelContract
from fmx.data import reopen_source
from fmx.data.rows import Rows, read_splits
from fmx.errors import DataError
from fmx.run import Run


@dataclass(frozen=True)
class Subject:
    """A run that is being exported."""

    run: Run
    network: Network
    rows: dict[str, Rows]
    contract: ModelContract
    eager: np.ndarray
    """The eager network's probabilities on the test rows: float64 [n, classes]"""


def open_subject(run: Run, say: Callable[[str], None]) -> Subject:
    """Open a run with its data.

    Raises:
        DataError: the rows are not those that the run was trained with.
        ModelError: the network cannot be rebuilt.
    """
    info = run.info
    source = reopen_source(info.settings)
    rows = read_splits(source, info.input)
    for split, expected in info.rows.items():
        if rows[split].fingerprint != expected:
            raise DataError(
                f"The {split} rows of {source.name} are not those that {info.name} was trained with.",
                hint="Bring the data back as they were, or train again with: fmx train",
            )
    network = restore_network(run)
    eager = eager_probabilities(network, rows["test"], choose_device("cpu"))
    say(f"{info.name}: {info.model}, {len(info.labels)} classes, judged on {len(rows['test'])} test rows.")
    return Subject(run, network, rows, ModelContract(task=info.task, labels=info.labels, input=info.input), eager)
