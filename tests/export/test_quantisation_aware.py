from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.float_graph import NO_DIGEST, open_graph
from export.graph import serving_graph
from export.pipeline import export_package
from export.target import TARGETS, host_target
from finetune.network import build_network, restore_network
from finetune.quantisation_aware import rounded, train_rounded
from fmx.data import reopen_source
from fmx.data.rows import read_splits
from fmx.run import Run, task_of
from fmx.tasks import require_images
from tests.export.bodies import HERE

INT8 = TARGETS[host_target()].variant
LIMIT = 64 if HERE.reduce_range else 127


def test_rounding_changes_answers_inside_its_block_and_nothing_after_it() -> None:
    torch.manual_seed(0)
    network, _, _ = build_network("efficientnet_lite0", "default", 32, 5)
    network.eval()
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    before = {key: value.clone() for key, value in network.body.state_dict().items()}
    with torch.inference_mode():
        plain = network(rows)
        with rounded(network.body, LIMIT) as ranges:
            network(rows)
            assert all(one.high > one.low for one in ranges.values())
            for one in ranges.values():
                one.is_measuring = False
            inside = network(rows)
        after = network(rows)
    assert len(ranges) == 50
    assert torch.equal(plain, after)
    assert 0 < float((inside - plain).abs().max()) < 0.5 * float(plain.abs().max())
    assert network.body.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.body.state_dict().items())


def test_gradients_pass_through_the_rounding() -> None:
    network, _, _ = build_network("squeezenet1_1", "none", 32, 5)
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    with rounded(network.body, LIMIT) as ranges:
        network(rows)
        for one in ranges.values():
            one.is_measuring = False
        network(rows).square().sum().backward()
        gradients = [parameter.grad for parameter in network.body.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    assert sum(float(gradient.abs().sum()) > 0 for gradient in gradients if gradient is not None) > 0.9 * len(gradients)


def test_int8_that_misses_is_trained_and_searched_again(small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import variants

    said: list[str] = []
    search = variants._search

    def missing_at_first(*given: Any) -> variants.Found:
        found = search(*given)
        return found if len(given) == 4 else replace(found, drop=90.0)

    monkeypatch.setattr(variants, "_search", missing_at_first)
    package = export_package(small_run.folder, out=tmp_path, quantize="int8", max_drop=30.0, recover=1, on_miss="fp32", batch=8, say=said.append)
    assert any("quantisation-aware training" in line for line in said)
    recipe = package.manifest.recipe["quantisation"][INT8]
    assert recipe["quantisation_aware_epochs"] == 1
    drop = package.variant(INT8).drop
    assert drop is not None
    assert drop < 10
    assert "trained" in (package.folder / "report.html").read_text()


def test_trained_network_and_its_int8_graph_agree_pytorch_167063(small_run: Run) -> None:
    """pytorch#167063, ao#3392: quantisation-aware models did not export, or lost on the way what they had learnt."""
    import tempfile

    import onnx

    from export.bias_correction import correct_biases
    from export.calibration import collect_ranges
    from export.exporter import export_body
    from export.probe import measure_noise
    from export.quantize import prepare_body, quantize_body
    from export.rewrite import pool_reduced_maps
    from export.start import start_at_raw_rows
    from export.variants import _ranges_of_layers

    rows = read_splits(reopen_source(small_run.info.settings), task_of(small_run))
    network = restore_network(small_run)
    calibration = rows["train"].values[::8]
    trained = train_rounded(network, small_run, rows, calibration, 1, LIMIT, False, lambda line: None)
    body = export_body(network, small_run.info.input, 20)
    pool_reduced_maps(body)
    raw, start = start_at_raw_rows(body, require_images(small_run.info.input, "test"))
    assert start is not None
    prepared = prepare_body(raw)
    learnt = _ranges_of_layers(prepared, trained)
    assert len(learnt) > 40
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(prepared, Path(folder) / "prepared.onnx")
        ranges = collect_ranges(Path(folder) / "prepared.onnx", "minmax", calibration, start.feed)
    model = quantize_body(prepared, {**ranges, **learnt}, HERE, start=start)
    correct_biases(model, measure_noise(prepared, model, calibration, start.feed, quantised_inputs=False))
    from fmx.contract import ModelContract

    contract = ModelContract(task=small_run.info.task, labels=small_run.info.labels, input=small_run.info.input)
    answers = open_graph(serving_graph(model, contract, NO_DIGEST, start), contract, exact=True).run_all(rows["validation"].values)
    right = float((answers.argmax(axis=1) == rows["validation"].labels).mean())
    assert right == pytest.approx(trained.accuracy, abs=0.02)
