"""What a caller of `POST /v1/predict` sends, turned into encoded inputs: images as bytes, files or base64, texts plain or in JSON, pairs in JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import orjson
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from fmx.errors import InputError, TooLargeError, UnsupportedTypeError
from fmx.pairs import joined
from fmx.tasks import Task
from serve.settings import ServeSettings

Parsed = TypeVar("Parsed")
Direction = Literal["current", "previous"]
"""What a reload may ask for."""
MOST_LABELS = 1000
DEFAULT_LABELS = 5
LARGE_BODY_BYTES = 256_000


EXAMPLES = {
    "image": "curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' ...",
    "text": """curl --json '{"text": "where is my order"}' ...""",
    "pair": """curl --json '{"pair": ["where is my order", "It is on its way."]}' ...""",
}
"""A good request, by what the model reads."""


async def read_inputs(request: Request, task: Task, settings: ServeSettings, *, has_labels: bool = True) -> tuple[list[bytes], int]:
    """Take the encoded inputs of a task, and `top_k`, out of a request.

    Images come as their bytes, as multipart files, or as JSON with base64; texts as plain UTF-8 or as JSON; pairs of texts as JSON. An answer
    without labels takes no `top_k`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_labels = has_labels and task.answers_with == "labels"
    top_k = request.query_params.get("top_k")
    if top_k is not None and not has_labels:
        raise InputError("top_k has no place here.", hint="Leave it out: there are no labels in the answer.")
    _read_top_k(top_k)  # a wrong one is told though the body's own goes before it
    if kind in task.content_types:
        if task.noun == "text":
            _check_charset(request.headers["content-type"])
        inputs = [await request.body()]
    elif kind == "multipart/form-data" and task.noun == "image":
        inputs, top_k = await _read_form(request, settings, top_k)
    elif kind == "application/json":
        inputs, top_k = await parsed(await request.body(), _read_json, task.noun, top_k, settings, has_labels)
    else:
        raise UnsupportedTypeError(
            f"Content type {kind[:100] or 'none'!r} is not taken.",
            hint=f"Send {task.noun}s as one of {', '.join((*task.content_types, *_more_types(task)))}.",
        )
    check_count(len(inputs), settings.max_inputs)
    if not inputs or not all(inputs):
        raise InputError(f"There is no {task.noun} in the request, or an empty one.", hint=EXAMPLES[task.noun])
    return inputs, _read_top_k(top_k)


def _check_charset(content_type: str) -> None:
    """Refuse a text in another encoding: it may read as UTF-8 all the same, and mean something else. Raises: `UnsupportedTypeError`."""
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1").strip().lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedTypeError(f"Texts in {charset[:40]!r} are not taken.", hint="Send UTF-8.")


def _more_types(task: Task) -> tuple[str, ...]:
    return ("multipart/form-data", "application/json") if task.noun == "image" else ("application/json",)


async def _read_form(request: Request, settings: ServeSettings, top_k: str | None) -> tuple[list[bytes], str | None]:
    hint = "Send one part a file, and top_k if wanted: curl -F file=@photo.jpg ... Addresses are not fetched."
    if not _has_end(await request.body(), request.headers["content-type"]):
        raise InputError("The multipart body breaks off before its last boundary.", hint=hint)
    try:
        async with request.form(max_files=settings.max_inputs + 1, max_fields=8) as form:
            inputs = [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)]
            texts = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    except (MultiPartException, HTTPException) as error:
        reason = error.message if isinstance(error, MultiPartException) else error.detail
        if "Too many" in reason:
            raise TooLargeError(f"{reason.rstrip('.')}.", hint=f"At most {settings.max_inputs} images a request.") from error
        raise InputError(f"The multipart body cannot be read: {reason}", hint=hint) from error
    unknown = set(texts) - {"top_k"}
    if unknown:
        raise InputError(f"The form has fields that are no files ({', '.join(sorted(unknown))[:200]}).", hint=hint)
    return inputs, texts.get("top_k", top_k)


