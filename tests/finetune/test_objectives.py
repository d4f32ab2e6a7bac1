"""What a batch is trained for: mixing, attacks, teachers, pseudo-labels, class weights, accumulation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.blocks import checkpoint_gradients, layers_in_order
from finetune.loop import Trainer
from finetune.methods.rows import plan_on_rows
from finetune.network import Network, build_network, restore_network
from finetune.objectives import build_objective
from finetune.objectives.adversarial import attack
from finetune.objectives.mixing import mixing
from finetune.optimisation import network_groups, parameter_groups, range_test
from finetune.plan import Inputs, Plan
from finetune.settings import TrainSettings, check_settings
from finetune.tasks.image_classification import class_weights, classification_loss
from finetune.training import train_run
from finetune.world import World
from fmx.contract import Fingerprint, ImageInput
from fmx.data.rows import Rows
from fmx.errors import DataError, ModelError, UsageError
from fmx.run import Run
from tests.conftest import MakeFolder, make_digit_folder

DEVICE = torch.device("cpu")


class Tiny(nn.Module):
    """A network without batch norm: what its gradient is does not depend on how a batch is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(self.conv(images).relu().mean(dim=(2, 3)))
        return out


def tiny_plan(settings: TrainSettings, rows: int = 33) -> tuple[Network, Plan, ImageInput]:
    torch.manual_seed(0)
    spec = ImageInput(height=16, width=16, mean=(127.0,) * 3, std=(128.0,) * 3)
    network = Network(Tiny(), spec)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, 16, 16, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, rows)
    held = Rows(images, labels, tuple(map(str, range(rows))), (), Fingerprint(rows=rows, sha256="0" * 64))
    inputs = Inputs(held, held, may_flip=False, cache_key="")
    groups = network_groups(network.body, network.head, settings, settings.peak_rate)
    return network, plan_on_rows(network, inputs, settings, DEVICE, groups), spec


def gradients(accumulate: int, **options: Any) -> list[Tensor]:
    settings = check_settings({"augment": "none", "batch_size": 64, "accumulate": accumulate, "epochs": 1, "precision": "fp32", **options})
    network, plan, spec = tiny_plan(settings)
    objective = build_objective(settings, plan, network, spec, ("a", "b", "c"), False, DEVICE)
    trainer = Trainer(plan, objective, settings, "finetune", 1, World(), lambda line: None)
    trainer.generator.manual_seed(0)
    index = torch.arange(33)
    trainer._accumulate(plan.train_inputs[index], plan.train_labels[index], len(index))
    return [parameter.grad.clone() for parameter in plan.module.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("parts", [4, 8, 5])
@pytest.mark.parametrize("balance", ["none", "weights"])
def test_gradient_is_the_same_however_a_batch_is_cut_transformers_37766(parts: int, balance: str) -> None:
    """transformers#37766, PR#35438: the loss grew with gradient_accumulation_steps, and a last ragged part counted too much."""
    whole, cut = gradients(1, balance=balance), gradients(parts, balance=balance)
    assert len(whole) == 4
    for left, right in zip(whole, cut, strict=True):
        assert torch.allclose(left, right, atol=1e-6)


def test_memory_that_runs_out_cuts_the_batch_finer_and_goes_on() -> None:
    settings = check_settings({"augment": "none", "batch_size": 64, "epochs": 1, "precision": "fp32"})
    network, plan, spec = tiny_plan(settings)
    objective = build_objective(settings, plan, network, spec, ("a", "b", "c"), False, DEVICE)

    def hungry(module: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        if len(images) > 10:
            torch.empty(1 << 60, dtype=torch.uint8)  # the allocator's own refusal
        return objective(module, images, labels, generator)

    said: list[str] = []
    trainer = Trainer(plan, hungry, settings, "finetune", 1, World(), said.append)
    trainer.generator.manual_seed(0)
    index = torch.arange(33)
    loss = trainer._step(index, plan.train_inputs[index])
    assert trainer.parts == 4
    assert "cut into 4 parts" in said[-1]
    network, plan, _ = tiny_plan(settings)
    whole = build_objective(settings, plan, network, spec, ("a", "b", "c"), False, DEVICE)
    assert loss == pytest.approx(whole(plan.module, plan.batch(plan.train_inputs, None), plan.train_labels, torch.Generator()).item(), abs=1e-6)


def test_range_test_changes_nothing_fastai_3013() -> None:
    """fastai#3013, lightning#6675: the rate finder left other weights, optimiser and random state behind."""
    settings = check_settings({"epochs": 1})
    _, plan, _ = tiny_plan(settings)
    before = {key: value.clone() for key, value in plan.module.state_dict().items()}
    random_state = torch.get_rng_state()

    def loss(module: nn.Module, step: int) -> Tensor:
        torch.rand(3)
        return nn.functional.cross_entropy(module(plan.batch(plan.train_inputs, None)), plan.train_labels)

    rate, curve = range_test(plan.module, plan.groups, "adamw", loss)
    assert 1e-7 < rate < 1
    assert len(curve) > 10
    assert all(torch.equal(value, before[key]) for key, value in plan.module.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())


def test_run_with_a_range_test_differs_only_by_its_rate(digit_folder: MakeFolder) -> None:
    options: dict[str, Any] = {"data": str(digit_folder(2, 20)), "size": 32, "epochs": 2, "method": "linear-probe"}
    found = train_run(**options, lr="auto")
    again = train_run(**options, lr=found.info.settings["lr"])
    assert found.info.weights_sha256 == again.info.weights_sha256
    assert "log10 of rate" in (found.folder / "report.html").read_text()


def test_attack_stays_within_its_distance_and_raises_the_loss() -> None:
    _, plan, spec = tiny_plan(check_settings({}))
    images = plan.batch(plan.train_inputs, None)
    for steps in (1, 5):
        near = attack(4.0, steps, spec, DEVICE)(plan.module, images, plan.train_labels)
        pixels = near * 128 + 127
        assert float((pixels - (images * 128 + 127)).abs().max()) <= 4.001
        assert float(pixels.min()) >= -1e-3
        assert float(pixels.max()) <= 255.001
        losses = [nn.functional.cross_entropy(plan.module(batch), plan.train_labels).item() for batch in (images, near)]
        assert losses[1] > losses[0]


def test_attack_moves_no_statistic_and_leaves_the_mode() -> None:
    spec = ImageInput(height=8, width=8, mean=(127.0,) * 3, std=(128.0,) * 3)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    module(torch.zeros(2, 3, 8, 8))
    module.train()
    norm: Any = module[1]
    before = norm.running_mean.clone()
    attack(4.0, 2, spec, DEVICE)(module, torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 0]))
    assert torch.equal(before, norm.running_mean)
    assert module.training
    assert norm.training


