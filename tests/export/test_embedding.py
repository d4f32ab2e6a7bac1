"""Exporting a run of texts with its embedding: a second output, the same in every variant, of length 1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import measure
from export.float_graph import key_of_body
from export.pipeline import export_package
from export.plan import planned_stages
from export.subject import key_of_run
from finetune.evaluation import eager_embeddings
from finetune.network import restore_network
from fmx.comparison import Limits, compare_packages
from fmx.data import reopen_source
from fmx.data.rows import read_splits
from fmx.errors import ExportError, ModelError, PackageError, UsageError
from fmx.package import Package
from fmx.predictor import PackagePredictor
from fmx.run import Run, task_of


def test_embedding_is_the_networks_own(embedding_package: Package, text_run: Run) -> None:
    predictor = PackagePredictor.open(embedding_package.folder)
    rows = read_splits(reopen_source(text_run.info.settings), task_of(text_run))["test"]
    found, eager = predictor.embed_all(rows.values), eager_embeddings(restore_network(text_run), rows)
    assert found.shape == (len(rows), 32)
    assert found.dtype == np.float32
    assert np.abs(found - eager).max() < 1e-4
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)
    assert embedding_package.manifest.embedding is not None
    assert embedding_package.manifest.embedding.width == 32
    variant = embedding_package.variant("fp32")
    assert variant.embedding_cosine is not None
    assert variant.embedding_cosine > 0.9999


def test_embeddings_tell_texts_of_one_class_from_others(embedding_package: Package, text_run: Run) -> None:
    rows = read_splits(reopen_source(text_run.info.settings), task_of(text_run))["test"]
    vectors = PackagePredictor.open(embedding_package.folder).embed_all(rows.values)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1.0)
    assert (rows.labels[cosines.argmax(axis=1)] == rows.labels).mean() > 0.8


def test_probabilities_are_those_without_an_embedding(embedding_package: Package, text_package: Package) -> None:
    plain, both = (PackagePredictor.open(package.folder) for package in (text_package, embedding_package))
    rows = plain.task.noise(5)
    assert np.abs(plain.run(rows) - both.run(rows)).max() < 1e-6
    assert np.array_equal(both.answer(rows), np.concatenate([both.run(rows), both.embed_rows(rows)], axis=1))
    assert np.array_equal(plain.answer(rows), plain.run(rows))
    assert both.replay_golden_rows() < 1e-4
    with pytest.raises(PackageError, match="gives no embeddings"):
        plain.embed([b"late"])


def test_texts_are_embedded_in_their_order(embedding_package: Package) -> None:
    predictor = PackagePredictor.open(embedding_package.folder)
    texts = [b"the courier was late " * 4, b"thanks", b"please refund my card", b"lovely"]
    together = predictor.embed(texts)
    for text, vector in zip(texts, together, strict=True):
        assert np.abs(predictor.embed([text])[0] - vector).max() < 1e-5


def test_graph_and_contract_say_what_there_is(embedding_package: Package, text_package: Package) -> None:
    outputs = [output.name for output in onnx.load(embedding_package.folder / "model.fp32.onnx").graph.output]
    assert outputs == ["probabilities", "sentence_embedding"]
    assert [output.name for output in onnx.load(text_package.folder / "model.fp32.onnx").graph.output] == ["probabilities"]
    assert json.loads((embedding_package.folder / "manifest.json").read_text())["embedding"] == {"name": "sentence_embedding", "width": 32}
    assert embedding_package.manifest.contract_digest != text_package.manifest.contract_digest


def test_int8_variants_embed_too(text_run: Run, tmp_path: Path) -> None:
    package = export_package(text_run.folder, out=tmp_path / "packages", quantize="int8", on_miss="fp32", max_drop=10.0, embedding=True)
    assert len(package.manifest.variants) > 1
    for variant in package.manifest.variants:
        predictor = PackagePredictor.open(package.folder, variant=variant.name)
        assert predictor.embed([b"late"]).shape == (1, 32)
        assert variant.embedding_cosine is not None
        assert variant.embedding_cosine > 0.9


def test_graph_with_an_embedding_is_kept_apart(text_run: Run, tmp_path: Path) -> None:
    network = key_of_run(text_run)
    assert key_of_body(network, 20, embedding=True) != key_of_body(network, 20)
    export_package(text_run.folder, out=tmp_path / "packages", embedding=True)
    kept = {embedding: [row["kept"] for row in planned_stages(text_run.folder, embedding=embedding)] for embedding in (False, True)}
    assert kept == {False: [True, True, False, False], True: [True, True, True, False]}


def test_graph_that_embeds_otherwise_is_refused(text_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "embedding_cosine", lambda embeddings, eager: 0.98)
    with pytest.raises(ExportError, match="embeds a text otherwise"):
        export_package(text_run.folder, out=tmp_path / "packages", embedding=True)


def test_images_have_no_embedding(light_run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--embedding is for models of texts"):
        export_package(light_run.folder, out=tmp_path / "packages", embedding=True)
    with pytest.raises(UsageError, match="--embedding is for models of texts"):
        planned_stages(light_run.folder, embedding=True)
    rows = read_splits(reopen_source(light_run.info.settings), task_of(light_run))["test"]
    with pytest.raises(ModelError, match="no embeddings"):
        eager_embeddings(restore_network(light_run), rows)


def test_loss_of_the_embedding_is_a_change_of_the_contract(embedding_package: Package, text_package: Package, text_table: Path) -> None:
    wide = Limits(drop=100.0, slower=1e6, larger=1e6)
    assert compare_packages(embedding_package.folder, text_package.folder, str(text_table), wide).worse == ("There are no embeddings any more.",)
    assert compare_packages(text_package.folder, embedding_package.folder, str(text_table), wide).worse == ()
