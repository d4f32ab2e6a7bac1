"""What a caller of `POST /v1/predict` sends, turned into encoded inputs: images as bytes, files or base64, texts plain or in JSON, pairs in JSON."""

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


Options = frozenset[str]
"""What a body may ask for beside its inputs."""
OF_LABELS: Options = frozenset({"top_k"})


async def read_inputs(request: Request, task: Task, settings: ServeSettings, options: Options = OF_LABELS) -> tuple[list[bytes], int]:
    """Take the encoded inputs of a task, and `top_k`, out of a request.

    Images come as their bytes, as multipart files, or as JSON with base64; texts as plain UTF-8 or as JSON; pairs of texts as JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    top_k = request.query_params.get("top_k")
    if top_k is not None and "top_k" not in options:
        raise InputError("top_k has no place here.", hint="Leave it out: there are no labels in the answer.")
    _read_top_k(top_k)  # a wrong one is told though the body's own goes before it
    if kind in task.content_types:
        if task.noun == "text":
            _check_charset(request.headers["content-type"])
        inputs = [await request.body()]
    elif kind == "multipart/form-data" and task.noun == "image":
        inputs, top_k = await _read_form(request, settings, top_k)
    elif kind == "application/json":
        inputs, top_k = await parsed(await request.body(), _JSON_READERS[task.noun], top_k, settings, options)
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


def _read_images(body: bytes, top_k: str | None, _settings: ServeSettings, options: Options) -> tuple[list[bytes], str | None]:
    hint = _hint('{"image": BASE64} or {"images": [BASE64, ...]}', options)
    content = read_object(body, "body", hint)
    return decode_images(_inputs_of(content, "image", "base64 strings", _is_string, options, hint), hint), _top_k_of(content, top_k, hint)


def _read_texts(body: bytes, top_k: str | None, settings: ServeSettings, options: Options) -> tuple[list[bytes], str | None]:
    hint = _hint('{"text": TEXT} or {"texts": [TEXT, ...]}', options)
    content = read_object(body, "body", hint)
    return encode_texts(_inputs_of(content, "text", "strings", _is_string, options, hint), settings), _top_k_of(content, top_k, hint)


def _read_pairs(body: bytes, top_k: str | None, settings: ServeSettings, options: Options) -> tuple[list[bytes], str | None]:
    hint = _hint('{"pair": [TEXT, TEXT]} or {"pairs": [[TEXT, TEXT], ...]}', options)
    content = read_object(body, "body", hint)
    pairs = _inputs_of(content, "pair", "pairs of strings", _is_pair, options, hint)
    return encode_pairs(pairs, settings), _top_k_of(content, top_k, hint)


_JSON_READERS: dict[str, Callable[[bytes, str | None, ServeSettings, Options], tuple[list[bytes], str | None]]] = {
    "image": _read_images,
    "text": _read_texts,
    "pair": _read_pairs,
}
"""By the task's noun."""


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_string, value))


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _hint(forms: str, options: Options) -> str:
    return f"Send {forms}" + (', with "top_k" if wanted.' if "top_k" in options else ".")


def _inputs_of(content: dict[str, Any], one: str, what: str, is_one: Callable[[Any], bool], options: Options, hint: str) -> list[Any]:
    """Take the inputs out of a JSON body: one under its singular, or a list of them under its plural. Raises: `InputError`."""
    many = f"{one}s"
    unknown = set(content) - {one, many, *options}
    if unknown or (one in content) == (many in content):
        named = f"unknown: {', '.join(sorted(unknown))[:200]}" if unknown else f"exactly one of {one} and {many} is needed"
        raise InputError(f"The JSON body has the wrong fields ({named}).", hint=hint)
    values = [content[one]] if one in content else content[many]
    if not isinstance(values, list) or not all(map(is_one, values)):
        raise InputError(f"The JSON body's {many} are no {what}.", hint=hint)
    return values


def encode_texts(texts: Sequence[str], settings: ServeSettings) -> list[bytes]:
    """Encode the texts of a request, once they are known to be few and short enough together: reading them is work for a thread each.

    Raises:
        TooLargeError: more texts, or more characters in all, than a request may have.
    """
    check_count(len(texts), settings.max_inputs)
    check_characters(sum(map(len, texts)), settings)
    return [text.encode() for text in texts]


def encode_pairs(pairs: Sequence[Sequence[str]], settings: ServeSettings) -> list[bytes]:
    """Encode the pairs of a request as `encode_texts` does texts; an empty text stays one, which the task refuses."""
    check_count(len(pairs), settings.max_inputs)
    check_characters(sum(len(text) for pair in pairs for text in pair), settings)
    return [joined([text.encode() for text in pair]) for pair in pairs]


def check_characters(characters: int, settings: ServeSettings) -> None:
    """Refuse more characters than a request may have. Raises: `TooLargeError`."""
    if characters > settings.max_characters:
        hint = "Send several requests, or shorter texts: what is behind the model's window is not read."
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