def _has_end(body: bytes, content_type: str) -> bool:
    """Say whether a form has its closing boundary. Without it the parser drops the last file, and leaves it open, without a word."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    return boundary is None or b"\r\n--" + boundary + b"--" in body


class _Form(NamedTuple):
    """How inputs stand in a JSON body."""

    shown: str
    what: str
    """A list of inputs has."""
    is_one: Callable[[Any], bool]


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_string, value))


_FORMS = {
    "image": _Form('{"image": BASE64} or {"images": [BASE64, ...]}', "base64 strings", _is_string),
    "text": _Form('{"text": TEXT} or {"texts": [TEXT, ...]}', "strings", _is_string),
    "pair": _Form('{"pair": [TEXT, TEXT]} or {"pairs": [[TEXT, TEXT], ...]}', "pairs of strings", _is_pair),
}
"""By the task's noun."""


def _read_json(body: bytes, noun: str, top_k: str | None, settings: ServeSettings, has_labels: bool) -> tuple[list[bytes], str | None]:
    hint = f"Send {_FORMS[noun].shown}" + (', with "top_k" if wanted.' if has_labels else ".")
    content = read_object(body, "body", hint)
    values = _inputs_of(content, noun, hint, {"top_k"} if has_labels else set())
    top_k = _top_k_of(content, top_k, hint)
    if noun == "image":
        return decode_images(values, hint), top_k
    return encode_texts(values if noun == "pair" else [[text] for text in values], settings), top_k


def _inputs_of(content: dict[str, Any], one: str, hint: str, options: set[str]) -> list[Any]:
    """Take the inputs out of a JSON body: one under its singular, or a list of them under its plural. Raises: `InputError`."""
    many = f"{one}s"
    unknown = set(content) - {one, many, *options}
    if unknown or (one in content) == (many in content):
        named = f"unknown: {', '.join(sorted(unknown))[:200]}" if unknown else f"exactly one of {one} and {many} is needed"
        raise InputError(f"The JSON body has the wrong fields ({named}).", hint=hint)
    values = [content[one]] if one in content else content[many]
    if not isinstance(values, list) or not all(map(_FORMS[one].is_one, values)):
        raise InputError(f"The JSON body's {many} are no {_FORMS[one].what}.", hint=hint)
    return values


def encode_texts(inputs: Sequence[Sequence[str]], settings: ServeSettings) -> list[bytes]:
    """Encode the texts of a request, once they are known to be few and short enough together: reading them is work for a thread each.

    Args:
        inputs: of one text, or of a pair. An empty one stays, and is refused by the task.
        settings: of the service.

    Raises:
        TooLargeError: more inputs, or more characters in all, than a request may have.
    """
    check_count(len(inputs), settings.max_inputs)
    check_characters(sum(len(text) for texts in inputs for text in texts), settings)
    return [joined([text.encode() for text in texts]) for texts in inputs]


def check_characters(characters: int, settings: ServeSettings) -> None:
    """Refuse more characters than a request may have. Raises: `TooLargeError`."""
    if characters > settings.max_characters:
        hint = "Send several requests, or shorter texts."
        raise TooLargeError(f"{characters:,} characters in one request; at most {settings.max_characters:,} are taken.", hint=hint)


def _top_k_of(content: dict[str, Any], top_k: str | None, hint: str) -> str | None:
    wanted = content.get("top_k")
    if wanted is not None and (isinstance(wanted, bool) or not isinstance(wanted, int)):
        raise InputError("top_k is no whole number.", hint=hint)
    return top_k if wanted is None else str(wanted)


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


def check_count(inputs: int, most: int) -> None:
    """Refuse more inputs than a request may have. Raises: `TooLargeError`."""
    if inputs > most:
        raise TooLargeError(f"{inputs} inputs in one request; at most {most} are taken.", hint="Send several requests.")
