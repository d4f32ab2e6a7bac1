"""What a caller of `POST /v1/predict` sends: image bytes, multipart files or JSON with base64, turned into encoded inputs."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import orjson
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from fmx.errors import InputError, TooLargeError, UnsupportedTypeError
from fmx.tasks.image_classification import ImageClassification
from serve.settings import ServeSettings

Parsed = TypeVar("Parsed")
Direction = Literal["current", "previous"]
"""What a reload may ask for."""
MOST_LABELS = 1000
DEFAULT_LABELS = 5
LARGE_BODY_BYTES = 256_000


async def read_inputs(request: Request, settings: ServeSettings) -> tuple[list[bytes], int]:
    """Take the encoded inputs and `top_k` out of a request: image bytes, multipart files, or JSON with base64."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    top_k = request.query_params.get("top_k")
    if kind in ImageClassification.content_types:
        inputs = [await request.body()]
    elif kind == "multipart/form-data":
        inputs, top_k = await _read_form(request, settings, top_k)
    elif kind == "application/json":
        inputs, top_k = await parsed(await request.body(), _read_json, top_k)
    else:
        raise UnsupportedTypeError(
            f"Content type {kind[:100] or 'none'!r} is not taken.",
            hint=f"Send one of {', '.join(ImageClassification.content_types)}, multipart/form-data or application/json.",
        )
    check_count(len(inputs), settings.max_images)
    if not inputs or not all(inputs):
        raise InputError("There is no image in the request, or an empty one.", hint="curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' ...")
    return inputs, _read_top_k(top_k)


async def _read_form(request: Request, settings: ServeSettings, top_k: str | None) -> tuple[list[bytes], str | None]:
    hint = "Send one part a file, and top_k if wanted: curl -F file=@photo.jpg ... Addresses are not fetched."
    if not _has_end(await request.body(), request.headers["content-type"]):
        raise InputError("The multipart body breaks off before its last boundary.", hint=hint)
    try:
        async with request.form(max_files=settings.max_images + 1, max_fields=8) as form:
            inputs = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
            texts = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    except (MultiPartException, HTTPException) as error:
        reason = error.message if isinstance(error, MultiPartException) else error.detail
        if "Too many" in reason:
            raise TooLargeError(f"{reason.rstrip('.')}.", hint=f"At most {settings.max_images} images a request.") from error
        raise InputError(f"The multipart body cannot be read: {reason}", hint=hint) from error
    unknown = set(texts) - {"top_k"}
    if unknown:
        raise InputError(f"The form has fields that are no files ({', '.join(sorted(unknown))[:200]}).", hint=hint)
    return inputs, texts.get("top_k", top_k)


def _has_end(body: bytes, content_type: str) -> bool:
    """Say whether a form has its closing boundary. Without it the parser drops the last file, and leaves it open, without a word."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    return boundary is None or b"\r\n--" + boundary + b"--" in body


def _read_json(body: bytes, top_k: str | None) -> tuple[list[bytes], str | None]:
    hint = 'Send {"image": BASE64} or {"images": [BASE64, ...]}, with "top_k" if wanted.'
    content = read_object(body, "body", hint)
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
    return decode_images(images, hint), top_k if wanted is None else str(wanted)


def _read_top_k(given: str | None) -> int:
    if given is None:
        return DEFAULT_LABELS
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:6]) <= MOST_LABELS and len(given) <= 6):
        raise InputError(f"top_k must be a whole number from 1 to {MOST_LABELS}.", hint="Leave it out for the first 5 labels.")
    return int(given)


def read_direction(body: bytes) -> Direction:
    """Read what a reload asks for; nothing asks for the package that the settings lead to. Raises: `InputError`."""
    hint = 'Send nothing, {"to": "current"} or {"to": "previous"}.'
    given = read_object(body, "body", hint) if body else {}
    to = given.get("to", "current")
    if to not in ("current", "previous") or set(given) - {"to"}:
        raise InputError("The body asks for nothing that a reload can do.", hint=hint)
    return "previous" if to == "previous" else "current"


async def parsed(body: bytes, parse: Callable[..., Parsed], *rest: Any) -> Parsed:
    """Parse a body; a large one in a thread, so that probes and others' deadlines are not held up meanwhile."""
    return parse(body, *rest) if len(body) < LARGE_BODY_BYTES else await asyncio.to_thread(parse, body, *rest)


def read_object(body: bytes, what: str, hint: str) -> dict[str, Any]:
    """Read a JSON object. Raises: `InputError`, which calls it `what`."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"The {what} is no JSON ({error}).", hint=hint) from error
    if not isinstance(content, dict):
        raise InputError(f"The {what} is no JSON object.", hint=hint)
    return content


def decode_images(images: Sequence[str], hint: str) -> list[bytes]:
    """Decode images from base64. Raises: `InputError`."""
    try:
        return [base64.b64decode(image, validate=True) for image in images]
    except (binascii.Error, ValueError) as error:
        raise InputError(f"An image is not valid base64 ({error}).", hint=hint) from error


def check_count(images: int, most: int) -> None:
    """Refuse more images than a request may have. Raises: `TooLargeError`."""
    if images > most:
        raise TooLargeError(f"{images} images in one request; at most {most} are taken.", hint="Send several requests.")
