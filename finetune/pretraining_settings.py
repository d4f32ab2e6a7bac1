"""Every setting of a continued pretraining, typed and checked at once before step one, and written beside its states and its model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from finetune.settings import EMBEDDED_TEXT_MODEL, BatchSize, TrainSettings
from fmx.settings import check
from fmx.task_names import TEXTS

LOOP = (
    *("data", "model", "epochs", "batch_size", "accumulate", "lr", "warmup", "schedule", "weight_decay", "clip_norm", "patience"),
    *("precision", "seed", "device", "checkpoint_minutes"),
)
"""What the training loop reads of them."""


class PretrainSettings(BaseModel):
    """What `fmx pretrain` can be told; the names that `fmx train` has too mean the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    text_column: str | None = None
    model: str = EMBEDDED_TEXT_MODEL
    max_length: int = Field(default=128, ge=8, le=8192)
    """Tokens of a window, special ones included; what is longer is cut into several."""
    extend_vocab: int = Field(default=0, ge=0, le=100_000)
    whole_words: bool = False
    epochs: int = Field(default=3, ge=1, le=10_000)
    batch_size: BatchSize = 32
    accumulate: int = Field(default=1, ge=1, le=1024)
    lr: float = Field(default=5e-4, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    patience: int = Field(default=8, ge=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @field_validator("model")
    @classmethod
    def _is_no_run(cls, model: str) -> str:
        if model.startswith("run:"):
            raise ValueError("a run has a classifier's head; give the folder or name of its base model")
        return model

    def for_loop(self) -> TrainSettings:
        """Give what the loop of `fmx train` reads."""
        return TrainSettings(task=TEXTS, **{name: getattr(self, name) for name in LOOP})


def check_pretrain_settings(values: dict[str, Any]) -> PretrainSettings:
    """Check settings, all problems reported at once. Raises: `UsageError`."""
    settings = check(PretrainSettings, values, "fmx pretrain --help")
    check(TrainSettings, {"task": TEXTS, **{name: getattr(settings, name) for name in LOOP}}, "fmx pretrain --help")  # what does not fit together
    return settings
