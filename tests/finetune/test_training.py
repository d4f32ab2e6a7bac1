from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from finetune import features
from finetune.augmentation import affine
from finetune.loop import split_order
from finetune.network import build_network
from finetune.optimisation import parameter_groups, rate_factor
from finetune.settings import EMBEDDED_MODEL, check_settings
from finetune.training import train_run
from fmx.errors import DataError, ModelError, PackageError, SurroundingsError, UsageError
from fmx.run import Run, find_run, load_run
from tests.conftest import MakeFolder


def test_run_holds_everything_that_the_design_says(small_run: Run) -> None:
    assert {path.name for path in small_run.folder.iterdir()} == {
        "run.json",
        "metrics.jsonl",
        "best.safetensors",
        "report.html",
        "tensorboard",
    }
    lines = [json.loads(line) for line in (small_run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["train_loss"] < lines[0]["train_loss"]
    assert small_run.info.accuracy.n == 360
    assert small_run.info.accuracy.value > 0.3
    assert (small_run.folder.parent / "latest").read_text() == small_run.folder.name + "\n"
    assert load_run(find_run(small_run.folder)).info == small_run.info


def test_run_report_is_self_contained(small_run: Run) -> None:
    report = (small_run.folder / "report.html").read_text()
    assert report.count("<svg") == 4  # accuracy, loss, rate, confusion
    assert "http" not in report.replace("http-equiv", "")
    assert "<script" not in report


def test_run_tells_no_host_name_and_no_path(small_run: Run) -> None:
    import socket

    text = (small_run.folder / "run.json").read_text()
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text


def test_same_seed_gives_the_same_run_and_another_seed_another(digit_folder: MakeFolder) -> None:
    data = str(digit_folder(3, 16))
    options: dict[str, Any] = {"data": data, "size": 32, "epochs": 2, "batch_size": 8}
    runs = [train_run(**options, seed=seed, name=name) for seed, name in ((1, "a"), (1, "b"), (2, "c"))]
    hashes = [run.info.weights_sha256 for run in runs]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]
    first, second = ((run.folder / "metrics.jsonl").read_text().splitlines() for run in runs[:2])
    assert [json.loads(line)["train_loss"] for line in first] == [json.loads(line)["train_loss"] for line in second]


def test_linear_probe_leaves_the_body_untouched_pytorch_86590(digit_folder: MakeFolder, tmp_path: Path) -> None:
    """pytorch#86590: a frozen body moved because its batch norms kept counting."""
    run = train_run(data=str(digit_folder(3, 16)), size=32, epochs=3, method="linear-probe")
    trained = load_file(run.weights)
    fresh, _, _ = build_network(EMBEDDED_MODEL, "default", 32, 3)
    head = fresh.head.path
    body = {key: value for key, value in fresh.body.state_dict().items() if not key.startswith(head)}
    assert all(torch.equal(trained[key], value) for key, value in body.items())
    torch.manual_seed(0)
    untrained, _, _ = build_network(EMBEDDED_MODEL, "default", 32, 3)
    assert not torch.equal(trained[f"{head}.weight"], untrained.body.state_dict()[f"{head}.weight"])


def test_features_are_computed_once_and_read_again(digit_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"data": str(digit_folder(3, 16)), "size": 32, "epochs": 2, "method": "linear-probe", "precision": "fp32"}
    first = train_run(**options)

    def never(*arguments: object) -> torch.Tensor:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(features, "compute_features", never)
    second = train_run(**options)
    assert first.info.weights_sha256 == second.info.weights_sha256
    with pytest.raises(AssertionError, match="again"):
        train_run(**{**options, "size": 40})


def test_linear_probe_trains_a_convolutional_head(digit_folder: MakeFolder) -> None:
    run = train_run(data=str(digit_folder(2, 16)), model="squeezenet1_1", weights="none", size=32, epochs=2, method="linear-probe")
    assert run.info.metrics["confusion"]


def test_early_stopping_keeps_the_best_epoch(digit_folder: MakeFolder) -> None:
    run = train_run(data=str(digit_folder(2, 20)), size=32, epochs=60, method="linear-probe", patience=2, lr=1.0)
    assert run.info.epochs < 60
    assert run.info.epochs - run.info.best_epoch == 2


def test_divergence_stops_with_advice_and_leaves_nothing(digit_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="diverged") as caught:
        train_run(data=str(digit_folder(2, 20)), size=32, epochs=2, lr=1e30)
    assert "--lr" in caught.value.hint
    assert list((tmp_path / "runs").iterdir()) == []


def test_interrupt_before_a_state_leaves_nothing(digit_folder: MakeFolder, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if "parameters are trained" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(data=str(digit_folder(2, 20)), size=32, epochs=2, say=interrupt)
    assert list((tmp_path / "runs").iterdir()) == []


def test_bad_files_are_named_and_written_down(digit_folder: MakeFolder) -> None:
    root = digit_folder(2, 30)
    (root / "class-1" / "003.png").write_bytes(b"broken")
    said: list[str] = []
    run = train_run(data=str(root), size=32, epochs=1, method="linear-probe", say=said.append)
    assert any("003.png" in line and "Skipped" in line for line in said)
    assert len(run.info.skipped_files) == 1
    assert "003.png" in run.info.skipped_files[0]


def test_every_wrong_setting_is_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        check_settings({"epochs": 0, "method": "finetun", "lerning_rate": 1})
    for part in ("--epochs is 0", "--method is 'finetun'", "no option --lerning-rate"):
        assert part in caught.value.message


def test_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SurroundingsError, match="cuda"):
        train_run(device="cuda")


def test_data_that_do_not_exist_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train_run(data=str(tmp_path / "absent"))
    assert not (tmp_path / "runs").exists()


def test_altered_weights_of_a_run_are_refused(digit_folder: MakeFolder) -> None:
    run = train_run(data=str(digit_folder(2, 16)), size=32, epochs=1, method="linear-probe")
    data = bytearray(run.weights.read_bytes())
    data[-1] ^= 1
    run.weights.write_bytes(bytes(data))
    with pytest.raises(PackageError, match=r"best\.safetensors"):
        load_run(run.folder)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_rate_rises_then_falls_to_zero(schedule: str) -> None:
    factors = [rate_factor(step, 100, 0.1, schedule) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert factors[-1] < 0.02


def test_constant_rate_stays() -> None:
    assert {rate_factor(step, 100, 0.1, "constant") for step in range(10, 100)} == {1.0}


def test_norms_and_biases_are_not_decayed() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, plain = parameter_groups(module.parameters(), 0.1, 0.05)
    assert [parameter.ndim for parameter in decayed["params"]] == [4]
    assert decayed["weight_decay"] == 0.05
    assert len(plain["params"]) == 3
    assert plain["weight_decay"] == 0.0


def test_last_batch_of_one_row_joins_the_one_before() -> None:
    assert [len(batch) for batch in split_order(torch.arange(65), 32)] == [32, 33]
    assert [len(batch) for batch in split_order(torch.arange(66), 32)] == [32, 32, 2]
    assert [len(batch) for batch in split_order(torch.arange(1), 32)] == [1]


def test_augmentation_is_a_function_of_its_generator_and_moves_little() -> None:
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32))
    images = torch.nn.functional.avg_pool2d(images, 9, 1, 4)
    first, again = (affine(images, torch.Generator().manual_seed(5), flip=False) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, images)
    correlation = np.corrcoef(first.numpy().ravel(), images.numpy().ravel())[0, 1]
    assert 0.4 < correlation < 0.999


def test_flip_mirrors_about_half() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(200, 3, 32, 32).contiguous()
    turned = affine(ramp, torch.Generator().manual_seed(0), flip=True)
    mirrored = (turned[:, 0, 16, 28] < turned[:, 0, 16, 3]).float().mean()
    assert 0.35 < float(mirrored) < 0.65
