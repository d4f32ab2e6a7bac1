"""A package opened on ONNX Runtime: bytes or rows in, predictions out.

The same object answers `fmx predict`, `fmx eval`, the accuracy measured at export and the service: what was measured is what is served.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmx import runtime
from fmx.contract import EmbeddingOutput, ImageInput, ModelContract, Variant
from fmx.errors import PackageError
from fmx.gpu import GpuRunner
from fmx.host import usable_cpus
from fmx.package import Package, load_package, task_of
from fmx.tasks import Task, open_task

EVALUATION_BATCH = 64
GOLDEN_BATCH = 4
"""What a session once needed for a batch it keeps: a service must not pay for all golden rows at once."""
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2e-2, "int8-generic": 2e-2, "int8-arm64": 2e-2}
"""Largest difference of a probability between a golden row's answer here and at export: other CPUs round otherwise, wrong ones saturate."""


class AnswerCountError(PackageError):
    """A model that answers another number of rows than it was given."""

    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        super().__init__(f"The model answered {shape} to {rows} rows.", hint="Export the model again; fmx verify tells.")


class Predictor:
    """One ONNX file that keeps a contract, ready to run. Safe to call from several threads at once."""

    def __init__(
        self,
        model: Path | bytes,
        contract: ModelContract,
        *,
        threads: int,
        device: str = "cpu",
        spinning: bool = False,
        exact: bool = False,
        task: Task | None = None,
    ) -> None:
        """Open a file.

        Args:
            model: an ONNX file, or its bytes.
            contract: that it keeps.
            threads: inside one operator.
            device: cpu or cuda.
            spinning: see `fmx.runtime.open_session`.
            exact: see `fmx.runtime.open_session`.
            task: the contract's, where it is open already; one that is opened here has no tokenizer, so that a text model takes rows alone.
        """
        self.contract = contract
        self.task = task or open_task(contract.task, contract.labels, contract.input)
        self.device = device
        self._session = runtime.open_session(model, threads=threads, device=device, spinning=spinning, exact=exact)
        names = self.task.input_name, contract.output.name
        has_fixed_shape = device == "cuda" and isinstance(contract.input, ImageInput)
        self._on_gpu = GpuRunner(self._session, *names, self.task.row_shape, len(contract.labels)) if has_fixed_shape else None

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Run one batch.

        Args:
            rows: [n, *row_shape] of the task.

        Returns:
            float32 [n, *answer_shape] of the task: of rows [n, labels], each summing to 1; of tokens [n, max_length, labels], 0 for padding.

        Raises:
            AnswerCountError: the model gave another number of rows than it was given; nothing may then be attributed to anyone.
        """
        if self._on_gpu is not None:
            answers = self._on_gpu.run(rows)
        else:
            answers = np.asarray(self._session.run([self.contract.output.name], {self.task.input_name: self.task.feed(rows)})[0])
        return self._checked(answers, rows)

    def _checked(self, answers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Give a graph's answers to rows the shape of the task's. Raises: `AnswerCountError`."""
        axes = 1 + len(self.task.answer_shape) - self.task.has_several  # a graph of several labels gives each one number
        if answers.ndim != axes or len(answers) != len(rows) or answers.shape[-1] != len(self.contract.labels):
            raise AnswerCountError(len(rows), answers.shape)
        return self.task.spread(answers, rows)

    def embed_rows(self, rows: np.ndarray) -> np.ndarray:
        """Run one batch for its embeddings: [n, *row_shape] to float32 [n, width], each of length 1. Raises: `PackageError`: the package has none."""
        return self._with_embeddings(rows)[1]

    def answer(self, rows: np.ndarray) -> np.ndarray:
        """Run one batch for everything: float32 [n, probabilities + width], the embedding last, of width 0 where there is none; see `parted`."""
        if self.contract.embedding is None:
            return self.run(rows).reshape(len(rows), -1)
        answers, vectors = self._with_embeddings(rows)
        return np.concatenate([answers.reshape(len(rows), -1), vectors], axis=1)

    def parted(self, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Part what `answer` gives into probabilities, float32 [n, *answer_shape], and embeddings, float32 [n, width]."""
        shape = self.task.answer_shape
        probabilities, vectors = np.split(answers, [math.prod(shape)], axis=1)
        return probabilities.reshape(-1, *shape), vectors

    @property
    def _embedding(self) -> EmbeddingOutput:
        if self.contract.embedding is None:
            raise PackageError("This package gives no embeddings.", hint="Export its run again with --embedding.")
        return self.contract.embedding

    def _with_embeddings(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wanted = self._embedding
        answers, vectors = self._session.run([self.contract.output.name, wanted.name], {self.task.input_name: self.task.feed(rows)})
        if vectors.shape != (len(rows), wanted.width):
            raise AnswerCountError(len(rows), vectors.shape)
        return self._checked(answers, rows), vectors

    def embed(self, inputs: Sequence[bytes]) -> np.ndarray:
        """Embed encoded inputs, in order: float32 [n, width], each of length 1.

        Raises:
            InputError: one that cannot be read.
            PackageError: the package has no embeddings.
        """
        return self.embed_all(np.stack([self.task.row(data) for data in inputs]))

    def embed_all(self, rows: np.ndarray) -> np.ndarray:
        """Embed any number of rows in batches: [n, *row_shape] to float32 [n, width]."""
        return self._in_batches(self.embed_rows, (self._embedding.width,), rows)

    def run_all(self, rows: np.ndarray, advance: Callable[[int], None] = lambda count: None) -> np.ndarray:
        """Run any number of rows in batches: [n, *row_shape] to float32 [n, *answer_shape]."""
        return self._in_batches(self.run, self.task.answer_shape, rows, advance)

    def _in_batches(
        self, run: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], rows: np.ndarray, advance: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        """Run rows in the order that is fastest: [n, *row_shape] to float32 [n, *shape], in theirs."""
        answers = np.empty((len(rows), *shape), dtype=np.float32)
        order = self.task.order(rows)
        for start in range(0, len(rows), EVALUATION_BATCH):
            chosen = order[start : start + EVALUATION_BATCH]
            answers[chosen] = run(rows[chosen])
            advance(len(chosen))
        return answers

    def run_golden(self, rows: np.ndarray) -> np.ndarray:
        """Run golden rows, in the batches in which they are recorded and replayed: [n, *row_shape] to float32 [n, *answer_shape]."""
        return np.concatenate([self.run(rows[start : start + GOLDEN_BATCH]) for start in range(0, len(rows), GOLDEN_BATCH)])

    def predict(self, inputs: Sequence[bytes], top_k: int = 5) -> list[dict[str, Any]]:
        """Answer encoded inputs in order, one prediction each. Raises: `InputError` for one that cannot be read."""
        pieces = [self.task.pieces(data) for data in inputs]
        answers = self.run_all(np.stack([self.task.row(piece.data) for parts in pieces for piece in parts]))
        ends = np.cumsum([len(parts) for parts in pieces])
        return [
            self.task.answer(data, parts, list(answers[end - len(parts) : end]), top_k).prediction
            for data, parts, end in zip(inputs, pieces, ends, strict=True)
        ]


class PackagePredictor(Predictor):
    """A verified package, opened on one of its variants."""

    def __init__(
        self, package: Package, variant: Variant, *, threads: int, device: str = "cpu", spinning: bool = False, task: Task | None = None
    ) -> None:
        model, contract = package.folder / variant.file, package.manifest.contract
        super().__init__(model, contract, threads=threads, device=device, spinning=spinning, task=task or task_of(package))
        self.package = package
        self.variant = variant

    @classmethod
    def open(
        cls, folder: Path, *, variant: str | None = None, threads: int | None = None, device: str = "auto", spinning: bool = False
    ) -> PackagePredictor:
        """Open a package folder with every hash checked, on the variant that this host would serve unless one is named.

        Args:
            folder: a package folder.
            variant: `fp32`, `int8`, ...
            threads: threads inside one operator; default every usable CPU.
            device: auto, cpu or cuda.
            spinning: see `fmx.runtime.open_session`.

        Raises:
            PackageError: damaged or altered, or no variant fits.
        """
        package = load_package(folder)
        device = runtime.choose_device(device)
        return cls(package, package.variant(variant, device), threads=threads or usable_cpus(), device=device, spinning=spinning)

    @property
    def identity(self) -> dict[str, str]:
        """Name, version and variant: who answers."""
        return {"name": self.package.name, "version": self.package.manifest.version, "variant": self.variant.name}

    def replay_golden_rows(self) -> float:
        """Run the package's golden rows and compare with the answers recorded at export.

        Returns:
            The largest difference of a probability.

        Raises:
            PackageError: a first label differs, or a probability by more than the variant's `TOLERANCE`.
        """
        try:
            with np.load(self.package.folder / "golden.npz", allow_pickle=False) as golden:
                rows, expected = golden["rows"], golden[self.variant.name]
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise PackageError(f"{self.package.name} holds no golden rows for {self.variant.name} ({error}).", hint="Export it again.") from error
        answers = self.run_golden(rows)
        difference = float(np.abs(answers - expected).max())
        is_whole = answers.ndim == 2  # of tokens not all count, and those that do not are answered anyhow
        changed = int((answers.argmax(axis=1) != expected.argmax(axis=1)).sum()) if is_whole else 0
        if not difference <= TOLERANCE[self.variant.name] or changed:
            raise PackageError(
                f"{self.package.name} ({self.variant.name}) does not compute here what it computed at export: "
                f"a probability differs by {difference:.4f}, {changed} of {len(rows)} golden rows change their label.",
                hint="This CPU or onnxruntime rounds otherwise; export on a host of this kind, or serve --variant fp32.",
            )
        return difference
