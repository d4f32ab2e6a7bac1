"""A session on a CUDA GPU, used with buffers that stay: batches of a few sizes.

cuDNN plans each layer anew for a shape that it has not seen, which takes seconds: so a batch is padded to one of a few sizes, all of which are
run when a package is opened. CUDA graphs, which launch all kernels at once, want the same shapes at the same addresses too.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnxruntime

SIZES = (1, 4, 16, 64)
"""Rows that a batch is padded to; what is longer runs in parts."""
PROVIDER_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
"""The exhaustive search of the default costs hundreds of milliseconds for each new shape; TF32 would make fp32 another model than was measured."""


def count_gpus() -> int:
    """Count the GPUs that the CUDA driver shows this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    number = ctypes.c_int(0)
    return number.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(number)) == 0 else 0


def preload_libraries() -> None:
    """Load CUDA's and cuDNN's libraries out of NVIDIA's wheels, where they are installed as such; what is missing is said when a session opens."""
    import onnxruntime

    with redirect_stdout(StringIO()), suppress(RuntimeError, OSError):
        onnxruntime.preload_dlls()


@dataclass(frozen=True)
class _Bound:
    """The buffers of one size."""

    host: np.ndarray
    """uint8 [size, ...]"""
    given: Any
    answer: Any
    binding: Any
    options: Any
    """Which graph is launched."""


class GpuRunner:
    """Runs batches of one session. Safe to call from several threads: the GPU takes one batch after another."""

    def __init__(self, session: onnxruntime.InferenceSession, input_name: str, output_name: str, row_shape: tuple[int, ...], labels: int) -> None:
        self._session = session
        self._names = (input_name, output_name)
        self._row_shape, self._labels = row_shape, labels
        self._bound: dict[int, _Bound] = {}
        self._lock = threading.Lock()

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Run a batch: uint8 [n, ...] to float32 [n, labels]."""
        parts = [self._run(rows[start : start + SIZES[-1]]) for start in range(0, len(rows), SIZES[-1])]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, rows: np.ndarray) -> np.ndarray:
        size = next(size for size in SIZES if size >= len(rows))
        with self._lock:
            bound = self._bound.get(size) or self._bind(size)
            bound.host[: len(rows)] = rows
            bound.given.update_inplace(bound.host)
            self._session.run_with_iobinding(bound.binding, bound.options)
            answers: np.ndarray = bound.answer.numpy()
            return answers[: len(rows)].astype(np.float32, copy=True)

    def _bind(self, size: int) -> _Bound:
        import onnxruntime

        host = np.zeros((size, *self._row_shape), np.uint8)
        given = onnxruntime.OrtValue.ortvalue_from_numpy(host, "cuda", 0)
        answer = onnxruntime.OrtValue.ortvalue_from_shape_and_type([size, self._labels], np.float32, "cuda", 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._names[0], given)
        binding.bind_ortvalue_output(self._names[1], answer)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(size))
        self._bound[size] = _Bound(host, given, answer, binding, options)
        return self._bound[size]
