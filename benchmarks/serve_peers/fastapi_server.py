"""FastAPI on uvicorn: `build_app` as its documentation teaches it, `build_tuned_app` without what a fast answer does not need."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from benchmarks.serve_peers.model import open_model


def build_app() -> FastAPI:
    """Read the body, leave the work to the thread pool, return a dictionary."""
    app, model = FastAPI(), open_model()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        answer: dict[str, Any] = await run_in_threadpool(model.predict, await request.body())
        return answer

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return app


def build_tuned_app() -> FastAPI:
    """As `build_app`, with the answer written by orjson and neither validated nor documented."""
    app, model = FastAPI(openapi_url=None), open_model()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        answer = await run_in_threadpool(model.predict, await request.body())
        return Response(orjson.dumps(answer), media_type="application/json")

    @app.get("/health")
    async def health() -> str:
        return "ok"

    return app
