"""The export section of benchmarks/README.md, from the raw numbers in results/export.json."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import table

NAMES = {
    "fmx": "fmx",
    "ort": "ORT",
    "optimum": "Optimum",
    "nncf": "NNCF",
    "olive": "Olive",
    "nncf accuracy control": "NNCF, accuracy control",
}
PEERS = tuple(NAMES)[1:5]


def export_section(results: dict[str, Any]) -> list[str]:
    """Give the section's lines: of each part that was measured, the tables."""
    lines = [
        "## Export",
        "",
        "Written from `results/export.json`, which `python -m benchmarks.export` leaves; each peer has an environment of its own:",
        "",
        "```bash",
        "for peer in nncf olive optimum; do python3.11 -m venv /tmp/peer-$peer; done  # or a folder named by FMX_EXPORT_PEERS",
        "/tmp/peer-nncf/bin/pip install nncf onnx onnxruntime torch mlxtend",
        "/tmp/peer-olive/bin/pip install olive-ai onnx onnxruntime torch requests",
        '/tmp/peer-optimum/bin/pip install "optimum-onnx[onnxruntime]" torch "datasets<4.5" "huggingface-hub<1"',
        "FMX_PEERS_PYTHON=/tmp/peer-nncf/bin/python python -m benchmarks.export",
        "```",
        "",
        "Every side quantises the same fp32 file (torch.onnx, opset 20) with the same training rows (256, and 128 at 224 pixels); one harness wraps",
        "their files to take raw rows, asks all of them the same rows and times them in turns, two threads. `ORT` is `quant_pre_process` and",
        "`quantize_static` as they come, `Optimum` is ORTQuantizer with its profile for the CPU, `NNCF` is `nncf.quantize`, `Olive` is its static",
        "quantisation pass. fmx's graphs start at the raw bytes; the others' after the same float normalisation as fp32's. Speeds are over",
        "the fp32 file in ONNX Runtime, at batch 1 and batch 8.",
        "",
    ]
    for name, render in _PARTS.items():
        if name in results:
            lines += [*render(results[name]), "", _surroundings(results[name]), ""]
    return lines


def _surroundings(part: dict[str, Any]) -> str:
    found = sorted(
        {
            f"{row['machine']['cpu']}, {row['machine']['cpus']} cores, {'VNNI' if row['machine']['vnni'] else 'AVX2 without VNNI'}; "
            f"onnxruntime {row['versions']['onnxruntime']}, torch {row['versions']['torch']}"
            for row in part.values()
        }
    )
    dates = [row["date"] for row in part.values()]
    named = [maker["version"] for row in part.values() for maker in row.get("makers", {}).values() if "version" in maker]
    makers = sorted({version for versions in named for version in versions.split(", ") if not version.startswith("onnxruntime")})
    return f"({min(dates)} to {max(dates)}; {' | '.join(found)}{'; ' if makers else ''}{', '.join(makers)})"


def _speeds(row: dict[str, Any], side: str) -> str:
    if side not in row["sides"]:
        return "fails"
    return " / ".join(f"{at['speed_up']:.2f}" for at in row["sides"][side]["latency"])


def _latency(part: dict[str, Any]) -> list[str]:
    sides = ("fmx", *PEERS)
    speeds, agreements, sizes = [], [], []
    for model, row in part.items():
        fp32, own = row["sides"]["fp32"], row["makers"]["fmx"]
        milliseconds = [f"{at['median_ms']:.1f}" for at in fp32["latency"]]
        speeds.append([model, *milliseconds, *(_speeds(row, side) for side in sides), own["served by default"]])
        found = [f"{100 * row['sides'][side]['agreement']:.1f} %" if side in row["sides"] else "fails" for side in sides]
        agreements.append([model, f"{row['agreement_rows']:,}", f"{100 * fp32['accuracy']:.0f} %", *found])
        bytes_of = [f"{row['sides'][side]['bytes'] / 1e6:.1f}" if side in row["sides"] else "fails" for side in ("fp32", *sides)]
        seconds = [f"{row['makers'][side]['seconds']:.0f}" if "seconds" in row["makers"][side] else "fails" for side in ("fmx", *PEERS)]
        sizes.append([model, *bytes_of, *seconds])
    names = [NAMES[side] for side in sides]
    return [
        f"### Speed at 224 pixels, {len(part)} models",
        "",
        "EfficientNet-Lite0 has its ImageNet weights, the others have random ones; all have a head trained on MNIST digits by `fmx train --method",
        "linear-probe`. `served` is what the package serves by default on this machine: fp32 where int8 is not faster or loses over 0.5 points.",
        "",
        *table(["model", "fp32 ms, batch 1", "batch 8", *names, "served"], speeds),
        "",
        "Agreement of the first label with fp32, on test rows and shifted, brightened copies of them. Where fp32 itself is at chance (10 %), its",
        "head learnt nothing from random features, nearly all rows get one label, and the agreement says little:",
        "",
        *table(["model", "rows", "fp32 accuracy", *names], agreements),
        "",
        "Megabytes, and seconds of the whole command (fmx exports, searches, judges on validation and test rows, times and reports in them):",
        "",
        *table(["model", "fp32 MB", *(f"{name} MB" for name in names), *(f"{name} s" for name in names)], sizes),
        *_failures(part),
    ]


