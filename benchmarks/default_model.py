"""The default model from run to answer, side by side with what its parts' own defaults give: `make bench`.

Two tables, both from one process on one machine, outputs compared before times, sides interleaved, raw numbers kept:

- int8: the fp32 body of the latest run, quantised by fmx, by ONNX Runtime's `quantize_static` as it comes (S8S8, per tensor), and by
  `quantize_static` with uint8 activations and per-channel weights; same calibration rows, same test rows, same predictor.
- serving: requests a second of `bentoml serve` in a closed loop, against the predictor on the same bytes in process.

It needs a run: `fmx train` first (the default one for the published numbers).
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import torch

from benchmarks.readme import write_readme
from export import measure, rewrite
from export.calibration import choose_rows, chunks
from export.exporter import export_body
from export.graph import NORMALISED, serving_graph
from export.pipeline import export_package
from export.start import normalised
from finetune.evaluation import eager_probabilities
from finetune.network import restore_network
from fmx import host
from fmx.contract import ModelContract
from fmx.data import open_source
from fmx.data.rows import Rows, read_splits
from fmx.package import find_package, load_package
from fmx.predictor import PackagePredictor, Predictor
from fmx.run import find_run, load_run, task_of
from serve.scaling.replica import START_SECONDS, becomes_ready

RESULTS = Path(__file__).parent / "results" / "default_model.json"
BATCHES = (1, 8)
REQUEST_SECONDS = 4.0
REPEATS = 3
CONCURRENCY = (1, 4, 8)
PORT = 3970


def main() -> None:
    """Measure, print and keep both tables."""
    results = {
        "date": host.now(),
        "machine": host.describe(),
        "versions": host.library_versions(),
        "quantisation": compare_quantisation(),
        "serving": compare_serving(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    write_readme()
    print((RESULTS.parent.parent / "README.md").read_text())
    print(f"Left {RESULTS}.")


def compare_quantisation() -> dict[str, Any]:
    """Quantise the latest run's body in three ways and measure them as the exporter does."""
    run = load_run(find_run())
    info = run.info
    rows = read_splits(open_source(info.settings["data"], info.settings["seed"]), task_of(run))
    network = restore_network(run)
    eager = eager_probabilities(network, rows["test"], torch.device("cpu"))
    contract = ModelContract(task=info.task, labels=info.labels, input=info.input)
    body = export_body(network, info.input, 20)
    plain = onnx.ModelProto()
    plain.CopyFrom(body)
    rewrite.pool_reduced_maps(body)
    chosen = rows["train"].values[choose_rows(rows["train"], 256, info.settings["seed"])]
    with tempfile.TemporaryDirectory() as folder:
        package = export_package(run.folder, out=folder, quantize="int8", max_drop=100.0, on_miss="fp32")
        own = next(variant for variant in package.manifest.variants if variant.name != "fp32")
        int8 = onnx.load(package.folder / own.file)
    models = {
        "fp32": serving_graph(body, contract, "0" * 64),
        "fmx": int8,
        "ort defaults": serving_graph(ort_quantised(plain, chosen, info, {}), contract, "0" * 64),
        "ort u8s8 per channel": serving_graph(ort_quantised(plain, chosen, info, uint8_per_channel()), contract, "0" * 64),
    }
    predictors = {name: Predictor(model.SerializeToString(), contract, threads=host.usable_cpus()) for name, model in models.items()}
    test: Rows = rows["test"]
    measured = {name: measure.measure_answers(item.run_all(test.values), eager, test, info.labels, (64,)) for name, item in predictors.items()}
    latency = measure.measure_latency(predictors, test.values, BATCHES)
    return {
        "run": {"model": info.model, "size": test.values.shape[1], "rows": len(test), "eager accuracy": info.accuracy.value},
        "variants": {
            name: {
                "bytes": len(models[name].SerializeToString()),
                "accuracy": measured[name].accuracy.value,
                "drop": measured[name].drop,
                "agreement": measured[name].parity.top1_agreement,
                "latency": [item.model_dump() for item in latency[name]],
            }
            for name in models
        },
    }


