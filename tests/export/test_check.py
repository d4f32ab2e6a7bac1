from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.check import Checked, check_file
from fmx.errors import UsageError
from fmx.package import Package


def saved(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None, batch: str | int = "batch") -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def codes(checked: Checked, severity: str = "error") -> list[str]:
    return [finding.code for finding in checked.findings if finding.severity == severity]


def test_good_file_has_no_errors(tmp_path: Path) -> None:
    checked = check_file(saved(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])]))
    assert not checked.has_errors
    assert codes(checked, "warning") == []
    assert checked.facts["batch"] == "dynamic"
    assert checked.facts["latency_ms"] > 0


def test_files_of_our_packages_have_no_errors_or_leaks(small_package: Package) -> None:
    for variant in small_package.manifest.variants:
        checked = check_file(small_package.folder / variant.file)
        assert not checked.has_errors
        assert "leaks-paths" not in codes(checked, "warning")
        assert checked.facts["precision"] == ("float32" if variant.name == "fp32" else "int8")


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model at all")
    assert codes(check_file(tmp_path / "m.onnx")) in (["unreadable"], ["does-not-load"])
    with pytest.raises(UsageError):
        check_file(tmp_path / "absent.onnx")


def test_fixed_batch_is_a_warning(tmp_path: Path) -> None:
    checked = check_file(saved(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], batch=2))
    assert codes(checked, "warning") == ["fixed-batch"]


def test_batch_that_is_only_called_dynamic_is_an_error_pytorch_148886(tmp_path: Path) -> None:
    """pytorch#148886, #157621: the axis had a name, and a reshape held the example's size."""
    nodes = [helper.make_node("Reshape", ["x", "s"], ["z"]), helper.make_node("Reshape", ["z", "t"], ["y"])]
    path = saved(tmp_path / "m.onnx", nodes, {"s": np.array([7, 2, 2], np.int64), "t": np.array([7, 4], np.int64)})
    assert "batch-not-dynamic" in codes(check_file(path))


def test_rows_that_depend_on_each_other_are_an_error(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMax", ["x", "a"], ["m"], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])]
    assert codes(check_file(saved(tmp_path / "m.onnx", nodes, {"a": np.array([0], np.int64)}))) == ["rows-are-not-independent"]


def test_chance_in_a_graph_is_a_warning(tmp_path: Path) -> None:
    nodes = [helper.make_node("RandomUniformLike", ["x"], ["y"])]
    assert "not-deterministic" in codes(check_file(saved(tmp_path / "m.onnx", nodes)), "warning")


def test_nan_is_found(tmp_path: Path) -> None:
    division = [helper.make_node("Div", ["x", "x"], ["y"])]
    assert "not-a-number" in codes(check_file(saved(tmp_path / "m.onnx", division)))
    overflow = [helper.make_node("Mul", ["x", "x"], ["z"]), helper.make_node("Exp", ["z"], ["y"])]
    checked = check_file(saved(tmp_path / "n.onnx", overflow))
    assert not checked.has_errors
    assert "not-a-number" in codes(checked, "warning")


def with_external_data(folder: Path, location: str) -> Path:
    path = saved(folder / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.eye(4, dtype=np.float32)})
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    (folder / "weights.bin").write_bytes(raw)
    return path


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname"])
def test_external_data_outside_the_folder_is_an_error(tmp_path: Path, location: str) -> None:
    assert codes(check_file(with_external_data(tmp_path, location))) == ["external-data-leaves-folder"]


def test_external_data_beside_the_file_are_noted_and_missing_ones_an_error_onnxruntime_28764(tmp_path: Path) -> None:
    """onnxruntime#28764, hey-buddy#29: only the .onnx of two files was copied, and nothing said so."""
    path = with_external_data(tmp_path, "weights.bin")
    checked = check_file(path)
    assert not checked.has_errors
    assert "external-data" in codes(checked, "note")
    (tmp_path / "weights.bin").unlink()
    assert codes(check_file(path)) == ["external-data-missing"]


def test_stack_traces_are_a_warning(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/me/model.py", line 3')
    assert codes(check_file(saved(tmp_path / "m.onnx", [node])), "warning") == ["leaks-paths"]


def test_labels_must_be_as_many_as_the_outputs(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    model = onnx.load(path)
    helper.set_model_props(model, {"fmx.labels": "a\nb\nc"})
    onnx.save(model, path)
    assert codes(check_file(path)) == ["labels"]


def test_float_left_overs_of_an_int8_file_are_named(tmp_path: Path) -> None:
    constants: dict[str, np.ndarray] = {"s": np.array(0.1, np.float32), "z": np.array(128, np.uint8), "w": np.ones((4, 4), np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    checked = check_file(saved(tmp_path / "m.onnx", nodes, constants))
    assert checked.facts["precision"] == "int8"
    assert any("MatMul" in finding.message or "Gemm" in finding.message for finding in checked.findings if finding.code == "float-left-overs")
