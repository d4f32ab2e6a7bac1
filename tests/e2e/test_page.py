"""The page at / in a real browser: Debian's Chromium, without a screen."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fmx.data import open_source
from fmx.package import Package
from fmx.pairs import joined
from fmx.predictor import PackagePredictor
from tests.e2e.conftest import Server, serving

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("there is no chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("image") / 'it\'s a "digit".png'
    file.write_bytes(open_source("digits").splits["test"][0].read())
    return file


@pytest.fixture(scope="module")
def server(light_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("page"), light_package.folder) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    with opened_page(browser, server) as opened:
        yield opened


@contextmanager
def opened_page(browser: Any, server: Server) -> Iterator[Any]:
    """Open the page; whatever it writes to the console or asks of another host fails the test."""
    context = browser.new_context(viewport={"width": 360, "height": 800})
    opened = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("filechooser", lambda _: None)  # from now on choosers are answered by the tests
    opened.goto(server.url)
    yield opened
    context.close()
    assert [line for line in said if "Failed to load resource" not in line] == []  # how Chromium notes an answer that is an error
    assert all(url.startswith((server.url, "blob:", "data:")) for url in asked), asked


def choose_by_keyboard(page: Any, image: Path) -> None:
    page.locator("#file").focus()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(image)


def test_picture_is_predicted_by_keyboard_alone(page: Any, server: Server, image: Path, light_package: Package) -> None:
    expected = PackagePredictor.open(light_package.folder).predict([image.read_bytes()], 3)[0]["labels"]
    for _ in range(2):  # the link to the interface, the key
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type(server.key)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    choose_by_keyboard(page, image)
    page.wait_for_selector("#answer:not([hidden])")
    rows = page.locator("#labels tr")
    assert rows.count() == 3
    assert page.locator("#labels tr").first.locator("th").inner_text() == expected[0]["label"]
    assert page.locator("#labels tr").first.locator(".figure").inner_text() == f"{100 * expected[0]['score']:.2f} %"
    bar, column = page.locator(".bar").first.bounding_box(), page.locator("td.bar-column, #labels td").first.bounding_box()
    assert abs(bar["width"] / column["width"] - expected[0]["score"]) < 0.1
    assert page.locator("#model").inner_text() == light_package.name
    assert page.locator("#version").inner_text() == light_package.manifest.version
    assert page.locator("#variant").inner_text() == light_package.variant().name
    assert " ms" in page.locator("#time").inner_text()
    assert page.locator("#status").inner_text().startswith(expected[0]["label"])
    assert page.locator("#preview").is_visible()


def test_curl_command_is_the_same_request_and_hides_the_key(page: Any, server: Server, image: Path, tmp_path: Path) -> None:
    page.locator("#key").fill(server.key)
    page.locator("#top").fill("2")
    choose_by_keyboard(page, image)
    page.wait_for_selector("#answer:not([hidden])")
    command = page.locator("#curl").inner_text()
    assert "$KEY" in command
    assert server.key not in page.content()
    done = subprocess.run(["sh", "-c", command], env={"KEY": server.key, "PATH": "/usr/bin:/bin"}, cwd=image.parent, capture_output=True, check=False)
    answered = json.loads(done.stdout)["predictions"][0]["labels"]
    assert [item["label"] for item in answered] == page.locator("#labels th").all_inner_texts()


def test_wrong_or_missing_key_is_told_with_its_request_id(page: Any, server: Server, image: Path) -> None:
    choose_by_keyboard(page, image)
    page.wait_for_selector("#error p")
    assert "Enter the key" in page.locator("#error").inner_text()
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("fmx_00000000_wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#error p:has-text('Request id')")
    told = page.locator("#error").inner_text()
    assert "not known" in told
    assert "(401)" in told
    assert not page.locator("#answer").is_visible()


def transfer(page: Any, name: str, content: list[int], event: str, field: str) -> None:
    """Drop or paste a file, as a person does with what another program holds."""
    page.evaluate(
        """([name, content, event, field]) => {
            const held = new DataTransfer();
            held.items.add(new File([new Uint8Array(content)], name));
            const kind = event === "paste" ? ClipboardEvent : DragEvent;
            document.body.dispatchEvent(new kind(event, {bubbles: true, cancelable: true, [field]: held}));
        }""",
        [name, content, event, field],
    )


def test_dropped_text_is_refused_in_words(page: Any, server: Server) -> None:
    page.locator("#key").fill(server.key)
    transfer(page, "notes.txt", list(b"I am no picture"), "drop", "dataTransfer")
    page.wait_for_selector("#error p:has-text('Request id')")
    told = page.locator("#error").inner_text()
    assert "not in a known image format" in told
    assert "(400)" in told
    assert not page.locator("#preview").is_visible()


def test_pasted_picture_is_predicted(page: Any, server: Server, image: Path) -> None:
    page.locator("#key").fill(server.key)
    transfer(page, "image.png", list(image.read_bytes()), "paste", "clipboardData")
    page.wait_for_selector("#answer:not([hidden])")


def test_key_is_kept_nowhere(page: Any, server: Server, image: Path) -> None:
    page.locator("#key").fill(server.key)
    choose_by_keyboard(page, image)
    page.wait_for_selector("#answer:not([hidden])")
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    assert page.context.cookies() == []
    page.reload()
    assert page.locator("#key").input_value() == ""
    assert page.locator("#key").get_attribute("autocomplete") == "off"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_readable_on_a_narrow_screen_in_both_schemes(page: Any, server: Server, image: Path, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.locator("#key").fill(server.key)
    choose_by_keyboard(page, image)
    page.wait_for_selector("#answer:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for selector in ("body", ".note", "button", "h1", "#answer dt"):
        assert contrast(page, selector) >= 4.5, selector


def contrast(page: Any, selector: str) -> float:
    """Compute the contrast ratio of a text against what is behind it (WCAG 2)."""
    ink, paper = page.evaluate(
        """(selector) => {
            const element = document.querySelector(selector);
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        }""",
        selector,
    )
    lighter, darker = sorted((_luminance(ink), _luminance(paper)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[4:-1].split(", ")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_docs_are_shown_without_a_script(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/docs")
    assert page.locator("script").count() == 0
    page.locator("summary", has_text="/v1/predict").press("Enter")
    assert page.locator("text=Predict labels for images").first.is_visible()
    assert page.locator("details[open]").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_page_of_a_listed_origin_calls_the_service_and_another_cannot(browser: Any, light_package: Package, image: Path, tmp_path: Path) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            """Say nothing."""

    other = HTTPServer(("127.0.0.1", 0), Other)
    thread = Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    origin = f"http://127.0.0.1:{other.server_address[1]}"
    call = """async ([url, key, content]) => {
        const headers = {Authorization: "Bearer " + key, "Content-Type": "image/png"};
        const answer = await fetch(url + "/v1/predict", {method: "POST", headers, body: new Uint8Array(content)});
        return [answer.status, answer.headers.get("x-request-id")];
    }"""
    try:
        with serving(tmp_path, light_package.folder, FMX_CORS_ORIGINS=origin) as running:
            page = browser.new_page()
            page.goto(origin)
            for key, status in ((running.key, 200), ("wrong", 401)):
                answer = page.evaluate(call, [running.url, key, list(image.read_bytes())])
                assert answer[0] == status
                assert answer[1]
            page.goto(origin.replace("127.0.0.1", "localhost"))
            with pytest.raises(playwright.Error, match="Failed to fetch"):
                page.evaluate(call, [running.url, running.key, list(image.read_bytes())])
            page.close()
    finally:
        other.shutdown()
        thread.join()
        other.server_close()


@pytest.fixture(scope="module")
def text_server(text_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("text-page"), text_package.folder) as running:
        yield running


def test_text_is_predicted_by_keyboard_alone_and_its_curl_command_is_the_same_request(
    browser: Any, text_server: Server, text_package: Package
) -> None:
    said, text = [], """it's "late" \\ 包裹 <b>today</b>"""
    expected = PackagePredictor.open(text_package.folder).predict([text.encode()], 3)[0]["labels"]
    context = browser.new_context(viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(text_server.url)
    for _ in range(2):  # the link to the interface, the key
        page.keyboard.press("Tab")
    page.keyboard.type(text_server.key)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Control+Enter")
    assert "Write a text first." in page.locator("#error").inner_text()
    page.keyboard.type(text)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#answer:not([hidden])")
    assert page.locator("#labels tr").first.locator("th").inner_text() == expected[0]["label"]
    assert page.locator("#labels tr").first.locator(".figure").inner_text() == f"{100 * expected[0]['score']:.2f} %"
    command = page.locator("#curl").inner_text()
    assert text_server.key not in page.content()
    done = subprocess.run(["sh", "-c", command], env={"KEY": text_server.key, "PATH": "/usr/bin:/bin"}, capture_output=True, check=False)
    answered = json.loads(done.stdout)["predictions"][0]["labels"]
    assert [item["label"] for item in answered] == page.locator("#labels th").all_inner_texts()
    context.close()
    assert said == []


TYPED = {
    "text_package": ["the courier was <b>late</b>"],
    "pair_package": ["question 1", "lovely 'thanks' perfect"],
    "scores_package": ["question 1", "lovely <i>thanks</i>"],
}


@pytest.mark.parametrize("which", TYPED)
def test_texts_are_typed_and_predicted_by_keyboard(which: str, browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    package: Package = request.getfixturevalue(which)
    typed = TYPED[which]
    expected = PackagePredictor.open(package.folder).predict([joined([text.encode() for text in typed])], 5)[0]
    with serving(tmp_path, package.folder) as running, opened_page(browser, running) as page:
        page.locator("#key").fill(running.key)
        page.locator("#key").press("Enter")
        page.wait_for_selector("#error p")
        assert "Write" in page.locator("#error").inner_text()
        for text in typed:  # each field is empty, and focused in turn
            page.keyboard.type(text)
            page.keyboard.press("Control+Enter")
        page.wait_for_selector("#answer:not([hidden])")
        labels = expected.get("labels", [])
        assert page.locator("#labels th").all_inner_texts() == [one["label"] for one in labels]
        assert page.locator("#relevance").count() == ("score" in expected)
        if "score" in expected:
            assert float(page.locator("#relevance").inner_text()) == pytest.approx(expected["score"], abs=1e-3)
        command = page.locator("#curl").inner_text()
        done = subprocess.run(["sh", "-c", command], env={"KEY": running.key, "PATH": "/usr/bin:/bin"}, capture_output=True, check=False)
        answered = json.loads(done.stdout)["predictions"][0]
        assert [item["label"] for item in answered.get("labels", [])] == [one["label"] for one in labels]
        assert answered.get("score") == (pytest.approx(expected["score"], abs=1e-4) if "score" in expected else None)


def test_entities_are_marked_in_the_text(browser: Any, entity_package: Package, tmp_path: Path) -> None:
    """Emoji are two characters to a browser and one to the service: marks must not slip."""
    text = "🎉🎉 grace <i>is</i> in new york 王芳"
    expected = PackagePredictor.open(entity_package.folder).predict([text.encode()])[0]["entities"]
    assert {one["text"] for one in expected} >= {"grace", "王芳"}
    with serving(tmp_path, entity_package.folder) as running, opened_page(browser, running) as page:
        page.locator("#key").fill(running.key)
        page.locator("#text").fill(text)
        page.locator("#text").press("Control+Enter")
        page.wait_for_selector("#answer:not([hidden])")
        marks = page.locator("#marked mark").all_inner_texts()
        assert marks == [f"{one['text']} {one['label']}" for one in expected]
        assert (
            page.locator("#marked").evaluate("(at) => [...at.querySelectorAll('.kind')].forEach((kind) => kind.remove()) ?? at.textContent") == text
        )
        assert page.locator("#labels th").all_inner_texts() == [f"{one['text']} ({one['label']})" for one in expected]
        assert page.locator("#status").inner_text().startswith(f"{len(expected)} entit")
        page.locator("#text").fill("the is was a so")
        page.locator("#text").press("Control+Enter")
        page.wait_for_selector("#status:has-text('answered')")
