from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from export import search as module
from export.calibration import RangeMethod, Ranges
from export.dynamic import can_be_dynamic, quantize_dynamically
from export.exporter import export_body
from export.graph import LOGITS, NORMALISED
from export.quantize import Scheme, layers_of, prepare_body
from export.search import Problem, Search
from export.start import start_at_raw_rows
from finetune.network import build_network
from fmx.runtime import open_session
from tests.export.bodies import HERE, Exported, feed_for, random_rows


def problem_of(exported: Exported, drop: Callable[[onnx.ModelProto], float]) -> Problem:
    _, spec, body = exported
    raw, start = start_at_raw_rows(body, spec)
    rows = random_rows(32, spec)
    kept: dict[str, Ranges] = {}

    def ranges(method: RangeMethod, collect: Callable[[], Ranges]) -> Ranges:
        return kept.setdefault(method, collect()) if method not in kept else kept[method]

    return Problem(prepare_body(raw), start, feed_for(start, spec), rows, rows[:16], drop, lambda body: 2.0, ranges)


def float_layers(body: onnx.ModelProto) -> set[str]:
    floats = {tensor.name for tensor in body.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return {node.name for node in body.graph.node if node.op_type in ("Conv", "Gemm") and node.input[1] in floats}


def test_budget_that_holds_needs_neither_entropy_nor_float_layers(resnet: Exported) -> None:
    search = Search(problem_of(resnet, lambda body: 0.1), HERE, 0.5)
    body, best = search.run()
    assert best.choice.keep_float == ()
    assert best.drop == 0.1
    assert {trial.choice.ranges for trial in search.trials} == {"minmax", "percentile"}
    assert best.ratio_db == max(trial.ratio_db for trial in search.trials)
    assert float_layers(body) == set()


def test_layers_are_put_back_until_the_budget_holds_noisiest_first(resnet: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORTH_DB", -100.0)
    said: list[str] = []
    problem = problem_of(resnet, lambda body: max(0.0, 3.0 - len(float_layers(body))))
    search = Search(problem, HERE, 1.0, say=said.append)
    body, best = search.run()
    assert best.drop == 1.0
    assert float_layers(body) == set(best.choice.keep_float)
    assert len(best.choice.keep_float) == 2
    order = search._noisiest_first(replace(best.choice, keep_float=()))
    assert best.choice.keep_float == tuple(order[:2])
    prices = [trial for trial in search.trials if trial.choice.keep_float]
    assert [trial.drop for trial in prices] == [2.0, 1.0]
    assert all(trial.speed_up == 2.0 for trial in prices)
    assert "entropy" in {trial.choice.ranges for trial in search.trials}
    assert len([line for line in said if "in float" in line]) == 2


def test_budget_that_cannot_hold_ends_with_the_least_loss(resnet: Exported) -> None:
    search = Search(problem_of(resnet, lambda body: 9.0), HERE, 0.5)
    body, best = search.run()
    assert best.drop == 9.0
    assert len(float_layers(body)) <= module.SHARE_FLOAT * 21
    slow = replace(problem_of(resnet, lambda body: 9.0), speed_up=lambda body: 0.9)
    search = Search(slow, HERE, 0.5)
    search.run()
    judged = [trial for trial in search.trials if trial.choice.keep_float and trial.drop is not None]
    assert len(judged) <= 1  # what is slower than fp32 already is not made slower still


def test_time_budget_ends_the_search_nncf_1652(resnet: Exported) -> None:
    """nncf#1652: the accuracy-controlled quantisation of one image took for ever."""
    search = Search(problem_of(resnet, lambda body: 9.0), HERE, 0.5, deadline=time.monotonic())
    _, best = search.run()
    assert best.drop == 9.0
    assert not [trial for trial in search.trials if trial.choice.keep_float or trial.choice.ranges == "entropy"]


def test_granularity_that_collapses_gives_way_to_the_other_onnxruntime_11415(lite0: Exported) -> None:
    """onnxruntime#11415: one granularity of the weights' scales lost 15 points where the other lost none."""
    search = Search(problem_of(lite0, lambda body: 0.0), Scheme(per_channel=False, reduce_range=True), 0.5)
    _, best = search.run()
    tensor = [trial.ratio_db for trial in search.trials if not trial.choice.scheme.per_channel]
    assert max(tensor) < module.COLLAPSED_DB
    assert best.choice.scheme.per_channel
    assert best.ratio_db > max(tensor)


def test_dynamic_int8_is_for_matrix_products_onnxruntime_12558(lite0: Exported) -> None:
    """onnxruntime#12558, #15888: dynamically quantised convolutions could not run at all, and are slow where they can."""
    assert not can_be_dynamic(lite0[2])
    network, _, spec = build_network("vit_b_16", "none", 32, 5)
    body = export_body(network, spec, 20)
    assert can_be_dynamic(body)
    dynamic = quantize_dynamically(body, Scheme(reduce_range=True))
    kinds = {node.op_type for node in dynamic.graph.node}
    assert "ConvInteger" not in kinds
    assert "MatMulInteger" in kinds
    given = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    wanted, got = (open_session(model.SerializeToString(), threads=2).run([LOGITS], {NORMALISED: given})[0] for model in (body, dynamic))
    assert got == pytest.approx(wanted, abs=0.1 * float(np.abs(wanted).max()) + 0.02)
    assert dynamic.ByteSize() < 0.35 * body.ByteSize()


def test_layers_are_those_with_weights(resnet: Exported) -> None:
    assert len(layers_of(prepare_body(resnet[2]))) == 21
