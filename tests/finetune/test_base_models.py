"""One model of every torchvision family: head replaced, one training step, a state that loads again. Every name in `make test-all`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn

from finetune import embedded
from finetune.base_models import build_base_model, model_names
from finetune.efficientnet_lite import EfficientNetLite0
from finetune.heads import find_head, replace_head
from finetune.network import Network, build_network
from finetune.settings import EMBEDDED_MODEL
from finetune.weights import load_base, read_state
from fmx.contract import ImageInput
from fmx.errors import ModelError
from fmx.images import image_row
from tests.conftest import MakeFolder, encode

FAMILIES = {
    EMBEDDED_MODEL: 32,
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 80,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "vgg11": 32,
    "vit_b_16": 32,
}
"""Side in pixels that each is tried with."""

NEEDS_LARGE = {"inception_v3": 80, "maxvit_t": 224, "alexnet": 64}


def train_one_step(name: str, size: int) -> None:
    network, _, spec = build_network(name, "none", size, classes=5)
    assert (spec.height, spec.width) == (size, size)
    before = network.head.layer.weight.detach().clone()
    network.train()
    logits = network(torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8))
    assert logits.shape == (2, 5)
    nn.functional.cross_entropy(logits, torch.tensor([0, 4])).backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    assert not torch.equal(before, network.head.layer.weight)


@pytest.mark.parametrize(("name", "size"), FAMILIES.items())
def test_family_trains_one_step_with_a_head_for_our_classes(name: str, size: int) -> None:
    train_one_step(name, size)


@pytest.mark.every_model
@pytest.mark.parametrize("name", model_names())
def test_every_model_trains_one_step(name: str) -> None:
    train_one_step(name, NEEDS_LARGE.get(name, 32 if "vit_h" not in name else 28))


def test_every_family_is_tried() -> None:
    """A family is a module of torchvision.models; a new one there must be tried here too."""
    from torchvision import models

    families = {name: models.get_model_builder(name).__module__ for name in model_names() if name != EMBEDDED_MODEL}
    assert set(families.values()) == {families[name] for name in FAMILIES if name != EMBEDDED_MODEL}


def test_unknown_model_suggests_near_names() -> None:
    with pytest.raises(ModelError) as caught:
        build_base_model("resnet81", "none", 32)
    assert "resnet18" in caught.value.hint


def test_size_that_the_network_cannot_take_is_said() -> None:
    with pytest.raises(ModelError, match="32 x 32"):
        build_base_model("inception_v3", "none", 32)


def test_maxvit_head_keeps_having_no_bias_and_squeezenet_keeps_its_convolution() -> None:
    maxvit, _, _ = build_network("maxvit_t", "none", 224, 5)
    squeezenet, _, _ = build_network("squeezenet1_1", "none", 32, 5)
    assert maxvit.head.layer.bias is None
    assert isinstance(squeezenet.head.layer, nn.Conv2d)


def test_embedded_weights_are_those_of_imagenet() -> None:
    """On scikit-learn's two photographs the embedded model says palace (698) and daisy (985)."""
    base = build_base_model(EMBEDDED_MODEL, "default", 224)
    spec = ImageInput(height=224, width=224, mean=base.mean, std=base.std, interpolation="bicubic")
    rows = np.stack([image_row(encode(image), spec) for image in load_sample_images().images])
    with torch.inference_mode():
        assert Network(base.module, spec).eval()(torch.from_numpy(rows)).argmax(dim=1).tolist() == [698, 985]


def test_weights_file_with_another_head_loads_its_body(tmp_path: Path) -> None:
    source = build_base_model("resnet18", "none", 32).module
    replace_head(source, 7)
    state = {key: torch.full_like(value, 0.5) if value.is_floating_point() else value for key, value in source.state_dict().items()}
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        loaded = build_base_model("resnet18", str(tmp_path / name), 32)
        assert float(loaded.module.get_parameter("conv1.weight").detach().mean()) == pytest.approx(0.5)
        assert loaded.weights_origin == f"file {name}"


