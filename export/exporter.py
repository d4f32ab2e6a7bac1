"""From the eager network to ONNX, through one of torch's two exporters; what is written is checked against what was asked for."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import onnx
import torch

from export.graph import BATCH, LOGITS, SEQUENCE, input_of, strip_metadata
from finetune.network import Network
from finetune.text_models import EmbeddingBody, LabelsBody, ScoresBody, TextBody, TokenBody
from fmx.contract import ImageInput, Input
from fmx.errors import ExportError, first_line

Exporter = Literal["dynamo", "torchscript"]
"""dynamo traces with torch.export, torchscript is the older one. Each exports models that the other gets wrong (pytorch#169178)."""

DYNAMO_OPSETS = range(18, 24)
"""Asked for an older one, dynamo writes 18 all the same."""

TORCHSCRIPT_OPSETS = range(13, 21)


def exporters_for(opset: int) -> tuple[Exporter, ...]:
    """Name the exporters that write an opset of 13 to 23, best first."""
    able = {"dynamo": opset in DYNAMO_OPSETS, "torchscript": opset in TORCHSCRIPT_OPSETS}
    return tuple(name for name, is_able in able.items() if is_able)  # type: ignore[misc]


def export_body(network: Network, spec: Input, opset: int, exporter: Exporter = "dynamo", *, embedding: str | None = None) -> onnx.ModelProto:
    """Export the body: prepared rows to `logits` float32 [batch, classes], of tokens [batch, sequence, classes], both axes dynamic.

    Images are `normalised` float32 [batch, 3, height, width], texts `input_ids` int64 [batch, sequence]. With `embedding`, a name, there is a
    second output, of texts: float32 [batch, width].

    Raises:
        ExportError: torch cannot export the model, wrote another opset than asked, or lost the dynamic batch.
    """
    body = network.body.cpu().eval().to(memory_format=torch.contiguous_format)
    exported: torch.nn.Module = body
    if embedding is not None and isinstance(body, TextBody):
        exported = EmbeddingBody(body).eval()
    elif isinstance(body, LabelsBody):
        exported = ScoresBody(body).eval()
    outputs = [LOGITS, *([embedding] if embedding is not None else [])]
    axes = {0: BATCH} if isinstance(spec, ImageInput) else {0: BATCH, 1: SEQUENCE}
    answered = {name: axes if name == LOGITS and isinstance(body, TokenBody) else {0: BATCH} for name in outputs}
    through = _through_dynamo if exporter == "dynamo" else _through_torchscript
    try:
        with _quiet_exporter(), torch.no_grad(), _plain_attention(body):
            raw = through(exported, network.rows.example(), input_of(spec), axes, answered, opset)
    except Exception as error:  # the exporters wrap whatever their passes raise
        raise ExportError(f"torch.onnx cannot export this model: {first_line(error)}", hint="fmx --debug export shows where.") from error
    model = onnx.load_from_string(raw)
    _check_opset(model, opset)
    _check_axes(model, len(axes))
    return strip_metadata(model)


Axes = dict[int, str]
"""Names of the dynamic ones."""


def _through_dynamo(body: torch.nn.Module, example: torch.Tensor, name: str, axes: Axes, outputs: dict[str, Axes], opset: int) -> bytes:
    program = torch.onnx.export(
        body,
        (example,),
        dynamo=True,
        external_data=False,
        opset_version=opset,
        dynamic_shapes=(axes,),
        input_names=[name],
        output_names=list(outputs),
        verbose=False,
    )
    if program is None:
        raise ExportError("torch.onnx returned no graph.", hint="fmx --debug export shows more.")
    return bytes(program.model_proto.SerializeToString())


def _through_torchscript(body: torch.nn.Module, example: torch.Tensor, name: str, axes: Axes, outputs: dict[str, Axes], opset: int) -> bytes:
    with tempfile.TemporaryDirectory(prefix="fmx-export-") as folder:
        path = Path(folder) / "body.onnx"
        torch.onnx.export(
            body,
            (example,),
            path,
            dynamo=False,
            opset_version=opset,
            dynamic_axes={name: axes, **outputs},
            input_names=[name],
            output_names=list(outputs),
        )
        return path.read_bytes()


@contextlib.contextmanager
def _plain_attention(body: torch.nn.Module) -> Iterator[None]:
    """Have a transformer write its attention as matrix products and a softmax, which ONNX Runtime fuses; torch's own kernel exports worse."""
    encoder = getattr(body, "encoder", None)
    config = getattr(encoder, "config", None)
    if encoder is None or not hasattr(encoder, "set_attn_implementation"):
        yield
        return
    before = config._attn_implementation  # type: ignore[union-attr]
    encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        encoder.set_attn_implementation(before)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress lines and deprecation warnings off the user's screen; errors still raise."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _check_opset(model: onnx.ModelProto, asked: int) -> None:
    written = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if written != asked:
        raise ExportError(f"Opset {asked} was asked for and torch.onnx wrote {written}.", hint=f"Use --opset {written}.")


def _check_axes(model: onnx.ModelProto, dynamic: int) -> None:
    given = model.graph.input[0]
    if dynamic > 1 and not given.type.tensor_type.shape.dim[1].dim_param:
        raise ExportError(
            f"The axis of the tokens of {given.name} is not dynamic in the exported graph.", hint="This model cannot be exported by fmx."
        )
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim[0].dim_param != BATCH:
            raise ExportError(f"The batch axis of {value.name} is not dynamic in the exported graph.", hint="This model cannot be batched by fmx.")
