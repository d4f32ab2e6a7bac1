"""Throughput of fastai's Learner on rows in memory, with torch's AdamW.

Its own mixed precision asks for `autocast("cuda")` and so does nothing on a CPU; for bf16 it is given a callback that autocasts there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch import nn

from benchmarks.peers.models import OnRows, build, read_rows, read_spec
from benchmarks.peers.turns import Turns


class TakeTurns(Callback):
    """Ends a turn after each chunk of steps."""

    def __init__(self, steps: int) -> None:
        self.turns = Turns(steps)

    def after_batch(self) -> None:
        """Count the step."""
        if self.training:
            self.turns.step()


class CpuAutocast(Callback):
    """Runs the forward pass in bf16 where fastai's own callback cannot."""

    def before_batch(self) -> None:
        """Enter."""
        self.context: Any = torch.autocast("cpu", torch.bfloat16)
        self.context.__enter__()

    def after_pred(self) -> None:
        """Leave, with logits as float32."""
        self.learn.pred = self.pred.float()

    def after_loss(self) -> None:
        """Leave."""
        self.context.__exit__(None, None, None)


def main() -> None:
    """Train until told to stop."""
    spec = read_spec()
    rows, labels = read_rows(spec["rows"])
    data = torch.utils.data.TensorDataset(rows, labels)
    loaders = DataLoaders(*(DataLoader(data, bs=spec["batch"], shuffle=True, num_workers=0) for _ in range(2)), device=torch.device("cpu"))
    learner = Learner(
        loaders,
        OnRows(build(spec["model"], spec["classes"])),
        loss_func=nn.CrossEntropyLoss(),
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW),
        lr=spec["lr"],
        cbs=[TakeTurns(spec["steps"]), *([CpuAutocast()] if spec["precision"] == "bf16" else [])],
    )
    learner._do_epoch_validate = lambda *arguments, **options: None  # no other side evaluates within the time that is taken
    learner.fit(10_000, wd=0.01)


if __name__ == "__main__":
    main()