def test_adversarial_training_reports_robust_accuracy(digit_folder: MakeFolder) -> None:
    run = train_run(data=str(digit_folder(2, 20)), size=32, epochs=1, adversarial="pgd", adversarial_steps=2, precision="fp32")
    assert "PGD, 10 steps" in run.info.metrics["robust_accuracy"]["attack"]
    assert run.info.metrics["robust_accuracy"]["n"] == run.info.accuracy.n
    assert "robust accuracy" in (run.folder / "report.html").read_text()


def test_mixed_targets_sum_to_one_and_keep_the_share_of_the_pixels() -> None:
    torch.manual_seed(0)
    images = torch.stack([torch.full((3, 8, 8), float(i)) for i in range(4)])
    for mix in (mixing(0.4, 0, 4), mixing(0, 1.0, 4)):
        assert mix is not None
        mixed, targets = mix(images, torch.arange(4))
        assert torch.allclose(targets.sum(dim=1), torch.ones(4))
        shown = mixed.mean(dim=(1, 2, 3))
        assert torch.allclose(shown, targets @ torch.arange(4).float(), atol=1e-4)
    assert mixing(0, 0, 4) is None


def test_class_weights_give_every_class_the_same_say() -> None:
    labels = torch.tensor([0] * 9 + [1])
    weights = class_weights(labels, 2)
    assert torch.allclose(weights[labels].mean(), torch.tensor(1.0))
    logits = torch.zeros(10, 2)
    loss = classification_loss(0.0, weights)
    assert float(loss(logits, labels)) == pytest.approx(np.log(2), abs=1e-6)
    assert float(weights[1] / weights[0]) == pytest.approx(9.0)


def test_sampler_shows_rare_classes_as_often() -> None:
    settings = check_settings({"balance": "sampler", "epochs": 1, "batch_size": 16, "precision": "fp32"})
    _, plan, _ = tiny_plan(settings, rows=400)
    plan.train_labels[:] = (torch.arange(400) % 10 == 0).long()
    trainer = Trainer(plan, lambda *_: torch.zeros(()), settings, "finetune", 1, World(), lambda line: None)
    shown = plan.train_labels[torch.cat(trainer._batches(0))].float().mean()
    assert 0.4 < float(shown) < 0.6


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Run:
    home = tmp_path_factory.mktemp("teacher")
    data = make_digit_folder(home / "digits", 3, 20)
    return train_run(out=home / "runs", data=str(data), size=40, epochs=4, name="teacher")


def test_student_of_a_teacher_agrees_with_it_more(digit_folder: MakeFolder, teacher: Run) -> None:
    options: dict[str, Any] = {"data": str(digit_folder(3, 20)), "size": 32, "epochs": 2, "label_smoothing": 0.0}
    student = train_run(**options, teacher=str(teacher.folder), distill_weight=1.0)
    assert student.info.settings["teacher"] == str(teacher.folder)
    assert student.info.metrics["confusion"]
    with pytest.raises(ModelError, match="other classes"):
        train_run(**{**options, "data": str(digit_folder(2, 20, root=Path(student.folder.parent / "two")))}, teacher=str(teacher.folder))


