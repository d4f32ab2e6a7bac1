"""ONNX Runtime sessions, opened the same way by export's measurements, `fmx predict`, `fmx eval` and the service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fmx import gpu
from fmx.errors import PackageError, SurroundingsError, UsageError, first_line, missing_extra

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(
    model: Path | bytes, *, threads: int, device: str = "cpu", spinning: bool = False, exact: bool = False, cuda_graph: bool = False
) -> onnxruntime.InferenceSession:
    """Open an ONNX file.

    Args:
        model: a file, or a serialised model.
        threads: threads inside one operator.
        device: `cpu` or `cuda`; a device that is asked for and not there is an error, never a silent fall-back.
        spinning: let threads spin between two operators of a run; faster alone, slower where cores are shared. None spins after a run.
        exact: never saturate in int8 products, as a CPU with VNNI does not, also where this one would; slower there.
        cuda_graph: launch the kernels of a shape as one graph; for `fmx.gpu.GpuRunner`, whose buffers stay, and for models that run on the GPU whole.

    Raises:
        SurroundingsError: onnxruntime or the device is missing.
        PackageError: the file is no model that this runtime can open.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("cpu", "Running a model") from error
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise SurroundingsError(
            f"Device {device} was asked for, and this onnxruntime has no {provider}.",
            hint="Install the extra [gpu] in place of [cpu], or choose --device cpu.",
        )
    if device == "cuda":
        if not gpu.count_gpus():
            raise SurroundingsError("Device cuda was asked for, and no GPU is visible here.", hint="nvidia-smi shows the GPUs; or choose cpu.")
        gpu.preload_libraries()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    given = {**gpu.PROVIDER_OPTIONS, "enable_cuda_graph": str(int(cuda_graph))} if device == "cuda" else {}
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[(provider, given)])
    except Exception as error:  # onnxruntime raises many kinds, all from its native part
        name = "the model" if isinstance(model, bytes) else Path(model).name
        raise PackageError(f"ONNX Runtime cannot open {name}: {first_line(error)}", hint="fmx doctor shows the versions.") from error
    if provider not in session.get_providers():
        raise SurroundingsError(f"ONNX Runtime could not start {provider}.", hint="fmx doctor says what is missing.")
    return session


def choose_device(asked: str) -> str:
    """Resolve `auto` to `cuda` where onnxruntime has it and a GPU is there, else `cpu`.

    Raises:
        UsageError: not one of auto, cpu, cuda.
    """
    if asked not in ("auto", *PROVIDERS):
        raise UsageError(f"Unknown device {asked!r}.", hint="Choose auto, cpu or cuda.")
    if asked != "auto":
        return asked
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("cpu", "Running a model") from error
    return "cuda" if PROVIDERS["cuda"] in onnxruntime.get_available_providers() and gpu.count_gpus() else "cpu"
