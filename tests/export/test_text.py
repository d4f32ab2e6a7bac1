"""Exporting a run of texts: graph with two dynamic axes, int8, tokenizer in the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export import variants
from export.calibration import collect_ranges
from export.dynamic import _as_prepared
from export.exporter import export_body
from export.float_graph import open_graph
from export.graph import serving_graph
from export.pipeline import export_package
from export.quantize import Scheme, check_quantised, prepare_body, quantize_body
from export.variants import TEXT_OPERATORS
from finetune.network import restore_network
from fmx.contract import ModelContract, TextInput
from fmx.data import reopen_source
from fmx.data.rows import read_splits
from fmx.errors import ExportError, PackageError, UsageError
from fmx.package import Package, load_package
from fmx.predictor import PackagePredictor
from fmx.run import Run, task_of
from fmx.statistics import softmax


def assert_answers_as_the_run(package: Package, run: Run) -> None:
    predictor = PackagePredictor.open(package.folder, variant="fp32")
    rows = read_splits(reopen_source(run.info.settings), task_of(run))["test"]
    with torch.inference_mode():
        eager = softmax(restore_network(run)(torch.from_numpy(rows.values)).numpy())
    assert np.abs(predictor.run_all(rows.values) - eager).max() < 1e-4
    assert predictor.replay_golden_rows() < 1e-4


def test_package_of_texts_holds_its_tokenizer_and_answers_as_the_run_does(text_package: Package, text_run: Run) -> None:
    assert (text_package.folder / "tokenizer.json").read_bytes() == (text_run.folder / "tokenizer.json").read_bytes()
    assert_answers_as_the_run(text_package, text_run)
    reference = json.loads((text_package.folder / "reference.json").read_text())
    assert {"tokens", "unknown_share", "latin_share", "han_share", "confidence", "entropy", "class_share"} < set(reference)
    assert "brightness" not in reference


@pytest.mark.parametrize("length", [3, 8, 17, 32])
def test_graph_computes_what_the_network_does_at_every_length(text_package: Package, text_run: Run, length: int) -> None:
    spec, network = text_run.info.input, restore_network(text_run)
    assert isinstance(spec, TextInput)
    rows = task_of(text_run).noise(4)
    rows[:, length:] = spec.pad_id
    predictor = PackagePredictor.open(text_package.folder, variant="fp32")
    with torch.inference_mode():
        eager = softmax(network(torch.from_numpy(rows)).numpy())
    assert np.abs(predictor.run(rows) - eager).max() < 1e-4


def test_padding_changes_no_answer(text_package: Package) -> None:
    predictor = PackagePredictor.open(text_package.folder, variant="fp32")
    short, long = predictor.task.row(b"parcel is late"), predictor.task.row(("the courier was late " * 8).encode())
    alone, beside = predictor.run(short[None])[0], predictor.run(np.stack([short, long]))[0]
    assert np.abs(alone - beside).max() < 1e-5


def test_both_axes_are_dynamic_and_nothing_of_this_machine_is_inside(text_package: Package) -> None:
    for variant in text_package.manifest.variants:
        graph = onnx.load(text_package.folder / variant.file).graph
        assert [dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim] == ["batch", "sequence"]
        assert str(Path.home()).encode() not in (text_package.folder / variant.file).read_bytes()


def test_int8_holds_weights_and_embeddings_as_integers(text_run: Run, tmp_path: Path) -> None:
    spec, task = text_run.info.input, task_of(text_run)
    prepared = prepare_body(export_body(restore_network(text_run), spec, 20))
    onnx.save(prepared, tmp_path / "prepared.onnx")
    rows = read_splits(reopen_source(text_run.info.settings), task)["train"].values
    ranges = collect_ranges(tmp_path / "prepared.onnx", "minmax", rows, task.feed, TEXT_OPERATORS)
    body = quantize_body(prepared, ranges, Scheme(reduce_range=True, operators=TEXT_OPERATORS))
    check_quantised(body, ())
    floats = [tensor for tensor in body.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1]
    assert sum(np.prod(tensor.dims) for tensor in floats) < 0.1 * sum(np.prod(t.dims) for t in prepared.graph.initializer)
    contract = ModelContract(task=text_run.info.task, labels=text_run.info.labels, input=spec)
    served = open_graph(serving_graph(body, contract, "0" * 64), contract, exact=True)
    test = read_splits(reopen_source(text_run.info.settings), task)["test"]
    assert (served.run_all(test.values).argmax(axis=1) == test.labels).mean() > 0.7


@pytest.mark.parametrize("which", ["text_run", "pair_run"])
def test_int8_is_tried_both_ways_and_every_variant_is_replayed(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run: Run = request.getfixturevalue(which)
    package = export_package(run.folder, out=tmp_path / "packages", quantize="int8", on_miss="fp32", max_drop=5.0)
    names = [variant.name for variant in package.manifest.variants]
    assert "fp32" in names
    assert any(name.startswith("int8") for name in names)
    for name in names:
        PackagePredictor.open(package.folder, variant=name).replay_golden_rows()
    report = json.loads((package.folder / "report.json").read_text())
    assert "dynamic" in json.dumps(report)


def test_dynamic_int8_that_cannot_be_made_costs_no_static_one(text_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that stumbled over dynamic quantisation ended the search, and with `--on-miss fp32` int8 was left out."""

    def stumble(*_: object) -> None:
        raise ExportError("ONNX Runtime cannot quantise this model: a path of this machine")

    monkeypatch.setattr(variants, "quantize_dynamically", stumble)
    package = export_package(text_run.folder, out=tmp_path / "packages", quantize="int8", on_miss="fp32", max_drop=50.0)
    assert any(variant.name.startswith("int8") for variant in package.manifest.variants)
    trials = [trial for found in json.loads((package.folder / "report.json").read_text())["trials"].values() for trial in found]
    assert {"method": "dynamic", "failed": "ONNX Runtime cannot quantise this model"} in trials
    assert "ONNX Runtime cannot quantise this model" in (package.folder / "report.html").read_text()


def test_notes_on_the_shapes_of_weights_are_left_out_for_quantisation(text_package: Package) -> None:
    model = onnx.load(text_package.folder / "model.fp32.onnx")
    weight = model.graph.initializer[0]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims)))
    weights = {tensor.name for tensor in model.graph.initializer}
    assert not weights & {value.name for value in _as_prepared(model).graph.value_info}


def test_tokenizer_of_another_model_is_refused(text_package: Package, tmp_path: Path) -> None:
    copy = tmp_path / "altered"
    shutil.copytree(text_package.folder, copy)
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text().replace("parcel", "porcel"))
    with pytest.raises(PackageError, match=r"tokenizer\.json"):
        load_package(copy)


def test_no_samples_leaves_no_text_of_anybody(text_run: Run, tmp_path: Path) -> None:
    package = export_package(text_run.folder, out=tmp_path / "packages", samples=False)
    with np.load(package.folder / "golden.npz", allow_pickle=False) as golden:
        assert np.array_equal(golden["rows"], task_of(text_run).noise(8))
    assert PackagePredictor.open(package.folder).replay_golden_rows() < 1e-4


@pytest.mark.parametrize("options", [{"prune": 0.5}, {"quantize": "int8", "recover": 1}])
def test_what_needs_convolutions_is_refused(text_run: Run, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="for models of images"):
        export_package(text_run.folder, out=tmp_path / "packages", **options)
