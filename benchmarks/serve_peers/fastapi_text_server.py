"""FastAPI on uvicorn for texts, as its documentation teaches it: the run's network in torch, or its package's graph in ONNX Runtime.

`FMX_PEER_RUN` names the run's folder, `FMX_PEER_MODEL` an ONNX file. Nothing is batched, checked, logged or watched.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from fmx.run import load_run


class Question(BaseModel):
    """What is sent."""

    text: str


def build_transformers_app() -> FastAPI:
    """Answer by torch and the tokenizer of transformers."""
    import torch
    from transformers import PreTrainedTokenizerFast

    from finetune.network import restore_network

    run = load_run(Path(os.environ["FMX_PEER_RUN"]))
    network = restore_network(run)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(run.folder / "tokenizer.json"))

    def predict(text: str) -> dict[str, Any]:
        with torch.inference_mode():
            ids = tokenizer(text, truncation=True, max_length=run.info.settings["max_length"], return_tensors="pt")["input_ids"]
            chances = network.body(ids).softmax(dim=1)[0]
        best = int(chances.argmax())
        return {"label": run.info.labels[best], "score": float(chances[best])}

    return _served(predict)


def build_onnxruntime_app() -> FastAPI:
    """Answer by ONNX Runtime with its defaults, and the tokenizer of transformers."""
    from transformers import PreTrainedTokenizerFast

    run = load_run(Path(os.environ["FMX_PEER_RUN"]))
    session = onnxruntime.InferenceSession(os.environ["FMX_PEER_MODEL"], providers=["CPUExecutionProvider"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(run.folder / "tokenizer.json"))

    def predict(text: str) -> dict[str, Any]:
        ids = tokenizer(text, truncation=True, max_length=run.info.settings["max_length"])["input_ids"]
        chances = session.run(["probabilities"], {"input_ids": np.array([ids], np.int64)})[0][0]
        best = int(chances.argmax())
        return {"label": run.info.labels[best], "score": float(chances[best])}

    return _served(predict)


def _served(predict: Any) -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    async def answer(question: Question) -> dict[str, Any]:
        told: dict[str, Any] = await run_in_threadpool(predict, question.text)
        return told

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return app
