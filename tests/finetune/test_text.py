"""Training on texts: through the same loop as images, from a folder of a tiny encoder."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.pipeline import export_package
from finetune import combination
from finetune.augmentation import token_dropout
from finetune.averaging import mean_state
from finetune.baselines import tfidf_probabilities
from finetune.blocks import layers_in_order
from finetune.combination import make_soup
from finetune.evaluation import eager_logits, evaluate_run
from finetune.loop import Fit, bucket_by_length
from finetune.network import restore_network
from finetune.objectives.embedding_attack import EmbeddingAttack, _unit, _within
from finetune.settings import EMBEDDED_TEXT_MODEL, TrainSettings, check_settings, method_defaults
from finetune.text_models import Extension, build_text_model
from finetune.training import train_run
from finetune.vocabulary import unknown_words
from fmx.contract import TextInput
from fmx.data import reopen_source
from fmx.data.rows import read_splits
from fmx.errors import DataError, ModelError, PackageError, UsageError
from fmx.run import Run, load_run, task_of
from fmx.statistics import accuracy_of
from fmx.texts import MAX_LENGTH, open_tokenizer
from tests.texts import make_texts

TASK = "text-classification"


def train(data: Path, model: Path, out: Path, **options: Any) -> Run:
    settings: dict[str, Any] = {"method": "linear-probe", "epochs": 2, "max_length": 32, "device": "cpu", **options}
    return train_run(out, task=TASK, data=str(data), model=str(model), **settings)


def test_run_of_texts_holds_what_it_is_rebuilt_from(text_run: Run) -> None:
    assert text_run.info.task == TASK
    assert isinstance(text_run.info.input, TextInput)
    assert {"tokenizer.json", "config.json", "best.safetensors", "report.html"} <= {path.name for path in text_run.folder.iterdir()}
    assert text_run.info.accuracy.value > 0.8
    rows = read_splits(reopen_source(text_run.info.settings), task_of(text_run))
    assert rows["test"].fingerprint == text_run.info.rows["test"]
    said = eager_logits(restore_network(text_run), rows["test"], torch.device("cpu")).argmax(axis=1)
    assert (said == rows["test"].labels).mean() == pytest.approx(text_run.info.accuracy.value)


def test_answers_are_in_the_order_of_the_rows_and_not_of_their_lengths(text_run: Run) -> None:
    network, device = restore_network(text_run), torch.device("cpu")
    rows = read_splits(reopen_source(text_run.info.settings), task_of(text_run))["test"]
    together = eager_logits(network, rows, device, batch_size=4)
    with torch.inference_mode():
        alone = np.concatenate([network(torch.from_numpy(rows.values[i : i + 1])).numpy() for i in range(len(rows))])
    assert np.abs(together - alone).max() < 1e-4


def test_baselines_stand_beside_the_result(text_run: Run) -> None:
    baselines = text_run.info.metrics["baselines"]
    assert baselines["majority"]["value"] < baselines["tfidf"]["value"] <= 1.0
    rows = read_splits(reopen_source(text_run.info.settings), task_of(text_run))
    said = tfidf_probabilities(rows["train"], rows["validation"], rows["test"], 3)
    assert accuracy_of(said, rows["test"].labels).value == pytest.approx(baselines["tfidf"]["value"])


def test_training_that_does_not_beat_a_baseline_says_so(text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    settings: dict[str, Any] = {"method": "linear-probe", "epochs": 1, "lr": 1e-6, "max_length": 32, "device": "cpu"}
    run = train_run(tmp_path / "runs", said.append, task=TASK, data=str(text_table), model=str(tiny_encoder), **settings)
    assert run.info.accuracy.value < run.info.metrics["baselines"]["tfidf"]["value"]
    assert any("did not beat TF-IDF with logistic regression" in line for line in said)


@pytest.mark.parametrize("method", ["lp-ft", "lora", "norm-bias"])
def test_every_method_of_images_trains_texts(text_table: Path, tiny_encoder: Path, tmp_path: Path, method: str) -> None:
    run = train(text_table, tiny_encoder, tmp_path / "runs", method=method, lr="1e-3", epochs=1, layer_decay=0.8 if method == "lp-ft" else None)
    restored = restore_network(run)
    assert not [name for name in restored.state_dict() if "lora" in name]
    assert torch.isfinite(restored(torch.ones(2, 32, dtype=torch.int32))).all()


def test_run_of_texts_is_continued_with_its_own_tokenizer(text_run: Run, text_table: Path, tmp_path: Path) -> None:
    again = train_run(
        tmp_path / "runs", task=TASK, data=str(text_table), model=f"run:{text_run.folder}", method="linear-probe", epochs=1, device="cpu"
    )
    assert again.info.input == text_run.info.input
    assert (again.folder / "tokenizer.json").read_bytes() == (text_run.folder / "tokenizer.json").read_bytes()
    with pytest.raises(UsageError, match="is of the task text-classification"):
        train_run(tmp_path / "runs", data="digits", model=f"run:{text_run.folder}", epochs=1, device="cpu")


def test_same_seed_gives_the_same_weights(text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "finetune", "epochs": 1, "precision": "fp32"}  # auto is measured, and so a matter of the moment
    first, second = (train(text_table, tiny_encoder, tmp_path / name, **settings) for name in ("a", "b"))
    assert first.info.weights_sha256 == second.info.weights_sha256


def test_rows_of_about_one_length_share_a_batch() -> None:
    lengths = torch.randint(1, 100, (640,), generator=torch.Generator().manual_seed(0))
    batches = torch.split(torch.randperm(640, generator=torch.Generator().manual_seed(1)), 32)
    dealt = bucket_by_length(batches, lengths, torch.Generator().manual_seed(2))
    assert sorted(torch.cat(dealt).tolist()) == list(range(640))
    assert sorted(map(len, dealt)) == sorted(map(len, batches))

    def padding(given: tuple[torch.Tensor, ...]) -> int:
        return sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in given)

    assert padding(dealt) < 0.2 * padding(batches)
    ordered = [int(lengths[batch].max()) for batch in dealt]
    assert ordered != sorted(ordered)


@pytest.mark.parametrize("option", ["size", "mixup", "cutmix", "teacher", "drop_path", "unlabelled"])
def test_what_needs_pixels_is_refused_for_texts(option: str) -> None:
    values = {"size": 64, "mixup": 0.2, "cutmix": 0.2, "teacher": "latest", "drop_path": 0.1, "unlabelled": "folder"}
    with pytest.raises(UsageError, match="for texts"):
        check_settings({"task": TASK, "data": "x.csv", option: values[option]})


def test_settings_of_texts_differ_where_nobody_said() -> None:
    settings = check_settings({"task": TASK, "data": "x.csv"})
    assert (settings.model, settings.epochs, settings.augment) == (EMBEDDED_TEXT_MODEL, 5, "none")
    assert settings.peak_rate == method_defaults(TASK)["finetune"]["adamw"] < method_defaults("image-classification")["finetune"]["adamw"]
    assert check_settings({"task": TASK, "data": "x.csv", "epochs": 12}).epochs == 12
    assert check_settings(settings.model_dump()) == settings
    with pytest.raises(UsageError, match="for images"):
        check_settings({"max_length": 64})
    with pytest.raises(UsageError, match="needs texts"):
        check_settings({"task": TASK})


def test_window_that_a_model_does_not_have_is_an_error(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="at most 64 tokens"):
        build_text_model(str(tiny_encoder), "default", MAX_LENGTH, 2)


def edited(encoder: Path, folder: Path, file: str, **changes: object) -> str:
    """Copy an encoder's folder with some fields of a JSON file changed."""
    shutil.copytree(encoder, folder)
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    return str(folder)


