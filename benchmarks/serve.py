"""The service beside its peers and beside its own limit: `python -m benchmarks.serve --environments /tmp PACKAGE ...`.

One ONNX file, one preprocessing, real JPEGs of about 40 kB, the client on the same cores. Answers are compared before anything is timed; the
sides are started one after another, in another order each time, and the limit in process is measured beside them each time. Closed loop for
capacity and for latency alone; open loop, with latencies from the intended time of sending, at the same rates for all. fmx runs as it comes: keys
checked, access log, audit log and drift on.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from benchmarks.serve_load import Client, request_bytes
from benchmarks.serve_peers import check
from benchmarks.serve_peers.peers import PEERS, Peer
from benchmarks.serve_peers.processes import Running, running
from fmx import host
from fmx.package import load_package
from fmx.predictor import PackagePredictor
from serve.access.keys import create_key
from serve.scaling.load import Observed

RESULTS = Path(__file__).parent / "results" / "serve.json"
SIDE, QUALITY = 500, 85
"""Photographs are scaled down to this longer side: 25 and 47 kB, as a phone's upload to a classifier."""
CALLERS = (1, 4, 16)
WARM_SECONDS = 2.0
RATES = (0.5, 0.8)
"""Of the limit in process, in requests a second, for open loops."""
OVERLOAD = 2.0
OBJECTIVE_MS = 200
"""What fmx is told, as `fmx capacity` would tell it; no peer has such a setting."""
SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Fmx(Peer):
    """fmx's own service, as a peer."""

    key: str = ""

    def labels(self, answer: bytes) -> list[dict[str, Any]]:
        """Read an answer."""
        found: list[dict[str, Any]] = json.loads(answer)["predictions"][0]["labels"]
        return found


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--environments", type=Path, required=True, help="the folder that benchmarks.serve_peers.environments filled")
    parser.add_argument("--peers", nargs="*", default=[name for name in PEERS if name != "null"], metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each loop")
    given = parser.parse_args()
    results: dict[str, Any] = {"date": host.now(), "machine": host.describe(), "versions": host.library_versions(), "models": {}}
    for folder in given.packages:
        results["models"][folder.name] = measure(folder, given)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Measure one package, on the variant that this host would serve."""
    package = load_package(folder)
    variant = package.variant()
    images = photographs()
    expected = [answer["labels"] for answer in PackagePredictor.open(folder, variant=variant.name, threads=1).predict(images)]
    sides: dict[str, list[dict[str, Any]]] = {}
    limits: list[dict[str, float]] = []
    ports = itertools.count(14170, 5)  # never the same again: a connection may linger on one
    with tempfile.TemporaryDirectory(prefix="fmx-bench-") as home:
        own = {"fmx": fmx_as_it_comes(folder, variant.name, Path(home)), "fmx-2-workers": fmx_as_it_comes(folder, variant.name, Path(home), 2)}
        peers = {**own, "null": PEERS["null"], **{name: PEERS[name] for name in given.peers}}
        place: dict[str, Any] = {"environments": given.environments, "package": folder, "variant": variant.name, "answer": json.dumps(expected[0])}
        for repeat in range(given.repeats):
            limits.append(limit_in_process(folder, variant.name, given.seconds))
            print(f"{folder.name}, in process: {limits[-1]}", flush=True)
            limit = max(statistics.median(limit[way] for limit in limits) for way in WAYS)
            names = list(peers)
            for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
                place["port"] = next(ports)
                with running(peers[name], **place) as server:
                    found = measure_side(peers[name], server, images, None if name == "null" else expected, limit, given.seconds)
                sides.setdefault(name, []).append(found)
                print(f"{folder.name}, {name}: {json.dumps(found)}", flush=True)
    return {
        "variant": variant.name,
        "sha256": variant.sha256,
        "digest": package.digest,
        "image_bytes": [len(image) for image in images],
        "settings": {name: peer.settings for name, peer in peers.items()},
        "requirements": {name: list(peer.requirements) for name, peer in peers.items()},
        "limits": limits,
        "sides": sides,
    }


def fmx_as_it_comes(folder: Path, variant: str, home: Path, workers: int = 1) -> Fmx:
    """Describe fmx's service with keys, logs and drift on."""
    keys = home / f"keys-{workers}.json"
    _, key = create_key(keys, "benchmark")
    variables = {
        "FMX_PACKAGE": str(folder.resolve()),
        "FMX_VARIANT": variant,
        "FMX_KEYS_FILE": str(keys),
        "FMX_AUDIT_FILE": "{home}/audit.jsonl",
        "FMX_WORKERS": str(workers),
        "FMX_OBJECTIVE_MS": str(OBJECTIVE_MS),
        "BENTOML_HOME": "{home}",
        "BENTOML_DO_NOT_TRACK": "True",
    }
    command = ("{python}", "-m", "bentoml", "serve", "serve.service:FmxService", "--host", "127.0.0.1", "--port", "{port}")
    settings = f"{'as it comes' if workers == 1 else f'{workers} workers'}: keys, access log, audit log, drift; an objective of {OBJECTIVE_MS} ms"
    return Fmx("", command, settings, variables, path="/v1/predict", ready="/readyz", key=key)


def photographs() -> list[bytes]:
    """Give two real photographs as JPEGs."""
    encoded = []
    for original in check.photographs():
        image = Image.open(io.BytesIO(original))
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        encoded.append(file.getvalue())
    return encoded


WAYS = {"1 process, 2 threads inside": (1, 1, 2), "1 process, 2 threads": (1, 2, 1), "1 process, 3 threads": (1, 3, 1), "2 processes": (2, 1, 1)}
"""Processes, threads that decode and run, threads inside the session."""


def limit_in_process(folder: Path, variant: str, seconds: float) -> dict[str, float]:
    """Measure the predictor on the same bytes without a server: requests a second in each way, and the median of a lone call in ms."""
    found = {}
    for way, (processes, threads, inside) in WAYS.items():
        context = multiprocessing.get_context("spawn")
        answers = context.Queue()
        arguments = (str(folder), variant, threads, inside, seconds, answers)
        workers = [context.Process(target=_predict_for, args=arguments) for _ in range(processes)]
        for worker in workers:
            worker.start()
        done = [answers.get() for _ in workers]
        for worker in workers:
            worker.join()
        found[way] = round(sum(rate for rate, _ in done), 2)
        if threads == 1 and processes == 1:
            found["lone call on 2 threads, ms"] = round(done[0][1], 3)
        elif threads == 1:
            found["lone call on 1 thread, ms"] = round(_lone_call(folder, variant), 3)
    return found


def _lone_call(folder: Path, variant: str) -> float:
    predictor, images = PackagePredictor.open(folder, variant=variant, threads=1), photographs()
    taken = []
    for turn in range(60):
        started = time.perf_counter()
        predictor.predict([images[turn % 2]])
        taken.append(1e3 * (time.perf_counter() - started))
    return statistics.median(taken[10:])


def _predict_for(folder: str, variant: str, threads: int, inside: int, seconds: float, answers: Any) -> None:
    predictor, images = PackagePredictor.open(Path(folder), variant=variant, threads=inside), photographs()
    for image in images:
        predictor.predict([image])
    counts, taken = [0] * threads, []
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        turn = number
        while (started := time.perf_counter()) < until:
            predictor.predict([images[turn % len(images)]])
            taken.append(time.perf_counter() - started)
            counts[number] += 1
            turn += 1

    started = time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    answers.put((sum(counts) / (time.perf_counter() - started), 1e3 * statistics.median(taken)))


def measure_side(peer: Peer, server: Running, images: list[bytes], expected: list[Any] | None, limit: float, seconds: float) -> dict[str, Any]:
    """Compare answers, then load one server that is ready."""
    requests = [request_bytes(server.url, peer.body(image), peer.content_type, getattr(peer, "key", "")) for image in images]
    port = int(server.url.split(":")[2].split("/")[0])

    async def load() -> dict[str, Any]:
        client = Client(port, requests)
        if expected is not None:
            await compare(client, peer, expected)
        await client.closed_loop(max(CALLERS), WARM_SECONDS)
        found: dict[str, Any] = {"ready_s": round(server.ready_s, 2), "closed": {}, "open": {}}
        for callers in CALLERS:
            found["closed"][callers] = told(await client.closed_loop(callers, seconds))
        found["rss_mb"], found["pss_mb"] = memory_mb(server.pid)
        for share in (*RATES, OVERLOAD) if expected is not None else ():
            found["open"][share] = {"rate": round(share * limit, 1), **told(await client.open_loop(share * limit, seconds))}
        client.close()
        return found

    return asyncio.run(load())


async def compare(client: Client, peer: Peer, expected: list[Any]) -> None:
    """Hold the answers of a server against the predictor's. Raises: SystemExit."""
    for turn in range(4 * len(expected)):
        status, body = await client.ask(turn)
        if status != 200:
            raise SystemExit(f"status {status}: {body[:300]!r}")
        wanted = {item["label"]: item["score"] for item in expected[turn % len(expected)]}
        found = {item["label"]: item["score"] for item in peer.labels(body)}
        if found.keys() != wanted.keys() or any(abs(found[label] - wanted[label]) > SCORE_TOLERANCE for label in wanted):
            raise SystemExit(f"answers {found}, not {wanted}")


def told(observed: Observed) -> dict[str, Any]:
    """Give what a loop came to."""
    quantiles = {f"p{round(100 * share)}_ms": round(observed.latency_ms(share), 2) if observed.latencies else None for share in (0.5, 0.95, 0.99)}
    return {"per_s": round(observed.goodput, 2), **quantiles, "statuses": observed.statuses}


def memory_mb(pid: int) -> tuple[int, int]:
    """Add up a server's processes: resident memory, in which what they share counts as often as it is shared, and proportional."""
    server = psutil.Process(pid)
    found = [process.memory_full_info() for process in (server, *server.children(recursive=True))]
    return sum(info.rss for info in found) // 1_000_000, sum(info.pss for info in found) // 1_000_000


if __name__ == "__main__":
    main()
