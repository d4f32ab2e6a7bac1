"""What a browser sees: a page to try the model, and the interface described for people and programs. Made at start for each task.

A page is one file: its style and script stand inside it and nowhere else is anything loaded from, which its Content-Security-Policy holds it to.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import orjson
from markupsafe import Markup
from starlette.responses import Response

from fmx.tasks import TASKS
from fmx.templates import render
from serve.headers import NO_CONTENT_POLICY
from serve.inputs import DEFAULT_LABELS, MOST_LABELS
from serve.pages.openapi import openapi
from serve.routes import DOCS, OPENAPI, PAGE, PREDICT
from serve.settings import ServeSettings

FOLDER = Path(__file__).parent


class Pages:
    """The answers, by path, for what the served model reads."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._answers = {task: self._made(task) for task in TASKS}

    def response(self, route: str, task: str) -> Response:
        """Give the answer for a route of `serve.routes.PAGES`, where a model of this task is served."""
        content, kind, policy = self._answers[task][route]
        return Response(content, media_type=kind, headers={"content-security-policy": policy})

    def _made(self, task: str) -> dict[str, tuple[str | bytes, str, str]]:
        settings, noun = self._settings, TASKS[task].noun
        described = openapi(settings, task)
        answers_with = TASKS[task].answers_with
        style = _asset("page.css")
        script = _asset(f"{noun}.js") + _asset(f"{answers_with}.js") + _asset("page.js")
        values: dict[str, object] = {"style": style, "script": script, "auth": settings.auth, "labels": DEFAULT_LABELS, "most_labels": MOST_LABELS}
        values |= {"noun": noun, "answers_with": answers_with}
        page = render("serve.pages", "page.html.j2", {**values, "docs": DOCS[1:], "predict": PREDICT[1:]}, folder="")
        docs = render("serve.pages", "docs.html.j2", {"style": style, "api": described, "source": OPENAPI[1:]}, folder="")
        policy = f"style-src {_hash(style)}; img-src blob: data:"
        return {
            PAGE: (page, "text/html", f"{NO_CONTENT_POLICY}; {policy}; script-src {_hash(script)}; connect-src 'self'; {TRUSTED}"),
            DOCS: (docs, "text/html", f"{NO_CONTENT_POLICY}; {policy}"),
            OPENAPI: (orjson.dumps(described), "application/json", NO_CONTENT_POLICY),
        }


TRUSTED = "require-trusted-types-for 'script'; trusted-types 'none'"
"""No text may become markup or a program, even by a slip of ours."""


def _asset(name: str) -> Markup:
    return Markup((FOLDER / name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
