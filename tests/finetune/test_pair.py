"""Training on pairs of texts: what the model is told of the two, how candidates are ranked, and what it must beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

from finetune.baselines import tfidf_probabilities
from finetune.evaluation import evaluate_run
from finetune.network import restore_network
from finetune.settings import check_settings
from finetune.text_models import build_text_model, segments_of
from finetune.training import train_run
from fmx.contract import TextInput
from fmx.data import reopen_source
from fmx.data.rows import read_splits
from fmx.errors import InputError, ModelError, PackageError, TooLargeError, UsageError
from fmx.pairs import joined
from fmx.ranking import ranking_of
from fmx.run import Run, task_of
from fmx.tasks import TextPair, open_task
from fmx.texts import tokenizer_of
from tests.texts import make_pairs, write_pairs

TASK = "text-pair"
PAIRS = [("the courier was late", "请退款，今天"), ("a", "b " * 60), ("word " * 60, "short"), ("é", "包裹")]


def test_run_of_pairs_learns_and_ranks(pair_run: Run) -> None:
    assert pair_run.info.task == TASK
    spec = pair_run.info.input
    assert isinstance(spec, TextInput)
    assert (spec.texts, spec.special_tokens) == (2, 3)
    assert spec.separator_id is not None
    assert pair_run.info.accuracy.value > 0.8
    ranked = pair_run.info.metrics["ranking"]
    assert ranked["queries"] == len({item.query for item in read_splits(reopen_source(pair_run.info.settings), task_of(pair_run))["test"].items})
    assert ranked["mrr"] > 0.7
    assert ranked["ndcg"] > 0.7
    assert pair_run.info.metrics["ranking_baselines"]["tfidf"]["queries"] == ranked["queries"]
    page = (pair_run.folder / "report.html").read_text()
    assert "<h2>Ranking</h2>" in page
    assert f"{ranked['ndcg']:.4f}" in page


def test_rows_are_those_of_the_models_own_tokenizer(pair_run: Run, tiny_encoder: Path) -> None:
    plain = AutoTokenizer.from_pretrained(tiny_encoder)
    task, spec = task_of(pair_run), pair_run.info.input
    assert isinstance(spec, TextInput)
    for first, second in PAIRS:
        row = task.row(joined([first.encode(), second.encode()]))
        taken = {"text": first, "text_pair": second, "truncation": "longest_first", "max_length": spec.max_length, "return_token_type_ids": True}
        expected = plain(**taken)
        assert row[row != spec.pad_id].tolist() == expected["input_ids"]
        segments = segments_of(torch.from_numpy(row[None]).long(), spec.separator_id or 0)[0]
        assert segments[: len(expected["input_ids"])].tolist() == expected["token_type_ids"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"alone", "not a pair"),
        (joined([b"a", b"b", b"c"]), "not a pair"),
        (joined([b"", b"b"]), "first text is empty"),
        (joined([b"a", b" \n"]), "second text is empty"),
        (joined([b"a", "\u200b".encode()]), "one text of the pair"),
        (joined([b"\0", b"b"]), "one text of the pair"),
        (joined([b"a", b"\xc3"]), "second text is not UTF-8"),
    ],
)
def test_what_is_no_pair_is_refused(pair_run: Run, data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        task_of(pair_run).row(data)


def test_limit_holds_for_both_texts_together(pair_run: Run) -> None:
    task = task_of(pair_run)
    task.decode(joined([b"a" * 50, b"b" * 50]), 100)
    with pytest.raises(TooLargeError, match="The pair has more than 100"):
        task.decode(joined([b"a" * 50, b"b" * 51]), 100)
    with pytest.raises(TooLargeError, match="second text has more than 100"):
        task.decode(joined([b"a", b"b" * 101]), 100)


def test_order_of_the_texts_matters_where_the_model_has_segments(pair_run: Run) -> None:
    network, task = restore_network(pair_run), task_of(pair_run)
    rows = np.stack([task.row(joined(pair)) for pair in ((b"late", b"card"), (b"card", b"late"))])
    with torch.inference_mode():
        one, other = network(torch.from_numpy(rows)).numpy()
    assert np.abs(one - other).max() > 1e-4


def test_segments_reach_the_encoder_as_its_own_tokenizer_gives_them(pair_run: Run, tiny_encoder: Path) -> None:
    """The mean of the encoder's last layer is what transformers computes from its tokenizer's `token_type_ids`."""
    body = build_text_model(str(tiny_encoder), "default", 48, 2, task=TASK).module.eval()
    plain, encoder = AutoTokenizer.from_pretrained(tiny_encoder), AutoModel.from_pretrained(tiny_encoder).eval()
    given = plain(["late card"], ["退款 please"], return_tensors="pt", return_token_type_ids=True)
    with torch.inference_mode():
        mean = encoder(**given).last_hidden_state.mean(dim=1)
        assert torch.allclose(body(given["input_ids"]), body.classifier(mean), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (BertConfig(type_vocab_size=1), BertModel),
        (RobertaConfig(type_vocab_size=1, max_position_embeddings=70, pad_token_id=0), RobertaModel),
        (DistilBertConfig(dim=32, hidden_dim=64, n_layers=1, n_heads=2, max_position_embeddings=64), DistilBertModel),
    ],
)
def test_models_without_segments_read_pairs_too(config: Any, kind: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    small = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    for name, value in (small | ({"max_position_embeddings": 64} if kind is BertModel else {})).items():
        if kind is not DistilBertModel or name == "vocab_size":
            setattr(config, name, value)
    kind(config).save_pretrained(tmp_path)
    base = build_text_model(str(tmp_path), "default", 32, 2, task=TASK)
    assert base.spec.separator_id is None
    task = TextPair(("0", "1"), base.spec, tokenizer_of(base.files["tokenizer.json"].encode(), "here"))
    row = torch.from_numpy(task.row(joined([b"late", b"card"]))[None])
    assert torch.isfinite(base.module(row.long()[:, :16])).all()


def test_model_that_parts_pairs_otherwise_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    from tokenizers.processors import TemplateProcessing

    around = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    turned = "[CLS]:1 $A:1 [SEP]:1 $B [SEP]"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair=turned, special_tokens=around)
    tokenizer.save_pretrained(tmp_path)
    AutoModel.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="parts the texts of a pair"):
        build_text_model(str(tmp_path), "default", 32, 2, task=TASK)


def test_run_is_measured_on_other_pairs_with_their_queries(pair_run: Run, tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "others.csv", [(f"o{query}", one, other, label) for query, one, other, label in make_pairs(80, seed=7)])
    facts = evaluate_run(pair_run, str(table), torch.device("cpu")).facts
    assert facts["ranking"]["mrr"] > 0.7
    assert facts["accuracy"]["n"] == 16
    assert facts["ranking"]["queries"] == 4
    assert facts["ranking"]["candidates"] == 4.0


def test_baseline_sees_what_two_texts_share(tmp_path: Path) -> None:
    """Whether both texts are about one thing is told by neither of them alone."""
    words = ["parcel", "refund", "thanks", "courier", "invoice", "lovely", "tracking", "payment"]
    rows = [(f"q{i}", f"about {words[i % 8]} {i}", f"says {words[(i + (i // 8) % 2 * 3) % 8]} {i}", str(1 - (i // 8) % 2)) for i in range(400)]
    settings = {"data": str(write_pairs(tmp_path / "pairs.csv", rows)), "seed": 0, "task": TASK}
    source = reopen_source(settings)
    spec = TextInput(max_length=8, pad_id=0, unknown_id=None, special_tokens=0, vocabulary=9, tokenizer_sha256="0" * 64, texts=2)

    class Unread(TextPair):
        def __init__(self) -> None:
            super().__init__(source.labels, spec)
            self.decode = lambda data, limit=0: (np.zeros(8, np.int32), {}, 0)  # type: ignore[assignment,return-value]

    splits = read_splits(source, Unread())
    said = tfidf_probabilities(splits["train"], splits["validation"], splits["test"], 2)
    assert (said.argmax(axis=1) == splits["test"].labels).mean() > 0.7
    assert np.allclose(said.sum(axis=1), 1.0)
    assert ranking_of(said, splits["test"], source.labels) is not None


def test_labels_without_an_order_are_told(tiny_encoder: Path, tmp_path: Path) -> None:
    names = {"0": "neutral", "1": "entailment"}
    table = write_pairs(tmp_path / "pairs.csv", [(query, one, other, names[label]) for query, one, other, label in make_pairs(80)])
    said: list[str] = []
    settings: dict[str, Any] = {"method": "linear-probe", "epochs": 1, "max_length": 32, "device": "cpu"}
    run = train_run(tmp_path / "runs", said.append, task=TASK, data=str(table), model=str(tiny_encoder), **settings)
    assert "ranking" not in run.info.metrics
    assert any("labels have no order" in line for line in said)
    assert "score" not in task_of(run).prediction(np.array([0.3, 0.7]), 2)


@pytest.mark.parametrize("column", ["pair_column", "query_column"])
def test_columns_of_pairs_are_for_pairs(column: str) -> None:
    assert getattr(check_settings({"task": TASK, "data": "x.csv", column: "c"}), column) == "c"
    for task in ("text-classification", "image-classification"):
        with pytest.raises(UsageError, match="without --task text-pair"):
            check_settings({"task": task, "data": "x.csv", column: "c"})
    with pytest.raises(UsageError, match="two text columns"):
        check_settings({"task": TASK})


def test_contract_of_single_texts_is_no_pair(pair_run: Run, text_run: Run) -> None:
    for run, task in ((pair_run, "text-classification"), (text_run, TASK)):
        with pytest.raises(PackageError, match="does not take inputs"):
            open_task(task, run.info.labels, run.info.input)
