from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serve.batcher import MicroBatcher
from serve.errors import DeadlineError, NotReadyError, OverloadedError

SHAPE = (2, 2, 3)


def row(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint8)


def soon() -> float:
    return time.monotonic() + 30


class Model:
    """Answers each row with its own value; can be held, and can choke on a value."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.let_go = threading.Event()
        self.let_go.set()
        self.chokes_on: int | None = None
        self.short_by = 0

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.batches.append(len(rows))
        self.let_go.wait(30)
        values = rows[:, 0, 0, 0]
        if self.chokes_on in values:
            raise RuntimeError("choked")
        if len(rows) > 1 and self.short_by:
            return values[: -self.short_by, None]
        return values[:, None]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[MicroBatcher]:
    made = MicroBatcher(model, SHAPE, batch_rows=4, queue_rows=8)
    yield made
    model.let_go.set()
    made.close()


def occupy(model: Model, batcher: MicroBatcher) -> None:
    """Hold the model on a first row, so that what follows waits."""
    model.let_go.clear()
    ran = len(model.batches)
    batcher.submit([row(0)], soon())
    while len(model.batches) == ran:
        time.sleep(0.001)


def test_each_answer_belongs_to_its_row_mlserver_1306(batcher: MicroBatcher) -> None:
    """MLServer#1306: one client got all predictions, others another's."""

    def ask(value: int) -> int:
        while True:
            try:
                return int(batcher.submit([row(value)], soon())[0].result(10)[0])
            except OverloadedError:
                time.sleep(0.001)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(200))) == list(range(200))


def test_idle_batcher_runs_one_row_alone_and_waiting_rows_run_together(model: Model, batcher: MicroBatcher) -> None:
    batcher.submit([row(1)], soon())[0].result(10)
    assert model.batches == [1]
    occupy(model, batcher)
    futures = batcher.submit([row(value) for value in range(6)], soon())
    model.let_go.set()
    assert [int(future.result(10)[0]) for future in futures] == list(range(6))
    assert model.batches[-2:] == [4, 2]


def test_bad_row_costs_its_neighbours_nothing_litserve_340(model: Model, batcher: MicroBatcher) -> None:
    """LitServe#340: one bad input failed the whole batch."""
    model.chokes_on = 2
    occupy(model, batcher)
    futures = batcher.submit([row(value) for value in (1, 2, 3)], soon())
    model.let_go.set()
    assert int(futures[0].result(10)[0]) == 1
    assert int(futures[2].result(10)[0]) == 3
    with pytest.raises(RuntimeError, match="choked"):
        futures[1].result(10)


def test_wrong_number_of_answers_is_given_to_nobody(model: Model, batcher: MicroBatcher) -> None:
    model.short_by = 1
    occupy(model, batcher)
    futures = batcher.submit([row(value) for value in (5, 6, 7)], soon())
    model.let_go.set()
    assert [int(future.result(10)[0]) for future in futures] == [5, 6, 7]
    assert model.batches[-4:] == [3, 1, 1, 1]


def test_full_queue_refuses_whole_requests_with_a_time_to_wait(model: Model, batcher: MicroBatcher) -> None:
    occupy(model, batcher)
    batcher.submit([row(1)] * 7, soon())
    with pytest.raises(OverloadedError) as caught:
        batcher.submit([row(2)] * 2, soon())
    assert caught.value.retry_after_s >= 1
    batcher.submit([row(3)], soon())


def test_row_past_its_deadline_is_dropped_before_it_runs(model: Model, batcher: MicroBatcher) -> None:
    occupy(model, batcher)
    late = batcher.submit([row(9)], time.monotonic())[0]
    kept = batcher.submit([row(8)], soon())[0]
    model.let_go.set()
    with pytest.raises(DeadlineError):
        late.result(10)
    assert int(kept.result(10)[0]) == 8
    assert model.batches == [1, 1]


def test_row_that_nobody_waits_for_is_not_run(model: Model, batcher: MicroBatcher) -> None:
    occupy(model, batcher)
    gone = batcher.submit([row(9)], soon())[0]
    assert gone.cancel()
    model.let_go.set()
    assert int(batcher.submit([row(8)], soon())[0].result(10)[0]) == 8
    assert model.batches == [1, 1]


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 4), np.uint8), np.zeros(SHAPE, np.float32)])
def test_row_of_another_shape_or_type_never_reaches_a_batch(batcher: MicroBatcher, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="row"):
        batcher.submit([row(1), bad], soon())


def test_closing_answers_what_waits_and_refuses_what_comes(model: Model) -> None:
    batcher = MicroBatcher(model, SHAPE, batch_rows=4, queue_rows=8)
    occupy(model, batcher)
    futures = batcher.submit([row(1), row(2)], soon())
    closer = threading.Thread(target=batcher.close)
    closer.start()
    model.let_go.set()
    closer.join(10)
    assert [int(future.result(0)[0]) for future in futures] == [1, 2]
    with pytest.raises(NotReadyError):
        batcher.submit([row(3)], soon())
