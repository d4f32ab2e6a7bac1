from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from export.foreign import import_model
from export.graph import LOGITS, NORMALISED
from finetune.network import restore_network
from fmx.data import open_source
from fmx.data.rows import read_splits
from fmx.errors import ExportError, UsageError
from fmx.predictor import PackagePredictor
from fmx.run import Run, task_of
from fmx.statistics import softmax
from fmx.tasks import require_images
from tests.export.bodies import Exported

LITE = {"mean": (127.0, 127.0, 127.0), "std": (128.0, 128.0, 128.0)}
FIVE = "a,b,c,d,e"


def foreign(body: onnx.ModelProto, path: Path, *, softmax: bool = False) -> Path:
    """A classifier as other tools write them: float NCHW in, logits or probabilities out, names of its own."""
    model = onnx.ModelProto()
    model.CopyFrom(body)
    for node in model.graph.node:
        node.input[:] = ["pixel_values" if name == NORMALISED else name for name in node.input]
        node.output[:] = ["scores" if name == LOGITS else name for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = "pixel_values", "scores"
    if softmax:
        model.graph.node.append(helper.make_node("Softmax", ["scores"], ["answers"], axis=1))
        model.graph.output[0].name = "answers"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("softmaxed", [False, True])
def test_unevaluated_package_answers_what_the_file_answers(lite0: Exported, tmp_path: Path, softmaxed: bool) -> None:
    network, _, body = lite0
    package = import_model(foreign(body, tmp_path / "theirs.onnx", softmax=softmaxed), labels=FIVE, out=tmp_path / "packages", **LITE)
    (variant,) = package.manifest.variants
    assert variant.name == "fp32"
    assert variant.accuracy is None
    assert "never evaluated" in variant.why
    predictor = PackagePredictor.open(package.folder)
    assert predictor.replay_golden_rows() < 1e-6
    rows = np.random.default_rng(3).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = softmax(network(torch.from_numpy(rows)).numpy())
    assert predictor.run(rows) == pytest.approx(expected, abs=1e-5)
    assert (tmp_path / "packages" / "latest").read_text().strip() == package.name


def test_package_is_evaluated_where_there_are_rows(small_run: Run, tmp_path: Path) -> None:
    from export.exporter import export_body

    body = export_body(restore_network(small_run), small_run.info.input, 20)
    (tmp_path / "labels.txt").write_text("\n".join(small_run.info.labels) + "\n")
    options: dict[str, Any] = {
        "labels": str(tmp_path / "labels.txt"),
        "data": "digits",
        "interpolation": require_images(small_run.info.input, "test").interpolation,
    }
    package = import_model(foreign(body, tmp_path / "theirs.onnx"), out=tmp_path / "packages", **options, **LITE)
    (variant,) = package.manifest.variants
    rows = read_splits(open_source("digits", 0, None), task_of(small_run), ("test",))["test"]
    assert package.manifest.rows["test"] == rows.fingerprint
    assert variant.accuracy == small_run.info.accuracy


def test_labels_that_do_not_fit_are_refused(lite0: Exported, tmp_path: Path) -> None:
    path = foreign(lite0[2], tmp_path / "theirs.onnx")
    with pytest.raises(UsageError, match="3 different labels"):
        import_model(path, labels="a,b,c", out=tmp_path / "packages")
    assert not (tmp_path / "packages").exists()


def test_file_that_check_refuses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    with pytest.raises(ExportError):
        import_model(tmp_path / "m.onnx", labels="a,b", out=tmp_path / "packages")


def test_many_labels_are_no_file_name(lite0: Exported, tmp_path: Path) -> None:
    path = foreign(lite0[2], tmp_path / "theirs.onnx")
    with pytest.raises(UsageError, match="60 different labels"):
        import_model(path, labels=",".join(f"label-{i}" for i in range(60)), out=tmp_path / "packages")


def test_old_files_and_awkward_names_are_taken(lite0: Exported, tmp_path: Path) -> None:
    """Constants that are inputs too (IR version 3), an inner tensor called as ours is, and a file name that is no package name."""
    model = onnx.load(foreign(lite0[2], tmp_path / "theirs.onnx"))
    for node in model.graph.node:
        node.output[:] = ["inner" if name == "scores" else name for name in node.output]
    model.graph.node.append(helper.make_node("Identity", ["inner"], ["logits"]))
    model.graph.node.append(helper.make_node("Identity", ["logits"], ["scores"]))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(model, tmp_path / "my [old] model.onnx")
    package = import_model(tmp_path / "my [old] model.onnx", labels=FIVE, out=tmp_path / "packages", **LITE)
    assert package.name == "my-old-model-1"
    assert PackagePredictor.open(package.folder).replay_golden_rows() < 1e-6
