"""What `fmx export` can be told, typed and checked at once before any work."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fmx.settings import check


class ExportSettings(BaseModel):
    """The choices that shape a package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quantize: Literal["none", "int8"] = "none"
    max_drop: float = Field(default=1.0, ge=0, le=100)
    """Most percentage points of test accuracy that the int8 variant may lose against the eager model."""
    on_miss: Literal["fail", "fp32"] = "fail"
    """`fail`: exit 5 and leave the last package as it was. `fp32`: a package that serves fp32, with the reason in its report."""
    batch: int = Field(default=1, ge=1, le=1024)
    """Batch at which a variant must be faster than fp32."""
    opset: int = Field(default=20, ge=18, le=23)
    calibration_rows: int = Field(default=256, ge=8)
    samples: bool = True
    """Keep a few test rows as golden rows; false makes them from noise."""
    device: Literal["auto", "cpu"] = "auto"
    """Where variants are measured. Only the CPU's are measured by this version; `auto` is the CPU."""
    name: str | None = None
    force: bool = False


def check_settings(values: dict[str, Any]) -> ExportSettings:
    """Check settings, all problems reported at once. Raises: `UsageError`."""
    return check(ExportSettings, values, "fmx export --help")