def test_pseudo_labels_are_learnt_from_unlabelled_images(digit_folder: MakeFolder, tmp_path: Path) -> None:
    data = digit_folder(3, 12)
    pool = digit_folder(3, 30, root=tmp_path / "pool")
    options: dict[str, Any] = {"data": str(data), "size": 32, "epochs": 2}
    plain, more = train_run(**options), train_run(**options, unlabelled=str(pool), unlabelled_threshold=0.4)
    assert plain.info.weights_sha256 != more.info.weights_sha256
    with pytest.raises(DataError, match="no images"):
        train_run(**options, unlabelled=str(_empty(tmp_path)))


def _empty(root: Path) -> Path:
    folder = root / "nothing"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "option", [{"mixup": 0.2}, {"adversarial": "fgsm"}, {"teacher": "x"}, {"unlabelled": "x"}, {"drop_path": 0.1}, {"layer_decay": 0.5}]
)
def test_options_that_a_probe_would_ignore_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="linear-probe"):
        check_settings({"method": "linear-probe", **option})


def test_layer_decay_gives_each_layer_its_rate() -> None:
    network, _, _ = build_network("resnet18", "none", 32, 5)
    settings = check_settings({"layer_decay": 0.5, "lr": 1.0, "head_lr_factor": 3.0})
    groups = network_groups(network.body, network.head, settings, 1.0)
    rates = {id(parameter): group["peak"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(network.body.parameters()))
    assert groups[0]["peak"] == 1.0  # the one that --lr, and so the range test, speaks of
    body: Any = network.body
    assert rates[id(body.fc.weight)] == 3.0
    assert rates[id(body.layer4[1].conv1.weight)] == 1.0
    assert rates[id(body.layer4[0].conv1.weight)] == 0.5
    assert rates[id(body.conv1.weight)] == rates[id(body.bn1.bias)] == 0.5**8


def test_class_token_has_the_rate_of_the_first_layer() -> None:
    network, _, _ = build_network("vit_b_16", "none", 32, 5)
    settings = check_settings({"layer_decay": 0.5, "lr": 1.0})
    groups = network_groups(network.body, network.head, settings, 1.0)
    rates = {id(parameter): group["peak"] for group in groups for parameter in group["params"]}
    body: Any = network.body
    assert rates[id(body.class_token)] == min(rates.values())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_lite0"])
def test_gradient_checkpointing_gives_the_same_gradients_and_statistics(name: str) -> None:
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network, _, _ = build_network(name, "none", 64, 5)
        network.train()
        if recompute:
            assert checkpoint_gradients(network.body) >= 8
        torch.manual_seed(1)
        nn.functional.cross_entropy(network(torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8)), torch.tensor([0, 1, 2, 3])).backward()  # type: ignore[no-untyped-call]
        grads = [parameter.grad for parameter in network.parameters()]
        results.append((grads, dict(network.body.state_dict())))
    for left, right in zip(*(grads for grads, _ in results), strict=True):
        assert left is not None
        assert right is not None
        assert torch.allclose(left, right, atol=1e-5)
    assert all(torch.allclose(value.float(), results[1][1][key].float(), atol=1e-6) for key, value in results[0][1].items())


def test_copy_of_a_checkpointed_network_uses_its_own_weights() -> None:
    """A moving average and a range test copy the network."""
    network, _, _ = build_network("resnet18", "none", 32, 5)
    checkpoint_gradients(network.body)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    rows = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    for training in (True, False):
        assert not twin.train(training)(rows).any()
        assert network.train(training)(rows).any()


def test_layers_hold_every_weight_once() -> None:
    for name, size in {"resnet18": 32, "densenet121": 32, "swin_t": 32, "efficientnet_lite0": 32}.items():
        network, _, _ = build_network(name, "none", size, 5)
        held = [id(parameter) for layer in layers_in_order(network.body) for module in layer for parameter in module.parameters()]
        assert len(held) == len(set(held)) == len(list(network.body.parameters()))


def test_temperature_is_in_the_restored_head(small_run: Run) -> None:
    network = restore_network(small_run)
    from safetensors.torch import load_file

    raw = load_file(small_run.weights)[f"{network.head.path}.weight"]
    assert small_run.info.temperature != 1.0
    assert torch.allclose(network.head.layer.weight * small_run.info.temperature, raw, atol=1e-6)


def test_groups_without_parameters_are_left_out() -> None:
    assert len(parameter_groups([nn.Parameter(torch.zeros(2, 2))], 0.1, 0.0)) == 1
