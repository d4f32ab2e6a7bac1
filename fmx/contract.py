"""The contracts that stages share: what goes into a model, what comes out, and what a run and a package say about themselves.

Only data classes live here; `fmx/run.py` and `fmx/package.py` read and write them.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fmx import host
from fmx.errors import PackageError

SCHEMA_VERSION = 1
"""Version of run.json and manifest.json; a reader refuses a later one."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="A plain file name inside the package folder.")]


class Frozen(BaseModel):
    """A contract: read-only, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageInput(Frozen):
    """What `fmx.images.image_row` makes of a file, and how the graph normalises it: `(pixel - mean) / std` on 0..255, a channel each."""

    kind: Literal["image"] = "image"
    height: int = Field(gt=0, le=4096)
    width: int = Field(gt=0, le=4096)
    colour_order: Literal["RGB"] = "RGB"
    resize: Literal["crop", "squash"] = "crop"
    crop_fraction: float = Field(default=1.0, gt=0.0, le=1.0, description="Share of the resized image's side that the centre crop keeps.")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class TextInput(Frozen):
    """What `fmx.texts` makes of a text, or of two: token ids, int32 [max_length], with special tokens, cut at the end and padded there."""

    kind: Literal["text"] = "text"
    max_length: int = Field(ge=8, le=8192, description="Tokens of a row, special ones included: the model's window.")
    pad_id: int = Field(ge=0)
    unknown_id: int | None = Field(description="None where the tokenizer knows every byte.")
    special_tokens: int = Field(ge=0, description="How many are put around the texts of one row.")
    vocabulary: int = Field(gt=0, description="Ids are below.")
    tokenizer_sha256: Sha256 = Field(description="Of the tokenizer.json beside.")
    texts: Literal[1, 2] = Field(default=1, description="Of one row; the longer of two is cut first.")
    separator_id: int | None = Field(
        default=None, description="Of two texts, where the model tells them apart by segment: the second begins behind the first such token."
    )


Input = Annotated[ImageInput | TextInput, Field(discriminator="kind")]


class ClassesOutput(Frozen):
    """Probabilities over the labels: float32 [batch, labels], each row summing to 1."""

    kind: Literal["classes"] = "classes"
    name: str = "probabilities"


class TagsOutput(Frozen):
    """Probabilities over the labels for every token: float32 [batch, sequence, labels]; a unit of the text is answered at its first token."""

    kind: Literal["tags"] = "tags"
    name: str = "probabilities"


class SeveralOutput(Frozen):
    """Probabilities of the labels, each by itself: float32 [batch, labels]. A label is said from 0.5 on."""

    kind: Literal["several"] = "several"
    name: str = "probabilities"


class ScoresOutput(Frozen):
    """Probabilities over grades, which are the labels, as numbers: float32 [batch, labels]. The score is their mean under them."""

    kind: Literal["scores"] = "scores"
    name: str = "probabilities"


Output = Annotated[ClassesOutput | TagsOutput | SeveralOutput | ScoresOutput, Field(discriminator="kind")]


class EmbeddingOutput(Frozen):
    """A vector of length 1 for each row, float32 [batch, width]: the dot product of two is their cosine."""

    name: str = "sentence_embedding"
    width: int = Field(gt=0)


class Interval(Frozen):
    """A measured share with its sample size and 95 % Wilson interval, all as fractions."""

    value: float
    n: int
    low: float
    high: float


class Fingerprint(Frozen):
    """Which rows: their number and the SHA-256 over every row's bytes, as they were read, and label, in order."""

    rows: int
    sha256: Sha256


class Parity(Frozen):
    """Agreement of a variant with the eager torch model on the same rows."""

    rows: int
    batch_sizes: tuple[int, ...]
    top1_agreement: float = Field(description="Share of rows whose first label is the same.")
    max_difference: float = Field(description="Largest absolute difference of a probability.")


class Comparison(Frozen):
    """A variant beside the eager fp32 model on the same rows, pair by pair."""

    drop_low: float = Field(description="Lower end of the 95 % interval of the drop, in points (paired; Agresti and Min 2005).")
    drop_high: float
    p_value: float = Field(description="McNemar's exact test that both are right equally often.")
    changed: float = Field(description="Share of rows whose first label changed.")
    worst_class: str = Field(description="The class that loses most recall.")
    worst_class_drop: float = Field(description="Points of its recall that are lost.")
    worst_class_rows: int
    calibration_error: float
    eager_calibration_error: float


class Latency(Frozen):
    """Milliseconds a call, measured at export beside the fp32 variant in one process."""

    batch: int
    threads: int
    median_ms: float
    minimum_ms: float
    speed_up: float = Field(description="Median of the dense fp32 graph divided by this variant's median; 1.0 for that graph itself.")
    tokens: int | None = Field(default=None, description="Of each text of the batch: the time is that of the length. None for images.")


class Requires(Frozen):
    """What a host must have to run a variant as measured."""

    device: Literal["cpu", "cuda"] = "cpu"
    any_cpu_flag: tuple[str, ...] = Field(default=(), description="The CPU must have one of these flags; none means any CPU.")
    machine: tuple[str, ...] = Field(default=(), description="The machine must be one of these, such as aarch64; none means any.")

    def met_by(self, device: str) -> bool:
        """Say whether this host, used with `device`, is of the kind."""
        flags = not self.any_cpu_flag or bool(host.cpu_flags() & set(self.any_cpu_flag))
        return self.device in ("cpu", device) and flags and (not self.machine or platform.machine() in self.machine)

    def __str__(self) -> str:
        """Say in words what is required; empty where it is nothing."""
        parts = [self.device if self.device != "cpu" else "", " or ".join(self.any_cpu_flag), " or ".join(self.machine)]
        return ", ".join(part for part in parts if part)


