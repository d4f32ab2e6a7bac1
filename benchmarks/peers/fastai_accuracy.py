"""fastai's `vision_learner` and `fine_tune` as they come, on rows in memory; as many epochs as a given time has room for."""

from __future__ import annotations

import json
import time
from typing import Any

import fastai.callback.schedule  # noqa: F401 - adds fine_tune to a learner
import numpy as np
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, Normalize
from fastai.metrics import accuracy
from fastai.vision.augment import aug_transforms
from fastai.vision.core import PILImage
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner

from benchmarks.peers.models import MEAN, STD, read_rows, read_spec

WATCHED = 32
"""Test rows that stand in for validation rows while it trains; nothing is chosen by them."""


def main() -> None:
    """Time an epoch on a learner that is thrown away, then fine-tune another for the whole budget."""
    spec = read_spec()
    train, labels = read_rows(spec["rows"])
    test, wanted = read_rows(spec["rows"], "test")
    images, answers = np.concatenate([train.numpy(), test.numpy()]), np.concatenate([labels.numpy(), wanted.numpy()])
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=lambda row: PILImage.create(images[row]),
        get_y=lambda row: int(answers[row]),
        splitter=IndexSplitter(list(range(len(train), len(train) + WATCHED))),
        batch_tfms=[*aug_transforms(do_flip=False), Normalize.from_stats([MEAN / 255] * 3, [STD / 255] * 3, cuda=False)],
    )
    items = list(range(len(train) + WATCHED))  # fit() judges its validation rows after every epoch: few of them, as the time is counted
    started = time.perf_counter()
    learner(block, items, spec).fine_tune(1, freeze_epochs=0)
    # the frozen first epoch is counted as a full one
    epochs = max(1, int(spec["budget_s"] / (time.perf_counter() - started)) - 1)
    tuned = learner(block, items, spec)
    started = time.perf_counter()
    tuned.fine_tune(epochs)
    seconds = time.perf_counter() - started
    judged = tuned.validate(dl=tuned.dls.test_dl(list(range(len(train), len(images))), with_labels=True))
    print(json.dumps({"accuracy": float(judged[1]), "seconds": seconds, "epochs": epochs + 1}))


def learner(block: Any, items: list[int], spec: dict[str, Any]) -> Any:
    """Build a learner on the base weights, frozen below its head as a pretrained one is."""
    torch.manual_seed(spec["seed"])
    loaders = block.dataloaders(items, bs=spec["batch"], num_workers=0, device=torch.device("cpu"))
    made = vision_learner(loaders, "tf_efficientnet_lite0", pretrained=False, normalize=False, metrics=accuracy)
    state = torch.load(spec["weights"], weights_only=True)
    missing, _ = made.model[0].model.load_state_dict(state, strict=False)
    if missing:
        raise SystemExit(f"Weights are missing: {missing[:3]}")
    made.freeze()
    made.remove_cbs([item for item in made.cbs if item.name in ("progress",)])
    return made


if __name__ == "__main__":
    main()
