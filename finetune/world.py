"""The processes that train together: one, or several under `torchrun` or `accelerate launch`, through accelerate.

The batch size is that of all processes together. Every process goes through the same order of rows and takes every size-th row of a batch,
so a training on two processes takes the same steps as on one, and held-out rows are counted once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fmx.errors import SurroundingsError, UsageError, missing_extra


@dataclass(frozen=True)
class World:
    """Which of how many processes this is; `accelerator` is None for one alone."""

    rank: int = 0
    size: int = 1
    accelerator: Any = None
    shards: bool = False
    """Whether gradients, moments and working weights are split over the processes."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, index: Tensor) -> Tensor:
        """Give this process's rows of a batch."""
        return index[self.rank :: self.size]

    def prepare(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Wrap a module and its optimiser for gradients that are averaged over the processes."""
        if self.accelerator is None:
            return module, optimiser
        wrapped, prepared = self.accelerator.prepare(module, optimiser)
        return wrapped, prepared

    def sums(self, values: Iterable[float]) -> list[float]:
        """Add numbers up over all processes."""
        total = torch.tensor(list(values), dtype=torch.float64)
        if self.accelerator is not None:
            total = self.accelerator.reduce(total.to(self.accelerator.device), reduction="sum").cpu()
        return [float(value) for value in total]

    def any(self, flag: bool) -> bool:
        """Say whether it is so in any process."""
        return (self.size > 1 and self.sums([float(flag)])[0] > 0) or flag

    def wait(self) -> None:
        """Wait for all processes."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def agree(self, value: Any) -> Any:
        """Give every process the first one's value."""
        if self.accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def is_launched() -> bool:
    """Say whether a launcher started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@cache
def _accelerate_shards() -> bool:
    """Say whether an accelerate configuration asks for FSDP; accelerate's own part here is to start the processes, so it is told nothing of it."""
    return os.environ.pop("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def open_world(device: str, *, shard: bool = False) -> World:
    """Join the processes that a launcher started, or be alone.

    Args:
        device: `cpu` keeps them off the GPUs.
        shard: split gradients, moments and working weights over the processes; an accelerate configuration for FSDP asks for the same.

    Raises:
        UsageError: one process has nothing to split with.
        SurroundingsError: accelerate is missing, or configured for something else.
    """
    if not is_launched():
        if shard:
            hint = "torchrun --nproc-per-node 2 -m fmx train --shard ..."
            raise UsageError("--shard splits a training over processes, and there is one.", hint=hint)
        return World()
    shard = _accelerate_shards() or shard
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
    except ImportError as error:
        raise missing_extra("train", "Training in several processes") from error
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))  # the others wait while the first one downloads or measures
    accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[patience])
    if accelerator.distributed_type not in ("MULTI_CPU", "MULTI_GPU"):
        raise SurroundingsError(
            f"accelerate is configured for {accelerator.distributed_type}, which fmx does not train with.",
            hint="Use torchrun --nproc-per-node N -m fmx train ..., or an accelerate configuration for MULTI_GPU or MULTI_CPU.",
        )
    return World(accelerator.process_index, accelerator.num_processes, accelerator, shard)
