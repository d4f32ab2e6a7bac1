from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export import pruning
from export.pipeline import export_package
from export.pruning import check_prunable, removable_blocks
from finetune.combination import make_ensemble, make_soup
from finetune.evaluation import evaluate_run
from finetune.network import Network, build_network, restore_network
from finetune.structure import apply_structure, mend_attributes, read_structure, replace_module
from finetune.training import train_run
from fmx.errors import BudgetError, ModelError, UsageError
from fmx.evaluation import evaluate_package
from fmx.run import Run, load_run
from tests.conftest import make_digit_folder

PRUNABLE = [
    *("resnet18", "mobilenet_v3_small", "efficientnet_lite0", "squeezenet1_1", "densenet121"),
    *("regnet_y_400mf", "vgg11_bn", "convnext_tiny", "vit_b_32", "timm:deit_tiny_patch16_224"),
]


def pruned_network(name: str, ratio: float, size: int = 64) -> Network:
    torch.manual_seed(0)
    network, _, spec = build_network(name, "none", size, 5)
    pruner = pruning._pruner(network, ratio, 1)
    rows = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    network.eval()
    nn.functional.cross_entropy(network(torch.from_numpy(rows)), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    pruner.step()
    mend_attributes(network.body)
    network.zero_grad(set_to_none=True)
    assert network.spec == spec
    return network.eval()


@pytest.mark.parametrize("name", PRUNABLE)
def test_pruned_network_keeps_its_classes_and_is_rebuilt_from_plain_data_torch_pruning_328(name: str) -> None:
    """Torch-Pruning#328, #287: stale attributes broke the forward pass; a 10-class head was pruned to 5. #347: only a pickle could be reloaded."""
    network = pruned_network(name, 0.4)
    whole, _, _ = build_network(name, "none", 64, 5)
    before = sum(parameter.numel() for parameter in whole.parameters())
    after = sum(parameter.numel() for parameter in network.parameters())
    assert after < 0.75 * before
    assert network.head.layer.weight.shape[0] == 5
    structure = json.loads(json.dumps(read_structure(network.body)))
    apply_structure(whole.body, structure)
    whole.body.load_state_dict(network.body.state_dict())
    rows = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8))
    with torch.inference_mode():
        assert torch.equal(whole.eval()(rows), network(rows))


def test_channels_are_multiples_of_eight() -> None:
    network = pruned_network("resnet18", 0.4)
    widths = {module.out_channels for module in network.body.modules() if isinstance(module, nn.Conv2d)}
    assert all(width % 8 == 0 for width in widths)
    assert len(widths) > 4


def test_attention_keeps_its_heads_of_one_size_each_torch_pruning_101() -> None:
    """Torch-Pruning#101: ViT's own widths stayed as they were, and heads were cut through."""
    network = pruned_network("vit_b_32", 0.4)
    width = network.body.hidden_dim
    assert isinstance(width, int)
    assert width < 768
    for module in network.body.modules():
        if isinstance(module, nn.MultiheadAttention):
            assert (module.embed_dim, module.num_heads, module.head_dim * module.num_heads) == (width, 12, width)


@pytest.mark.parametrize("name", ["swin_t", "maxvit_t", "shufflenet_v2_x0_5"])
def test_what_cannot_be_pruned_is_refused_by_name(name: str) -> None:
    network, _, _ = build_network(name, "none", 224, 5)
    with pytest.raises(ModelError, match=name):
        check_prunable(network, name)


def test_blocks_that_can_go_are_those_that_keep_their_shape() -> None:
    network, _, _ = build_network("resnet18", "none", 64, 5)
    assert removable_blocks(network.body, 64) == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    for name in ("layer1.1", "layer3.1"):
        replace_module(network.body, name, nn.Identity())
    rebuilt, _, _ = build_network("resnet18", "none", 64, 5)
    apply_structure(rebuilt.body, read_structure(network.body, ["layer3.1", "layer1.1"]))
    assert isinstance(rebuilt.body.get_submodule("layer3.1"), nn.Identity)
    assert rebuilt.body.state_dict().keys() == network.body.state_dict().keys()


