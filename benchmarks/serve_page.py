"""The sections of benchmarks/README.md on serving, from results/serve.json and results/serve_gpu.json."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.markdown import table


def serving_section(results: dict[str, Any]) -> list[str]:
    """Give the section on the service beside its peers."""
    machine = results["machine"]
    lines = [
        "",
        "## The service beside its peers",
        "",
        "Written from `results/serve.json`, which `python -m benchmarks.serve --environments DIR PACKAGE ...` leaves; the peers' environments come",
        "from `python -m benchmarks.serve_peers.environments DIR`. Each peer serves the same ONNX file with the same runtime and preprocessing, as",
        "it comes or as its documentation says it is made fast; two photographs as JPEGs of 24 and 47 kB; the client shares the cores. `of the",
        "limit` is the throughput with 16 callers beside the same predictor in process, without HTTP, in the best of four ways; `alone` is the",
        "median of one caller. Open loops arrive at Poisson times at shares of that limit, and their latency counts from the intended time of",
        "sending. Medians over the repeats.",
        "",
        f"{results['date']}, {machine['cpu']}, {machine['cpus']} cores, VNNI {'yes' if machine['vnni'] else 'no'}; "
        f"onnxruntime {results['versions']['onnxruntime']}, bentoml {results['versions']['bentoml']}.",
    ]
    for name, model in results["models"].items():
        lines += ["", f"### {name}, {model['variant']}", "", *_limits(model), "", *_sides(model)]
    lines += ["", *_settings(results)]
    return lines


def _limits(model: dict[str, Any]) -> list[str]:
    best = best_in_process(model)
    alone = min(_median(model["limits"], f"lone call on {threads}, ms") for threads in ("1 thread", "2 threads"))
    null = model["sides"]["null"]
    return [
        f"In process {best:.0f} requests/s, a lone call {alone:.2f} ms. A server that reads the body and answers a constant: "
        f"{_closed(null, '16', 'per_s'):.0f} requests/s, {_closed(null, '1', 'p50_ms'):.2f} ms alone."
    ]


def best_in_process(model: dict[str, Any]) -> float:
    """Give the requests a second of the predictor without a server, in the best way."""
    return max(_median(model["limits"], way) for way in model["limits"][0] if not way.startswith("lone call"))


def _sides(model: dict[str, Any]) -> list[str]:
    heads = ["server", "alone", "16 callers", "of the limit", "p99 at 50 %", "p99 at 80 %", "answered at 200 %", "p99 of these", "ready", "memory"]
    limit = best_in_process(model)
    rows = []
    for name, turns in model["sides"].items():
        if name == "null":
            continue
        rate = _closed(turns, "16", "per_s")
        rows.append(
            [
                f"**{name}**" if name.startswith("fmx") else name,
                f"{_closed(turns, '1', 'p50_ms'):.1f} ms",
                f"{rate:.0f}/s",
                f"{rate / limit:.2f}",
                f"{_open(turns, '0.5', 'p99_ms'):.0f} ms",
                f"{_open(turns, '0.8', 'p99_ms'):.0f} ms",
                f"{_open(turns, '2.0', 'per_s'):.0f}/s",
                f"{_open(turns, '2.0', 'p99_ms'):.0f} ms",
                f"{_median(turns, 'ready_s'):.1f} s",
                f"{_median(turns, 'rss_mb'):.0f} MB",
            ]
        )
    return table(heads, rows)


def _settings(results: dict[str, Any]) -> list[str]:
    model = next(iter(results["models"].values()))
    lines = ["What is served how:", ""]
    lines += [f"- {name}: {settings}" for name, settings in model["settings"].items()]
    return [*lines, "", "Memory adds up the resident memory of a server's processes; what they share counts for each."]


def _median(turns: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(turn[key] for turn in turns))


def _closed(turns: list[dict[str, Any]], callers: str, key: str) -> float:
    return float(statistics.median(turn["closed"][callers][key] for turn in turns))


def _open(turns: list[dict[str, Any]], share: str, key: str) -> float:
    values = [turn["open"][share][key] for turn in turns]
    return statistics.median(float("inf") if value is None else value for value in values)


def gpu_section(results: dict[str, Any]) -> list[str]:
    """Give the section on a GPU."""
    lines = [
        "",
        "## On a GPU",
        "",
        "Written from `results/serve_gpu.json`, which `python -m benchmarks.serve_gpu PACKAGE ... --out FILE` left. Milliseconds a batch through",
        "the predictor, rows copied to the GPU and probabilities back: plain calls of ONNX Runtime, buffers that stay (what fmx does), and these",
        "with the kernels launched as one CUDA graph. The predictor was run there, and golden rows held; the service over HTTP was not.",
        "",
        f"{results['date']}, {results['gpu']}, {results['machine']['cpus']} cores; onnxruntime-gpu {results['versions']['onnxruntime-gpu']}.",
        "",
    ]
    rows = []
    for name, ways in results["models"].items():
        for way, found in ways.items():
            if way == "service":
                continue
            if isinstance(found, str):
                rows.append([f"{name}, {way}", "fails", "", "", "", "", ""])
                continue
            ms = found["ms"]
            first = found.get("first call, s")
            times = [f"{ms[batch]:.2f}" if batch in ms else "" for batch in ("1", "4", "16", "64")]
            slowest = f"{max(first.values()):.1f} s" if first else ""
            golden = f"{found['golden rows differ by']:.1e}" if "golden rows differ by" in found else ""
            rows.append([f"{name}, {way}", *times, slowest, golden])
    heads = ["model", "batch 1", "batch 4", "batch 16", "batch 64", "slowest first call", "golden rows differ by"]
    remarks = [
        "A layer that meets a new shape is planned anew (`slowest first call`): so batches are padded to 1, 4, 16 or 64 rows, and each is run",
        "before the worker is ready. One graph more than halves a lone row of ResNet-18 in fp16, and brings EfficientNet-Lite0 down with an illegal",
        "memory access inside ONNX Runtime, which takes the process with it: so fmx launches no graphs. Buffers that stay gain nothing by",
        "themselves. Where no GPU was visible, `FMX_DEVICE=cuda` was refused and `auto` took the CPU.",
    ]
    return [*lines, *table(heads, rows), "", *remarks]
