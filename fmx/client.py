"""A running service asked over HTTP: what `fmx predict --url` does. Standard library alone, so that it works where nothing else is installed."""

from __future__ import annotations

import ipaddress
import json
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from fmx.errors import FmxError, InputError, PackageError, SurroundingsError, TooLargeError, UnsupportedTypeError, UsageError, first_line
from fmx.pairs import texts_of

TRIES = 4
LONGEST_WAIT_S = 30
"""A service that names a longer time, as for a daily quota, is not waited for."""
TIMEOUT_S = 60.0

ERRORS: dict[int, type[FmxError]] = {
    HTTPStatus.BAD_REQUEST: InputError,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TooLargeError,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: UnsupportedTypeError,
    HTTPStatus.UNAUTHORIZED: UsageError,
    HTTPStatus.FORBIDDEN: UsageError,
    HTTPStatus.NOT_FOUND: UsageError,
    HTTPStatus.METHOD_NOT_ALLOWED: UsageError,
    HTTPStatus.REQUEST_TIMEOUT: SurroundingsError,
    HTTPStatus.TOO_MANY_REQUESTS: SurroundingsError,
    HTTPStatus.BAD_GATEWAY: SurroundingsError,
    HTTPStatus.SERVICE_UNAVAILABLE: SurroundingsError,
    HTTPStatus.GATEWAY_TIMEOUT: SurroundingsError,
}
"""By an answer's status, what it is on a command line: a fault of the input (3), of what was typed (2), or of the surroundings (7)."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow nothing: urllib would send the key along, to whatever host is named."""

    def redirect_request(self, *_: object) -> None:
        return None


