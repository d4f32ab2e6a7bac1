"""The eager network's answers on held-out rows: the reference that every exported variant is compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from finetune.network import Network, restore_network
from finetune.text_models import EmbeddingBody, TextBody, TokenBody
from fmx.contract import TextInput
from fmx.data import GUESSED, Columns, columns_with, split_of
from fmx.data.rows import Rows
from fmx.errors import ModelError
from fmx.evaluation import Evaluation, describe_answers, judgement_of, labelled_rows
from fmx.progress import progress
from fmx.run import Run, task_of
from fmx.statistics import accuracy_of, softmax
from fmx.texts import spread_answers


def eager_logits(network: Network, rows: Rows, device: torch.device, batch_size: int = 64) -> np.ndarray:
    """Give the network's logits for every row, in full precision: float32 [n, classes], of tokens [n, max_length, classes]."""
    network.eval()
    return _in_batches(network, network, rows, device, batch_size)


def eager_embeddings(network: Network, rows: Rows, batch_size: int = 64) -> np.ndarray:
    """Give the embedding of every row of texts, on the CPU: float32 [n, width], each of length 1."""
    if not isinstance(network.body, TextBody):
        raise ModelError("This network gives no embeddings.", hint="This needs a model of texts.")
    body = EmbeddingBody(network.body).eval()
    return _in_batches(network, lambda batch: body(network.prepare(batch))[1], rows, torch.device("cpu"), batch_size)


@torch.inference_mode()
def _in_batches(network: Network, run: Callable[[Tensor], Tensor], rows: Rows, device: torch.device, batch_size: int) -> np.ndarray:
    """Run a network's rows in the order that is fastest, and give float32 answers in theirs."""
    answers, order = [], network.rows.order(rows.values)
    with progress("evaluating", len(rows)) as advance:
        for start in range(0, len(rows), batch_size):
            batch = torch.from_numpy(rows.values[order[start : start + batch_size]]).to(device)
            found = run(batch).float().cpu().numpy()
            if isinstance(network.body, TokenBody) and isinstance(network.spec, TextInput) and found.ndim == 3:
                found = spread_answers(found, batch.cpu().numpy(), network.spec.pad_id)
            answers.append(found)
            advance(len(batch))
    return np.asarray(np.concatenate(answers)[np.argsort(order)])


def eager_probabilities(network: Network, rows: Rows, device: torch.device) -> np.ndarray:
    """Give the network's probabilities for every row: float64, of the shape of `eager_logits`."""
    return softmax(eager_logits(network, rows, device))


def eager_accuracy(network: Network, rows: Rows) -> float:
    """Give the share of rows, or of the units of texts, that a network answers rightly, on the device where it lives."""
    return accuracy_of(rows.picked(eager_logits(network, rows, next(network.parameters()).device)), rows.targets).value


def eager_judgement(network: Network, rows: Rows, labels: tuple[str, ...]) -> float:
    """Give what a network's epochs are judged by, on the device where it lives (`fmx.evaluation.judgement_of`)."""
    return judgement_of(eager_probabilities(network, rows, next(network.parameters()).device), rows, labels)


def evaluate_run(
    run: Run, data: str, device: torch.device, *, split_seed: int | None = None, group_by: str | None = None, columns: Columns = GUESSED
) -> Evaluation:
    """Measure a run's eager network on the test rows of a source, as `fmx.evaluation.evaluate_package` does a package."""
    info = run.info
    seed, group_by = split_of(info.settings, data, split_seed, group_by)
    rows = labelled_rows(data, seed, group_by, task_of(run), info.name, columns_with(info.settings, data, columns, info.task))
    probabilities = eager_probabilities(restore_network(run).to(device), rows, device)
    facts = {"run": info.name, "package": None, "data": data, "rows_of_run": rows.fingerprint == info.rows.get("test")}
    return describe_answers(facts, info.labels, probabilities, rows)
