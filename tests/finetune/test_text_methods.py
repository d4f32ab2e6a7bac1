"""Methods for texts alone: few-shot, (IA)^3, adapters. From a tiny encoder, on the rows and pairs of the fixtures."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from export.pipeline import export_package
from finetune.bottleneck import Bottleneck, adapters_of, add_adapters, down_projections
from finetune.evaluation import eager_logits, evaluate_run
from finetune.loop import Epoch, Fit
from finetune.methods.few_shot import draw_pairs, plan_contrastive
from finetune.methods.ia3 import plan_ia3, scaled_layers
from finetune.network import build_text_network, restore_network
from finetune.plan import Inputs
from finetune.settings import TEXT_METHODS, check_settings
from finetune.training import train_run
from fmx import storage
from fmx.contract import TextInput
from fmx.data import reopen_source
from fmx.data.rows import Rows, read_splits
from fmx.errors import DataError, ModelError, PackageError, UsageError
from fmx.package import Package
from fmx.predictor import PackagePredictor
from fmx.run import Run, load_run, task_of
from fmx.statistics import softmax
from tests.finetune.test_distributed import launch

CPU = torch.device("cpu")
TASK = "text-classification"
OPTIONS: dict[str, Any] = {"max_length": 32, "device": "cpu", "precision": "fp32", "lr": 3e-3, "seed": 1}


def train(data: Path, model: Path | str, out: Path, task: str = TASK, **options: Any) -> Run:
    settings = {"precision": "fp32", **OPTIONS, "max_length": 48 if task == "text-pair" else 32, "epochs": 2, **options}
    if str(model).startswith("run:"):
        del settings["max_length"]
    return train_run(out, task=task, data=str(data), model=str(model), **settings)


def rows_of(run: Run, split: str) -> Rows:
    return read_splits(reopen_source(run.info.settings), task_of(run))[split]


def confusion_of(run: Run) -> list[list[int]]:
    """What the run, rebuilt from its folder, says to its test rows."""
    rows, confusion = rows_of(run, "test"), np.zeros((len(run.info.labels),) * 2, dtype=int)
    np.add.at(confusion, (rows.labels, eager_logits(restore_network(run), rows, CPU).argmax(axis=1)), 1)
    return confusion.tolist()


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_method_for_texts_leaves_a_run_that_answers_as_it_was_measured(method: str, text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    rate = {"few-shot": 3e-3, "ia3": 0.1, "adapter": 1e-2}[method]  # a random encoder needs higher ones than a pretrained one
    patience: dict[str, Any] = {} if method == "few-shot" else {"patience": 25}
    run = train(text_table, tiny_encoder, tmp_path / "runs", method=method, epochs=25, lr=rate, **patience)
    assert run.info.accuracy.value > 0.7
    assert confusion_of(run) == run.info.metrics["confusion"]
    assert not [name for name in load_file(run.weights) if "ia3" in name]
    again = evaluate_run(run, str(text_table), CPU)
    assert again.facts["accuracy"] == run.info.metrics["accuracy"]


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_method_for_texts_trains_pairs(method: str, pair_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    run = train(pair_table, tiny_encoder, tmp_path / "runs", "text-pair", method=method, epochs=1)
    assert confusion_of(run) == run.info.metrics["confusion"]


REFUSED = [
    ({"method": "few-shot", "task": "image-classification"}, "few-shot is for texts; for images use linear-probe"),
    ({"method": "ia3", "task": "image-classification"}, "ia3 is for texts; for images use lora"),
    ({"method": "adapter", "task": "image-classification"}, "adapter is for texts"),
    ({"method": "few-shot", "adversarial": "fgm"}, "--adversarial cannot be combined with --method few-shot"),
    ({"method": "few-shot", "lr": "auto"}, "--lr auto cannot be combined"),
    ({"method": "few-shot", "balance": "weights"}, "--balance does nothing"),
    ({"method": "few-shot", "patience": 3}, "--patience does nothing"),
    ({"method": "few-shot", "head_lr_factor": 3.0}, "--head-lr-factor does nothing"),
    ({"method": "few-shot", "shard": True}, "--shard does nothing"),
    ({"method": "lora", "contrastive_pairs": 64}, "without --method few-shot"),
    ({"method": "finetune", "contrastive_epochs": 2}, "without --method few-shot"),
    ({"method": "ia3", "adapter_width": 8}, "without --method adapter"),
    ({"method": "adapter", "extend_vocab": 8}, "leaves the embeddings as they are"),
    ({"method": "prefix-tuning"}, "take no prefix; use adapter"),
]


@pytest.mark.parametrize(("values", "said"), REFUSED)
def test_what_has_no_sense_is_refused(values: dict[str, Any], said: str) -> None:
    data = {} if values.get("task") else {"task": TASK, "data": "x.csv"}
    with pytest.raises(UsageError, match=said):
        check_settings({**data, **values})


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_settings_of_a_run_repeat_it(method: str, text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    run = train(text_table, tiny_encoder, tmp_path / "runs", method=method, epochs=1)
    known = {**run.info.settings, "name": None}
    again = train_run(tmp_path / "again", **known)
    assert again.info.weights_sha256 == run.info.weights_sha256


def test_drawn_pairs_are_half_of_one_label_and_never_a_row_twice() -> None:
    labels = torch.tensor([4, 4, 4, 0, 0, 0, 0, 0, 0, 2, 2])
    pairs, is_same = draw_pairs(labels, labels, 3000, torch.Generator().manual_seed(0))
    assert torch.equal(labels[pairs[:, 0]] == labels[pairs[:, 1]], is_same.bool())
    assert is_same.sum() == 1500
    assert not (pairs[:, 0] == pairs[:, 1]).any()
    assert torch.equal(torch.unique(pairs), torch.arange(11))
    shares = torch.bincount(labels[pairs[:, 0]])[torch.tensor([0, 2, 4])] / 3000
    assert (shares - 1 / 3).abs().max() < 0.05  # whatever their number of rows
    again, _ = draw_pairs(labels, labels, 3000, torch.Generator().manual_seed(0))
    assert torch.equal(pairs, again)
    other, _ = draw_pairs(labels, labels, 3000, torch.Generator().manual_seed(1))
    assert not torch.equal(pairs, other)


def test_only_row_of_its_label_is_paired_with_itself() -> None:
    labels = torch.tensor([0, 1, 1])
    pairs, is_same = draw_pairs(labels, labels, 100, torch.Generator().manual_seed(0))
    alone = (pairs[:, 0] == pairs[:, 1]).nonzero()[:, 0]
    assert len(alone)
    assert set(pairs[alone, 0].tolist()) == {0}
    assert is_same[alone].all()


def test_held_out_rows_are_paired_with_training_rows_of_labels_that_these_have() -> None:
    held_out, labels = torch.tensor([1, 3, 1]), torch.tensor([0, 0, 1, 1, 2])
    pairs, is_same = draw_pairs(held_out, labels, 400, torch.Generator().manual_seed(0))
    assert torch.equal(held_out[pairs[:, 0]] == labels[pairs[:, 1]], is_same.bool())
    assert set(pairs[:, 0].tolist()) == {0, 2}
    assert set(pairs[:, 1].tolist()) == set(range(5))


def test_pairs_of_many_rows_are_drawn_and_not_listed_setfit_628() -> None:
    """setfit#628, #472, #547: all pairs were made before step one; of these rows they would be 10^12."""
    labels = torch.arange(1_000_000) % 3
    pairs, is_same = draw_pairs(labels, labels, 1000, torch.Generator().manual_seed(0))
    assert torch.equal(labels[pairs[:, 0]] == labels[pairs[:, 1]], is_same.bool())