def test_tokenizer_that_does_not_fit_its_model_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    larger = edited(tiny_encoder, tmp_path / "larger", "config.json", vocab_size=40)
    with pytest.raises(ModelError, match="table of embeddings 40"):
        build_text_model(larger, "none", 32, 2)
    unknown = edited(tiny_encoder, tmp_path / "unknown", "tokenizer_config.json", pad_token="[UNK]")
    with pytest.raises(ModelError, match="pads with its token for what is unknown"):
        build_text_model(unknown, "none", 32, 2)


def test_run_tells_no_path_of_its_models_folder(text_run: Run, tiny_encoder: Path) -> None:
    assert text_run.info.model == text_run.info.weights_origin == tiny_encoder.name


def test_model_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        build_text_model("nobody/has-this-model", "default", 32, 2)
    assert "give a folder" in caught.value.hint.lower()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot be had"):
        build_text_model(str(tmp_path / "empty"), "default", 32, 2)
    with pytest.raises(UsageError, match="for images"):
        build_text_model(str(tmp_path), "weights.pth", 32, 2)


def test_model_with_code_of_its_own_is_not_run(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config", "AutoModel": "theirs.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ModelError):
        build_text_model(str(folder), "default", 32, 2)
    assert not (tmp_path / "ran").exists()