def test_structure_of_another_model_is_refused() -> None:
    network, _, _ = build_network("resnet18", "none", 64, 5)
    other, _, _ = build_network("squeezenet1_1", "none", 64, 5)
    with pytest.raises(ModelError, match="does not fit"):
        apply_structure(other.body, read_structure(network.body))


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A small ResNet on three digits: quick to prune."""
    home = tmp_path_factory.mktemp("dense")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMX_HOME", str(home))
        data = make_digit_folder(home / "digits", classes=3, images=40)
        yield train_run(data=str(data), model="resnet18", weights="none", epochs=4, size=32, batch_size=16)


def test_pruned_package_is_smaller_and_its_run_is_like_any_other(dense: Run, tmp_path: Path) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"out": tmp_path, "prune": "0.4", "recover": 2, "max_drop": 100.0}
    package = export_package(dense.folder, say=said.append, **options)
    (fp32,) = package.manifest.variants
    assert fp32.why.startswith("The pruned network")
    assert fp32.bytes < 25e6  # of 45
    recipe = package.manifest.recipe["pruning"]
    assert recipe["run"] == dense.info.name
    run = load_run(dense.folder.parent / recipe["pruned_run"])
    assert run.info.structure == recipe["structure"]
    assert run.info.structure is not None
    accuracy = evaluate_package(package.folder, dense.info.settings["data"]).facts["accuracy"]
    assert accuracy == evaluate_run(run, dense.info.settings["data"], torch.device("cpu")).facts["accuracy"]
    assert accuracy["value"] == pytest.approx(dense.info.accuracy.value - (fp32.drop or 0.0) / 100, abs=1e-6)
    said.clear()
    again = export_package(dense.folder, say=said.append, **options)
    assert any("Pruned before" in line for line in said)
    assert again.manifest.variants[0].sha256 == fp32.sha256
    further = train_run(model=f"run:{run.folder}", data=dense.info.settings["data"], epochs=1, size=32, out=tmp_path / "runs")
    assert further.info.structure == run.info.structure
    assert restore_network(further)


def test_pruning_that_no_budget_allows_exits_5_and_writes_nothing(dense: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(network: Network, *rest: object) -> object:
        for parameter in network.parameters():
            parameter.data.zero_()
        return recover(network, *rest)  # type: ignore[arg-type]

    from finetune.recovery import recover

    monkeypatch.setattr(pruning, "recover", forget)
    before = sorted(path.name for path in dense.folder.parent.iterdir())
    with pytest.raises(BudgetError, match="not worth it") as caught:
        export_package(dense.folder, out=tmp_path / "packages", prune="auto", recover=1, max_drop=0.0)
    assert caught.value.exit_code == 5
    assert sorted(path.name for path in dense.folder.parent.iterdir()) == before
    assert not (tmp_path / "packages").exists()


@pytest.mark.parametrize("ratio", ["0", "1.5", "half"])
def test_ratio_is_a_share(dense: Run, ratio: str) -> None:
    with pytest.raises(UsageError, match="share"):
        export_package(dense.folder, prune=ratio)
    with pytest.raises(UsageError, match="recover"):
        export_package(dense.folder, recover=2)


def test_pruned_run_can_be_pruned_again_and_averaged(dense: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": tmp_path, "recover": 1, "max_drop": 100.0}
    first = export_package(dense.folder, prune=0.2, **options).manifest.recipe["pruning"]
    once = load_run(dense.folder.parent / first["pruned_run"])
    second = export_package(once.folder, prune=0.2, **options).manifest.recipe["pruning"]
    twice = load_run(dense.folder.parent / second["pruned_run"])
    assert set(second["structure"]["removed"]) >= set(first["structure"]["removed"])
    assert twice.weights.stat().st_size < once.weights.stat().st_size
    with pytest.raises(UsageError, match="pruned alike"):
        make_soup([str(once.folder), str(dense.folder)], out=tmp_path / "runs")
    together = make_ensemble([str(once.folder), str(dense.folder)], out=tmp_path / "runs")
    assert restore_network(together)


def test_pruning_that_no_budget_allows_leaves_the_dense_network_where_fp32_will_do(
    dense: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import pipeline

    def refuse(*given: object) -> Run:
        raise BudgetError("Pruning is not worth it here.")

    monkeypatch.setattr(pipeline, "prune_run", refuse)
    said: list[str] = []
    package = export_package(dense.folder, out=tmp_path, prune="auto", on_miss="fp32", say=said.append)
    assert package.manifest.recipe["pruning"] is None
    assert any("dense network is exported" in line for line in said)
