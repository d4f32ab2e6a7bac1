from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export import quantize
from export.measure import Measured
from export.pipeline import export_package
from export.settings import check_settings
from export.verdict import judge_int8, refuse_or_go_on
from finetune.training import train_run
from fmx.contract import Latency, Parity
from fmx.errors import BudgetError, DataError, PackageError, UsageError
from fmx.evaluation import evaluate_package
from fmx.package import Package, load_package
from fmx.predictor import PackagePredictor
from fmx.run import Run
from fmx.statistics import wilson_interval
from tests.conftest import MakeFolder


def test_package_holds_what_the_contract_says(small_package: Package, small_run: Run) -> None:
    manifest = small_package.manifest
    assert {path.name for path in small_package.folder.iterdir()} == {
        "manifest.json",
        "model.fp32.onnx",
        "model.int8.onnx",
        "golden.npz",
        "reference.json",
        "report.html",
        "report.json",
    }
    assert [variant.name for variant in manifest.variants] == ["int8", "fp32"]
    assert manifest.labels == tuple("0123456789")
    assert manifest.run["name"] == small_run.info.name
    assert manifest.rows["test"] == small_run.info.rows["test"]
    assert manifest.rows["calibration"].rows == 256
    assert (small_package.folder.parent / "latest").read_text().strip() == small_package.name
    report = (small_package.folder / "report.html").read_text()
    assert report.count("<svg") == 4
    assert "http" not in report


def test_fp32_loses_nothing_and_int8_keeps_its_measured_drop(small_package: Package, small_run: Run) -> None:
    int8, fp32 = small_package.manifest.variants
    assert fp32.drop == 0.0
    assert fp32.accuracy == small_run.info.accuracy
    assert fp32.parity.top1_agreement == 1.0
    assert int8.drop == pytest.approx(100 * (small_run.info.accuracy.value - int8.accuracy.value), abs=1e-3)
    assert int8.bytes < 0.35 * fp32.bytes


def test_eval_measures_what_the_manifest_says(small_package: Package) -> None:
    for variant in small_package.manifest.variants:
        result = evaluate_package(small_package.folder, "digits", variant=variant.name).facts
        assert result["accuracy"] == variant.accuracy.model_dump()
        assert result["rows_of_export"]


def test_each_file_carries_the_contract_digest(small_package: Package) -> None:
    for variant in small_package.manifest.variants:
        properties = {item.key: item.value for item in onnx.load(small_package.folder / variant.file).metadata_props}
        assert properties["fmx.contract_digest"] == small_package.manifest.contract_digest


def test_two_exports_of_one_run_give_the_same_bytes(small_package: Package, small_run: Run, tmp_path: Path) -> None:
    again = export_package(small_run.folder, out=tmp_path, quantize="int8", max_drop=30.0, batch=8)
    for ours, theirs in zip(again.manifest.variants, small_package.manifest.variants, strict=True):
        assert ours.sha256 == theirs.sha256


def test_package_tells_no_path_of_this_machine(small_package: Package) -> None:
    for file in small_package.folder.iterdir():
        data = file.read_bytes()
        for leak in (b"site-packages", b"/tmp/", b"/home/", b"/root/", str(Path.cwd()).encode()):
            assert leak not in data, (file.name, leak)


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.fp32.onnx", "golden.npz", "reference.json", "report.html", "report.json"])
def test_package_with_a_changed_byte_is_refused(small_package: Package, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(small_package.folder, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(PackageError, match=f"{name} is not the file that was exported"):
        PackagePredictor.open(copy)


def test_package_with_a_file_too_few_or_too_many_is_refused(small_package: Package, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_package.folder, tmp_path / "copy"))
    (copy / "measurements").mkdir()
    (copy / "measurements" / "host.json").write_text("{}")
    assert load_package(copy).digest == small_package.digest
    (copy / "extra.py").write_text("")
    with pytest.raises(PackageError, match=r"extra\.py"):
        load_package(copy)
    (copy / "extra.py").unlink()
    (copy / "golden.npz").unlink()
    with pytest.raises(PackageError, match=r"golden\.npz is missing"):
        load_package(copy)


def rewrite_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_manifest_of_a_later_schema_or_with_a_path_in_it_is_refused(small_package: Package, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_package.folder, tmp_path / "copy"))
    rewrite_manifest(copy, schema_version=2)
    with pytest.raises(PackageError, match="schema version 2"):
        load_package(copy)
    rewrite_manifest(copy, schema_version=1, name="renamed")
    assert load_package(copy).digest != small_package.digest
    rewrite_manifest(copy, schema_version=1, files={"../../etc/passwd": "0" * 64})
    with pytest.raises(PackageError, match="files"):
        load_package(copy)


