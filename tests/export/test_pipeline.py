from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image

from export import quantize, search
from export.pipeline import export_package
from export.plan import planned_stages
from export.stages import Key, Stages, key_of
from export.target import TARGETS, host_target
from finetune.network import restore_network
from finetune.training import train_run
from fmx.errors import BudgetError, DataError, PackageError, UsageError
from fmx.evaluation import evaluate_package
from fmx.images import image_row
from fmx.package import Package, load_package
from fmx.predictor import PackagePredictor
from fmx.run import Run
from fmx.runtime import open_session
from fmx.statistics import softmax
from fmx.tasks import require_images
from tests.conftest import MakeFolder, encode

INT8 = TARGETS[host_target()].variant
INT8_STAGE = f"int8-{host_target()}"


def test_package_holds_what_the_contract_says(small_package: Package, small_run: Run) -> None:
    manifest = small_package.manifest
    assert {path.name for path in small_package.folder.iterdir()} == {
        "manifest.json",
        "model.fp32.onnx",
        f"model.{INT8}.onnx",
        "golden.npz",
        "reference.json",
        "report.html",
        "report.json",
    }
    assert [variant.name for variant in manifest.variants] == [INT8, "fp32"]
    assert manifest.labels == tuple("0123456789")
    assert manifest.run["name"] == small_run.info.name
    assert manifest.rows["test"] == small_run.info.rows["test"]
    assert manifest.rows["calibration"].rows == 256
    assert (small_package.folder.parent / "latest").read_text().strip() == small_package.name
    report = (small_package.folder / "report.html").read_text()
    assert report.count("<svg") == 5
    assert "What runs in int8" in report
    assert "fmx export efficientnet_lite0-1 --quantize int8 --max-drop 30 --batch 8" in report
    assert "http" not in report


def test_fp32_loses_nothing_and_int8_keeps_its_measured_drop(small_package: Package, small_run: Run) -> None:
    int8, fp32 = small_package.manifest.variants
    assert int8.accuracy is not None
    assert fp32.parity is not None
    assert fp32.drop == 0.0
    assert fp32.accuracy == small_run.info.accuracy
    assert fp32.parity.top1_agreement == 1.0
    assert int8.drop == pytest.approx(100 * (small_run.info.accuracy.value - int8.accuracy.value), abs=1e-3)
    assert int8.bytes < 0.35 * fp32.bytes


def test_eval_measures_what_the_manifest_says(small_package: Package) -> None:
    for variant in small_package.manifest.variants:
        assert variant.accuracy is not None
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


@pytest.mark.parametrize("name", [f"model.{INT8}.onnx", "model.fp32.onnx", "golden.npz", "reference.json", "report.html", "report.json"])
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
    arrays[INT8] = np.roll(arrays[INT8], 1, axis=1)
    np.savez(copy / "golden.npz", **arrays)
    predictor = PackagePredictor.open(small_package.folder, variant=INT8)
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
    monkeypatch.setattr(search, "quantize_body", blinded(quantize.quantize_body))
    with pytest.raises(BudgetError, match="points of accuracy") as caught:
        export_package(small_run.folder, out=packages, quantize="int8", max_drop=0.01, time_budget=0.2)
    assert caught.value.exit_code == 5
    assert {path: path.read_bytes() for path in packages.rglob("*") if path.is_file()} == before


