"""What is fastest on this device, measured on a copy of the module before step one: the precision, and the batch size where it is left open."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fmx.errors import SurroundingsError, first_line
from fmx.host import cpu_flags

BF16_FLAGS = ("avx512_bf16", "amx_bf16")
WORTHWHILE = 1.2
"""Least gain for which bf16 is taken on a CPU."""
ROUNDS = 4
"""Of one step each; the first warms up."""
TRIED_ROWS = 16
CLOSE = 0.8
"""Gains further than this from `WORTHWHILE` need no more rounds."""
BATCH_SIZES = (16, 32, 64, 128, 256, 512)

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Say = Callable[[str], None]


def autocast(precision: str, device: torch.device) -> Any:
    """Return the context in which forward passes run."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def choose_precision(asked: str, module: nn.Module, images: Tensor, device: torch.device, say: Say, *, learns: bool = True) -> str:
    """Resolve `auto`: on CUDA bf16 where the GPU has it, else fp16; on a CPU bf16 only where it is measured to be faster.

    Args:
        asked: auto, fp32, bf16 or fp16.
        module: takes `images`, in the mode in which it is trained.
        images: one batch as the module takes it, [n, ...].
        device: where both live.
        say: told what was measured.
        learns: whether steps are taken, or answers alone are asked for.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if not any(flag in cpu_flags() for flag in BF16_FLAGS):
        return "fp32"
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    with torch.random.fork_rng(devices=[]):
        trial = copy.deepcopy(module) if learns else copy.deepcopy(module).eval()
        for precision in seconds:
            _step_seconds(trial, images[:TRIED_ROWS], precision, device, learns=learns)  # warms up
        for _ in range(ROUNDS - 1):
            for precision, taken in seconds.items():
                taken.append(_step_seconds(trial, images[:TRIED_ROWS], precision, device, learns=learns))
            gain = min(seconds["fp32"]) / min(seconds["bf16"])
            if not CLOSE < gain / WORTHWHILE < 1 / CLOSE:
                break
    chosen = "bf16" if gain >= WORTHWHILE else "fp32"
    say(f"Precision {chosen}: a {'step' if learns else 'pass'} in bf16 takes {1 / gain:.2f} of the time in fp32 on this CPU.")
    return chosen


def compiling_pays(module: nn.Module, images: Tensor, precision: str, device: torch.device, say: Say) -> bool:
    """Compile a copy of the module and say whether its steps are then faster; compiling the module itself afterwards finds torch's cache.

    Args:
        module: takes `images`, in the mode in which it is trained.
        images: as many rows as take a step together, [n, ...].
        precision: of the steps.
        device: where both live.
        say: told what was measured.

    Raises:
        SurroundingsError: torch cannot compile here.
    """
    with torch.random.fork_rng(devices=[]):
        trial, compiled = copy.deepcopy(module), torch.compile(copy.deepcopy(module))
        started = time.perf_counter()
        try:
            _step_seconds(compiled, images, precision, device)  # type: ignore[arg-type]
            spent = time.perf_counter() - started
            pairs = [(_step_seconds(trial, images, precision, device), _step_seconds(compiled, images, precision, device)) for _ in range(ROUNDS)]  # type: ignore[arg-type]
        except Exception as error:  # compilers and dynamo have many kinds of failure
            if is_out_of_memory(error):
                say("Memory ran out while compiled steps were measured, so nothing is compiled.")
                return False
            reason = first_line(error)
            raise SurroundingsError(f"torch.compile fails here: {reason}", hint="It needs a C++ compiler (g++). Leave out --compile.") from error
    eager, quick = (min(seconds[1:]) for seconds in zip(*pairs, strict=True))
    pays = bool(quick < eager)
    say(f"A compiled step takes {quick / eager:.2f} of the time{'' if pays else ', so nothing is compiled'} (compiling took {spent:.0f} s).")
    return pays


def choose_batch_size(module: nn.Module, image: Tensor, rows: int, precision: str, device: torch.device, say: Say) -> int:
    """Find the smallest batch size within 5 % of the fastest, among those that fit into memory and into a tenth of the rows.

    Args:
        module: takes prepared rows.
        image: one row, [1, ...].
        rows: training rows.
        precision: of the steps.
        device: where the module lives.
        say: told what was measured.
    """
    rates: dict[int, float] = {}
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else None):
        trial = copy.deepcopy(module)
        for size in [size for size in BATCH_SIZES if size <= max(BATCH_SIZES[0], rows // 10)]:
            layout = torch.channels_last if image.ndim == 4 else torch.contiguous_format
            images = image.expand(size, *image.shape[1:]).contiguous(memory_format=layout)
            try:
                rates[size] = size / min(_step_seconds(trial, images, precision, device) for _ in range(ROUNDS))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            if rates[size] < 0.8 * max(rates.values()):
                break
    if not rates:
        return BATCH_SIZES[0]  # the loop cuts it into parts that fit
    chosen = min(size for size, rate in rates.items() if rate >= 0.95 * max(rates.values()))
    say(f"Batch size {chosen}: " + ", ".join(f"{size}: {rate:,.0f} rows/s" for size, rate in rates.items()) + ".")
    return chosen


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether torch ran out of a device's memory or of the host's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error)


def _step_seconds(module: nn.Module, images: Tensor, precision: str, device: torch.device, *, learns: bool = True) -> float:
    """Time a step; or the answers alone."""
    started = time.perf_counter()
    with torch.inference_mode(not learns), autocast(precision, device):
        answers = module(images)
        loss = answers.float().square().mean() if learns else None
    if loss is not None:
        loss.backward()
        module.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
