"""Fully sharded training (FSDP2, Zhao et al. 2023, arXiv:2304.11277): the weights that steps work on, gradients and moments are split.

A copy of the module is split and trained; the module itself stays whole and out of the way, and is brought up to date when somebody
asks for it: to judge it, to write a state, at the end. So whatever is done with a module elsewhere knows nothing of shards.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from finetune.blocks import layers_in_order


class Shards:
    """A module's split twin."""

    def __init__(self, module: nn.Module, device: torch.device, processes: int) -> None:
        self._whole = module
        self.module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # FSDP takes nothing else
        mesh = init_device_mesh(device.type, (processes,))
        for layer in layers_in_order(self.module):
            for part in layer:
                if any(True for _ in part.children()):
                    fully_shard(part, mesh=mesh)
        fully_shard(self.module, mesh=mesh)

    def groups(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give the optimiser groups of the whole module with the twin's parameters."""
        twins = dict(zip(map(id, self._whole.parameters()), self.module.parameters(), strict=True))
        return [{**group, "params": [twins[id(parameter)] for parameter in group["params"]]} for group in groups]

    @torch.no_grad()
    def collect(self) -> None:
        """Bring the whole module up to date, in every process at once; running statistics are the first one's. The twin stays as it is."""
        for parameter, split in zip(self._whole.parameters(), self.module.parameters(), strict=True):
            parameter.copy_(self.whole(split))
        for buffer, own in zip(self._whole.buffers(), self.module.buffers(), strict=True):
            first = own.clone()
            torch.distributed.broadcast(first, 0)
            buffer.copy_(first)

    @torch.no_grad()
    def spread(self) -> None:
        """Give the twin what the whole module has."""
        for parameter, split in zip(self._whole.parameters(), self.module.parameters(), strict=True):
            split.copy_(self.split_like(split, parameter))
        for buffer, own in zip(self._whole.buffers(), self.module.buffers(), strict=True):
            own.copy_(buffer)

    @staticmethod
    def whole(tensor: Tensor) -> Tensor:
        """Put a split tensor together, in every process at once; others are given back."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    @staticmethod
    def split_like(parameter: Tensor, tensor: Tensor) -> Tensor:
        """Split a whole tensor as a parameter of its shape is split; tensors of other shapes (counters) are given back."""
        if not isinstance(parameter, DTensor) or parameter.shape != tensor.shape:
            return tensor
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
