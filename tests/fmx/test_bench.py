from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fmx.bench import bench_file, example_feed
from fmx.errors import PackageError, UsageError
from fmx.runtime import open_session
from fmx.timing import interleaved


def model(path: Path, shape: list[str | int], kind: int = TensorProto.FLOAT) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_each_batch_is_timed(tmp_path: Path) -> None:
    first, second = bench_file(model(tmp_path / "m.onnx", ["batch", 3]), [1, 8], threads=1, seconds=0.05)
    assert (first.batch, second.batch) == (1, 8)
    for timing in (first, second):
        assert 0 < timing.minimum_ms <= timing.median_ms <= timing.p90_ms <= timing.p99_ms
        assert timing.calls >= 25
        assert timing.rows_per_second == pytest.approx(1e3 * timing.batch / timing.median_ms, rel=0.1)


def test_other_dynamic_axes_need_a_length(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", ["batch", "sequence"])
    with pytest.raises(UsageError, match="sequence"):
        bench_file(path, [1], threads=1)
    assert bench_file(path, [1], threads=1, sizes={"sequence": 5}, seconds=0.05)[0].calls


def test_fixed_batch_takes_no_other(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", [4, 3])
    assert bench_file(path, [4], threads=1, seconds=0.05)[0].batch == 4
    with pytest.raises(UsageError, match="fixed"):
        bench_file(path, [1], threads=1)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.UINT8, np.uint8), (TensorProto.INT64, np.int64), (TensorProto.FLOAT16, np.float16), (TensorProto.BOOL, np.bool_)]
)
def test_example_feed_has_the_inputs_type(tmp_path: Path, kind: int, dtype: type) -> None:
    session = open_session(model(tmp_path / "m.onnx", ["batch", 2], kind), threads=1)
    (value,) = example_feed(session, 3, {}).values()
    assert value.dtype == np.dtype(dtype)
    assert value.shape == (3, 2)


def test_strings_cannot_be_made_up(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="string"):
        bench_file(model(tmp_path / "m.onnx", ["batch"], TensorProto.STRING), [1], threads=1)


def test_interleaved_calls_take_turns() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, seconds=0.0)
    assert order[:6] == ["a"] * 3 + ["b"] * 3
    assert len(times["a"]) == len(times["b"]) >= 3
    assert "".join(dict.fromkeys("".join(order).replace("aa", "a"))) == "ab"