def test_head_of_few_shot_reads_features_of_the_tuned_encoder(text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """A probe of the base model has filled the cache with the base model's features of the same rows."""
    options: dict[str, Any] = {"epochs": 30, "lr": 3e-3}
    train(text_table, tiny_encoder, tmp_path / "runs", method="linear-probe", **options)
    features = storage.cache_home() / "features"
    of_base = {path.name: np.load(path) for path in features.glob("*.npy")}
    run = train(text_table, tiny_encoder, tmp_path / "runs", method="few-shot", **options)
    added = [np.load(path) for path in features.glob("*.npy") if path.name not in of_base]
    assert len(added) == len(of_base) == 3
    network, caught = restore_network(run), list[torch.Tensor]()
    network.head.layer.register_forward_pre_hook(lambda layer, given: caught.append(given[0]))
    for split in ("train", "validation", "test"):
        caught.clear()
        rows = rows_of(run, split)
        with torch.inference_mode():
            network(torch.from_numpy(rows.values))
        assert [one for one in added if len(one) == len(rows) and np.abs(one - caught[0].numpy()).max() < 1e-4], split
        assert not [one for one in of_base.values() if len(one) == len(rows) and np.abs(one - caught[0].numpy()).max() < 1e-2], split


def interrupted(stage: str, data: Path, model: Path, out: Path, **options: Any) -> None:
    """Train a run called `broken` and stop it by SIGTERM after the first epoch of a stage."""
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line)
        begun = [said for said in seen if "parameters are trained" in said]
        if line.startswith("epoch   1") and f" {stage} on " in begun[-1]:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train_run(out, interrupt, task=TASK, data=str(data), model=str(model), name="broken", **OPTIONS, **options)