class ServiceClient:
    """Asks one service. Raises: `UsageError` for an address that is none."""

    def __init__(self, url: str, key: str | None = None, *, say: Callable[[str], None] = lambda line: None) -> None:
        self._base = _checked(url)
        self._headers = {"Authorization": f"Bearer {_sendable(key)}"} if key else {}
        self._say = say
        if key and _is_overheard(self._base):
            say("The key travels unencrypted: --url is http, and not this machine.")
        self._opener = urllib.request.build_opener(_NoRedirect, *([urllib.request.ProxyHandler({})] if _is_this_machine(self._base) else []))

    def predict(self, data: bytes, top_k: int | None, noun: str = "image") -> dict[str, Any]:
        """Send one encoded input, an image, the UTF-8 of a text, or a pair of texts; wait and try again, a few times, where the service is full.

        Args:
            data: of the input.
            top_k: labels that are wanted; None where the model answers something else.
            noun: what the input is.

        Returns:
            Its answer: `{"request_id", "model", "predictions"}`.

        Raises:
            InputError: the service refuses the input.
            UsageError: the address or the key is wrong.
            SurroundingsError: the service cannot be reached, is not ready, or stays full.
        """
        body, kind = _as_body(data, noun)
        headers = {**self._headers, "Content-Type": kind, "Accept": "application/json", "User-Agent": "fmx"}
        request = urllib.request.Request(f"{self._base}/v1/predict" + (f"?top_k={top_k}" if top_k is not None else ""), data=body, headers=headers)
        for left in reversed(range(TRIES)):
            status, told, content = self._send(request)
            wait_s = _seconds_to_wait(status, told) if left else None
            if wait_s is None:
                break
            self._say(f"The service takes no more for now: trying again in {wait_s} s.")
            time.sleep(wait_s)
        if status != HTTPStatus.OK:
            raise _translated(status, told, content)
        return self._read(content)

    def takes(self) -> tuple[str, bool]:
        """Ask what the service's model reads, `image`, `text` or `pair`, and whether labels may be asked for; empty where it does not say."""
        status, _, content = self._send(urllib.request.Request(f"{self._base}/schema.json", headers={**self._headers, "User-Agent": "fmx"}))
        try:
            properties = json.loads(content)["routes"][0]["input"]["properties"] if status == HTTPStatus.OK else {}
        except (ValueError, KeyError, TypeError, IndexError):
            return "", True
        noun = next((noun for noun in ("image", "text", "pair") if f"{noun}s" in properties), "")
        return noun, not noun or "top_k" in properties

    def _send(self, request: urllib.request.Request) -> tuple[int, Message, bytes]:
        try:
            try:
                with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                    return answer.status, answer.headers, answer.read()
            except urllib.error.HTTPError as refused:
                with refused:
                    return refused.code, refused.headers, refused.read()
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error

    def _read(self, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not _is_prediction(answer):
            hint = "--url is the address of the service itself, without /v1/predict."
            raise UsageError(f"What answers at {self._base} is no fmx service.", hint=hint)
        checked: dict[str, Any] = answer
        return checked

    def _unreachable(self, error: Exception) -> SurroundingsError:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            hint = "Where the certificate is your own, name it: SSL_CERT_FILE=cert.pem fmx predict ..."
            return SurroundingsError(f"The certificate of {self._base} is not trusted: {reason.verify_message}.", hint=hint)
        said = first_line(reason) if isinstance(reason, Exception) else str(reason)
        return SurroundingsError(f"{self._base} does not answer ({said}).", hint="Does the service run there, and is it http or https?")


def _as_body(data: bytes, noun: str) -> tuple[bytes, str]:
    """Give an input as a request's body, and its content type. Raises: `InputError`: a pair is not UTF-8."""
    if noun == "image":
        return _as_file(data)
    if noun == "text":
        return data, "text/plain; charset=utf-8"
    try:
        return json.dumps({"pair": texts_of(data)}).encode(), "application/json"
    except UnicodeDecodeError as error:
        raise InputError(f"The pair is not UTF-8 ({error.reason}).", hint="Give both texts in UTF-8.") from error


def _as_file(data: bytes) -> tuple[bytes, str]:
    """Give a multipart body with one file, and its content type."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="input"\r\nContent-Type: application/octet-stream\r\n\r\n'
    return head.encode() + data + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _is_prediction(answer: Any) -> bool:
    try:
        told = answer["predictions"][0]
        if not isinstance(answer["model"]["name"] + answer["model"]["variant"], str):
            return False
        if "labels" not in told and "entities" not in told:
            return isinstance(told["score"], int | float)
        labels = told["entities"] if "entities" in told else told["labels"]
        return all(label["label"] and label["score"] >= 0 for label in labels)
    except (TypeError, KeyError, IndexError):
        return False


def _checked(url: str) -> str:
    """Give the base of an address. Raises: `UsageError`."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if is_address and "@" in parts.netloc:
        raise UsageError("The address of a service holds no user and no password.", hint="The key goes into --key or, better, FMX_KEY.")
    if not is_address or not url.isascii() or any(letter.isspace() for letter in url) or parts.query or parts.fragment:
        raise UsageError(f"{url!r} is no address of a service.", hint="Write --url http://127.0.0.1:3000 or --url https://models.example.com.")
    return url.rstrip("/")


def _is_overheard(url: str) -> bool:
    return urlsplit(url).scheme == "http" and not _is_this_machine(url)


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _sendable(key: str) -> str:
    """Check that a key fits into a header. Raises: `UsageError`, which does not show it."""
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise UsageError("The key holds a character that no key has.", hint="Is there a line's end or a space in FMX_KEY?")
    return key


def _seconds_to_wait(status: int, headers: Message) -> int | None:
    """Give how long a service that takes no more wants to be left alone; None where trying again soon is no use."""
    given = headers.get("Retry-After", "")
    if status != HTTPStatus.TOO_MANY_REQUESTS or not (given.isascii() and given.isdigit()):
        return None
    return int(given) if int(given) <= LONGEST_WAIT_S else None


def _translated(status: int, headers: Message, body: bytes) -> FmxError:
    """Make an error of ours of an answer, with its request id."""
    try:
        told = json.loads(body)["error"]
        message, hint, code = str(told["message"]), str(told.get("hint", "")), told.get("code")
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = f" to {headers['Location']}" if headers.get("Location") else ""
        message, hint, code = f"The service answered {status}{reason}, without a reason that fmx knows.", "Is --url the service's own address?", None
    kind = PackageError if code == PackageError.code else ERRORS.get(status, UsageError if 300 <= status < 400 else FmxError)
    request_id = headers.get("X-Request-ID")
    return kind(message, hint=f"{hint} Request id: {request_id}".strip() if request_id else hint)
