"""Optimisers that leave torch's compiler where it is.

A torch optimiser imports torch._dynamo (1.5 s, a third of a linear probe, and 100 MB) at its first use for the sole purpose of switching it
off around itself. A training that compiles nothing is spared that. Both places are looked up by name, so a version of torch that
has neither simply imports what it wants.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch

_SWITCHED_OFF = "__dynamo_disable"
"""Where torch/_compile.py keeps a function as it is with the compiler switched off; it imports the compiler only when there is none yet."""


@cache
def without_compiler(kind: type[torch.optim.Optimizer]) -> type[Any]:
    """Give an optimiser class that computes what `kind` computes, without gradients, and imports no compiler; `kind` itself where one is loaded."""
    plain_step = getattr(kind.step, "__wrapped__", None)
    if plain_step is None or "torch._dynamo" in sys.modules:
        return kind
    for method in vars(torch.optim.Optimizer).values():
        plain = getattr(method, "__wrapped__", None)
        if plain is not None and not hasattr(plain, _SWITCHED_OFF):
            setattr(plain, _SWITCHED_OFF, plain)

    @torch.no_grad()
    def step(self: torch.optim.Optimizer, closure: None = None) -> Any:
        return plain_step(self, closure)

    return type(kind.__name__, (kind,), {"step": step, "__doc__": kind.__doc__})