def test_misfitting_weights_name_every_kind_of_fault(tmp_path: Path) -> None:
    model = build_base_model("resnet18", "none", 32).module
    state = dict(model.state_dict())
    del state["layer1.0.conv1.weight"]
    state["stranger.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(ModelError) as caught:
        load_base(model, state, "w.pth")
    for part in ("1 missing (layer1.0.conv1.weight)", "1 unexpected (stranger.weight)", "1 of another shape (conv1.weight (64, 1, 7, 7) for"):
        assert part in caught.value.message


def test_pickled_code_in_weights_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (f"touch {tmp_path / 'owned'}",)

    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="cannot be read as weights"):
        read_state(tmp_path / "w.pth")
    assert not (tmp_path / "owned").exists()


def test_damaged_and_missing_weights_are_said(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\x10" * 40)
    for name in ("w.safetensors", "absent.pth"):
        with pytest.raises(ModelError) as caught:
            read_state(tmp_path / name)
        assert caught.value.hint


def test_pretrained_weights_offline_say_which_file_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        build_base_model("resnet18", "default", 32)
    assert "resnet18-f37072fd.pth" in caught.value.message
    assert str(tmp_path / "hub" / "checkpoints") in caught.value.hint


def test_pretrained_weights_on_disk_are_used_and_fitted_to_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT's position embeddings are interpolated from 224 pixels to 64."""
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(models.vit_b_32(weights=None).state_dict(), checkpoints / "vit_b_32-d86f8d99.pth")
    base = build_base_model("vit_b_32", "default", 64)
    assert base.module.get_parameter("encoder.pos_embedding").shape == (1, 5, 768)
    assert base.mean == pytest.approx((123.675, 116.28, 103.53))


def test_model_without_a_known_head_is_refused() -> None:
    with pytest.raises(ModelError, match="no known head"):
        find_head(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("name", ["mnasnet0_5", "densenet121", "resnet18"])
def test_state_of_a_published_kind_loads(name: str) -> None:
    """MNASNet checks its version, DenseNet's files name `norm.1`, and files from before torch 0.4 count no batches."""
    import re

    published = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in build_base_model(name, "none", 32).module.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    load_base(build_base_model(name, "none", 32).module, published, "published")


def test_mnasnet_run_is_restored(tmp_path: Path) -> None:
    from finetune.network import restore_network
    from finetune.training import train_run
    from tests.conftest import make_digit_folder

    data = make_digit_folder(tmp_path / "data", 2, 12)
    run = train_run(data=str(data), model="mnasnet0_5", weights="none", size=32, epochs=1, method="linear-probe")
    assert restore_network(run).head.layer.weight.shape[0] == 2


def test_size_and_name_that_cannot_be_are_model_errors() -> None:
    from finetune.training import train_run

    for options in ({"model": "/models/resnet18.pth"}, {"model": "vit_b_16", "size": 100, "weights": "none"}):
        with pytest.raises(ModelError):
            train_run(**options)


@pytest.mark.parametrize("size", [33, 64, 225])
@pytest.mark.parametrize("training", [False, True])
def test_embedded_network_answers_what_timms_answers(size: int, training: bool) -> None:
    import timm

    ours, theirs = EfficientNetLite0(), timm.create_model("tf_efficientnet_lite0", pretrained=False)
    embedded.load_efficientnet_lite0(ours)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(size))
    with torch.inference_mode():
        assert torch.equal(ours.train(training)(images), theirs.train(training)(images))
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("method", ["linear-probe", "finetune"])
def test_default_model_is_trained_without_loading_torchs_compiler(method: str, digit_folder: MakeFolder) -> None:
    """timm, torchvision and torch's own optimisers import it, which takes 1.5 s: a third of a linear probe."""
    code = (
        "import sys; from finetune.training import train_run; train_run(data=sys.argv[1], size=32, epochs=1, method=sys.argv[2]); "
        "print([name for name in ('timm', 'torchvision', 'torch._dynamo') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(digit_folder(2, 12)), method]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