def test_golden_rows_catch_a_model_that_computes_something_else(small_package: Package, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(small_package.folder, tmp_path / "copy"))
    with np.load(copy / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["int8"] = np.roll(arrays["int8"], 1, axis=1)
    np.savez(copy / "golden.npz", **arrays)
    predictor = PackagePredictor.open(small_package.folder, variant="int8")
    predictor.package = Package(copy, small_package.manifest, small_package.digest)
    with pytest.raises(PackageError, match="does not compute here"):
        predictor.replay_golden_rows()


def test_budget_that_is_missed_exits_5_and_leaves_every_byte(
    small_package: Package, small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    Path(shutil.copytree(small_package.folder, packages / small_package.name))
    (packages / "latest").write_text(small_package.name + "\n")
    before = {path: path.read_bytes() for path in packages.rglob("*") if path.is_file()}
    monkeypatch.setattr(quantize, "quantize_body", blinded(quantize.quantize_body))
    with pytest.raises(BudgetError, match="points of accuracy") as caught:
        export_package(small_run.folder, out=packages, quantize="int8", max_drop=0.01)
    assert caught.value.exit_code == 5
    assert {path: path.read_bytes() for path in packages.rglob("*") if path.is_file()} == before


def blinded(quantize_body: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    """A quantiser whose model has lost the labels' order: a real int8 graph that really loses accuracy."""

    def wrong(*arguments: Any) -> onnx.ModelProto:
        model = quantize_body(*arguments)
        for node in model.graph.node:
            node.output[:] = [name.replace("logits", "right_logits") if name == "logits" else name for name in node.output]
        classes = 10
        order = numpy_helper.from_array(np.roll(np.arange(classes), 1), "wrong_order")
        model.graph.initializer.append(order)
        model.graph.node.append(helper.make_node("Gather", ["right_logits", "wrong_order"], ["logits"], axis=1))
        return model

    return wrong


def test_no_samples_keeps_no_row_of_anybody(light_run: Run, tmp_path: Path) -> None:
    package = export_package(light_run.folder, out=tmp_path, samples=False)
    predictor = PackagePredictor.open(package.folder)
    assert predictor.replay_golden_rows() < 1e-6
    with np.load(package.folder / "golden.npz") as golden:
        assert golden["rows"].std() > 70  # noise, not digits on black
    assert [variant.name for variant in package.manifest.variants] == ["fp32"]


def test_data_that_changed_since_the_training_are_refused(digit_folder: MakeFolder) -> None:
    root = digit_folder(2, 12)
    run = train_run(data=str(root), size=32, epochs=1, method="linear-probe")
    file = root / "class-0" / "000.png"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(DataError, match="are not those that"):
        export_package(run.folder)


def test_existing_package_is_replaced_only_by_force(light_run: Run, tmp_path: Path) -> None:
    first = export_package(light_run.folder, out=tmp_path, name="mine")
    with pytest.raises(UsageError, match="exists"):
        export_package(light_run.folder, out=tmp_path, name="mine")
    second = export_package(light_run.folder, out=tmp_path, name="mine", force=True)
    assert second.folder == first.folder
    assert load_package(second.folder).digest == second.digest


def measured(drop: float, n: int = 1000) -> Measured:
    correct = round(n * (0.95 - drop / 100))
    parity = Parity(rows=n, batch_sizes=(1,), top1_agreement=1.0, max_difference=0.0)
    return Measured(wilson_interval(correct, n), drop, parity, np.zeros((n, 2)))


def timed(speed_up: float) -> tuple[Latency, ...]:
    return (Latency(batch=1, threads=2, median_ms=1.0, minimum_ms=0.9, speed_up=speed_up),)


def test_int8_is_judged_by_drop_and_by_speed() -> None:
    settings = check_settings({"quantize": "int8", "max_drop": 0.5})
    assert judge_int8(measured(0.5), timed(2.0), settings).accepted
    missed = judge_int8(measured(0.6), timed(2.0), settings)
    assert not missed.accepted
    assert "0.60 points" in missed.why
    slow = judge_int8(measured(0.0), timed(0.9), settings)
    assert not slow.accepted
    assert "not faster" in slow.why


def test_few_rows_are_remarked_on() -> None:
    settings = check_settings({"quantize": "int8", "max_drop": 0.5})
    assert "too wide" in judge_int8(measured(0.0, 100), timed(2.0), settings).why
    assert "too wide" not in judge_int8(measured(0.0, 100_000), timed(2.0), settings).why


def test_on_miss_fp32_goes_on_where_fail_stops() -> None:
    strict, lenient = (check_settings({"quantize": "int8", "max_drop": 0.0, "on_miss": on_miss}) for on_miss in ("fail", "fp32"))
    verdict = judge_int8(measured(1.0), timed(2.0), strict)
    with pytest.raises(BudgetError, match=r"1\.00 points"):
        refuse_or_go_on(verdict, strict)
    refuse_or_go_on(verdict, lenient)


def test_package_of_a_missed_budget_serves_fp32_and_says_why(light_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import pipeline
    from export.verdict import Verdict

    monkeypatch.setattr(pipeline, "judge_int8", lambda *arguments: Verdict(False, "It loses 9.00 points."))
    package = export_package(light_run.folder, out=tmp_path, quantize="int8", on_miss="fp32")
    assert [variant.name for variant in package.manifest.variants] == ["fp32", "int8"]
    assert package.variant().name == "fp32"
    assert "It loses 9.00 points." in (package.folder / "report.html").read_text()


@pytest.mark.parametrize("options", [{"quantize": "int9"}, {"max_drop": -1}, {"opset": 11}, {"on_miss": "maybe"}, {"quantise": "int8"}])
def test_wrong_options_are_usage_errors(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        check_settings(options)


def test_variant_is_chosen_by_the_cpu(small_package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    from fmx import package as module

    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset({"avx2"}))
    assert small_package.variant().name == "fp32"
    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset({"avx2", "avx_vnni"}))
    assert small_package.variant().name == "int8"
    with pytest.raises(PackageError, match="no variant 'int4'"):
        small_package.variant("int4")
