"""`fmx predict` with texts: arguments, files, lines of standard input, from a package and from a service behind a socket."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fmx.cli import main as module
from fmx.cli.inputs import are_texts, read_pairs, read_texts
from fmx.client import ServiceClient
from fmx.errors import InputError, TooLargeError
from fmx.package import Package
from fmx.pairs import joined
from fmx.predictor import PackagePredictor
from tests.serve.listening import configured, listening
from tests.serve.test_service import new_app

pytestmark = [
    pytest.mark.usefixtures("handlers_put_back"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's shell and its libraries
]

LATE, PAID = "the courier was late", "请退款，今天"


@dataclass
class Done:
    code: int
    out: str
    said: str

    @property
    def answer(self) -> Any:
        return json.loads(self.out)

    @property
    def inputs(self) -> list[str]:
        return [item["input"] for item in self.answer["predictions"]]


class Command:
    """Runs `fmx predict` in this process, with standard streams of its own that are as strict as a terminal's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Done:
        out, said = io.BytesIO(), io.BytesIO()
        with self._patch.context() as patch:
            patch.setattr(sys, "argv", ["fmx", "predict", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin)), encoding="utf-8"))
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="utf-8"))
            patch.setattr(sys, "stderr", io.TextIOWrapper(said, encoding="utf-8", errors="backslashreplace"))
            code = 0
            try:
                module.main()
            except SystemExit as ended:
                code = int(ended.code or 0)
            sys.stdout.flush()
            sys.stderr.flush()
            done = Done(code, out.getvalue().decode(), said.getvalue().decode())
        assert "Traceback" not in done.said, done.said
        return done


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(monkeypatch)


def expected(package: Package, *texts: str) -> list[str]:
    found = PackagePredictor.open(package.folder).predict([text.encode() for text in texts], 1)
    return [item["labels"][0]["label"] for item in found]


def found(done: Done) -> list[str]:
    return [item["labels"][0]["label"] for item in done.answer["predictions"]]


