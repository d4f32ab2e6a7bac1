"""The float graph: exported by whichever of torch's exporters writes one that computes what the network computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx

from export import measure, rewrite
from export.exporter import Exporter, export_body, exporters_for
from export.graph import serving_graph
from export.stages import Key, Stages, key_of
from finetune.network import Network
from fmx.contract import ModelContract
from fmx.errors import ExportError, FmxError, PackageError
from fmx.host import usable_cpus
from fmx.predictor import Predictor

MOST_BYTES = 1_500_000_000
"""Weights stay inside the file below this; protobuf itself ends at 2 GB."""

NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class FloatGraph:
    """A float body that was found to compute what its network computes."""

    body: onnx.ModelProto
    exporter: Exporter
    key: Key
    predictor: Predictor
    """The body as it serves, opened."""
    refused: str = ""
    """Why the exporter before this one was not taken."""


def key_of_body(network: Key, opset: int, *, embedding: bool = False) -> Key:
    """Give the key of the float body."""
    return key_of("body", network, opset=opset, embedding=embedding)


def draw_float(network: Network, key: Key, contract: ModelContract, rows: np.ndarray, opset: int, stages: Stages) -> FloatGraph:
    """Export a network, falling back to the other exporter where one fails or writes a graph that computes something else.

    Args:
        network: eager.
        key: its stage.
        contract: of the package.
        rows: real rows on which parity is checked, uint8 [n, height, width, 3].
        opset: to be written.
        stages: keeps the body between exports; parity is checked each time all the same.

    Raises:
        ExportError: no exporter writes a graph that computes what the network computes.
    """
    refusals: list[FmxError] = []
    for exporter in exporters_for(opset):
        own = replace(key_of_body(key, opset, embedding=contract.embedding is not None), stage=f"body-{exporter}")
        try:
            body = stages.model(own, _drawn(network, contract, opset, exporter))
            predictor = open_graph(serving_graph(body, contract, NO_DIGEST), contract)
            measure.check_parity(network, predictor, rows)
        except (ExportError, PackageError) as error:
            stages.forget(own)
            refusals.append(error)
            continue
        reason = refusals[0].message.partition(":")[0] if refusals else ""  # what is behind the colon may hold a path of this machine
        return FloatGraph(body, exporter, own, predictor, reason)
    raise refusals[0]


def _drawn(network: Network, contract: ModelContract, opset: int, exporter: Exporter) -> Callable[[], onnx.ModelProto]:
    def draw() -> onnx.ModelProto:
        body = export_body(network, contract.input, opset, exporter, embedding=contract.embedding.name if contract.embedding else None)
        rewrite.pool_reduced_maps(body)
        if body.ByteSize() > MOST_BYTES:
            raise ExportError(f"The graph has {body.ByteSize() / 1e9:.1f} GB; a file of a package holds at most 1.5.", hint="Use a smaller --model.")
        return body

    return draw


def open_graph(model: onnx.ModelProto, contract: ModelContract, *, exact: bool = False) -> Predictor:
    """Open a serving graph as the server would, on every usable CPU."""
    return Predictor(model.SerializeToString(), contract, threads=usable_cpus(), exact=exact)
