from __future__ import annotations

import signal

import pytest

from fmx.cli import main as module
from fmx.errors import UsageError

pytestmark = pytest.mark.usefixtures("handlers_put_back")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("error", [RecursionError("maximum recursion depth exceeded"), UsageError("needs a library")])
def test_signal_that_a_library_turned_into_an_error_still_ends_with_its_code(
    monkeypatch: pytest.MonkeyPatch, number: int, code: int, error: Exception
) -> None:
    """A signal in the middle of torch's import came out as a RecursionError, and was called a fault of fmx."""

    def app() -> None:
        try:
            signal.raise_signal(number)
        except BaseException:
            raise error from None

    monkeypatch.setattr(module, "app", app)
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == code


def test_error_without_a_signal_keeps_its_own_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def app() -> None:
        raise UsageError("It cannot be.", hint="Do otherwise.")

    monkeypatch.setattr(module, "app", app)
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    assert "Do otherwise." in capsys.readouterr().err
