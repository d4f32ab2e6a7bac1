"""Our ASGI app inside BentoML's shell: `POST /v1/predict`, and the Open Inference Protocol (oip.py) beside it.

Who may call, and how much may be sent, was settled in guard.py.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeVar

import orjson
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fmx.errors import FmxError, InputError, TooLargeError, UnsupportedTypeError
from fmx.predictor import PackagePredictor
from fmx.tasks.image_classification import ImageClassification
from serve import oip
from serve.answers import REQUEST_ID, SECURITY_HEADERS, error_response, json_response
from serve.audit import digest
from serve.engine import Engine
from serve.errors import UnknownPathError
from serve.scaling.scaler import Scaler
from serve.settings import ServeSettings

PREDICT = "/v1/predict"
AUTOSCALE = "/v1/autoscale"
V2_MODEL = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
Handler = Callable[[Request], Awaitable[Response]]
Parsed = TypeVar("Parsed")
MOST_LABELS = 1000
LARGE_BODY_BYTES = 256_000
DEFAULT_LABELS = 5
log = logging.getLogger("fmx.serve")


def build_app(engine: Engine, scaler: Scaler, settings: ServeSettings) -> Starlette:
    """Build the app with its routes."""

    async def predict(request: Request) -> Response:
        inputs, top_k = await _read_inputs(request, settings)
        answer = await engine.predict(inputs, top_k, request.scope["fmx.deadline"])
        request_id: str = request.scope["fmx.request_id"]
        package, variant = answer.predictor.package, answer.predictor.variant
        model = {"name": package.name, "version": package.manifest.version, "variant": variant.name}
        response = json_response({"request_id": request_id, "model": model, "predictions": answer.predictions}, request_id)
        if settings.audit_file is not None:
            request.scope["fmx.audit"] = _audited(answer.predictor, inputs, response)
        return response

    async def infer(request: Request) -> Response:
        predictor = _named(engine.opened(), request)
        asked = await _parsed(await request.body(), oip.read_infer, request.headers, predictor, settings.max_images)
        predictor, probabilities = await engine.infer(asked.inputs, request.scope["fmx.deadline"])
        body, headers = oip.write_infer(asked, predictor, probabilities)
        response = Response(body, headers={**SECURITY_HEADERS, REQUEST_ID: request.scope["fmx.request_id"], **headers})
        if settings.audit_file is not None:
            encoded = [given if isinstance(given, bytes) else given.tobytes() for given in asked.inputs]
            request.scope["fmx.audit"] = _audited(predictor, encoded, response)
        return response

    async def server(request: Request) -> Response:
        return json_response(oip.server_metadata(version("fmx-toolkit")), request.scope["fmx.request_id"])

    async def model(request: Request) -> Response:
        return json_response(oip.model_metadata(_named(engine.opened(), request)), request.scope["fmx.request_id"])

    async def model_ready(request: Request) -> Response:
        name = _named(engine.opened(), request).package.name
        return json_response({"name": name, "ready": True}, request.scope["fmx.request_id"])

    async def autoscale(request: Request) -> Response:
        return json_response(scaler.standing(engine.opened().package, engine.opened().variant.name), request.scope["fmx.request_id"])

    return Starlette(
        routes=[
            Route(AUTOSCALE, _answered(autoscale), methods=["GET"]),
            Route(PREDICT, _answered(predict), methods=["POST"]),
            Route("/v2", _answered(server), methods=["GET"]),
            *(Route(path, _answered(model), methods=["GET"]) for path in V2_MODEL),
            *(Route(f"{path}/ready", _answered(model_ready), methods=["GET"]) for path in V2_MODEL),
            *(Route(f"{path}/infer", _answered(infer), methods=["POST"]) for path in V2_MODEL),
        ]
    )


def _answered(handle: Handler) -> Handler:
    """Make an answer of every error that a handler raises."""

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
        return error_response(error, request_id, is_v2=request.url.path.startswith("/v2"))

    return answer


async def _parsed(body: bytes, parse: Callable[..., Parsed], *rest: Any) -> Parsed:
    """Parse a body; a large one in a thread, so that probes and others' deadlines are not held up meanwhile."""
    return parse(body, *rest) if len(body) < LARGE_BODY_BYTES else await asyncio.to_thread(parse, body, *rest)