def test_texts_files_and_lines_are_answered_in_order(predict: Command, text_package: Package, tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text(f"{PAID}\n{PAID}\n", encoding="utf-8")
    lines = f"{LATE}\r\n\n  \n{PAID}\nlast without an end".encode()
    done = predict(str(text_package.folder), LATE, f"@{file}", "-", PAID, "--json", "--top-k", "1", stdin=lines)
    assert done.code == 0, done.said
    assert done.inputs == [LATE, f"@{file}", LATE, PAID, "last without an end", PAID]
    assert found(done) == expected(text_package, LATE, f"{PAID}\n{PAID}\n", LATE, PAID, "last without an end", PAID)
    assert done.answer["model"]["name"] == text_package.name
    assert not done.answer["errors"]


@pytest.mark.parametrize(
    "text", ["[bold]late[/bold] [/x]", "a\tb\nc", "\u202elate", "👨\u200d👩\u200d👧 thanks", "x" * 3000, "photo.jpg", "http://127.0.0.1/x"]
)
def test_any_text_is_shown_as_it_is(predict: Command, text_package: Package, text: str) -> None:
    done = predict(str(text_package.folder), text)
    assert done.code == 0, done.said
    assert text.split("\n")[0].split("\t")[0] in done.out
    assert predict(str(text_package.folder), text, "--json").inputs == [text]


def test_bad_text_is_told_and_the_others_are_answered(predict: Command, text_package: Package) -> None:
    done = predict(str(text_package.folder), LATE, "\u200b", " ", PAID, "--json")
    assert done.code == 3
    assert done.inputs == [LATE, PAID]
    assert [fault["input"] for fault in done.answer["errors"]] == ["\u200b", " "]
    assert all(fault["hint"] for fault in done.answer["errors"])
    assert "2 of 4" in done.said


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_bytes_of_a_shell_in_another_encoding_are_told(predict: Command, text_package: Package, form: list[str]) -> None:
    latin = "caf\udce9 late"  # what Python makes of an argument that is not UTF-8
    done = predict(str(text_package.folder), latin, LATE, *form)
    assert done.code == 3
    assert "not UTF-8" in done.out + done.said
    assert LATE in done.out
    lines = predict(str(text_package.folder), "-", *form, stdin=b"caf\xe9\n" + LATE.encode())
    assert lines.code == 3
    assert "not UTF-8" in lines.out + lines.said
    assert LATE in lines.out


def test_file_that_is_not_there_is_told(predict: Command, text_package: Package, tmp_path: Path) -> None:
    for missing in (f"@{tmp_path}/none", f"@{tmp_path}", "@"):
        done = predict(str(text_package.folder), missing)
        assert done.code == 3, done.said
        assert "cannot be read" in done.said


def test_empty_standard_input_is_no_success(predict: Command, text_package: Package) -> None:
    done = predict(str(text_package.folder), "-", stdin=b" \n\n")
    assert done.code in (2, 3)
    assert done.said


def test_option_like_text_goes_behind_two_dashes(predict: Command, text_package: Package) -> None:
    assert predict(str(text_package.folder), "--json", "--", "-5 stars, late").inputs == ["-5 stars, late"]


def test_texts_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff one\n")
    assert read_texts([f"@{tmp_path}/a", "two "]) == [(f"@{tmp_path}/a", b"\xff one\n"), ("two ", b"two ")]


def test_what_is_called_like_an_image_is_none_of_the_texts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert are_texts([LATE, PAID, "x" * 10_000, "nul\0", "a/b", ""])
    assert are_texts(["@letter.txt"])
    for image in ("photo.jpg", "PHOTO.PNG", "missing/photo.webp", str(tmp_path / "file"), str(tmp_path)):
        assert not are_texts([image])


def test_standard_input_is_looked_at_to_tell_texts_from_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from tests.conftest import encode

    image = Image.new("RGB", (40, 30), (250, 250, 250))
    seen = [
        (LATE.encode(), True),
        (PAID.encode(), True),
        (PAID.encode() * 2000, True),
        (b"", False),
        ("包".encode()[:2], False),
        (b"caf\xe9s", False),
    ]
    for data, is_text in [*seen, *((encode(image, kind), False) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"))]:
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert are_texts(["-"]) == is_text, data[:20]
        assert stdin.buffer.read() == data


@dataclass
class Running:
    url: str
    key: str


@pytest.fixture(scope="module")
def service(text_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with configured(text_package, tmp_path_factory.mktemp("keys")) as key, listening(new_app()) as address:
        yield Running(address, key)


def test_service_answers_as_the_package(predict: Command, service: Running, text_package: Package, tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    file.write_text(PAID, encoding="utf-8")
    done = predict("--url", service.url, "--key", service.key, "--json", "--top-k", "1", LATE, f"@{file}", PAID)
    assert done.code == 0, done.said
    assert done.inputs == [LATE, f"@{file}", PAID]
    assert found(done) == expected(text_package, LATE, PAID, PAID)
    assert done.answer["model"]["name"] == text_package.name


def test_service_takes_lines_of_standard_input(predict: Command, service: Running, text_package: Package) -> None:
    done = predict("--url", service.url, "--key", service.key, "--json", "-", stdin=f"{LATE}\n{PAID}\n".encode())
    assert done.code == 0, done.said
    assert done.inputs == [LATE, PAID]
    assert found(done) == expected(text_package, LATE, PAID)


def test_service_refuses_a_text_and_answers_the_others(predict: Command, service: Running) -> None:
    done = predict("--url", service.url, "--key", service.key, "--json", LATE, "\u200b", "caf\udce9", "", PAID)
    assert done.code == 3, done.said
    assert done.inputs == [LATE, PAID]
    assert len(done.answer["errors"]) == 3


def test_image_sent_to_a_service_of_texts_is_told(predict: Command, service: Running, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    done = predict("--url", service.url, "--key", service.key, str(tmp_path / "photo.png"))
    assert done.code == 2, done.said
    assert "is an image, and this model reads texts" in done.said


def test_client_says_what_the_service_says(service: Running) -> None:
    client = ServiceClient(service.url, service.key)
    assert client.predict(LATE.encode(), 2, "text")["predictions"][0]["labels"][1]["score"] >= 0
    with pytest.raises(InputError, match="not UTF-8"):
        client.predict(b"\xff", 1, "text")
    with pytest.raises(TooLargeError, match="100,000"):
        client.predict(b"a" * 100_001, 1, "text")


# Pairs of texts


@pytest.fixture(scope="module")
def pair_service(pair_package: Package, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with configured(pair_package, tmp_path_factory.mktemp("keys")) as key, listening(new_app()) as address:
        yield Running(address, key)


def test_two_texts_are_a_pair_here_and_at_a_service(predict: Command, pair_service: Running, pair_package: Package, tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_text(PAID, encoding="utf-8")
    given = [LATE, "lovely, thanks", "@@late", f"@{tmp_path / 'answer.txt'}", "-"]
    lines = f"{LATE}\t{PAID}\nwhy\tgreat\n".encode()
    pairs = [(LATE, "lovely, thanks"), ("@late", PAID), (LATE, PAID), ("why", "great")]
    wanted = PackagePredictor.open(pair_package.folder).predict([joined([text.encode() for text in pair]) for pair in pairs])
    for where in ((pair_package.folder,), ("--url", pair_service.url, "--key", pair_service.key)):
        done = predict(*map(str, where), "--json", *given, stdin=lines)
        assert done.code == 0, done.said
        assert done.inputs == [f"{LATE} | lovely, thanks", f"@late | @{tmp_path / 'answer.txt'}", f"{LATE} | {PAID}", "why | great"]
        assert [item["score"] for item in done.answer["predictions"]] == pytest.approx([item["score"] for item in wanted], abs=1e-4)
    done = predict(str(pair_package.folder), LATE, "lovely, thanks")
    assert f"{wanted[0]['score']:.4f}" in done.out
    assert "score" in done.out


def test_text_without_its_other_is_told(predict: Command, pair_package: Package) -> None:
    done = predict(str(pair_package.folder), LATE, PAID, "alone")
    assert (done.code, "'alone' is alone" in done.said) == (2, True), done.said
    done = predict(str(pair_package.folder), "-", stdin=b"no tab in here\n")
    assert (done.code, "is no pair" in done.said) == (3, True), done.said
    done = predict(str(pair_package.folder), "--json", LATE, "", "caf\udce9", LATE, LATE, PAID)
    assert (done.code, len(done.answer["errors"]), done.inputs) == (3, 2, [f"{LATE} | {PAID}"]), done.said


def test_pairs_keep_their_order() -> None:
    assert read_pairs(["a", "b", "c", "d"]) == [("a | b", joined([b"a", b"b"])), ("c | d", joined([b"c", b"d"]))]
