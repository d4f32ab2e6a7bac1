"""Export, side by side with what people would otherwise use: `python -m benchmarks.export [--part NAME] [--model NAME] [--quick]`.

- latency: thirteen models at 224 pixels: milliseconds, size and agreement with fp32 of int8 by fmx and by every peer.
- accuracy: four models trained on real rows at low resolution: the same, and what each loses; NNCF's accuracy control beside
  `fmx export --quantize int8 --max-drop 0.5`, with the wall time of both.
- pruning: a trained ResNet-18, pruned and quantised within one point, against its dense fp32.
- memory: the peak memory of an export, by the number of its calibration rows.

Every peer quantises the same fp32 file with the same calibration rows in an environment of its own (`FMX_EXPORT_PEERS`, benchmarks/README.md);
its file is then wrapped as fmx wraps its own, and one harness asks all of them for answers and times them in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import export_sides as sides
from benchmarks.export_sides import Case, Prepared
from benchmarks.finetune_sides import Place
from benchmarks.readme import write_readme
from fmx import host

RESULTS = Path(__file__).parent / "results" / "export.json"
LATENCY = tuple(
    Case(name, "MNIST", 224, "random", train={"method": "linear-probe", "epochs": 30}, rows=(192, 64, 128), calibration=128)
    for name in (
        "resnet18",
        "mobilenet_v3_small",
        "mobilenet_v2",
        "efficientnet_b0",
        "resnet50",
        "squeezenet1_1",
        "regnet_y_400mf",
        "densenet121",
        "convnext_tiny",
        "inception_v3",
        "vgg16",
        "vit_b_16",
    )
)
LITE0 = Case("efficientnet_lite0", "MNIST", 224, "ImageNet", train={"method": "linear-probe", "epochs": 30}, rows=(192, 64, 128), calibration=128)
ACCURACY = (
    Case("efficientnet_lite0", "MNIST", 64, "ImageNet", train={"method": "finetune", "epochs": 4}),
    Case("resnet18", "MNIST", 64, "random", train={"method": "finetune", "epochs": 4}),
    Case("mobilenet_v3_small", "MNIST", 64, "random", train={"method": "finetune", "epochs": 12}),
    Case("squeezenet1_1", "MNIST", 64, "random", train={"method": "finetune", "epochs": 12, "lr": 2e-4}),
)
BUDGET = 0.5
"""Points; of `fmx export` and of NNCF's accuracy control."""
PRUNING = (("0.5", 2), ("0.65", 2))
"""Share of the channels taken out, and epochs of recovery after each step."""
PRUNING_BUDGET = 1.0
MEMORY_ROWS = (64, 256, 1024, 2048)


def main() -> None:
    """Measure the parts that are asked for and keep their numbers, a model's as soon as it is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all of them")
    parser.add_argument("--model", action="append", help="of the parts latency and accuracy, these alone; the others' numbers stay")
    parser.add_argument("--minutes", type=float, default=120, help="no further model is begun after so long")
    parser.add_argument("--agreement-seconds", type=float, default=60, help="for a model's answers; at most 5,000 rows, at least the test rows")
    parser.add_argument("--quick", action="store_true", help="a smoke run whose numbers are printed and not kept")
    given = parser.parse_args()
    os.environ |= {"OMP_WAIT_POLICY": "passive", "OLIVE_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), given.minutes)
        for name in given.part or PARTS:
            PARTS[name](place, given, Keeper(name, given.quick))


class Keeper:
    """Keeps a part's rows in results/export.json, each with when and where it was measured."""

    def __init__(self, part: str, quick: bool) -> None:
        self._part, self._quick = part, quick

    def keep(self, name: str, row: dict[str, Any]) -> None:
        """Replace a row and write the page."""
        measured = {"date": host.now(), "machine": host.describe(), "versions": host.library_versions(), **row}
        print(json.dumps({name: measured}, indent=2), flush=True)
        if self._quick:
            return
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept.setdefault(self._part, {})[name] = measured
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
        write_readme()


def measure_models(place: Place, given: argparse.Namespace, keeper: Keeper, *, cases: tuple[Case, ...], budget: float | None) -> None:
    """Quantise every model by everyone, ask and time; with a budget NNCF's accuracy control too."""
    for case in chosen(cases, given):
        if place.is_late:
            break
        prepared = sides.prepare(case, place, quick=given.quick)
        models, makers = quantised(prepared, place, budget)
        keeper.keep(case.model, sides.compare(prepared, models, makers, given.agreement_seconds))


def chosen(cases: tuple[Case, ...], given: argparse.Namespace) -> list[Case]:
    """Give the cases that were asked for; a smoke run takes one."""
    found = [case for case in cases if not given.model or case.model in given.model]
    return found[:1] if given.quick else found


def quantised(prepared: Prepared, place: Place, budget: float | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Let every side quantise: the serving graphs by name, and how each was made. A side that cannot says why and has no graph."""
    models, makers = {"fp32": prepared.fp32}, {}
    for name in ("ort", "optimum", "nncf", "olive", *(["nncf accuracy control"] if budget is not None else [])):
        limit = budget if name == "nncf accuracy control" else None
        graph, makers[name] = sides.peer_quantised(prepared, place, name, limit)
        if graph is not None:
            models[name] = graph
        print(f"{prepared.case.model}: {name}: {json.dumps(makers[name])}", file=sys.stderr, flush=True)
    graph, makers["fmx"] = sides.fmx_quantised(prepared, place, BUDGET, again=budget is not None)
    if graph is not None:
        models["fmx"] = graph
    print(f"{prepared.case.model}: fmx: {json.dumps(makers['fmx'])}", file=sys.stderr, flush=True)
    return models, makers


def measure_pruning(place: Place, given: argparse.Namespace, keeper: Keeper) -> None:
    """Prune and quantise one model within one budget, at several ratios; its dense fp32 is what the times are over."""
    prepared = sides.prepare(ACCURACY[1], place, quick=given.quick)
    for ratio, epochs in PRUNING[: 1 if given.quick else None]:
        if place.is_late:
            break
        keeper.keep(f"{prepared.case.model} at {ratio}", sides.prune_and_quantise(prepared, place, ratio, epochs, PRUNING_BUDGET))


def measure_memory(place: Place, given: argparse.Namespace, keeper: Keeper) -> None:
    """Export the same run with more and more calibration rows, nothing kept between."""
    prepared = sides.prepare(ACCURACY[0], place, quick=given.quick)
    for rows in MEMORY_ROWS[: 2 if given.quick else None]:
        keeper.keep(f"{rows} rows", sides.export_memory(prepared, place, rows))


PARTS: dict[str, Callable[[Place, argparse.Namespace, Keeper], None]] = {
    "accuracy": partial(measure_models, cases=ACCURACY, budget=BUDGET),
    "pruning": measure_pruning,
    "memory": measure_memory,
    "latency": partial(measure_models, cases=(LITE0, *LATENCY), budget=None),
}

if __name__ == "__main__":
    main()
