"""Faults that users reported of other exporters and that no other test file's subject is: each would fail here if fmx had it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.exporter import export_body
from export.pipeline import export_package
from finetune.network import Network
from fmx.errors import BudgetError, ExportError
from fmx.package import Package
from fmx.predictor import PackagePredictor, Predictor
from fmx.run import Run


def test_accuracy_is_judged_on_the_file_that_is_shipped_ultralytics_25045(small_package: Package) -> None:
    """ultralytics#25045: int8 answered nothing right (mAP 0.0) and the export was called successful."""
    for variant in small_package.manifest.variants:
        predictor = PackagePredictor.open(small_package.folder, variant=variant.name)
        with np.load(small_package.folder / "golden.npz") as golden:
            assert np.abs(predictor.run(golden["rows"]) - golden[variant.name]).max() < 1e-6
        assert variant.accuracy is not None
        assert variant.accuracy.n == small_package.manifest.rows["test"].rows


def test_package_works_from_another_folder_with_nothing_beside_it_sentence_transformers_3438(
    small_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sentence-transformers#3438, onnx#3157: weights lay in a second file by a baked-in name, and only the first was copied."""
    copy = Path(shutil.copytree(small_package.folder, tmp_path / "elsewhere" / "renamed"))
    monkeypatch.chdir(tmp_path)
    for variant in small_package.manifest.variants:
        model = onnx.load(copy / variant.file, load_external_data=False)
        assert not [tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        assert PackagePredictor.open(copy, variant=variant.name).replay_golden_rows() < 1e-6


def test_healthy_model_passes_and_a_broken_one_does_not_whatever_the_tolerance_optimum_449(light_run: Run, tmp_path: Path) -> None:
    """optimum#449, #607: an absolute tolerance on raw outputs failed healthy models and only warned of broken ones (difference 1923)."""
    package = export_package(light_run.folder, out=tmp_path)
    (fp32,) = package.manifest.variants
    assert fp32.parity is not None
    assert fp32.parity.top1_agreement == 1.0
    assert fp32.parity.max_difference < 1e-4


def test_variants_are_judged_with_the_options_that_serve_onnxruntime_11576(light_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime#11576: the same int8 model lost 5 points once graph optimisation was on, which its evaluation had off."""
    from fmx import runtime

    opened: list[tuple[Any, ...]] = []
    open_session = runtime.open_session

    def watched(model: Any, **options: Any) -> Any:
        session = open_session(model, **options)
        told = session.get_session_options()
        opened.append((told.graph_optimization_level, told.execution_mode, options["exact"]))
        return session

    monkeypatch.setattr(runtime, "open_session", watched)
    package = export_package(light_run.folder, out=tmp_path, quantize="int8", max_drop=100.0, on_miss="fp32")
    judged = set(opened)
    opened.clear()
    PackagePredictor.open(package.folder)
    assert judged == set(opened)


def test_calibration_needs_no_argument_and_the_package_is_the_last_line_olive_1356(light_run: Run, tmp_path: Path) -> None:
    """Olive#1356: data had to be configured by hand, and nobody found the final model. Rows are the run's own, stratified."""
    package = export_package(light_run.folder, out=tmp_path, quantize="int8", max_drop=100.0, on_miss="fp32")
    assert package.manifest.rows["calibration"].rows == len_of_training(light_run)
    assert (tmp_path / "latest").read_text().strip() == package.name


def len_of_training(run: Run) -> int:
    return run.info.rows["train"].rows


def test_budget_of_nothing_on_a_model_that_loses_exits_5_and_leaves_the_last_package(small_run: Run, small_package: Package, tmp_path: Path) -> None:
    """The promise of the command: what cannot be kept is not written."""
    packages = tmp_path / "packages"
    shutil.copytree(small_package.folder, packages / small_package.name)
    (packages / "latest").write_text(small_package.name + "\n")
    before = {path: path.read_bytes() for path in packages.rglob("*") if path.is_file()}
    with pytest.raises(BudgetError) as caught:
        export_package(small_run.folder, out=packages, quantize="int8", max_drop=0.01, max_size=0.5, time_budget=0.2)
    assert caught.value.exit_code == 5
    with pytest.raises(BudgetError):
        export_package(small_run.folder, out=packages, quantize="int8", max_drop=0.0, accept="strict", time_budget=0.2)
    assert {path: path.read_bytes() for path in packages.rglob("*") if path.is_file()} == before


def test_graph_that_answers_by_company_is_refused(small_package: Package) -> None:
    from export.measure import dependence_on_batch

    class Leaning(Predictor):
        def run(self, rows: np.ndarray) -> np.ndarray:
            return np.asarray(super().run(rows) + 0.01 * len(rows))

    variant = small_package.variant("fp32")
    leaning = Leaning(small_package.folder / variant.file, small_package.manifest.contract, threads=1)
    rows = np.zeros((1, 32, 32, 3), np.uint8)
    assert "a batch of 2 rows otherwise" in dependence_on_batch(leaning, rows)
    assert dependence_on_batch(Predictor(small_package.folder / variant.file, small_package.manifest.contract, threads=1), rows) == ""


def test_int8_that_answers_by_company_is_left_behind_or_refused(text_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import measure

    said = "It answers a batch of 7 rows otherwise than single rows (by 0.0040)."
    monkeypatch.setattr(measure, "dependence_on_batch", lambda predictor, rows: said)
    with pytest.raises(BudgetError, match="otherwise than single rows"):
        export_package(text_run.folder, out=tmp_path / "packages", quantize="int8", max_drop=20.0)
    package = export_package(text_run.folder, out=tmp_path / "packages", quantize="int8", max_drop=20.0, on_miss="fp32")
    assert package.manifest.variants[0].name == "fp32"
    assert {variant.why for variant in package.manifest.variants[1:]} == {said}


def test_opset_that_no_exporter_writes_is_an_error(light_run: Run, tmp_path: Path) -> None:
    from finetune.network import restore_network

    network: Network = restore_network(light_run)
    spec = light_run.info.input
    with pytest.raises(ExportError, match=r"Opset 17 was asked for and torch.onnx wrote 18"):
        export_body(network, spec, 17, "dynamo")
