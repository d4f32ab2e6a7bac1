"""The service on a CUDA GPU: `python -m benchmarks.serve_gpu PACKAGE ... --out FILE`, where onnxruntime-gpu and a GPU are.

Compares the answers of the GPU with those recorded at export, times batches with bound buffers and as one graph beside plain calls, and loads the
real service with the client on the same host. Then it checks that a GPU which is asked for and not there is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.serve_load import Client, request_bytes
from fmx import host, runtime
from fmx.package import load_package
from fmx.predictor import PackagePredictor
from serve.scaling.replica import replica_of

BATCHES = (1, 4, 16, 64)
CALLERS = (1, 16, 64, 128)
SECONDS = 4.0


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--way", choices=WAYS, help="time this way alone")
    parser.add_argument("--variant", default="fp16")
    given = parser.parse_args()
    if given.way:
        print(json.dumps(times_of_way(given.packages[0], given.variant, given.way)))
        return
    gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=False)
    results: dict[str, Any] = {
        "date": host.now(),
        "gpu": gpu.stdout.strip(),
        "machine": host.describe(),
        "versions": host.library_versions(),
        "models": {},
    }
    for folder in given.packages:
        for part in (times_of, service_of):
            try:
                results["models"].setdefault(folder.name, {}).update(part(folder))
            except Exception as error:
                results["models"].setdefault(folder.name, {})[f"{part.__name__} failed"] = repr(error)
            print(json.dumps(results["models"][folder.name]), flush=True)
            given.out.write_text(json.dumps(results, indent=1) + "\n")
    results["refusals"] = refusals(given.packages[0])
    print(json.dumps(results["refusals"]), flush=True)
    given.out.write_text(json.dumps(results, indent=1) + "\n")


WAYS = ("plain calls", "bound buffers", "bound buffers, one graph")


def times_of(folder: Path) -> dict[str, Any]:
    """Time batches on the GPU in three ways, each in a process of its own, for a GPU that stumbles takes its process with it; and on the CPUs."""
    found: dict[str, Any] = {}
    for variant in ("fp16", "fp32"):
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.serve_gpu", str(folder), "--way", way, "--variant", variant]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = done.stdout.strip().splitlines()
            found[f"{variant}, {way}"] = json.loads(lines[-1]) if done.returncode == 0 and lines else f"failed: {done.stderr.strip()[-300:]}"
            print(folder.name, variant, way, found[f"{variant}, {way}"], flush=True)
    on_cpu = PackagePredictor.open(folder, variant="fp32", device="cpu")
    rows = some_rows(on_cpu)
    found["fp32, on the CPUs"] = {"ms": {batch: median_ms(on_cpu.run, rows[:batch], 5) for batch in BATCHES[:2]}}
    return found


def times_of_way(folder: Path, variant: str, way: str) -> dict[str, Any]:
    """Time one way: medians in milliseconds."""
    started = time.perf_counter()
    predictor = PackagePredictor.open(folder, variant=variant, device="cuda")
    runner = predictor._on_gpu
    assert runner is not None
    if way == WAYS[2]:
        runner._session = runtime.open_session(folder / predictor.variant.file, threads=1, device="cuda", cuda_graph=True)
    difference = predictor.replay_golden_rows()
    opened_s = time.perf_counter() - started
    run = partial(run_plainly, runner._session, predictor.task.input_name) if way == WAYS[0] else predictor.run
    rows = some_rows(predictor)
    times, first = {}, {}
    for batch in BATCHES:
        started = time.perf_counter()
        run(rows[:batch])
        first[batch] = round(time.perf_counter() - started, 2)
        times[batch] = median_ms(run, rows[:batch])
    predictor.replay_golden_rows()
    return {"golden rows differ by": difference, "opened and replayed, s": round(opened_s, 2), "first call, s": first, "ms": times}


def some_rows(predictor: PackagePredictor) -> np.ndarray:
    """Make rows for the largest batch."""
    return np.random.default_rng(0).integers(0, 256, (max(BATCHES), *predictor.task.row_shape), dtype=np.uint8)


def run_plainly(session: Any, name: str, rows: np.ndarray) -> Any:
    """Call a session as everybody does."""
    return session.run(None, {name: rows})[0]


def median_ms(run: Callable[[np.ndarray], object], rows: np.ndarray, calls: int = 50) -> float:
    """Time calls after a few that warm."""
    for _ in range(3):
        run(rows)
    taken = []
    for _ in range(calls):
        started = time.perf_counter()
        run(rows)
        taken.append(1e3 * (time.perf_counter() - started))
    return round(statistics.median(taken), 3)


def service_of(folder: Path) -> dict[str, Any]:
    """Load the real service."""
    images = noise_photographs()
    served: dict[str, Any] = {}
    package = load_package(folder)
    for device in ("cuda", "cpu"):
        os.environ["FMX_DEVICE"] = device
        with replica_of(package, 1) as url:
            requests = [request_bytes(f"{url}/v1/predict", image, "image/jpeg") for image in images]
            served[device] = {"closed": asyncio.run(load(int(url.rsplit(":", 1)[1]), requests))}
            time.sleep(6)  # the vitals are read every five seconds
            text = urllib.request.urlopen(f"{url}/metrics").read().decode()
            wanted = ("fmx_gpu", "fmx_model_info", "fmx_batch_rows_sum", "fmx_batch_rows_count")
            served[device]["metrics"] = [line for line in text.splitlines() if line.startswith(wanted)]
    os.environ.pop("FMX_DEVICE")
    return {"service": served}


async def load(port: int, requests: list[bytes]) -> dict[int, Any]:
    """Load it with more and more callers."""
    client, found = Client(port, requests), {}
    await client.closed_loop(16, 2.0)
    for callers in CALLERS:
        observed = await client.closed_loop(callers, SECONDS)
        found[callers] = {
            "per_s": round(observed.goodput, 1),
            "p50_ms": round(observed.latency_ms(0.5), 2),
            "p99_ms": round(observed.latency_ms(0.99), 2),
            "statuses": observed.statuses,
        }
    client.close()
    return found


def noise_photographs() -> list[bytes]:
    """Make JPEGs of 500 x 333 pixels and about 40 kB: smooth noise, for no photograph is on such a machine."""
    encoded = []
    for seed in range(2):
        small = np.random.default_rng(seed).integers(0, 256, (42, 63, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((500, 333), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    return encoded


def refusals(folder: Path) -> dict[str, Any]:
    """Start the service where no GPU is visible: told `cuda` it must not serve, told `auto` it takes the CPU."""
    found = {}
    for device in ("cuda", "auto"):
        with tempfile.TemporaryDirectory() as home:
            variables = {
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "FMX_DEVICE": device,
                "FMX_PACKAGE": str(folder),
                "FMX_AUTH": "off",
                "BENTOML_HOME": home,
            }
            code = (
                "import sys, asyncio, time; from serve.engine import Engine; from serve.settings import load_settings\n"
                "e = Engine(load_settings()); e.start(); e._opener.join(); print('why not ready:', e.why_not_ready or 'it is'); e.close()"
            )
            done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
            found[device] = done.stdout.strip()[-300:] or done.stderr[-500:]
    return found


if __name__ == "__main__":
    main()
