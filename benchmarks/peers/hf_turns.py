"""Throughput of the Hugging Face Trainer on rows in memory; its gradient clipping is off, as no other side clips."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers.models import OnRows, build, read_rows, read_spec
from benchmarks.peers.turns import Turns


class WithLoss(nn.Module):
    """What the Trainer wants of a model: the loss first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = OnRows(model)

    def forward(self, rows: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Give loss and logits."""
        logits = self.model(rows)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class TakeTurns(TrainerCallback):
    """Ends a turn after each chunk of steps."""

    def __init__(self, steps: int) -> None:
        self.turns = Turns(steps)

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        """Count the step."""
        self.turns.step()


def collate(items: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Stack rows."""
    return {"rows": torch.stack([row for row, _ in items]), "labels": torch.stack([label for _, label in items])}


def main() -> None:
    """Train until told to stop."""
    spec = read_spec()
    rows, labels = read_rows(spec["rows"])
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=spec["precision"] == "bf16",
        per_device_train_batch_size=spec["batch"],
        learning_rate=spec["lr"],
        weight_decay=0.01,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        max_steps=10_000,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model=WithLoss(build(spec["model"], spec["classes"])),
        args=arguments,
        train_dataset=torch.utils.data.TensorDataset(rows, labels),
        data_collator=collate,
        callbacks=[TakeTurns(spec["steps"])],
    )
    trainer.train()


if __name__ == "__main__":
    main()
