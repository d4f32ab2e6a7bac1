"""Writes benchmarks/README.md from the raw numbers in benchmarks/results/, so that no figure there is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.export_page import export_section
from benchmarks.finetune_page import training_section
from benchmarks.markdown import table
from benchmarks.serve_page import gpu_section, serving_section
from benchmarks.text_page import cuda_training_section, text_section

FOLDER = Path(__file__).parent
SECTIONS = {
    "serve": serving_section,
    "serve_gpu": gpu_section,
    "export": export_section,
    "finetune": training_section,
    "text": text_section,
    "text_training_cuda": cuda_training_section,
}


def write_readme() -> None:
    """Write the page."""
    page = render(json.loads((FOLDER / "results" / "default_model.json").read_text()))
    for name, section in SECTIONS.items():
        results = FOLDER / "results" / f"{name}.json"
        if results.exists():
            page = page.rstrip() + "\n" + "\n".join(["", *section(json.loads(results.read_text()))])
    (FOLDER / "README.md").write_text(page.rstrip() + "\n")


def render(results: dict[str, Any]) -> str:
    """Give the page as Markdown."""
    machine, versions, subject = results["machine"], results["versions"], results["quantisation"]["run"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "onnxruntime", "bentoml"))
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (`benchmarks/default_model.py`) from `results/default_model.json`, which holds the raw numbers. Sides are",
        "interleaved in one run, on the same file, rows, threads and machine, and outputs are compared before times. Read the ratios, not the",
        "milliseconds: the machine is a shared one.",
        "",
        f"{results['date']}, {machine['cpu']}, {machine['cpus']} cores, VNNI {'yes' if machine['vnni'] else 'no'}; {libraries}.",
        "",
        "## int8 of the default model",
        "",
        f"{subject['model']}, {subject['size']} pixels, digits, {subject['rows']} test rows; the eager model has",
        f"{100 * subject['eager accuracy']:.2f} %. 256 calibration rows, the same for all.",
        "",
    ]
    variants = []
    for name, variant in results["quantisation"]["variants"].items():
        cells = [name, f"{variant['bytes'] / 1e6:.2f} MB", f"{100 * variant['accuracy']:.2f} %", f"{variant['drop']:.2f}"]
        cells.append(f"{100 * variant['agreement']:.2f} %")
        for at in variant["latency"]:
            cells += [f"{at['median_ms']:.2f} ms", f"{at['speed_up']:.2f} x"]
        variants.append(cells)
    lines += table(["variant", "size", "accuracy", "drop", "agreement", "batch 1", "against fp32", "batch 8", "against fp32"], variants)
    lines += [
        "",
        "`ort defaults` is `quant_pre_process` and `quantize_static` as they come (int8 activations, per tensor); `ort u8s8 per channel` is what",
        "onnxruntime's docstring advises for x86. Medians of single calls.",
        "",
        "## Serving the default package",
        "",
        "One worker, closed loop, client on the same two cores, one image a request; `in process` is the predictor on the same bytes,",
        f"decoding included. Ready after {results['serving']['seconds to ready']:.1f} s.",
        "",
    ]
    rates = []
    for name, row in results["serving"].items():
        if isinstance(row, dict):
            service, limit = row["service requests/s"], row["in process requests/s"]
            cells = [name.removeprefix("concurrency "), f"{service:.0f}/s", f"{row['service median ms']:.1f} ms"]
            cells += [f"{limit:.0f}/s", f"{row['in process median ms']:.2f} ms", f"{service / limit:.2f}"]
            rates.append(cells)
    lines += table(["callers", "service", "median", "in process", "median", "share of the limit"], rates)
    lines += [
        "",
        "A model of half a millisecond shows what HTTP, keys, logs and counting cost: more than the model. Larger models and other servers are",
        "below.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    write_readme()
