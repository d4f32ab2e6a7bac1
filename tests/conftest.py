"""Shared fixtures: small real data on disk, and a small trained run with its package, made once a session."""

from __future__ import annotations

import io
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmx.contract import ImageInput, Input
from fmx.data.digits import open_digits
from fmx.package import Package
from fmx.run import Run
from fmx.tasks import ImageClassification
from tests.texts import make_entities, make_labelled, make_pairs, make_scored, make_texts, write_encoder, write_entities, write_pairs, write_table

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported; without it each absent model costs many retries


def image_task(spec: Input) -> ImageClassification:
    """The task that reads rows of an image contract."""
    assert isinstance(spec, ImageInput)
    return ImageClassification((), spec)


UNIT_FOLDERS = ("fmx", "finetune", "export", "serve", "benchmarks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and those that docs/faults.md lists."""
    listed = set(re.findall(r"`(test_\w+)`", (Path(__file__).parents[1] / "docs" / "faults.md").read_text()))
    for item in items:
        if item.name.partition("[")[0] in listed:
            item.add_marker(pytest.mark.faults)
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        item.add_marker(pytest.mark.unit if folder in UNIT_FOLDERS else pytest.mark.e2e)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit tests open no connection to anywhere but this machine."""
    if request.node.get_closest_marker("unit") is None:
        return
    connect = socket.socket.connect

    def loopback_only(self: socket.socket, address: tuple[str, int] | str) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(("127.", "::1")):
            raise OSError(f"a unit test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", loopback_only)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own runs/, packages/, .fmx/ and data/."""
    monkeypatch.setenv("FMX_HOME", str(tmp_path))
    for name in ("FMX_DATA", "FMX_CACHE", "FMX_KEYS_FILE", "FMX_PACKAGE", "FMX_AUTH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def spec() -> ImageInput:
    return ImageInput(height=32, width=32, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))


def encode(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Encode an image as a file's bytes."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


MakeFolder = Callable[..., Path]


@pytest.fixture
def digit_folder(tmp_path: Path) -> MakeFolder:
    """Make a folder of real digits, one folder a class: `digit_folder(classes=3, images=10)`."""

    def make(classes: int = 3, images: int = 10, root: Path | None = None) -> Path:
        return make_digit_folder(root or tmp_path / "digits", classes, images)

    return make


def make_digit_folder(root: Path, classes: int, images: int) -> Path:
    source = open_digits(0)
    for label in range(classes):
        folder = root / f"class-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        items = [item for item in source.splits["train"] if item.label == label][:images]
        for number, item in enumerate(items):
            (folder / f"{number:03d}.png").write_bytes(item.read())
    return root


def trained(home: Path, **settings: Any) -> Iterator[Run]:
    """Train in a home of its own, which stays the home as long as the run is used."""
    from finetune.training import train_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMX_HOME", str(home))
        yield train_run(**settings)


def exported(run: Run, home: Path, **settings: Any) -> Iterator[Package]:
    """Export in a home of its own, as `trained`."""
    from export.pipeline import export_package

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMX_HOME", str(home))
        yield export_package(run.folder, **settings)


@pytest.fixture(scope="session")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("small")


@pytest.fixture(scope="session")
def small_run(small_home: Path) -> Iterator[Run]:
    """The default model, two epochs on digits of 32 pixels: weak, but a real run."""
    yield from trained(small_home, epochs=2, size=32, seed=3)


@pytest.fixture(scope="session")
def light_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of a model that exports in seconds, random but for its head: for what does not depend on the model."""
    home = tmp_path_factory.mktemp("light")
    data = make_digit_folder(home / "digits", classes=3, images=20)
    yield from trained(home, data=str(data), model="squeezenet1_1", weights="none", method="linear-probe", epochs=1, size=32)


@pytest.fixture(scope="session")
def light_package(light_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    """The light run exported to fp32."""
    yield from exported(light_run, tmp_path_factory.mktemp("light-packages"))


@pytest.fixture(scope="session")
def small_package(small_home: Path, small_run: Run) -> Iterator[Package]:
    """The small run exported to int8; its accuracy is not the point, so the budget is wide."""
    yield from exported(small_run, small_home, quantize="int8", max_drop=30.0, batch=8)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny text encoder and its tokenizer."""
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def text_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 120 texts in English and Chinese, of 3 classes that their words tell apart."""
    return write_table(tmp_path_factory.mktemp("texts") / "texts.csv", make_texts(120))


@pytest.fixture(scope="session")
def text_run(tiny_encoder: Path, text_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The tiny encoder trained on the table."""
    settings = {"method": "finetune", "epochs": 3, "max_length": 32, "lr": 5e-3, "seed": 1}
    yield from trained(tmp_path_factory.mktemp("text"), task="text-classification", data=str(text_table), model=str(tiny_encoder), **settings)


@pytest.fixture(scope="session")
def text_package(text_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    """The text run exported to fp32: in int8 a row's last digits are its batch's, and whether it is served hangs on this machine's load."""
    yield from exported(text_run, tmp_path_factory.mktemp("text-packages"))


@pytest.fixture(scope="session")
def embedding_package(text_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    """The text run exported to fp32 with its embedding."""
    yield from exported(text_run, tmp_path_factory.mktemp("embedding-packages"), embedding=True)


@pytest.fixture(scope="session")
def pair_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 240 pairs, 4 candidates a question, of which those in words of praise are relevant."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.csv", make_pairs(240))


@pytest.fixture(scope="session")
def pair_run(tiny_encoder: Path, pair_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The tiny encoder trained on the pairs."""
    settings = {"epochs": 5, "max_length": 48, "lr": 5e-3, "device": "cpu", "seed": 1}
    yield from trained(tmp_path_factory.mktemp("pair"), task="text-pair", data=str(pair_table), model=str(tiny_encoder), **settings)


@pytest.fixture(scope="session")
def pair_package(pair_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    """The pair run exported to fp32, as the text run."""
    yield from exported(pair_run, tmp_path_factory.mktemp("pair-packages"))


@pytest.fixture(scope="session")
def entity_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny encoder with a tokenizer that knows the names of `make_entities`."""
    return write_encoder(tmp_path_factory.mktemp("entity-encoder"), [str(row["text"]) for row in make_entities(200)])


@pytest.fixture(scope="session")
def entity_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL of 240 texts in English and Chinese with names of people and places."""
    return write_entities(tmp_path_factory.mktemp("entities") / "entities.jsonl", make_entities(240))


@pytest.fixture(scope="session")
def entity_run(entity_encoder: Path, entity_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The encoder trained on the names."""
    settings = {"epochs": 12, "max_length": 32, "lr": 3e-3, "device": "cpu", "precision": "fp32"}
    yield from trained(tmp_path_factory.mktemp("entity"), task="token-classification", data=str(entity_table), model=str(entity_encoder), **settings)


@pytest.fixture(scope="session")
def entity_package(entity_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    """The run of names exported to fp32 with its embedding."""
    yield from exported(entity_run, tmp_path_factory.mktemp("entity-packages"), embedding=True)


@pytest.fixture(scope="session")
def labels_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL of 240 texts in English and Chinese with none, one or two of 3 labels."""
    return write_entities(tmp_path_factory.mktemp("labels") / "labels.jsonl", make_labelled(240))


@pytest.fixture(scope="session")
def labels_run(tiny_encoder: Path, labels_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The tiny encoder trained on them."""
    settings = {"epochs": 8, "max_length": 32, "lr": 5e-3, "device": "cpu", "precision": "fp32"}
    yield from trained(tmp_path_factory.mktemp("several"), task="text-labels", data=str(labels_table), model=str(tiny_encoder), **settings)


@pytest.fixture(scope="session")
def labels_package(labels_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    """The run of several labels exported to fp32 with its embedding."""
    yield from exported(labels_run, tmp_path_factory.mktemp("labels-packages"), embedding=True)


@pytest.fixture(scope="session")
def scores_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 240 pairs in English and Chinese, four a query, with scores from 0 to 5."""
    return write_pairs(tmp_path_factory.mktemp("scores") / "scores.csv", make_scored(240))


@pytest.fixture(scope="session")
def scores_run(tiny_encoder: Path, scores_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The tiny encoder trained on them."""
    settings = {"epochs": 8, "max_length": 32, "lr": 3e-3, "device": "cpu", "precision": "fp32"}
    yield from trained(tmp_path_factory.mktemp("scored"), task="text-scores", data=str(scores_table), model=str(tiny_encoder), **settings)


@pytest.fixture(scope="session")
def scores_package(scores_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    """The run of scores exported to fp32 with its embedding."""
    yield from exported(scores_run, tmp_path_factory.mktemp("scores-packages"), embedding=True)
