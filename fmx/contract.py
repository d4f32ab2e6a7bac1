"""The contracts that stages share: what goes into a model, what comes out, and what a run and a package say about themselves.

Only data classes live here; `fmx/run.py` and `fmx/package.py` read and write them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


class ClassesOutput(Frozen):
    """Probabilities over the labels: float32 [batch, labels], each row summing to 1."""

    kind: Literal["classes"] = "classes"
    name: str = "probabilities"


class Interval(Frozen):
    """A measured share with its sample size and 95 % Wilson interval, all as fractions."""

    value: float
    n: int
    low: float
    high: float


class Fingerprint(Frozen):
    """Which rows: their number and the SHA-256 over every row's bytes and label, in order."""

    rows: int
    sha256: Sha256


class Parity(Frozen):
    """Agreement of a variant with the eager torch model on the same rows."""

    rows: int
    batch_sizes: tuple[int, ...]
    top1_agreement: float = Field(description="Share of rows whose first label is the same.")
    max_difference: float = Field(description="Largest absolute difference of a probability.")


class Latency(Frozen):
    """Milliseconds a call, measured at export beside the fp32 variant in one process."""

    batch: int
    threads: int
    median_ms: float
    minimum_ms: float
    speed_up: float = Field(description="fp32 median divided by this variant's median; 1.0 for fp32 itself.")


class Requires(Frozen):
    """What a host must have to run a variant as measured."""

    device: Literal["cpu", "cuda"] = "cpu"
    any_cpu_flag: tuple[str, ...] = Field(default=(), description="The CPU must have one of these flags; none means any CPU.")


class Variant(Frozen):
    """One ONNX file of a package."""

    name: Literal["fp32", "fp16", "int8", "int8-generic"]
    file: FileName
    sha256: Sha256
    bytes: int
    precision: str
    requires: Requires
    accuracy: Interval
    drop: float = Field(description="Accuracy of the eager fp32 model minus this variant's, in percentage points, on the same rows.")
    parity: Parity
    latency: tuple[Latency, ...]
    why: str = Field(description="Why the variant stands where it stands in the list.")


class ModelContract(Frozen):
    """What a caller of the model must know, and nothing else: every variant of a package keeps it."""

    task: str
    labels: tuple[str, ...]
    input: ImageInput
    output: ClassesOutput = ClassesOutput()


class Manifest(Frozen):
    """`manifest.json`: the model package in its own words (docs/package.md)."""

    schema_version: int = SCHEMA_VERSION
    name: str
    version: str
    task: str
    labels: tuple[str, ...]
    input: ImageInput
    output: ClassesOutput
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
        return ModelContract(task=self.task, labels=self.labels, input=self.input, output=self.output)


class Member(Frozen):
    """One network of an ensemble."""

    model: str
    input: ImageInput


class RunInfo(Frozen):
    """`run.json`: settings in full, where everything came from, and what was reached."""

    schema_version: int = SCHEMA_VERSION
    name: str
    task: str
    model: str
    members: tuple[Member, ...] = Field(default=(), description="Of an ensemble, whose model is `ensemble`.")
    weights_origin: str
    labels: tuple[str, ...]
    input: ImageInput
    settings: dict[str, Any]
    rows: dict[str, Fingerprint]
    skipped_files: tuple[str, ...]
    metrics: dict[str, Any]
    accuracy: Interval
    temperature: float = Field(default=1.0, description="Every logit is divided by it; fitted on the validation rows.")
    best_epoch: int
    epochs: int
    train_seconds: float
    start_seconds: float = Field(default=0.0, description="From the command to the first training step.")
    weights_sha256: Sha256
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
