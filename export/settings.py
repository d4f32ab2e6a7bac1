"""What `fmx export` can be told, typed and checked at once before any work."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fmx.settings import check

TargetName = Literal["vnni", "generic", "arm64", "cuda", "host"]


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _ratio(value: Any) -> Any:
    if value in (None, "auto"):
        return value
    try:
        ratio = float(value)
    except (TypeError, ValueError):
        raise ValueError("it must be a share of the channels between 0 and 0.95, or auto") from None
    if not 0 < ratio <= 0.95:
        raise ValueError("it must be a share of the channels between 0 and 0.95, or auto")
    return ratio


class ExportSettings(BaseModel):
    """The choices that shape a package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantize: Literal["none", "fp16", "int8", "auto"] = "none"
    """auto: whatever is fastest within the budget, fp32 where nothing is."""
    prune: Annotated[float | Literal["auto"] | None, BeforeValidator(_ratio)] = None
    """Share of the channels that is taken out, with recovery training; auto: the most that the budget allows."""
    max_drop: float = Field(default=1.0, ge=0, le=100)
    """Most percentage points of test accuracy that a variant may lose against the eager model."""
    target_latency: float | None = Field(default=None, gt=0)
    """Most milliseconds (median, at `batch`) that the first variant may take."""
    max_size: float | None = Field(default=None, gt=0)
    """Most megabytes that the first variant may have."""
    target: Annotated[tuple[TargetName, ...], BeforeValidator(_split)] = ("host",)
    """Kinds of host to export for; host is this one's kind."""
    on_miss: Literal["fail", "fp32"] = "fail"
    """`fail`: exit 5 and leave the last package as it was. `fp32`: a package that serves fp32, with the reason in its report."""
    accept: Literal["point", "strict"] = "point"
    """What of the drop must be within the budget: the measured value, or the upper end of its 95 % interval."""
    recover: int | None = Field(default=None, ge=1, le=1000)
    """Epochs of recovery training: after each pruning step, and quantisation-aware where int8 misses its budget."""
    time_budget: float | None = Field(default=None, gt=0)
    """Minutes after which searches take the best that they have."""
    batch: int = Field(default=1, ge=1, le=1024)
    """Batch at which a variant must be faster than fp32."""
    opset: int = Field(default=20, ge=13, le=23)
    calibration_rows: int = Field(default=256, ge=8)
    embedding: bool = False
    """Give each row's vector beside its probabilities; of texts."""
    samples: bool = True
    """Keep a few test rows as golden rows; false makes them from noise."""
    device: Literal["auto", "cpu"] = "auto"
    """Where variants are measured. Only the CPU's are measured by this version; `auto` is the CPU."""
    name: str | None = None
    force: bool = False

    @model_validator(mode="after")
    def _fit_together(self) -> ExportSettings:
        wants_cuda = "cuda" in self.target
        if self.quantize == "int8" and wants_cuda:
            raise ValueError("--target cuda takes fp16, not int8; use --quantize fp16, or auto for both kinds of target")
        if self.quantize == "fp16" and self.target not in (("host",), ("cuda",)):
            raise ValueError("--quantize fp16 is for --target cuda alone")
        if self.quantize == "none" and self.target != ("host",):
            raise ValueError("--target does nothing without --quantize")
        searches = self.quantize in ("int8", "auto")
        if self.time_budget and not searches and self.prune != "auto":
            raise ValueError("--time-budget does nothing without --quantize int8 or --prune auto")
        if "calibration_rows" in self.model_fields_set and not searches:
            raise ValueError("--calibration-rows does nothing without --quantize int8")
        if self.recover and self.prune is None and not searches:
            raise ValueError("--recover does nothing without --prune or --quantize int8")
        return self


def check_settings(values: dict[str, Any]) -> ExportSettings:
    """Check settings, all problems reported at once. Raises: `UsageError`."""
    return check(ExportSettings, values, "fmx export --help")
