"""Where torch computes, and the C library's heap when that is a CPU.

Every step frees and takes the same few hundred megabytes of activations. The GNU C library gives large blocks back to the system each time,
and the system hands them out again page by page, zeroed: at a batch of 32 a quarter of a step of MobileNetV3-large and half of one of
ResNet-50 (benchmarks/README.md). Keeping them costs the room between blocks.
"""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from finetune.world import World
from fmx.errors import SurroundingsError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of mallopt(3)."""
LARGEST_BLOCKS = (1 << 30, 32 << 20)
"""Blocks up to this size stay in the heap; older versions of the library take no more than the second."""
OWN_CHOICE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Variables by which somebody has settled this already, or has put another allocator in place."""


def keep_freed_memory() -> bool:
    """Keep freed memory in this process instead of giving it back to the system; says whether that was done.

    Other C libraries, other systems and processes whose surroundings chose for themselves stay as they are.
    """
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in OWN_CHOICE):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    keeps_blocks = any(library.mallopt(M_MMAP_THRESHOLD, size) == 1 for size in LARGEST_BLOCKS)
    return keeps_blocks and library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1) == 1


def choose_device(asked: str, world: World | None = None) -> torch.device:
    """Resolve `auto` to CUDA where torch has it; on a CPU memory that is freed is kept from then on.

    Raises:
        SurroundingsError: CUDA is asked for and not there.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise SurroundingsError("Device cuda was asked for, and torch sees no GPU.", hint="fmx doctor says what is missing; --device cpu works.")
    if asked == "cpu" or not torch.cuda.is_available():
        keep_freed_memory()
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if world is not None and world.size > 1 else 0)