class Variant(Frozen):
    """One ONNX file of a package."""

    name: Literal["fp32", "fp16", "int8", "int8-generic", "int8-arm64"]
    file: FileName
    sha256: Sha256
    bytes: int
    precision: str
    requires: Requires
    providers: tuple[str, ...] = Field(default=("CPUExecutionProvider",), description="ONNX Runtime's, best first.")
    accuracy: Interval | None = Field(default=None, description="None: not evaluated, for there were no labelled rows.")
    f1: float | None = Field(
        default=None, description="Of entities (accuracy is of the units of texts), or of several labels a text (accuracy is of rows wholly right)."
    )
    pearson: float | None = Field(default=None, description="Correlation of scores with the true ones (accuracy is of the likeliest grades).")
    drop: float | None = Field(
        default=None,
        description="Accuracy, or F1 or correlation where there is one, of the eager fp32 model minus this variant's, in points, on the same rows.",
    )
    parity: Parity | None = None
    comparison: Comparison | None = None
    embedding_cosine: float | None = Field(default=None, description="Least cosine of an embedding and the eager model's, over the test rows.")
    latency: tuple[Latency, ...] = Field(default=(), description="Empty: the speed was not measured, for the host of the export is of another kind.")
    ort_file: FileName | None = Field(default=None, description="The same graph in ONNX Runtime's own format, for mobile builds.")
    why: str = Field(description="Why the variant stands where it stands in the list.")


class ModelContract(Frozen):
    """What a caller of the model must know, and nothing else: every variant of a package keeps it."""

    task: str
    labels: tuple[str, ...]
    input: Input
    output: Output = ClassesOutput()
    embedding: EmbeddingOutput | None = None


class Manifest(Frozen):
    """`manifest.json`: the model package in its own words (docs/package.md)."""

    schema_version: int = SCHEMA_VERSION
    name: str
    version: str
    task: str
    labels: tuple[str, ...]
    input: Input
    output: Output
    embedding: EmbeddingOutput | None = Field(default=None, description="A second output, where the package was exported with one.")
    variants: tuple[Variant, ...] = Field(min_length=1)
    recipe: dict[str, Any] = Field(description="Pruning and quantisation: every choice that shaped the variants.")
    contract_digest: Sha256
    rows: dict[str, Fingerprint] = Field(description="Fingerprints of the calibration, validation and test rows.")
    run: dict[str, Any] = Field(description="The run that the package came from: name, model, weights, seed, accuracy.")
    tools: dict[str, str] = Field(description="Versions of the libraries that made the package.")
    files: dict[FileName, Sha256] = Field(description="SHA-256 of every file but manifest.json and measurements/.")
    created: str

    @property
    def contract(self) -> ModelContract:
        """The part that a caller must know."""
        return ModelContract(task=self.task, labels=self.labels, input=self.input, output=self.output, embedding=self.embedding)


class Member(Frozen):
    """One network of an ensemble."""

    model: str
    input: ImageInput
    structure: dict[str, Any] | None = Field(default=None, description="As of a run.")


class RunInfo(Frozen):
    """`run.json`: settings in full, where everything came from, and what was reached."""

    schema_version: int = SCHEMA_VERSION
    name: str
    task: str
    model: str
    members: tuple[Member, ...] = Field(default=(), description="Of an ensemble, whose model is `ensemble`.")
    structure: dict[str, Any] | None = Field(default=None, description="Of a pruned network: its layers' widths and the blocks that are gone.")
    pruned_from: dict[str, Any] | None = Field(default=None, description="Of a pruned network: the dense run, and how it was pruned.")
    weights_origin: str
    labels: tuple[str, ...]
    input: Input
    settings: dict[str, Any]
    rows: dict[str, Fingerprint]
    skipped_files: tuple[str, ...]
    metrics: dict[str, Any]
    accuracy: Interval
    temperature: float = Field(default=1.0, description="Every logit is divided by it; fitted on the validation rows.")
    thresholds: tuple[float, ...] = Field(
        default=(),
        description="Of several labels a text: from where on each was best said on the validation rows; the head is shifted so that it is 0.5.",
    )
    best_epoch: int
    epochs: int
    train_seconds: float
    start_seconds: float = Field(default=0.0, description="From the command to the first training step.")
    weights_sha256: Sha256
    files: dict[FileName, Sha256] = Field(default_factory=dict, description="SHA-256 of what else a network is rebuilt from.")
    tools: dict[str, str]
    host: dict[str, Any]
    created: str


Contract = TypeVar("Contract", RunInfo, Manifest)


def parse_contract(raw: bytes, contract: type[Contract], path: Path) -> Contract:
    """Read run.json or manifest.json.

    Raises:
        PackageError: no JSON, of a later schema, or with fields missing, unknown or of the wrong kind (all named).
    """
    hint = "The file was altered, damaged, or written by another version of fmx."
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise PackageError(f"{path} is no JSON ({error}).", hint=hint) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise PackageError(f"{path} has schema version {version}; this fmx reads up to {SCHEMA_VERSION}.", hint="Upgrade fmx.")
    try:
        return contract.model_validate_json(raw)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
        raise PackageError(f"{path} does not hold what it should: {faults}.", hint=hint) from error
