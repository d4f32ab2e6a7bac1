"""What the service answers: `POST /v1/predict`, and the Open Inference Protocol (oip.py) beside it.

Who may call, and how much may be sent, was settled in guard.py, which calls these by route, without a router or BentoML's middleware between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fmx.errors import FmxError
from fmx.predictor import PackagePredictor
from serve import oip
from serve.answers import error_response, json_response
from serve.audit import digest
from serve.client_schema import client_endpoint
from serve.crew import Crew
from serve.engine import Answer, Engine
from serve.errors import RefusedError, UnknownPathError
from serve.inputs import LARGE_BODY_BYTES, parsed, read_direction, read_inputs
from serve.routes import AUTOSCALE, CLIENT_SCHEMA, EMBED, PREDICT, RELOAD, V2_MODEL
from serve.scaling.scaler import Scaler
from serve.settings import ServeSettings

Handler = Callable[[Request], Awaitable[Response]]
log = logging.getLogger("fmx.serve")


def build_routes(engine: Engine, scaler: Scaler, crew: Crew, settings: ServeSettings) -> dict[str, ASGIApp]:
    """Build what answers each route."""

    async def predict(request: Request) -> Response:
        served = engine.now()  # who the inputs were read for answers them, whatever is swapped meanwhile
        inputs, top_k = await read_inputs(request, served.predictor.task, settings)
        answer = await engine.infer(inputs, request.scope["fmx.deadline"], served, top_k=top_k)
        return await written(request, answer, inputs, answer.predictions)

    async def embed(request: Request) -> Response:
        served = engine.now()
        if served.predictor.contract.embedding is None:
            hint = "Models of images have none." if served.predictor.task.noun == "image" else "fmx export --embedding makes a package that does."
            raise UnknownPathError("This model gives no embeddings.", hint=hint)
        inputs, _ = await read_inputs(request, served.predictor.task, settings, has_labels=False)
        answer = await engine.infer(inputs, request.scope["fmx.deadline"], served, predicts=False)
        return await written(request, answer, inputs, [{"embedding": vector.tolist()} for vector in answer.embeddings])

    async def written(request: Request, answer: Answer, inputs: list[bytes], predictions: list[dict[str, Any]]) -> Response:
        predictor, request.scope["fmx.marks"] = answer.predictor, answer.marks
        response = json_response({"request_id": request.scope["fmx.request_id"], "model": predictor.identity, "predictions": predictions})
        if settings.audit_file is not None:
            request.scope["fmx.audit"] = await audited(predictor, inputs, response)
        return response

    async def infer(request: Request) -> Response:
        body = await request.body()
        served = engine.now()  # who reads the tensors answers them, whatever is swapped meanwhile
        predictor = _named(served.predictor, request)
        asked = await parsed(body, oip.read_infer, request.headers, predictor, settings)
        answer = await engine.infer(asked.inputs, request.scope["fmx.deadline"], served)
        predictor, request.scope["fmx.marks"] = answer.predictor, answer.marks
        body, headers = oip.write_infer(asked, predictor, answer.predictions, predictor.task.shown(answer.probabilities), answer.embeddings)
        response = Response(body, headers=headers)
        if settings.audit_file is not None:
            encoded = [given if isinstance(given, bytes) else given.tobytes() for given in asked.inputs]
            request.scope["fmx.audit"] = await audited(predictor, encoded, response)
        return response

    async def server(request: Request) -> Response:
        return json_response(oip.server_metadata(version("fmx-toolkit")))

    async def model(request: Request) -> Response:
        served = engine.now()
        return json_response(oip.model_metadata(_named(served.predictor, request), served.opened.words))

    async def model_ready(request: Request) -> Response:
        name = _named(engine.now().predictor, request).package.name
        return json_response({"name": name, "ready": True})

    async def autoscale(request: Request) -> Response:
        predictor = engine.now().predictor
        return json_response(scaler.standing(predictor.package, predictor.variant.name))

    async def client_schema(request: Request) -> Response:
        return json_response({"name": "fmx", "type": "service", "routes": [client_endpoint(type(engine.now().predictor.task))]})

    async def reload(request: Request) -> Response:
        folder = str(engine.folder_before) if read_direction(await request.body()) == "previous" else ""
        wish = await asyncio.to_thread(crew.ask, folder)
        until = request.scope["fmx.deadline"] - 1.0
        while not (reports := crew.reports()) or any(report.generation < wish.generation for report in reports.values()):
            if time.monotonic() >= until:
                return json_response({"workers": [asdict(report) for report in reports.values()]}, 202)
            await asyncio.sleep(0.1)
        if errors := [report.error for report in reports.values() if report.error]:
            raise RefusedError(errors[0], hint=f"{len(errors)} of {len(reports)} workers refused, and serve on what they served.")
        return json_response({"workers": [asdict(report) for report in reports.values()]})

    return {
        RELOAD: _answered(reload),
        AUTOSCALE: _answered(autoscale),
        PREDICT: _answered(predict),
        EMBED: _answered(embed),
        CLIENT_SCHEMA: _answered(client_schema),
        "/v2": _answered(server),
        **{path: _answered(model) for path in V2_MODEL},
        **{f"{path}/ready": _answered(model_ready) for path in V2_MODEL},
        **{f"{path}/infer": _answered(infer) for path in V2_MODEL},
    }


def _answered(handle: Handler) -> ASGIApp:
    """Make an app of a handler, and an answer of every error that it raises."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer(Request(scope, receive))
        await response(scope, receive, send)

    async def answer(request: Request) -> Response:
        request_id: str = request.scope["fmx.request_id"]
        try:
            return await handle(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; it is counted
        except FmxError as known:
            error = known
            if error.http_status >= 500 and error.http_status not in (503, 504):
                log.error("request %s failed: %s", request_id, error.message)
        except Exception:  # a fault of ours: the client gets the shape of every error, the log the traceback
            log.exception("request %s failed", request_id)
            error = FmxError("Something unforeseen went wrong.", hint="Tell its request id.")
        return error_response(error, request_id, is_v2=request.scope["path"].startswith("/v2"))

    return app


def _named(predictor: PackagePredictor, request: Request) -> PackagePredictor:
    """Check that a path names what is served. Raises: `UnknownPathError`."""
    name, wanted = request.path_params["name"], request.path_params.get("version")
    package = predictor.package
    if name != package.name or wanted not in (None, package.manifest.version):
        raise UnknownPathError("There is no such model here.", hint=f"It is {package.name}, version {package.manifest.version}.")
    return predictor


async def audited(predictor: PackagePredictor, inputs: list[bytes], response: Response) -> dict[str, Any]:
    """Give what the audit log says of an answer; large inputs are hashed in a thread."""
    facts = partial(_audited, predictor, inputs, response)
    return facts() if sum(map(len, inputs)) < LARGE_BODY_BYTES else await asyncio.to_thread(facts)


def _audited(predictor: PackagePredictor, inputs: list[bytes], response: Response) -> dict[str, Any]:
    facts = {"model": predictor.package.digest, "variant": predictor.variant.name, "inputs": [digest(data) for data in inputs]}
    return {**facts, "answer": digest(bytes(response.body))}