def _failures(part: dict[str, Any]) -> list[str]:
    found = [
        f"- {model}, {NAMES[side]}: {maker['fails']}"
        for model, row in part.items()
        for side, maker in row["makers"].items()
        if side in NAMES and "fails" in maker
    ]
    return ["", "What fails, in its own words:", "", *found] if found else []


def _accuracy(part: dict[str, Any]) -> list[str]:
    lines = ["### Accuracy, four trained models at low resolution", ""]
    lines += [
        "Trained on 3,000 MNIST digits, SqueezeNet not to its end; drop on 1,000 test rows against fp32, with its 95 % interval. fmx and the",
        "accuracy control have a budget of 0.5 points. Seconds are of whole commands; fmx also from the kept fp32 graph, which is where the",
        "others start.",
        "",
    ]
    for model, row in part.items():
        case, cells_of = row["case"], []
        for side in ("fp32", *NAMES):
            found, maker = row["sides"].get(side), row["makers"].get(side, {})
            if found is None:
                cells_of.append([NAMES.get(side, side), "fails", *[""] * 6])
                continue
            low, high = found["drop_interval"]
            seconds = f"{maker['seconds']:.0f}" if "seconds" in maker else ""
            if "from the fp32 graph" in maker:
                seconds += f" ({maker['from the fp32 graph']['seconds']:.0f} from the graph)"
            cells = [f"{100 * found['accuracy']:.2f} %", f"{found['drop']:.2f} ({low:.2f} to {high:.2f})", f"{100 * found['agreement']:.2f} %"]
            speeds = [f"{at['speed_up']:.2f}" for at in found["latency"]]
            cells_of.append([NAMES.get(side, side), *cells, *speeds, f"{found['bytes'] / 1e6:.2f} MB", seconds])
        heads = [
            f"{model}, {case['size']} px",
            "accuracy",
            "drop",
            f"agreement ({row['agreement_rows']:,} rows)",
            "batch 1",
            "batch 8",
            "size",
            "seconds",
        ]
        lines += [*table(heads, cells_of), "", f"fmx's verdict: {row['makers']['fmx'].get('why', row['makers']['fmx'].get('fails'))}", ""]
    return [*lines[:-1], *_failures(part)]


def _pruning(part: dict[str, Any]) -> list[str]:
    cells_of = []
    for name, row in part.items():
        maker, found = row["makers"]["fmx"], row["sides"].get("fmx")
        if found is None:
            cells_of.append([name, maker["fails"], *[""] * 5])
            continue
        speeds = [f"{at['speed_up']:.2f}" for at in found["latency"]]
        low, high = found["drop_interval"]
        cells = [f"{100 * found['accuracy']:.2f} %", f"{found['drop']:.2f} ({low:.2f} to {high:.2f})", *speeds, f"{found['bytes'] / 1e6:.2f} MB"]
        cells_of.append([name, *cells, f"{maker['seconds']:.0f}"])
    return [
        "### Pruned and quantised",
        "",
        "`fmx export --prune RATIO --recover EPOCHS --quantize int8 --max-drop 1.0`; drop and speeds are against the dense fp32 network.",
        "",
        *table(["model, share of channels", "accuracy", "drop", "batch 1", "batch 8", "size", "seconds"], cells_of),
    ]


def _memory(part: dict[str, Any]) -> list[str]:
    cells_of = [
        [str(row["rows"]), f"{row['bytes of the rows as floats'] / 1e6:.0f} MB", f"{row['peak_bytes'] / 1e6:.0f} MB"] for row in part.values()
    ]
    return [
        "### Peak memory of an export",
        "",
        *table(["calibration rows", "their size as floats", "peak resident memory"], cells_of),
    ]


_PARTS = {"latency": _latency, "accuracy": _accuracy, "pruning": _pruning, "memory": _memory}
