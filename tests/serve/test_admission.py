from __future__ import annotations

import time

import pytest

from serve.admission import Admission
from serve.errors import OverloadedError


def test_places_are_held_and_given_back() -> None:
    admission = Admission(4)
    with admission.admit(3):
        with admission.admit(1), pytest.raises(OverloadedError), admission.admit(1):
            pass
        with pytest.raises(OverloadedError), admission.admit(2):
            pass
    with admission.admit(4):
        pass


def test_place_is_given_back_when_the_request_fails() -> None:
    admission = Admission(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.admit(1):
            raise ZeroDivisionError
    with admission.admit(1):
        pass


def test_seconds_to_wait_come_from_what_left_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    """ray-project/ray#22670: a refused request must say when to come again, and mean it."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    admission = Admission(200)
    for _ in range(8):
        with admission.admit(1):
            now[0] += 0.5
    with admission.admit(200), pytest.raises(OverloadedError) as caught, admission.admit(1):
        pass
    assert 40 <= caught.value.retry_after_s <= 50  # half of 200 at about 2.3 a second
    now[0] += 60
    with admission.admit(200), pytest.raises(OverloadedError) as caught, admission.admit(1):
        pass
    assert caught.value.retry_after_s == 1
