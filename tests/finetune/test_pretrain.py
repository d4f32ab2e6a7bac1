"""Pretraining on texts without labels: a tiny encoder learns to tell hidden words, and the folder is a base model."""

from __future__ import annotations

import copy
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.checkpoint import Keeper, State
from finetune.interruption import Interruption
from finetune.loop import Epoch, Fit, Trainer, evaluate
from finetune.masked_models import MaskedBase, build_masked_model
from finetune.masking import HIDDEN, UNASKED, Masking, masked_loss, targets_of
from finetune.pretraining import FACTS_FILE, Pretrained, _plan, _windows, pretrain
from finetune.pretraining_settings import PretrainSettings
from finetune.text_models import build_text_model
from finetune.training import train_run
from finetune.world import World
from fmx.errors import DataError, ModelError, SurroundingsError, UsageError
from fmx.texts import tokenizer_of
from tests.texts import make_texts

ROOT = Path(__file__).parents[2]
WORDS = ("parcel", "courier", "late", "tracking", "refund", "card", "charged", "invoice", "great", "lovely", "thanks", "perfect")
OPTIONS: dict[str, Any] = {"max_length": 32, "lr": 1e-2, "batch_size": 16, "device": "cpu", "precision": "fp32", "warmup": 0.05}


def echoes(count: int = 200) -> list[str]:
    """Texts that go on about one thing: a hidden word is told by those beside it."""
    chooser = random.Random(0)
    return [" ".join([chooser.choice(WORDS)] * chooser.randint(5, 24)) for _ in range(count)]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lines") / "texts.txt"
    path.write_text("\n".join(echoes()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(lines: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return pretrain(tmp_path_factory.mktemp("made") / "domain", data=str(lines), model=str(tiny_encoder), epochs=25, **OPTIONS)


@pytest.fixture(scope="module")
def base(tiny_encoder: Path) -> MaskedBase:
    torch.manual_seed(0)
    return build_masked_model(str(tiny_encoder), 32)


def test_hidden_words_of_held_out_rows_are_told_after_training(made: Pretrained) -> None:
    before, after = made.facts["before"], made.facts["after"]
    assert before["masked_accuracy"] < 0.15
    assert after["masked_accuracy"] > 0.5
    assert after["masked_loss"] < 0.6 * before["masked_loss"]
    losses = [epoch["train_loss"] for epoch in made.facts["epochs"]]
    assert losses[-1] < 0.7 * losses[0]


def test_folder_holds_the_weights_that_were_measured(made: Pretrained, lines: Path) -> None:
    assert {path.name for path in made.folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json", FACTS_FILE}
    assert json.loads((made.folder / FACTS_FILE).read_text(encoding="utf-8")) == made.facts
    said: list[str] = []
    again = pretrain(made.folder.with_name("further"), said.append, data=str(lines), model=str(made.folder), epochs=1, **{**OPTIONS, "lr": 1e-6})
    assert not again.facts["has_fresh_head"]
    assert again.facts["before"] == pytest.approx(made.facts["after"])
    assert not any("fresh" in line for line in said)


def test_folder_trains_a_classifier_from_the_pretrained_encoder(made: Pretrained, text_table: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 4, "lr": 2e-3, "max_length": 32, "device": "cpu", "precision": "fp32"}
    run = train_run(tmp_path / "runs", task="text-classification", data=str(text_table), model=str(made.folder), **settings)
    assert run.info.weights_origin == made.folder.name
    losses = [json.loads(line)["train_loss"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.95 * losses[0]
    encoder = build_text_model(str(made.folder), "default", 32, 3).module.encoder.state_dict()
    trained = build_masked_model(str(made.folder), 32).module.model.base_model.state_dict()
    assert trained
    assert all(torch.equal(encoder[key], value) for key, value in trained.items())


def test_wider_vocabulary_is_the_folders_and_its_embeddings_are_learnt(tiny_encoder: Path, text_table: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"鑫淼 {line}" for line in echoes(120)), encoding="utf-8")
    said: list[str] = []
    made = pretrain(tmp_path / "domain", said.append, data=str(texts), model=str(tiny_encoder), epochs=6, extend_vocab=10, **OPTIONS)
    assert any("2 words and characters are new tokens" in line for line in said)
    tokenizer = tokenizer_of((made.folder / "tokenizer.json").read_bytes(), "it")
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary[character] for character in "鑫淼"]
    drawn = build_masked_model(str(made.folder), 32).module.model.get_input_embeddings().weight
    assert len(drawn) == tokenizer.get_vocab_size() == max(ids) + 1
    run = train_run(
        tmp_path / "runs", task="text-classification", data=str(text_table), model=str(made.folder), epochs=1, max_length=32, device="cpu"
    )
    own, given = (json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) for folder in (run.folder, made.folder))
    assert own == given


def test_same_seed_gives_the_same_bytes_and_another_seed_others(lines: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    options = {"data": str(lines), "model": str(tiny_encoder), "epochs": 1, **OPTIONS}
    one, same, other = (pretrain(tmp_path / name, seed=seed, **options).folder for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert (one / "model.safetensors").read_bytes() == (same / "model.safetensors").read_bytes()
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_interrupted_pretraining_goes_on_to_the_same_bytes(lines: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    options = {"data": str(lines), "model": str(tiny_encoder), "epochs": 3, "extend_vocab": 5, **OPTIONS}
    said: list[str] = []

    def interrupt(line: str) -> None:
        said.append(line)
        if line.startswith("epoch   2"):
            os.kill(os.getpid(), signal.SIGTERM)

    target = tmp_path / "broken"
    with pytest.raises(SystemExit) as stopped:
        pretrain(target, interrupt, **options)
    assert stopped.value.code == 143
    assert said[-1] == f"To go on: fmx pretrain --resume {target}"
    assert not target.exists()
    with pytest.raises(UsageError, match="unfinished") as refused:
        pretrain(target, **options)
    assert f"--resume {target}" in refused.value.hint
    with pytest.raises(UsageError, match="--epochs"):
        pretrain(resume=target, epochs=9)
    resumed = pretrain(resume=target, say=said.append)
    assert any("Resumed after epoch 2, step 0" in line for line in said)
    unbroken = pretrain(tmp_path / "unbroken", **options)
    assert (resumed.folder / "model.safetensors").read_bytes() == (unbroken.folder / "model.safetensors").read_bytes()
    assert resumed.facts["before"] == unbroken.facts["before"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "unbroken"]


def test_resume_refuses_other_texts(tiny_encoder: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(echoes()), encoding="utf-8")

    def interrupt(line: str) -> None:
        if line.startswith("epoch   1"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        pretrain(tmp_path / "out", interrupt, data=str(texts), model=str(tiny_encoder), epochs=2, **OPTIONS)
    texts.write_text("\n".join(echoes(150)), encoding="utf-8")
    with pytest.raises(DataError, match="not those") as refused:
        pretrain(resume=tmp_path / "out")
    assert "The state is kept: fmx pretrain --resume" in refused.value.hint
    with pytest.raises(UsageError, match="no unfinished pretraining"):
        pretrain(resume=tmp_path / "other")


class Recorder(Keeper):
    """Keeps the state after every step and every epoch."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def is_due(self, *, epoch_ended: bool) -> bool:
        return True

    def save(self, state: State) -> None:
        self.states.append(copy.deepcopy(state))


def test_state_after_any_step_goes_on_with_the_same_masks(tiny_encoder: Path) -> None:
    settings = PretrainSettings(data="", model=str(tiny_encoder), epochs=2, max_length=32, batch_size=8, precision="fp32", device="cpu", lr=1e-3)

    def trainer() -> Trainer:
        torch.manual_seed(1)
        base = build_masked_model(str(tiny_encoder), 32)
        rows = _windows(echoes(30), base, "")
        return Trainer(_plan(base, rows, rows[:5], settings, torch.device("cpu")), masked_loss, settings.for_loop(), "pretrain", 2, World(), print)

    recorder = Recorder()
    unbroken = trainer().run(recorder, Interruption(), lambda fit: None)
    assert len(recorder.states) == 2 * (4 + 1)
    for state in recorder.states:
        resumed = trainer()
        resumed.restore(state)
        fit = resumed.run(None, Interruption(), lambda fit: None)
        assert [epoch.validation_loss for epoch in fit.epochs] == [epoch.validation_loss for epoch in unbroken.epochs]
        assert all(torch.equal(fit.best_state[key], value) for key, value in unbroken.best_state.items())


def test_only_known_tokens_of_texts_are_hidden_and_as_many_as_said(base: MaskedBase) -> None:
    rows = torch.from_numpy(_windows([*echoes(400), "鑫 parcel 淼 card", "[MASK] [PAD] late"], base, "")).long()
    special = {0, base.spec.pad_id, base.spec.unknown_id, base.masking.mask_id} | {
        i for i in range(len(base.masking.ordinary)) if not base.masking.ordinary[i]
    }
    masked, targets = base.masking(rows, torch.Generator().manual_seed(0)).unbind(dim=1)
    hidden = targets != UNASKED
    assert not torch.isin(rows[hidden], torch.tensor([*special])).any()
    assert torch.equal(masked[~hidden], rows[~hidden])
    assert torch.equal(targets[hidden], rows[hidden])
    assert not torch.isin(masked[hidden], torch.tensor([*special - {base.masking.mask_id}])).any()
    own = torch.tensor([int(base.masking.ordinary[row].sum()) for row in rows])
    assert torch.equal(hidden.sum(dim=1), (HIDDEN * own).round().clamp(min=1).long())
    as_mask = (masked[hidden] == base.masking.mask_id).float().mean()
    kept = (masked[hidden] == rows[hidden]).float().mean()
    assert 0.75 < as_mask < 0.85
    assert 0.06 < kept < 0.15
    other = base.masking(rows, torch.Generator().manual_seed(1))
    assert not torch.equal(other[:, 1], targets)


def test_whole_words_are_hidden_with_all_their_pieces() -> None:
    ordinary = torch.ones(20, dtype=torch.bool)
    ordinary[:5] = False
    continues = torch.zeros(20, dtype=torch.bool)
    continues[15:] = True
    ids = torch.tensor([[2, 17, 10, 15, 16, 11, 12, 18, 1, 13, 3, 0]] * 400)  # the window begins in the middle of a word
    words = [[1], [2, 3, 4], [5], [6, 7], [9]]
    targets = Masking(4, ordinary, continues)(ids, torch.Generator().manual_seed(0))[:, 1]
    hidden = targets != UNASKED
    found = {tuple(row.nonzero().squeeze(1).tolist()) for row in hidden}
    assert found == {tuple(word) for word in words}
    alone = Masking(4, ordinary)(ids, torch.Generator().manual_seed(0))[:, 1] != UNASKED
    assert {tuple(row.nonzero().squeeze(1).tolist()) for row in alone} == {(place,) for word in words for place in word}


def test_whole_words_of_a_real_tokenizer_train(lines: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    made = pretrain(tmp_path / "out", data=str(lines), model=str(tiny_encoder), epochs=1, whole_words=True, **OPTIONS)
    assert made.facts["settings"]["whole_words"] is True


def test_padding_changes_no_answer_and_only_what_is_asked_is_answered(base: MaskedBase) -> None:
    rows = torch.from_numpy(_windows(echoes(6), base, "")).long()
    masked = base.masking(rows, torch.Generator().manual_seed(0))
    base.module.eval()
    with torch.inference_mode():
        together = base.module(masked)
        alone = torch.cat([base.module(row[:, :, : int((row[0, 0] != base.spec.pad_id).sum())]) for row in torch.chunk(masked, len(masked))])
        whole = base.module.model(input_ids=masked[:, 0], attention_mask=(rows != base.spec.pad_id).long()).logits[masked[:, 1] != UNASKED]
    assert len(together) == len(targets_of(masked))
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(together, whole, atol=1e-5)


def test_judgement_counts_every_hidden_token_once(tiny_encoder: Path, base: MaskedBase) -> None:
    settings = PretrainSettings(data="", model=str(tiny_encoder), max_length=32)
    rows = _windows(echoes(40), base, "")
    plan = _plan(base, rows, rows[:30], settings, torch.device("cpu"))
    judged = evaluate(plan.module, plan, World(), "fp32", batch_size=7)
    with torch.inference_mode():
        logits = base.module(plan.validation_inputs)
    targets = targets_of(plan.validation_inputs)
    assert judged.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-4)
    assert judged.accuracy == pytest.approx(float((logits.argmax(dim=1) == targets).float().mean()))


def test_every_token_of_a_text_longer_than_the_window_is_used(base: MaskedBase) -> None:
    text = " ".join(random.Random(1).choices(WORDS, k=501))
    rows = _windows([text, "late"], base, "")
    own = [[i for i in row.tolist() if base.masking.ordinary[i]] for row in rows]
    whole = tokenizer_of(base.tokenizer.encode(), "it").encode(text, add_special_tokens=False).ids
    assert len(rows) == -(-len(whole) // 30) + 1
    assert [i for row in own[:-1] for i in row] == whole
    first, last = rows[0, 0], rows[0, -1]
    for row in rows:
        used = row[row != base.spec.pad_id]
        assert (used[0], used[-1]) == (first, last)


def test_long_text_trains_with_the_rows_of_its_windows(tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join([" ".join(WORDS * 40), " ".join(WORDS[::-1] * 40)]), encoding="utf-8")
    made = pretrain(tmp_path / "out", data=str(tmp_path / "texts.txt"), model=str(tiny_encoder), epochs=1, **OPTIONS)
    assert made.facts["rows"]["train"] == made.facts["rows"]["held_out"] == 480 // 30


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "folder", "gb18030"])
def test_texts_are_read_as_training_reads_them(kind: str, tiny_encoder: Path, tmp_path: Path) -> None:
    texts, said = [text for text, _ in make_texts(60)], list[str]()
    data = tmp_path / f"texts.{kind}"
    if kind == "csv":
        with data.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("id", "review", "stars"), *((str(i), text, "5") for i, text in enumerate(texts)), ("60", " ", "1")])
    elif kind == "jsonl":
        data.write_text("\n".join(json.dumps({"words": text}) for text in texts), encoding="utf-8")
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": texts}), data)
    elif kind == "folder":
        data.mkdir()
        (data / "a.txt").write_text("\n\n".join(texts[:30]), encoding="utf-8")
        (data / "b.txt").write_text("\r\n".join(texts[30:]), encoding="utf-16")
    else:
        data = tmp_path / "texts.txt"
        data.write_text("\n".join(texts + ["这个包裹的快递很好我喜欢今天谢谢请退款"] * 5), encoding="gb18030")
    made = pretrain(tmp_path / "out", said.append, data=str(data), model=str(tiny_encoder), epochs=1, **OPTIONS)
    assert made.facts["rows"]["train"] + made.facts["rows"]["held_out"] == (65 if kind == "gb18030" else 60)
    expected = {"csv": "column review", "jsonl": "column words", "folder": "UTF-16", "gb18030": "GB18030", "parquet": "texts in"}
    assert any(expected[kind] in line for line in said)
    assert kind != "csv" or any("1 rows have no text" in line for line in said)


def test_rows_for_validation_and_test_are_left_out(tiny_encoder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with (tmp_path / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(text, ("train", "train", "val", "test")[i % 4]) for i, (text, _) in enumerate(make_texts(80))]
        csv.writer(file).writerows([("text", "split"), *rows])
    made = pretrain(tmp_path / "out", said.append, data=str(tmp_path / "texts.csv"), model=str(tiny_encoder), epochs=1, **OPTIONS)
    assert made.facts["rows"]["train"] + made.facts["rows"]["held_out"] == 40
    assert any("40 rows for validation or test are left out" in line for line in said)


def test_copies_are_not_held_out_from_each_other(tmp_path: Path) -> None:
    from fmx.data.corpus import open_corpus

    texts = [text for text, _ in make_texts(100)]
    (tmp_path / "texts.txt").write_text("\n".join([*texts, *(text.upper() for text in texts)]), encoding="utf-8")
    corpus = open_corpus(str(tmp_path / "texts.txt"))
    assert len(corpus.held_out) == 10
    assert not {text.lower() for text in corpus.train} & {text.lower() for text in corpus.held_out}
    assert open_corpus(str(tmp_path / "texts.txt"), seed=1).held_out != corpus.held_out


def test_data_that_cannot_be_learnt_from_are_refused_and_leave_nothing(tiny_encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def refused(content: str, name: str = "x.csv", **options: Any) -> DataError:
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(DataError) as error:
            pretrain(out, data=str(tmp_path / name), model=str(tiny_encoder), **{**OPTIONS, **options})
        return error.value

    assert "no column known to hold a text; its columns: a, b, c" in (error := refused("a,b,c\n1,2,3\n")).message
    assert "--text-column" in error.hint
    assert "no column 'textt'" in (error := refused("text,n\nlate,1\n", text_column="textt")).message
    assert "Did you mean text?" in error.hint
    assert "no text in it" in refused("text\n").message
    assert "no text in it" in refused("\n \n", "x.txt").message
    assert "one text" in refused("late card\nlate card\n", "x.txt").message
    assert "too few texts" in (error := refused("鑫\n淼\n", "x.txt")).message
    assert "--extend-vocab" in error.hint
    assert "bad rows" in refused("text,n\nlate,1\nlate\n").message
    assert "fmx reads" in refused("late", "x.doc").message
    with pytest.raises(DataError, match="There is no data"):
        pretrain(out, data=str(tmp_path / "absent.txt"), model=str(tiny_encoder))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.doc", "x.txt"]


def test_model_that_cannot_be_pretrained_is_refused(lines: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "maskless")
    config = tmp_path / "maskless" / "tokenizer_config.json"
    config.write_text(json.dumps({key: value for key, value in json.loads(config.read_text()).items() if key != "mask_token"}))
    with pytest.raises(ModelError, match="no mask token"):
        pretrain(tmp_path / "out", data=str(lines), model=str(tmp_path / "maskless"), **OPTIONS)
    with pytest.raises(ModelError, match="at most 64 tokens"):
        pretrain(tmp_path / "out", data=str(lines), model=str(tiny_encoder), **{**OPTIONS, "max_length": 128})
    with pytest.raises(UsageError, match="--max-length is 4"):
        pretrain(tmp_path / "out", data=str(lines), model=str(tiny_encoder), **{**OPTIONS, "max_length": 4})
    with pytest.raises(ModelError, match="cannot be had"):
        pretrain(tmp_path / "out", data=str(lines), model=str(tmp_path / "absent"), **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["maskless"]


def test_whole_words_are_refused_where_pieces_do_not_show_their_word_and_runs_everywhere(lines: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "levels")
    file = tmp_path / "levels" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"] = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "[UNK]"}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UsageError, match="--whole-words is for WordPiece"):
        build_masked_model(str(tmp_path / "levels"), 32, whole_words=True)
    assert build_masked_model(str(tmp_path / "levels"), 32).masking.continues is None
    with pytest.raises(UsageError, match="--model is 'run:mine'"):
        pretrain(tmp_path / "out", data=str(lines), model="run:mine")


def test_one_answer_to_everything_is_no_collapse_of_hidden_tokens(tiny_encoder: Path, base: MaskedBase) -> None:
    settings = PretrainSettings(data="", model=str(tiny_encoder), max_length=32)
    rows = _windows(echoes(20), base, "")
    trainer = Trainer(_plan(base, rows, rows[:5], settings, torch.device("cpu")), masked_loss, settings.for_loop(), "pretrain", 9, World(), print)
    epoch = Epoch("pretrain", 1, 1.0, 1.0, 0.1, 3, 1e-3, 1.0, 0.0, 1.0)
    trainer.fit.epochs += [epoch] + [replace(epoch, epoch=number, classes_answered=1) for number in range(2, 7)]
    assert not trainer.fit.is_over(9, 8)
    assert Fit(trainer.fit.epochs).has_collapsed


def test_folder_that_holds_something_is_refused_and_an_empty_one_taken(lines: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    options = {"data": str(lines), "model": str(tiny_encoder), "epochs": 1, **OPTIONS}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="not empty") as refused:
        pretrain(tmp_path / "full", **options)
    assert "--out" in refused.value.hint
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert (pretrain(tmp_path / "empty", **options).folder / "model.safetensors").is_file()


def test_diverged_pretraining_leaves_nothing(lines: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="diverged"):
        pretrain(tmp_path / "out", data=str(lines), model=str(tiny_encoder), epochs=5, **{**OPTIONS, "lr": 1e30})
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_refused(lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        pretrain(tmp_path / "out", data=str(lines))


def test_disk_that_cannot_hold_the_states_is_refused_before_step_one(lines: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(SurroundingsError, match="MB free"):
            pretrain(disk / "out", data=str(lines), model=str(tiny_encoder), epochs=1, **OPTIONS)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "fmx", "pretrain", *arguments], env=environment, capture_output=True, text=True, check=False)


def test_command_prints_json_or_a_table_and_what_follows(lines: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    flags = ("--data", str(lines), "--model", str(tiny_encoder), "--epochs", "1", "--max-length", "32", "--device", "cpu")
    done = command(*flags, "--out", str(tmp_path / "a"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["folder"] == str(tmp_path / "a")
    assert told["before"]["masked_loss"] > told["after"]["masked_loss"]
    assert "fresh one is trained" in done.stderr
    again = command(*flags, "--out", str(tmp_path / "a"))
    assert again.returncode == 2
    assert "not empty" in again.stderr


def test_command_without_data_or_with_bad_settings_exits_2_and_names_all(tmp_path: Path) -> None:
    done = command("--data", "x.txt")
    assert (done.returncode, "--out" in done.stderr) == (2, True)
    done = command("--data", "x.txt", "--out", str(tmp_path / "out"), "--epochs", "0", "--warmup", "2")
    assert done.returncode == 2
    assert "--epochs" in done.stderr
    assert "--warmup" in done.stderr


def test_facts_say_what_was_trained_on(made: Pretrained, lines: Path) -> None:
    assert made.facts["settings"]["data"] == str(lines)
    assert made.facts["rows"]["held_out"] >= 1
    assert len(made.facts["epochs"]) == 25
    best = max(made.facts["epochs"], key=lambda epoch: (epoch["validation_accuracy"], -epoch["validation_loss"]))
    assert made.facts["best_epoch"] == best["epoch"]
    assert made.facts["after"] == {"masked_accuracy": best["validation_accuracy"], "masked_loss": best["validation_loss"]}
    assert np.isfinite([epoch["seconds"] for epoch in made.facts["epochs"]]).all()
