"""What the export benchmark's parts share: trained runs, the quantisers as processes, and the harness that asks and times their graphs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.finetune_sides import ARRAYS, Finished, Place, answer, fmx_train, peer, run_side, write_folder
from export.calibration import choose_rows
from export.exporter import export_body
from export.graph import serving_graph
from export.measure import measure_latency
from finetune.network import restore_network
from fmx import host
from fmx.contract import ModelContract
from fmx.data import reopen_source
from fmx.data.rows import Rows, read_splits
from fmx.errors import first_line
from fmx.package import load_package
from fmx.predictor import EVALUATION_BATCH, Predictor
from fmx.run import Run, load_run, task_of
from fmx.statistics import paired_drop
from fmx.tasks import require_images

PEERS = Path(os.environ.get("FMX_EXPORT_PEERS", "/tmp"))
"""A folder with one environment a peer: peer-optimum, peer-nncf, peer-olive (benchmarks/README.md)."""
SCRIPTS = {"ort": "quantise_ort", "optimum": "quantise_optimum", "nncf": "quantise_nncf", "olive": "quantise_olive"}
PEER_SECONDS = 1800
"""After which a quantiser is stopped."""
BATCHES = (1, 8)
MOST_ROWS = 5000
NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class Case:
    """A model to be trained and quantised."""

    model: str
    data: str
    size: int
    weights: str
    """random, or ImageNet's where the samples extra brings them."""
    train: dict[str, Any] = field(hash=False)
    rows: tuple[int, int, int] = (3000, 1000, 1000)
    """To train, to validate, to test."""
    calibration: int = 256
    """Training rows that calibrate."""


@dataclass(frozen=True)
class Prepared:
    """A trained run with what every side is given of it."""

    case: Case
    run: Run
    test: Rows
    contract: ModelContract
    body: Path
    """The fp32 file that peers quantise."""
    calibration: Path
    fp32: bytes
    """The body, wrapped to serve."""


@lru_cache(maxsize=4)
def prepare(case: Case, place: Place, *, quick: bool) -> Prepared:
    """Train a case with `fmx train` and draw its fp32 graph, once for all sides."""
    images, labels = ARRAYS[case.data](place)
    counts = (80, 40, 40) if quick else case.rows
    ends = np.cumsum(counts)
    parts = {split: (images[end - count : end], labels[end - count : end]) for split, count, end in zip(SPLITS, counts, ends, strict=True)}
    data = write_folder(place.fresh(case.data), parts)
    options = {"data": data, "model": case.model, "size": case.size, "seed": 0, **case.train, **({"epochs": 1} if quick else {})}
    if case.weights == "random":
        options["weights"] = "none"
    home = place.fresh("home")
    _, info = fmx_train(home, options)
    run = load_run(home / "runs" / info.name)
    rows = read_splits(reopen_source(info.settings), task_of(run))
    contract = ModelContract(task=info.task, labels=info.labels, input=info.input)
    body = export_body(restore_network(run), info.input, 20)
    folder = place.fresh("graph")
    onnx.save(body, folder / "body.onnx")
    chosen = choose_rows(rows["train"], case.calibration, info.settings["seed"])
    np.savez(
        folder / "rows.npz",
        calibration=rows["train"].values[chosen],
        validation=rows["validation"].values,
        labels=rows["validation"].labels,
    )
    fp32 = serving_graph(body, contract, NO_DIGEST).SerializeToString()
    return Prepared(case, run, rows["test"], contract, folder / "body.onnx", folder / "rows.npz", fp32)


SPLITS = ("train", "val", "test")


def peer_quantised(prepared: Prepared, place: Place, name: str, max_drop: float | None = None) -> tuple[bytes | None, dict[str, Any]]:
    """Let a peer quantise the body: its graph wrapped to serve, or None with the reason."""
    library = name.split()[0]
    python = sys.executable if library == "ort" else str(PEERS / f"peer-{library}" / "bin" / "python")
    to = place.fresh(library) / "int8.onnx"
    images = require_images(prepared.contract.input, "this benchmark")
    spec = {
        "body": str(prepared.body),
        "rows": str(prepared.calibration),
        "mean": images.mean,
        "std": images.std,
        "to": str(to),
        "vnni": bool(host.describe()["vnni"]),
        "max_drop": max_drop,
    }
    try:
        finished = run_side(peer(SCRIPTS[library], spec, python), limit_s=PEER_SECONDS)
        graph = serving_graph(onnx.load(to), prepared.contract, NO_DIGEST).SerializeToString()
    except SystemExit as error:
        return None, {"fails": str(error).strip().splitlines()[-1][:300]}
    except Exception as error:  # a graph that is no valid ONNX any more, in whatever way
        return None, {"fails": first_line(error)}
    return graph, {**_cost(finished), **{key: value for key, value in answer(finished).items() if key != "seconds"}}