def blinded(quantize_body: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    """A quantiser whose model has lost the labels' order: a real int8 graph that really loses accuracy."""

    def wrong(*arguments: Any, **options: Any) -> onnx.ModelProto:
        model = quantize_body(*arguments, **options)
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


def test_package_of_a_missed_budget_serves_fp32_and_says_why(light_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import pipeline
    from export.verdict import Verdict

    monkeypatch.setattr(pipeline, "judge_variant", lambda *arguments: Verdict(False, "It loses 9.00 points."))
    package = export_package(light_run.folder, out=tmp_path, quantize="int8", on_miss="fp32")
    assert [variant.name for variant in package.manifest.variants] == ["fp32", INT8]
    assert package.variant().name == "fp32"
    assert "It loses 9.00 points." in (package.folder / "report.html").read_text()


def test_variant_is_chosen_by_the_cpu(small_package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    from fmx import host

    flags: set[str] = set()
    monkeypatch.setattr(host, "cpu_flags", lambda: frozenset(flags))
    int8, fp32 = small_package.manifest.variants
    vnni = int8.model_copy(update={"name": "int8", "requires": TARGETS["vnni"].requires})
    package = Package(small_package.folder, small_package.manifest.model_copy(update={"variants": (vnni, fp32)}), small_package.digest)
    flags.add("avx2")
    assert package.variant().name == "fp32"
    flags.add("avx_vnni")
    assert package.variant().name == "int8"
    with pytest.raises(PackageError, match="no variant 'int4'"):
        package.variant("int4")


def odd_files() -> list[bytes]:
    """200 photographs' crops as phones, scanners and browsers save them: turned by EXIF, grey, CMYK, with a palette and transparency, 16-bit."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    files = []
    for number in range(200):
        photo = photos[number % 2]
        left, top = int(rng.integers(0, 440)), int(rng.integers(0, 220))
        crop = photo.crop((left, top, left + int(rng.integers(90, 200)), top + int(rng.integers(90, 200))))
        kind = number % 6
        if kind == 0:
            turned = Image.Exif()
            turned[0x0112] = 1 + number % 8
            files.append(encode(crop, "JPEG", exif=turned, quality=90))
        elif kind == 1:
            files.append(encode(crop.convert("L"), "JPEG"))
        elif kind == 2:
            files.append(encode(crop.convert("CMYK"), "JPEG"))
        elif kind == 3:
            files.append(encode(crop.convert("P"), "PNG", transparency=3))
        elif kind == 4:
            files.append(encode(np.asarray(crop.convert("L")).astype(np.uint16) * 257, "PNG"))
        else:
            files.append(encode(crop, "WEBP", quality=80))
    return files


def test_trainer_exporter_and_predictor_see_the_same_image_ultralytics_4696(small_package: Package, small_run: Run) -> None:
    """ultralytics#4696 (0.96 in validation, 0.6 in predict), #7069, #22790: preprocessing differed between the stages."""
    files = odd_files()
    eager = restore_network(small_run)
    rows = np.stack([image_row(data, require_images(small_run.info.input, "test")) for data in files])
    with torch.inference_mode():
        wanted = softmax(eager(torch.from_numpy(rows)).numpy())
    predictor = PackagePredictor.open(small_package.folder, variant="fp32")
    answers = [prediction["labels"] for prediction in predictor.predict(files, top_k=10)]
    given = np.array([[next(one["score"] for one in labels if one["label"] == label) for label in small_run.info.labels] for labels in answers])
    assert np.abs(given - wanted).max() < 1e-4
    assert (given.argmax(axis=1) == wanted.argmax(axis=1)).all()


def test_every_target_gets_its_variant_and_what_is_not_measured_here_is_said(light_run: Run, tmp_path: Path) -> None:
    """One package for VNNI, for any x86 CPU, and for Arm: only what this host is is timed."""
    package = export_package(light_run.folder, out=tmp_path, quantize="auto", target="vnni,generic,arm64,cuda", max_drop=100.0)
    variants = {variant.name: variant for variant in package.manifest.variants}
    assert set(variants) == {"fp32", "fp16", "int8", "int8-generic", "int8-arm64"}
    assert variants["int8-arm64"].requires.machine == ("aarch64", "arm64")
    assert variants["fp16"].requires.device == "cuda"
    assert variants["fp16"].providers[:2] == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    for name, variant in variants.items():
        assert bool(variant.latency) == (name in ("fp32", INT8))
        assert variant.accuracy is not None
        if not variant.latency:
            assert "not measured" in variant.why
    order = [variant.name for variant in package.manifest.variants]
    assert order.index("fp16") < order.index("fp32")
    table = (package.folder / "report.html").read_text()
    assert "not measured: this host is of another kind" in table


def test_file_in_onnx_runtimes_format_answers_the_same(light_run: Run, tmp_path: Path) -> None:
    package = export_package(light_run.folder, out=tmp_path, quantize="int8", target="arm64", max_drop=100.0)
    variant = package.variant("int8-arm64")
    assert variant.ort_file == "model.int8-arm64.ort"
    rows = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    answers = [open_session(package.folder / file, threads=1, exact=True).run(None, {"images": rows})[0] for file in (variant.file, variant.ort_file)]
    assert answers[0] == pytest.approx(answers[1], abs=1e-6)
    types = {tensor.data_type for tensor in onnx.load(package.folder / variant.file).graph.initializer}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.INT32} <= types


def test_second_export_repeats_only_what_depends_on_the_change(light_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    keep = Stages._kept

    def watched(self: Stages, key: Key, suffix: str, build: Callable[[], Any], *others: Any) -> Any:
        def counted() -> Any:
            built.append(key.stage)
            return build()

        return keep(self, key, suffix, counted, *others)

    monkeypatch.setattr(Stages, "_kept", watched)
    options: dict[str, Any] = {"out": tmp_path, "quantize": "int8", "max_drop": 100.0, "on_miss": "fp32"}
    of_package = {"out": options.pop("out")}
    assert not any(one["kept"] for one in planned_stages(light_run.folder, **options))
    export_package(light_run.folder, **of_package, **options)
    assert {"eager", "body-dynamo", "ranges-minmax", "ranges-percentile", INT8_STAGE} <= set(built)
    assert all(one["kept"] for one in planned_stages(light_run.folder, **options)[:-1])
    built.clear()
    export_package(light_run.folder, **of_package, **options)
    assert built == []
    changed = {**options, "max_drop": 99.0}
    planned = {one["stage"]: one["kept"] for one in planned_stages(light_run.folder, **changed)}
    assert [stage for stage, kept in planned.items() if not kept] == [INT8_STAGE, "measure"]
    export_package(light_run.folder, **of_package, **changed)
    assert set(built) == {INT8_STAGE}


def test_damaged_stage_is_built_again(tmp_path: Path) -> None:
    stages, key = Stages(tmp_path), key_of("thing", a=1)
    assert stages.array(key, lambda: np.arange(3)).tolist() == [0, 1, 2]
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"torn")
    assert stages.array(key, lambda: np.arange(4)).tolist() == [0, 1, 2, 3]
    assert stages.array(key, lambda: np.arange(9)).tolist() == [0, 1, 2, 3]
    assert key_of("thing", a=1) == key
    assert key_of("thing", a=2) != key


def test_older_opset_is_written_by_the_other_exporter_onnx_7235(light_run: Run, tmp_path: Path) -> None:
    """onnx#7235, RyzenAI-SW#270: opset 17 was asked for, 18 was written, and the tool behind refused the file."""
    package = export_package(light_run.folder, out=tmp_path, opset=17)
    model = onnx.load(package.folder / "model.fp32.onnx")
    assert [item.version for item in model.opset_import if item.domain == ""] == [17]
    assert package.manifest.recipe["graph"] == {"exporter": "torchscript", "opset": 17, "other_exporter_refused": None}


def test_exporter_that_computes_something_else_is_left_for_the_other_pytorch_169178(
    light_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytorch#169178: ResNet-18 through dynamo answered 0 % of ImageNet, through the older exporter all was well."""
    from export import float_graph
    from export.exporter import export_body as draw

    def wrong(network: Any, spec: Any, opset: int, exporter: str, **options: Any) -> onnx.ModelProto:
        body = draw(network, spec, opset, exporter, **options)  # type: ignore[arg-type]
        if exporter == "dynamo":
            tensor = next(tensor for tensor in body.graph.initializer if len(tensor.dims) == 4)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[::-1].copy(), tensor.name))
        return body

    monkeypatch.setattr(float_graph, "export_body", wrong)
    said: list[str] = []
    package = export_package(light_run.folder, out=tmp_path, say=said.append)
    graph = package.manifest.recipe["graph"]
    assert graph["exporter"] == "torchscript"
    assert "does not compute" in graph["other_exporter_refused"]
    assert any("dynamo exporter was not taken" in line for line in said)
