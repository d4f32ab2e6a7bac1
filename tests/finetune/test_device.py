"""The heap where torch computes on a CPU, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import resource, torch
from finetune.device import choose_device, keep_freed_memory
kept = keep_freed_memory()
choose_device('cpu')
for turn in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(10_000_000) for _ in range(3)]
    del blocks
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 3 * 40_000_000 // 4096


def faults(**variables: str) -> tuple[str, int]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", COUNT], env={**environment, **variables}, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True
    )
    kept, count = done.stdout.split()
    return kept, int(count)


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(HUGE_PAGES.is_file() and "[always]" in HUGE_PAGES.read_text(), reason="pages are not counted one by one here")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is the GNU C library's")
def test_memory_that_every_step_takes_again_is_kept_unless_somebody_chose_otherwise() -> None:
    kept, count = faults()
    assert (kept, count < PAGES / 10) == ("True", True)
    left, count = faults(MALLOC_MMAP_THRESHOLD_="131072")
    assert (left, count > PAGES / 2) == ("False", True)