def fmx_quantised(prepared: Prepared, place: Place, max_drop: float, *options: str, again: bool) -> tuple[bytes | None, dict[str, Any]]:
    """Run the literal command `fmx export --quantize int8`: the graph of its int8 variant, or None where it made none.

    Args:
        prepared: the run.
        place: for its home.
        max_drop: the budget, in points.
        options: further ones.
        again: run it once more where the fp32 graph is kept, which is where the peers start, to time that too.
    """
    asked = ("--quantize", "int8", "--max-drop", str(max_drop), "--on-miss", "fp32", "--calibration-rows", str(prepared.case.calibration), *options)
    finished, folder = fmx_export(prepared, place.fresh("export"), *asked)
    from_graph = {}
    if again:
        home = place.fresh("export")
        fmx_export(prepared, home)
        from_graph = {"from the fp32 graph": _cost(fmx_export(prepared, home, *asked)[0])}
    package = load_package(folder)
    variants = {variant.name: variant for variant in package.manifest.variants}
    name = next((name for name in variants if name.startswith("int8")), None)
    found = {**_cost(finished), **from_graph, "served by default": package.variant().name}
    if name is None:
        return None, {**found, "fails": "no int8 variant was written"}
    return (folder / variants[name].file).read_bytes(), {**found, "variant": name, "why": variants[name].why, "recipe": package.manifest.recipe}


def fmx_export(prepared: Prepared, home: Path, *options: str) -> tuple[Finished, Path]:
    """Run `fmx export` in a home, whose cache keeps stages: what it cost, and the package's folder."""
    finished = run_side([sys.executable, "-m", "fmx", "export", str(prepared.run.folder), "--out", str(home / "packages"), *options], home=home)
    return finished, max((home / "packages").glob("*/manifest.json"), key=lambda file: file.stat().st_mtime).parent


def _cost(finished: Finished) -> dict[str, Any]:
    return {"seconds": finished.seconds, "cpu_seconds": finished.cpu_seconds, "peak_bytes": finished.peak_bytes}


def compare(prepared: Prepared, graphs: dict[str, bytes], makers: dict[str, Any], agreement_seconds: float) -> dict[str, Any]:
    """Ask every graph the same rows, then time all of them in turns.

    Args:
        prepared: the model; agreement is with its fp32 graph.
        graphs: by side, `fp32` among them.
        makers: by side, how its graph was made, or why there is none.
        agreement_seconds: of all sides together; it sets the number of rows.
    """
    predictors = {}
    for name, graph in graphs.items():
        try:
            predictors[name] = Predictor(graph, prepared.contract, threads=host.usable_cpus())
            predictors[name].run(prepared.test.values[:8])
        except Exception as error:  # onnxruntime raises what its native part says
            predictors.pop(name, None)
            makers[name] = {**makers[name], "fails": first_line(error)}
    latency = measure_latency(predictors, prepared.test.values, BATCHES)
    row_seconds = sum(at.median_ms / at.batch for found in latency.values() for at in found if at.batch == BATCHES[-1]) / 1e3
    count = int(np.clip(agreement_seconds / row_seconds, len(prepared.test), MOST_ROWS))
    answers = {name: _labels(predictor, prepared.test, count) for name, predictor in predictors.items()}
    labels, tested = prepared.test.labels, len(prepared.test)
    right = {name: found[:tested] == labels for name, found in answers.items()}
    rows = {}
    for name, found in answers.items():
        drop, low, high = paired_drop(right["fp32"], right[name])
        rows[name] = {
            "bytes": len(graphs[name]),
            "accuracy": float(right[name].mean()),
            "drop": drop,
            "drop_interval": (low, high),
            "agreement": float((found == answers["fp32"]).mean()),
            "latency": [at.model_dump() for at in latency[name]],
        }
    return {"case": asdict(prepared.case), "agreement_rows": count, "test_rows": tested, "sides": rows, "makers": makers}


def _labels(predictor: Predictor, test: Rows, count: int) -> np.ndarray:
    """Give the first labels of the test rows, and of altered copies of them up to `count` rows."""
    return np.concatenate([predictor.run(batch).argmax(axis=1) for batch in _batches(test.values, count)])


def _batches(images: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield the rows, then copies of them shifted by up to a tenth of the side and with other contrast, the same for everyone."""
    for start in range(0, count, EVALUATION_BATCH):
        numbers = np.arange(start, min(start + EVALUATION_BATCH, count))
        batch = np.array(images[numbers % len(images)])
        for place, number in enumerate(numbers):
            if number >= len(images):
                random = np.random.default_rng(number)
                most = max(1, images.shape[1] // 10)
                shifted = np.roll(batch[place], random.integers(-most, most + 1, 2), axis=(0, 1))
                batch[place] = np.clip(shifted * random.uniform(0.7, 1.3) + random.uniform(-20, 20), 0, 255).astype(np.uint8)
        yield batch


def prune_and_quantise(prepared: Prepared, place: Place, ratio: str, epochs: int, max_drop: float) -> dict[str, Any]:
    """Prune, recover and quantise with one command; judged against the dense network."""
    options = ("--prune", ratio, "--recover", str(epochs))
    graph, maker = fmx_quantised(prepared, place, max_drop, *options, again=False)
    return compare(prepared, {"fp32": prepared.fp32, **({"fmx": graph} if graph is not None else {})}, {"fp32": {}, "fmx": maker}, 30)


def export_memory(prepared: Prepared, place: Place, rows: int) -> dict[str, Any]:
    """Give the peak resident memory of an export with so many calibration rows."""
    options = ("--quantize", "int8", "--max-drop", "100", "--calibration-rows", str(rows), "--on-miss", "fp32")
    finished, _ = fmx_export(prepared, place.fresh("export"), *options)
    return {"rows": rows, **_cost(finished), "bytes of the rows as floats": rows * 4 * 3 * prepared.case.size**2}