@pytest.mark.parametrize(("method", "stage"), [("few-shot", "contrastive"), ("few-shot", "linear-probe"), ("adapter", "adapter"), ("ia3", "ia3")])
def test_interrupted_method_for_texts_is_resumed_exactly(method: str, stage: str, text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": method, "epochs": 3}
    if method == "few-shot":
        options |= {"contrastive_epochs": 2, "contrastive_pairs": 64, "token_dropout": 0.1}
    whole = train(text_table, tiny_encoder, tmp_path / "whole", **options)
    interrupted(stage, text_table, tiny_encoder, tmp_path / "runs", **options)
    resumed = train_run(tmp_path / "runs", resume="broken")
    assert resumed.info.weights_sha256 == whole.info.weights_sha256
    assert resumed.info.metrics["accuracy"] == whole.info.metrics["accuracy"]
    assert not (resumed.folder / "checkpoint").exists()


def test_tuned_encoder_that_is_damaged_is_not_resumed_from(text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    interrupted("linear-probe", text_table, tiny_encoder, tmp_path / "runs", method="few-shot", epochs=3, contrastive_pairs=64)
    file = tmp_path / "runs" / "broken" / "checkpoint" / "after-contrastive.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(PackageError, match=r"after-contrastive\.safetensors is missing or damaged"):
        train_run(tmp_path / "runs", resume="broken")
    file.unlink()
    with pytest.raises(PackageError, match="missing or damaged"):
        train_run(tmp_path / "runs", resume="broken")


def test_two_processes_learn_from_pairs_what_one_learns(text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """SGD at a small rate, as for images."""
    settings = {**OPTIONS, "method": "few-shot", "epochs": 2, "optimiser": "sgd", "lr": 0.005, "contrastive_pairs": 64}
    flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    command = ("-m", "fmx", "train", "--task", TASK, "--data", str(text_table), "--model", str(tiny_encoder), *flags, "--name", "two", "--json")
    body = tiny_body_without_dropout(tiny_encoder, tmp_path / "encoder")
    command = tuple(str(body) if part == str(tiny_encoder) else part for part in command)
    with launch(2, *command, "--dropout", "0", home=tmp_path) as process:
        _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said
    one = train(text_table, body, tmp_path / "runs", name="one", dropout=0.0, **{k: v for k, v in settings.items() if k not in OPTIONS or k == "lr"})
    two = load_run(tmp_path / "runs" / "two")
    first, second = (load_file(run.weights) for run in (one, two))
    assert max(float((first[key] - second[key]).abs().max()) for key in first) < 5e-4
    base = load_file(tiny_encoder / "model.safetensors")
    moved = [key for key, value in base.items() if f"encoder.{key}" in first and not torch.equal(value, first[f"encoder.{key}"])]
    assert len(moved) > 30


def tiny_body_without_dropout(encoder: Path, folder: Path) -> Path:
    """Copy an encoder whose steps are then the same however its rows are shared out."""
    folder.mkdir()
    for path in encoder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    return folder


def test_contrastive_stage_keeps_its_last_epoch() -> None:
    fits = {keeps_last: Fit(keeps_last=keeps_last) for keeps_last in (False, True)}
    for fit in fits.values():
        for number, accuracy in enumerate((0.5, 0.9, 0.6, 0.6, 0.6, 0.6), 1):
            module = nn.Linear(1, 1)
            nn.init.constant_(module.weight, number)
            fit.add(Epoch("s", number, 0.1, 0.1, accuracy, 1 + (number < 3), 1e-3, 1.0, 0.0, 1.0), module)
    assert {keeps_last: int(fit.best_state["weight"]) for keeps_last, fit in fits.items()} == {False: 2, True: 6}
    assert not fits[True].is_over(7, patience=1)
    assert fits[False].is_over(7, patience=1)


def test_rows_of_one_label_have_no_pairs(tiny_encoder: Path, text_table: Path) -> None:
    built = build_text_network(str(tiny_encoder), "default", 32, 3)
    rows = rows_in_memory(text_table, built)
    one = Rows(**{**vars(rows), "labels": np.zeros_like(rows.labels)})
    settings = check_settings({"task": TASK, "data": "x.csv", "method": "few-shot"})
    with pytest.raises(DataError, match="pairs of two labels"):
        plan_contrastive(built.network, Inputs(one, rows, False, ""), settings, CPU)


def test_head_of_few_rows_is_held_small(tiny_encoder: Path, text_table: Path, tmp_path: Path) -> None:
    """Weights under AdamW with a decay of 10 settle below 1 / 10; a plain probe's go on growing."""
    probe = train(text_table, tiny_encoder, tmp_path / "runs", method="linear-probe", epochs=200, patience=200, lr=1e-2)
    few_shot = train(text_table, tiny_encoder, tmp_path / "runs", method="few-shot", contrastive_pairs=64, epochs=200)
    largest = [float(load_file(run.weights)["classifier.weight"].abs().max()) for run in (few_shot, probe)]
    assert largest[0] < 0.12 < 0.3 < largest[1]
    assert few_shot.info.best_epoch == few_shot.info.epochs == 200


def rows_in_memory(table: Path, built: Any) -> Rows:
    from finetune.job import _task

    settings = check_settings({"task": TASK, "data": str(table)})
    source = reopen_source(settings.model_dump())
    return read_splits(source, _task(settings, source.labels, built))["train"]


def test_factors_are_multiplied_into_plain_weights(tiny_encoder: Path, text_table: Path) -> None:
    built = build_text_network(str(tiny_encoder), "default", 32, 3)
    names, rows = set(built.network.state_dict()), rows_in_memory(text_table, built)
    settings = check_settings({"task": TASK, "data": "x.csv", "method": "ia3"})
    plan = plan_ia3(built.network, Inputs(rows, rows, False, ""), settings, CPU)
    trained = {name: one for name, one in built.network.named_parameters() if one.requires_grad}
    assert sum("ia3_l" in name for name in trained) == 2 * 3  # keys, values and hidden units of two blocks
    assert {name for name in trained if "ia3_l" not in name} == {"body.classifier.weight", "body.classifier.bias"}
    for parameter in trained.values():
        nn.init.uniform_(parameter, 0.5, 1.5)
    ids = plan.batch(plan.train_inputs[:8], None)
    before = plan.module.eval()(ids)
    plan.finish()
    assert set(built.network.state_dict()) == names
    assert torch.allclose(built.network.body.eval()(ids), before, atol=1e-5)


def small_encoder(kind: str) -> nn.Module:
    """An encoder of two blocks, 32 wide, of one of the families."""
    from transformers import AutoConfig, AutoModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50}
    if kind == "modernbert":
        sizes |= {"pad_token_id": 0}
    encoder: nn.Module = AutoModel.from_config(AutoConfig.for_model(kind, **sizes))  # type: ignore[no-untyped-call]
    return encoder.eval()


FAMILIES = {"bert": 4, "roberta": 4, "electra": 4, "distilbert": 4, "mpnet": 4, "deberta": 2, "deberta-v2": 4, "modernbert": 2}
"""Layers of keys and values in two blocks; DeBERTa and ModernBERT have queries, keys and values in one."""


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_has_layers_to_scale_and_adapters_that_begin_at_nothing(kind: str) -> None:
    encoder = small_encoder(kind)
    assert len(scaled_layers(encoder)) == FAMILIES[kind]
    assert len(down_projections(encoder)) == 2
    ids = torch.arange(1, 13).reshape(2, 6)
    before = encoder(input_ids=ids).last_hidden_state
    add_adapters(encoder, 8)
    assert torch.equal(encoder(input_ids=ids).last_hidden_state, before)
    assert len(adapters_of(encoder)) == 2
    nn.init.normal_(adapters_of(encoder)[0].up.weight)
    assert not torch.allclose(encoder(input_ids=ids).last_hidden_state, before, atol=1e-5)
    with pytest.raises(ModelError, match="no layer of a block"):
        add_adapters(nn.Linear(2, 3), 8)


@pytest.fixture(scope="module")
def adapter_run(tiny_encoder: Path, text_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("adapter")
    return train(text_table, tiny_encoder, out / "runs", method="adapter", adapter_width=12, epochs=10, lr=1e-2)


def test_adapters_learn_and_the_base_stays(adapter_run: Run, tiny_encoder: Path) -> None:
    assert adapter_run.info.settings["adapter_width"] == 12
    weights, base = load_file(adapter_run.weights), load_file(tiny_encoder / "model.safetensors")
    kept = {key.removeprefix("encoder.").replace(".output.dense.0.", ".output.dense."): value for key, value in weights.items()}
    shared = base.keys() & kept.keys()
    assert len(shared) == len([key for key in base if not key.startswith("pooler")])
    assert all(torch.equal(base[key], kept[key]) for key in shared)
    adapters = [module for module in restore_network(adapter_run).modules() if isinstance(module, Bottleneck)]
    assert [one.down.out_features for one in adapters] == [12, 12]
    assert all(one.up.weight.abs().max() > 1e-3 for one in adapters)


def test_adapters_are_exported(adapter_run: Run, tmp_path: Path) -> None:
    package: Package = export_package(adapter_run.folder, out=tmp_path / "packages")
    network, predictor = restore_network(adapter_run), PackagePredictor.open(package.folder, variant="fp32")
    spec = adapter_run.info.input
    assert isinstance(spec, TextInput)
    for rows, length in ((1, 3), (4, 17), (2, 32)):
        ids = task_of(adapter_run).noise(rows)
        ids[:, length:] = spec.pad_id
        with torch.inference_mode():
            eager = softmax(network(torch.from_numpy(ids)).numpy())
        assert np.abs(predictor.run(ids) - eager).max() < 1e-4


@pytest.mark.parametrize("method", ["adapter", "finetune", "lora", "ia3", "few-shot"])
def test_run_with_adapters_is_trained_on(method: str, adapter_run: Run, text_table: Path, tmp_path: Path) -> None:
    more = train(text_table, f"run:{adapter_run.folder}", tmp_path / "runs", method=method, epochs=2, lr=1e-4)
    assert confusion_of(more) == more.info.metrics["confusion"]
    assert (more.folder / "config.json").read_text() == (adapter_run.folder / "config.json").read_text()
    assert load_file(more.weights).keys() == load_file(adapter_run.weights).keys()
    assert more.info.accuracy.value >= adapter_run.info.accuracy.value - 0.15
    assert more.info.settings["adapter_width"] == (12 if method == "adapter" else None)


def test_width_of_a_runs_adapters_stays(adapter_run: Run, text_table: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are 12 wide, not 16"):
        train(text_table, f"run:{adapter_run.folder}", tmp_path / "runs", method="adapter", adapter_width=16)
