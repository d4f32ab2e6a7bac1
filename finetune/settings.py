"""Every setting of a training, typed and checked at once before step one, and written to run.json in full."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fmx.settings import check

EMBEDDED_MODEL = "efficientnet_lite0"


class TrainSettings(BaseModel):
    """What `fmx train` can be told. None means: chosen from the data, the model or the method, and then written down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = "digits"
    model: str = EMBEDDED_MODEL
    weights: str = "default"
    method: Literal["finetune", "linear-probe"] = "finetune"
    epochs: int = Field(default=16, ge=1, le=10_000)
    size: int | None = Field(default=None, ge=8, le=2048)
    batch_size: int = Field(default=32, ge=2, le=65_536)
    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate of the head (linear-probe) or of the base model (finetune; the head's is `head_lr_factor` times this)."""
    head_lr_factor: float = Field(default=10.0, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps in which the rate rises from near zero to its peak."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    augment: bool = True
    """Random scale, shift and small rotation of training rows, and mirroring where the data allow it (finetune only)."""
    patience: int = Field(default=8, ge=1)
    """Epochs without a better validation accuracy, or a lower loss at the same accuracy, after which training stops."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    name: str | None = None


def check_settings(values: dict[str, Any]) -> TrainSettings:
    """Check settings, all problems reported at once. Raises: `UsageError`."""
    return check(TrainSettings, values, "fmx train --help")
