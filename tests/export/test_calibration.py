from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export import calibration
from export.calibration import choose_rows, chunks, collect_ranges
from export.graph import LOGITS, NORMALISED
from export.start import normalised
from fmx.contract import Fingerprint, ImageInput
from fmx.data.rows import Rows
from tests.export.bodies import random_rows


def labelled(labels: list[int]) -> Rows:
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    return Rows(images, np.array(labels), tuple(map(str, labels)), (), Fingerprint(rows=len(labels), sha256="0" * 64))


def test_calibration_rows_are_stratified_and_seeded() -> None:
    rows = labelled([0] * 90 + [1] * 10 + [2] * 4)
    chosen = choose_rows(rows, 24, 0)
    assert np.bincount(rows.labels[chosen]).tolist() == [10, 10, 4]
    assert np.array_equal(chosen, choose_rows(rows, 24, 0))
    assert not np.array_equal(chosen, choose_rows(rows, 24, 1))
    assert len(choose_rows(rows, 500, 0)) == 104


def test_calibration_is_fed_in_chunks_that_lose_no_row_onnxruntime_18893(spec: ImageInput) -> None:
    """onnxruntime#18893: chunked calibration threw rows away."""
    images = random_rows(70, spec)
    fed = list(chunks(images, lambda rows: normalised(rows, spec)))
    assert [len(chunk) for chunk in fed] == [32, 32, 6]
    assert np.concatenate(fed) == pytest.approx(normalised(images, spec))


def absolute_model(path: Path) -> Path:
    """A model whose one activation is the input doubled."""
    graph = helper.make_graph(
        [helper.make_node("Add", [NORMALISED, NORMALISED], ["doubled"], "double"), helper.make_node("Relu", ["doubled"], [LOGITS], "relu")],
        "g",
        [helper.make_tensor_value_info(NORMALISED, TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", 3, 4, 4])],
        value_info=[helper.make_tensor_value_info("doubled", TensorProto.FLOAT, ["batch", 3, 4, 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def rising_rows(n: int) -> np.ndarray:
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 4, 3))


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_ranges_do_not_depend_on_the_chunk_onnxruntime_18893(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """onnxruntime#18893, #20226: with chunks, the ranges came from the last rows alone."""
    monkeypatch.setattr(calibration, "CHUNK", chunk)
    rows = rising_rows(10)[::-1]  # the largest first
    ranges = collect_ranges(absolute_model(tmp_path / "m.onnx"), "minmax", rows, lambda images: images.transpose(0, 3, 1, 2).astype(np.float32))
    assert ranges["doubled"] == (0.0, 18.0)
    assert ranges[NORMALISED] == (0.0, 9.0)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_histogram_ranges_cut_off_what_is_rare_and_keep_the_rest(tmp_path: Path, method: calibration.RangeMethod) -> None:
    rows = np.random.default_rng(0).normal(100, 5, (64, 4, 4, 3)).clip(0, 255).astype(np.uint8)
    rows = np.repeat(np.repeat(rows, 8, 1), 8, 2)[:, :4, :4].copy()
    ranges = collect_ranges(absolute_model(tmp_path / "m.onnx"), method, rows, lambda images: images.transpose(0, 3, 1, 2).astype(np.float32))
    low, high = ranges["doubled"]
    assert 200 < high <= 2 * float(rows.max()) + 1
    assert low >= -high


def test_memory_of_calibration_does_not_grow_with_the_rows_onnxruntime_10503(tmp_path: Path) -> None:
    """onnxruntime#10503, #21979: entropy and percentile kept every activation of every row."""
    path = absolute_model(tmp_path / "m.onnx")
    held: list[int] = []

    def feed(images: np.ndarray) -> np.ndarray:
        held.append(len(images))
        return images.transpose(0, 3, 1, 2).astype(np.float32)

    collect_ranges(path, "percentile", rising_rows(200), feed)
    assert max(held) <= calibration.HISTOGRAM_CHUNK
    assert sum(held) == calibration.HISTOGRAM_ROWS
    held.clear()
    collect_ranges(path, "minmax", rising_rows(200), feed)
    assert max(held) <= calibration.CHUNK
    assert sum(held) == 200


def test_larger_rows_come_fewer_at_once_so_that_memory_does_not_grow_with_them() -> None:
    for side, most in ((32, 32), (64, 32), (128, 8), (224, 2), (512, 1)):
        assert next(len(chunk) for chunk in chunks(np.zeros((70, side, side, 3), np.uint8), lambda rows: rows)) == most