def _named(predictor: PackagePredictor, request: Request) -> PackagePredictor:
    """Check that a path names what is served. Raises: `UnknownPathError`."""
    name, wanted = request.path_params["name"], request.path_params.get("version")
    package = predictor.package
    if name != package.name or wanted not in (None, package.manifest.version):
        raise UnknownPathError("There is no such model here.", hint=f"It is {package.name}, version {package.manifest.version}.")
    return predictor


def _audited(predictor: PackagePredictor, inputs: list[bytes], response: Response) -> dict[str, Any]:
    facts = {"model": predictor.package.digest, "variant": predictor.variant.name, "inputs": [digest(data) for data in inputs]}
    return {**facts, "answer": digest(bytes(response.body))}


async def _read_inputs(request: Request, settings: ServeSettings) -> tuple[list[bytes], int]:
    """Take the encoded inputs and `top_k` out of a request: image bytes, multipart files, or JSON with base64."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    top_k = request.query_params.get("top_k")
    if kind in ImageClassification.content_types:
        inputs = [await request.body()]
    elif kind == "multipart/form-data":
        inputs = await _read_files(request, settings)
    elif kind == "application/json":
        inputs, top_k = await _parsed(await request.body(), _read_json, top_k)
    else:
        raise UnsupportedTypeError(
            f"Content type {kind[:100] or 'none'!r} is not taken.",
            hint=f"Send one of {', '.join(ImageClassification.content_types)}, multipart/form-data or application/json.",
        )
    if len(inputs) > settings.max_images:
        raise TooLargeError(f"{len(inputs)} images in one request; at most {settings.max_images} are taken.", hint="Send several requests.")
    if not inputs or not all(inputs):
        raise InputError("There is no image in the request, or an empty one.", hint="curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' ...")
    return inputs, _read_top_k(top_k)


async def _read_files(request: Request, settings: ServeSettings) -> list[bytes]:
    try:
        async with request.form(max_files=settings.max_images + 1, max_fields=8) as form:
            return [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
    except (MultiPartException, HTTPException) as error:
        reason = error.message if isinstance(error, MultiPartException) else error.detail
        if "Too many" in reason:
            raise TooLargeError(f"{reason.rstrip('.')}.", hint=f"At most {settings.max_images} images a request.") from error
        raise InputError(f"The multipart body cannot be read: {reason}", hint="Send one part a file: curl -F file=@photo.jpg ...") from error


def _read_json(body: bytes, top_k: str | None) -> tuple[list[bytes], str | None]:
    hint = 'Send {"image": BASE64} or {"images": [BASE64, ...]}, with "top_k" if wanted.'
    try:
        content: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"The body is no JSON ({error}).", hint=hint) from error
    if not isinstance(content, dict):
        raise InputError("The JSON body is no object.", hint=hint)
    unknown = set(content) - {"image", "images", "top_k"}
    if unknown or ("image" in content) == ("images" in content):
        named = f"unknown: {', '.join(sorted(unknown))[:200]}" if unknown else "exactly one of image and images is needed"
        raise InputError(f"The JSON body has the wrong fields ({named}).", hint=hint)
    images = [content["image"]] if "image" in content else content["images"]
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise InputError("The JSON body's images are no base64 strings.", hint=hint)
    wanted = content.get("top_k")
    if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int)):
        raise InputError("top_k is no whole number.", hint=hint)
    try:
        return [base64.b64decode(image, validate=True) for image in images], top_k if wanted is None else str(wanted)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"An image is not valid base64 ({error}).", hint=hint) from error


def _read_top_k(given: str | None) -> int:
    if given is None:
        return DEFAULT_LABELS
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:6]) <= MOST_LABELS and len(given) <= 6):
        raise InputError(f"top_k must be a whole number from 1 to {MOST_LABELS}.", hint="Leave it out for the first 5 labels.")
    return int(given)