def uint8_per_channel() -> dict[str, Any]:
    """The options that onnxruntime's docstring recommends for x86."""
    from onnxruntime.quantization import QuantType

    return {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}


def ort_quantised(body: onnx.ModelProto, images: np.ndarray, info: Any, options: dict[str, Any]) -> onnx.ModelProto:
    """Quantise a body as its user would by onnxruntime's documentation: pre-process, then `quantize_static`."""
    from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_static

    class RowReader(CalibrationDataReader):  # type: ignore[misc]
        feeds = ({NORMALISED: chunk} for chunk in chunks(images, lambda rows: normalised(rows, info.input)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as name:
        source, prepared, target = (str(Path(name) / file) for file in ("a.onnx", "b.onnx", "c.onnx"))
        onnx.save(body, source)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, target, RowReader(), **options)
        return onnx.load(target)


def compare_serving() -> dict[str, Any]:
    """Ask the service and the predictor for the same images, in turns, and compare their rates."""
    package = load_package(find_package())
    images = [item.read() for item in open_source("digits").splits["test"][:64]]
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        variables = {**os.environ, "FMX_PACKAGE": str(package.folder), "FMX_HOME": name, "BENTOML_HOME": name, "BENTOML_DO_NOT_TRACK": "True"}
        command = [sys.executable, "-m", "bentoml", "serve", "serve.service:FmxService", "--port", str(PORT)]
        started = time.perf_counter()
        server = subprocess.Popen(command, env=variables, stdout=log.open("wb"), stderr=subprocess.STDOUT)
        try:
            if not becomes_ready(f"http://127.0.0.1:{PORT}", server, START_SECONDS):
                raise SystemExit(log.read_text())
            ready_s = time.perf_counter() - started
            key = re.search(r"fmx_[0-9a-f]{8}_\S+", log.read_text())
            return {"seconds to ready": round(ready_s, 2), **rates(package.folder, images, key[0] if key else "")}
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


def rates(folder: Path, images: list[bytes], key: str) -> dict[str, Any]:
    """Measure both sides at each concurrency, interleaved, and check first that they say the same."""
    predictor = PackagePredictor.open(folder, threads=1)
    local = threading.local()

    def in_process(image: bytes) -> str:
        return str(predictor.predict([image], 1)[0]["labels"][0]["label"])

    def over_http(image: bytes) -> str:
        if not hasattr(local, "client"):
            local.client = httpx.Client(headers={"X-API-Key": key, "Content-Type": "image/png"})
        answer = local.client.post(f"http://127.0.0.1:{PORT}/v1/predict?top_k=1", content=image)
        return str(answer.json()["predictions"][0]["labels"][0]["label"])

    assert [in_process(image) for image in images] == [over_http(image) for image in images]
    table: dict[str, Any] = {}
    for concurrency in CONCURRENCY:
        ours, limit = [], []
        for _ in range(REPEATS):
            limit.append(closed_loop(in_process, images, min(concurrency, host.usable_cpus())))
            ours.append(closed_loop(over_http, images, concurrency))
        table[f"concurrency {concurrency}"] = {
            "service requests/s": statistics.median(rate for rate, _ in ours),
            "service median ms": statistics.median(latency for _, latency in ours),
            "in process requests/s": statistics.median(rate for rate, _ in limit),
            "in process median ms": statistics.median(latency for _, latency in limit),
            "raw": {"service": ours, "in process": limit},
        }
    return table


def closed_loop(ask: Callable[[bytes], str], images: list[bytes], concurrency: int) -> tuple[float, float]:
    """Keep so many callers busy for a few seconds: (requests a second, median milliseconds)."""
    until = time.perf_counter() + REQUEST_SECONDS

    def caller(number: int) -> list[float]:
        times, turn = [], number
        while time.perf_counter() < until:
            started = time.perf_counter()
            ask(images[turn % len(images)])
            times.append(time.perf_counter() - started)
            turn += 1
        return times

    with ThreadPoolExecutor(concurrency) as pool:
        times = [seconds for found in pool.map(caller, range(concurrency)) for seconds in found]
    return round(len(times) / REQUEST_SECONDS, 1), round(1e3 * statistics.median(times), 3)


if __name__ == "__main__":
    main()
