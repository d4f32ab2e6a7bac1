"""Reference statistics: what inputs and outputs looked like at export, for drift to be told later. No row can be recovered from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmx.data.rows import Rows
from fmx.drift import CLASS_SHARE, EMBEDDING_CENTRE, TOPS, centre_of, counts_of, distances_from, edges
from fmx.entities import IGNORED, summary_of
from fmx.statistics import as_shares
from fmx.tasks import Task

CHUNK = 256


def reference_statistics(task: Task, rows: Rows, probabilities: np.ndarray, embeddings: np.ndarray | None = None) -> dict[str, Any]:
    """Describe test rows and answers.

    Args:
        task: of the model.
        rows: of the test split.
        probabilities: of the variant that is served, float [n, classes], of tokens [n, max_length, classes], of several labels [n, labels, 2].
        embeddings: of the same variant, float32 [n, width], where it gives any.

    Returns:
        Histograms with fixed edges of the features of `fmx.drift`, a value a row, the share of each predicted class, and the centre of embeddings.
    """
    facts_of_rows, centre = rows.facts, None
    if embeddings is not None:
        centre = centre_of(embeddings)
        facts_of_rows = {**facts_of_rows, "embedding_distance": distances_from(centre, embeddings)}
    if rows.has_several:
        probabilities = as_shares(probabilities[..., 1])
    elif rows.has_tags:
        probabilities = np.stack([summary_of(said[tags != IGNORED]) for said, tags in zip(probabilities, rows.labels, strict=True)])
    chunks = []
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        facts = {name: values[part] for name, values in facts_of_rows.items()}
        chunks.append(counts_of({**task.features(rows.values[part]), **facts}, probabilities[part]))
    counts = {name: np.sum([chunk[name] for chunk in chunks], axis=0) for name in chunks[0]}
    share = counts[CLASS_SHARE] / len(rows)
    return {
        "rows": len(rows),
        **{name: {"edges": edges(top), "counts": counts[name].tolist()} for name, top in TOPS.items() if name in counts},
        CLASS_SHARE: {label: round(float(value), 6) for label, value in zip(task.labels, share, strict=True)},
        **({EMBEDDING_CENTRE: [round(float(value), 6) for value in centre]} if centre is not None else {}),
    }