def test_copies_across_splits_end_a_training(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [("text", "label", "split")]
    rows += [(f"word {number} of {label}", label, split) for label in ("a", "b") for split in ("train", "validation", "test") for number in range(6)]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(DataError, match="misled"):
        train(tmp_path / "t.csv", tiny_encoder, tmp_path / "runs")
    assert load_run(train(tmp_path / "t.csv", tiny_encoder, tmp_path / "runs", allow_leakage=True).folder).info.task == TASK


NEW = ("дом", "鑫", "𠮷", "☃")
"""Words and characters that the tiny encoder's tokenizer does not know."""


def strange_table(path: Path) -> Path:
    """Texts of two classes that only words tell apart which the tokenizer does not know."""
    rows = [(f"{NEW[number % 2 + 2 * label]} is here {number}", str(label)) for label in (0, 1) for number in range(40)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def test_unknown_words_become_tokens_that_are_learnt(tiny_encoder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    settings: dict[str, Any] = {"method": "finetune", "epochs": 15, "lr": 1e-2, "max_length": 16, "patience": 15, "device": "cpu"}
    table = strange_table(tmp_path / "t.csv")
    run = train_run(tmp_path / "runs", said.append, task=TASK, data=str(table), model=str(tiny_encoder), extend_vocab=100, **settings)
    vocabulary = json.loads((run.folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert set(NEW) <= set(vocabulary)
    assert any("are new tokens" in line and "now 0.0% are" in line for line in said)
    assert isinstance(run.info.input, TextInput)
    assert run.info.input.vocabulary == max(vocabulary.values()) + 1
    rows = read_splits(reopen_source(run.info.settings), task_of(run))["test"]
    again = train_run(tmp_path / "again", task=TASK, data=str(table), model=str(tiny_encoder), extend_vocab=100, **settings)
    assert again.info.weights_sha256 == run.info.weights_sha256
    assert (eager_logits(restore_network(run), rows, torch.device("cpu")).argmax(axis=1) == rows.labels).mean() > 0.7  # of 0.5 without them


def test_tokenizer_that_knows_every_word_is_left_alone(text_table: Path, tiny_encoder: Path) -> None:
    said: list[str] = []
    plain = build_text_model(str(tiny_encoder), "default", 32, 3)
    extended = build_text_model(str(tiny_encoder), "default", 32, 3, Extension(100, ["my parcel is late"] * 3, said.append))
    assert extended.files["tokenizer.json"] == plain.files["tokenizer.json"]
    assert "adds nothing" in said[0]


def test_only_frequent_words_are_added_the_most_frequent_first(tiny_encoder: Path) -> None:
    tokenizer = open_tokenizer(tiny_encoder / "tokenizer.json")
    unknown = tokenizer.token_to_id("[UNK]")
    texts = ["鑫 鑫 鑫 my parcel", "☃ ☃", "𠮷"]
    assert unknown_words(tokenizer, unknown, texts, 10) == ["鑫", "☃"]
    assert unknown_words(tokenizer, unknown, texts, 1) == ["鑫"]
    assert unknown_words(tokenizer, None, texts, 10) == []


@pytest.mark.parametrize("method", ["linear-probe", "lora", "norm-bias"])
def test_new_tokens_need_a_method_that_trains_them(method: str) -> None:
    with pytest.raises(UsageError, match="leaves the embeddings as they are"):
        check_settings({"task": TASK, "data": "x.csv", "method": method, "extend_vocab": 10})


def test_dropped_tokens_are_never_the_special_ones_nor_padding(text_run: Run) -> None:
    spec = text_run.info.input
    assert isinstance(spec, TextInput)
    rows = torch.from_numpy(np.stack([task_of(text_run).row(text) for text in (b"my parcel is late today please", b"thanks")]))
    seen = [token_dropout(spec, 0.5)(rows, lambda given: given, torch.device("cpu"), torch.Generator().manual_seed(seed)) for seed in range(50)]
    lengths = (rows != spec.pad_id).sum(dim=1)
    for changed in seen:
        assert torch.equal(changed[:, 0], rows[:, 0])
        assert torch.equal(changed[torch.arange(2), lengths - 1], rows[torch.arange(2), lengths - 1])
        assert torch.equal(changed == spec.pad_id, rows == spec.pad_id)
        assert set(changed[changed != rows].tolist()) <= {spec.unknown_id}
    share = torch.stack([(changed != rows).sum() for changed in seen]).float().mean() / (lengths - 2).sum()
    assert 0.35 < float(share) < 0.65
    assert torch.equal(token_dropout(spec, 0.0)(rows, lambda given: given, torch.device("cpu"), torch.Generator()), rows)
    with pytest.raises(UsageError, match="no token for what is unknown"):
        token_dropout(spec.model_copy(update={"unknown_id": None}), 0.1)


def test_interrupted_run_is_resumed_exactly(text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": "finetune", "epochs": 3, "max_length": 32, "device": "cpu", "seed": 3, "checkpoint_minutes": 1e-6}
    whole = train(text_table, tiny_encoder, tmp_path / "whole", **settings)

    class Stop(Exception):
        pass

    def stop(fit: Fit) -> None:
        raise Stop

    with pytest.raises(Stop):
        train(text_table, tiny_encoder, tmp_path / "runs", on_epoch=stop, name="broken", **settings)
    resumed = train_run(tmp_path / "runs", resume="broken")
    assert resumed.info.weights_sha256 == whole.info.weights_sha256


def test_run_json_repeats_a_run_of_texts(text_run: Run) -> None:
    known = {key: value for key, value in text_run.info.settings.items() if key in TrainSettings.model_fields}
    assert check_settings(known).peak_rate == text_run.info.settings["lr"]
    with pytest.raises(UsageError, match="--augment does nothing for texts"):
        check_settings({"task": TASK, "data": "x.csv", "augment": "light"})
    with pytest.raises(UsageError, match="whose window stays"):
        check_settings({"task": TASK, "data": "x.csv", "model": "run:a", "max_length": 16})


def test_soup_of_texts_is_a_run_like_others(text_table: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracies are given, for an average must be better than each: two trainings of a tiny encoder seldom have one that is."""
    out = tmp_path / "runs"
    runs = [train(text_table, tiny_encoder, out, method="finetune", epochs=1, lr=3e-3, seed=seed, split_seed=0) for seed in (1, 2)]
    accuracies = iter([0.5, 0.4, 0.6])
    monkeypatch.setattr(combination, "_judgement", lambda network, members: next(accuracies))
    soup = make_soup([str(run.folder) for run in runs], out=out)
    expected = mean_state([load_file(run.weights) for run in runs])
    assert all(torch.allclose(value, expected[key], atol=1e-6) for key, value in load_file(soup.weights).items())
    assert soup.info.files == runs[0].info.files
    assert torch.isfinite(restore_network(load_run(soup.folder))(torch.ones(2, 32, dtype=torch.int32))).all()


def test_altered_configuration_of_a_run_is_refused(text_run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(text_run.folder, copy)
    (copy / "config.json").write_text((copy / "config.json").read_text().replace('"gelu"', '"relu"'))
    with pytest.raises(PackageError, match=r"config\.json is missing or not the file"):
        load_run(copy)


def test_weights_that_lack_the_encoders_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "wrapped"
    shutil.copytree(tiny_encoder, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({f"wrapper.{key}": value for key, value in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lack 37 tensors of the encoder"):
        build_text_model(str(folder), "default", 32, 2)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be had"):
        build_text_model(str(folder), "default", 32, 2)


def test_transformers_blocks_are_layers_whatever_share_of_the_weights_they_have(tiny_encoder: Path) -> None:
    body = build_text_model(str(tiny_encoder), "default", 32, 2).module
    blocks = [layer for layer in layers_in_order(body) if any(type(module).__name__ == "BertLayer" for module in layer)]
    assert len(blocks) == 2


def test_columns_of_a_run_are_taken_again_for_its_evaluation(tiny_encoder: Path, tmp_path: Path) -> None:
    from fmx.evaluation import evaluate_package

    rows = make_texts(90)
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "title", "label"), *((f"nothing {number}", text, label) for number, (text, label) in enumerate(rows))])
    run = train(tmp_path / "t.csv", tiny_encoder, tmp_path / "runs", method="finetune", epochs=3, lr=5e-3, text_column="title")
    again = evaluate_run(run, str(tmp_path / "t.csv"), torch.device("cpu"))
    assert again.facts["rows_of_run"]
    package = export_package(run.folder, out=tmp_path / "packages")
    assert evaluate_package(package.folder, str(tmp_path / "t.csv")).facts["rows_of_export"]


@pytest.mark.parametrize("method", ["finetune", "lora"])
@pytest.mark.parametrize("adversarial", ["fgm", "pgd"])
def test_embeddings_are_attacked_in_training(text_table: Path, tiny_encoder: Path, tmp_path: Path, method: str, adversarial: str) -> None:
    settings: dict[str, Any] = {"method": method, "epochs": 1, "lr": 1e-3}
    plain, attacked = (train(text_table, tiny_encoder, tmp_path / name, adversarial=name, **settings) for name in ("none", adversarial))
    assert plain.info.weights_sha256 != attacked.info.weights_sha256
    assert "robust_accuracy" not in attacked.info.metrics
    assert attacked.info.settings["adversarial_eps"] == 1.0


def test_attack_stays_within_its_ball_and_raises_the_loss(tiny_encoder: Path) -> None:
    torch.manual_seed(0)
    body = build_text_model(str(tiny_encoder), "default", 32, 3).module.eval()
    ids, targets = torch.randint(5, 130, (6, 16)), torch.tensor([0, 1, 2, 0, 1, 2])
    given: list[torch.Tensor] = []
    embeddings = body.encoder.get_input_embeddings()  # type: ignore[operator]

    def loss(logits: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        given.append(torch.nn.functional.cross_entropy(logits, expected))
        return given[-1]

    plain = embeddings(ids).detach()
    for steps in (1, 3):
        given.clear()
        attack = EmbeddingAttack(loss, 0.5, steps)
        total = attack(body, ids, targets, torch.Generator())
        assert len(given) == steps + 1
        assert given[-1] > given[0]
        assert torch.allclose(total, (given[0] + given[-1]) / 2)
        total.backward()  # type: ignore[no-untyped-call]
        assert embeddings.weight.grad is not None
        embeddings.weight.grad = None
    assert torch.equal(embeddings(ids), plain)  # nothing is left behind


def test_attack_finds_the_embeddings_of_a_copy(text_table: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """A range test trains a copy of the network."""
    run = train(text_table, tiny_encoder, tmp_path / "runs", method="finetune", epochs=1, adversarial="fgm", lr="auto")
    assert run.info.metrics["range_test"]


def test_run_from_before_texts_could_be_attacked_is_repeated() -> None:
    before = {"task": TASK, "data": "x.csv", "adversarial": "none", "adversarial_eps": 4.0, "adversarial_steps": 3}
    assert check_settings(before).adversarial == "none"


def test_ball_is_of_the_whole_row() -> None:
    far = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)) * 10
    assert torch.allclose(_within(far, 0.5).flatten(1).norm(dim=1), torch.full((3,), 0.5))
    near = far / 1e4
    assert torch.equal(_within(near, 0.5), near)
    assert torch.allclose(_unit(far).flatten(1).norm(dim=1), torch.ones(3))


def test_attacks_are_for_what_they_are_for() -> None:
    assert check_settings({"task": TASK, "data": "x.csv", "adversarial": "fgm"}).adversarial_eps == 1.0
    for wrong, said in (
        ({"task": TASK, "data": "x.csv", "adversarial": "fgsm"}, "fgm for texts"),
        ({"adversarial": "fgm"}, "fgsm for images"),
        ({"task": TASK, "data": "x.csv", "adversarial": "pgd", "compile": True}, "cannot be combined"),
        ({"task": TASK, "data": "x.csv", "adversarial_eps": 0.3}, "without --adversarial"),
    ):
        with pytest.raises(UsageError, match=said):
            check_settings(wrong)
