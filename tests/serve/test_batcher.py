from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from fmx.decoded import Decoded
from fmx.errors import InputError
from serve.batcher import Lanes, MicroBatcher, Pending
from serve.errors import DeadlineError, NotReadyError

SHAPE = (2, 2, 3)
Start = Callable[..., MicroBatcher]


def row(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint8)


def soon() -> float:
    return time.monotonic() + 30


def decode(data: bytes) -> Decoded:
    if data == b"bad":
        raise InputError("no image")
    value, _, bucket = data.partition(b"@")
    return Decoded(row(int(value)), {"size": 3.0}, int(bucket or 0))


def values(pending: Pending) -> list[int]:
    return [int(value) for value in pending.future.result(10).answers[:, 0]]


class Model:
    """Answers each row with its own value; can be held, and can choke on a value."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.ran: list[list[int]] = []
        """The values of each batch."""
        self.at_once, self.most_at_once = 0, 0
        self.let_go = threading.Event()
        self.let_go.set()
        self.chokes_on: int | None = None
        self.short_by = 0
        self._lock = threading.Lock()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        with self._lock:
            self.batches.append(len(rows))
            self.ran.append(rows[:, 0, 0, 0].tolist())
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            self.let_go.wait(30)
            found = rows[:, 0, 0, 0].astype(np.float32)
            if self.chokes_on in found:
                raise RuntimeError("choked")
            return found[: -self.short_by, None] if len(rows) > 1 and self.short_by else found[:, None]
        finally:
            with self._lock:
                self.at_once -= 1


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def start(model: Model) -> Iterator[Start]:
    made = []

    def begin(
        slots: int = 1,
        threads: int = 1,
        batch_rows: int = 4,
        decode_rows: int = 4,
        alone: Model | None = None,
        bucket_rows: dict[int, int] | None = None,
    ) -> MicroBatcher:
        lanes = Lanes(model, slots, alone, threads, batch_rows, decode_rows, 0.001, bucket_rows or {})
        made.append(MicroBatcher(lanes, decode, SHAPE, np.dtype(np.uint8)))
        return made[-1]

    yield begin
    model.let_go.set()
    for batcher in made:
        batcher.close()


def occupy(model: Model, batcher: MicroBatcher, times: int = 1) -> list[Pending]:
    """Hold the model on first rows, so that what follows waits."""
    model.let_go.clear()
    held = []
    for _ in range(times):
        ran = len(model.batches)
        held.append(batcher.submit([row(0)], soon()))
        while len(model.batches) == ran:
            time.sleep(0.001)
    return held


@pytest.mark.parametrize(("slots", "threads", "batch_rows", "decode_rows"), [(1, 1, 4, 4), (2, 3, 4, 4), (2, 4, 16, 1), (4, 4, 1, 1)])
def test_each_answer_belongs_to_its_row_mlserver_1306(
    start: Start, model: Model, slots: int, threads: int, batch_rows: int, decode_rows: int
) -> None:
    """MLServer#1306: one client got all predictions, others another's."""
    batcher = start(slots, threads, batch_rows, decode_rows, alone=model)

    def ask(value: int) -> list[int]:
        return values(batcher.submit([str(value).encode(), row(255 - value)], soon()))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(200))) == [[value, 255 - value] for value in range(200)]
    assert model.most_at_once <= slots


def test_idle_batcher_runs_one_row_alone_and_waiting_rows_run_together(model: Model, start: Start) -> None:
    batcher = start()
    assert values(batcher.submit([row(1)], soon())) == [1]
    assert model.batches == [1]
    occupy(model, batcher)
    asked = [batcher.submit([row(value)], soon()) for value in range(6)]
    model.let_go.set()
    assert [values(pending) for pending in asked] == [[value] for value in range(6)]
    assert model.batches[-2:] == [4, 2]


def bucketed(value: int, bucket: int) -> bytes:
    return b"%d@%d" % (value, bucket)


def test_rows_of_different_buckets_never_run_together_and_the_oldest_goes_first(model: Model, start: Start) -> None:
    batcher = start(decode_rows=16)
    occupy(model, batcher)
    buckets = [3, 7, 3, 7, 7, 5, 3, 3, 3, 7]
    asked = [batcher.submit([bucketed(value, bucket)], soon()) for value, bucket in enumerate(buckets, start=1)]
    model.let_go.set()
    assert [values(pending) for pending in asked] == [[value] for value in range(1, 11)]
    assert model.ran[1:] == [[1, 3, 7, 8], [2, 4, 5, 10], [6], [9]]


def test_rows_of_one_request_in_several_buckets_are_answered_in_order(model: Model, start: Start) -> None:
    batcher = start(decode_rows=16)
    occupy(model, batcher)
    asked = batcher.submit([bucketed(1, 9), bucketed(2, 1), row(3), bucketed(4, 9), bucketed(5, 1), row(6)], soon())
    model.let_go.set()
    assert values(asked) == [1, 2, 3, 4, 5, 6]
    assert model.ran[1:] == [[1, 4], [2, 5], [3, 6]]


def test_bucket_has_batches_of_its_own_size(model: Model, start: Start) -> None:
    """Short texts gain by company, long ones do not; what is shorter than all that was measured counts as the shortest."""
    batcher = start(batch_rows=4, decode_rows=32, bucket_rows={4: 4, 5: 2, 6: 1})
    occupy(model, batcher)
    asked = [batcher.submit([bucketed(10 * bucket + number, bucket) for number in range(4)], soon()) for bucket in (3, 4, 5, 6)]
    model.let_go.set()
    assert [values(pending) for pending in asked] == [[10 * bucket + number for number in range(4)] for bucket in (3, 4, 5, 6)]
    assert [len(batch) for batch in model.ran[1:]] == [4, 4, 2, 2, 1, 1, 1, 1]


def test_bucket_of_which_there_are_few_does_not_starve(model: Model, start: Start) -> None:
    """Its row is answered as soon as all that came before it are, however many come behind."""
    batcher = start(batch_rows=2, decode_rows=2)
    occupy(model, batcher)
    before = [batcher.submit([bucketed(value, 1)], soon()) for value in (1, 2, 3)]
    rare = batcher.submit([bucketed(99, 8)], soon())
    behind = [batcher.submit([bucketed(value, 1)], soon()) for value in range(10, 40)]
    model.let_go.set()
    assert values(rare) == [99]
    for pending in (*before, *behind):
        pending.future.result(10)
    place = next(number for number, batch in enumerate(model.ran) if 99 in batch)
    assert model.ran[place] == [99]
    assert sum(len(batch) for batch in model.ran[1:place]) <= 4  # three before it, and one that fills a batch up


@pytest.mark.parametrize(("slots", "threads", "batch_rows", "decode_rows"), [(1, 1, 4, 4), (2, 3, 8, 8), (4, 5, 4, 1), (2, 2, 1, 4)])
def test_buckets_are_kept_apart_by_many_threads(start: Start, model: Model, slots: int, threads: int, batch_rows: int, decode_rows: int) -> None:
    batcher = start(slots, threads, batch_rows, decode_rows)

    def ask(value: int) -> list[int]:
        return values(batcher.submit([bucketed(value, value % 5), bucketed(255 - value, (255 - value) % 5)], soon()))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(250))) == [[value, 255 - value] for value in range(250)]
    assert all(len({value % 5 for value in batch}) == 1 for batch in model.ran)
    assert sum(map(len, model.ran)) == 500


def test_rows_that_wait_in_another_bucket_are_run_by_an_idle_slot(model: Model, start: Start) -> None:
    batcher = start(slots=2, threads=3, decode_rows=8)
    occupy(model, batcher, times=2)
    asked = [batcher.submit([bucketed(value, value)], soon()) for value in (1, 2, 3, 4)]
    model.let_go.set()
    assert [values(pending) for pending in asked] == [[1], [2], [3], [4]]
    assert sorted(model.ran[2:]) == [[1], [2], [3], [4]]


def test_lone_row_takes_every_slot_and_rows_in_company_one_each(model: Model, start: Start) -> None:
    alone = Model()
    batcher = start(slots=2, threads=2, batch_rows=1, alone=alone)
    assert values(batcher.submit([row(1)], soon())) == [1]
    assert (alone.batches, model.batches) == ([1], [])
    alone.let_go.clear()
    first = batcher.submit([row(2)], soon())
    while len(alone.batches) < 2:
        time.sleep(0.001)
    rest = [batcher.submit([row(value)], soon()) for value in (3, 4)]
    time.sleep(0.05)
    assert model.batches == []  # every slot is taken
    alone.let_go.set()
    assert [values(pending) for pending in (first, *rest)] == [[2], [3], [4]]


def test_rows_are_shared_out_over_the_slots(model: Model, start: Start) -> None:
    batcher = start(slots=2, threads=2, batch_rows=8, decode_rows=8)
    occupy(model, batcher, times=2)
    asked = [batcher.submit([row(value)], soon()) for value in range(6)]
    model.let_go.set()
    assert [values(pending) for pending in asked] == [[value] for value in range(6)]
    assert max(model.batches) <= 3


def test_bad_row_costs_its_neighbours_nothing_litserve_340(model: Model, start: Start) -> None:
    """LitServe#340: one bad input failed the whole batch."""
    batcher = start()
    model.chokes_on = 2
    occupy(model, batcher)
    asked = [batcher.submit([row(value)], soon()) for value in (1, 2, 3)]
    model.let_go.set()
    assert (values(asked[0]), values(asked[2])) == ([1], [3])
    with pytest.raises(RuntimeError, match="choked"):
        asked[1].future.result(10)


def test_input_that_cannot_be_decoded_fails_its_own_request_alone(model: Model, start: Start) -> None:
    batcher = start()
    occupy(model, batcher)
    asked = [batcher.submit(inputs, soon()) for inputs in ([b"1"], [b"2", b"bad", b"3"], [b"4"])]
    model.let_go.set()
    assert (values(asked[0]), values(asked[2])) == ([1], [4])
    with pytest.raises(InputError):
        asked[1].future.result(10)


def test_wrong_number_of_answers_is_given_to_nobody_and_counted_mlserver_1306(model: Model, start: Start) -> None:
    """MLServer#1306, BentoML: answers of a batch that came out shorter went to the wrong callers."""
    from serve import metrics

    batcher = start()
    model.short_by = 1
    before = metrics.batch_shape_mismatch._value.get()
    occupy(model, batcher)
    asked = [batcher.submit([row(value)], soon()) for value in (5, 6, 7)]
    model.let_go.set()
    assert [values(pending) for pending in asked] == [[5], [6], [7]]
    assert model.batches[-4:] == [3, 1, 1, 1]
    assert metrics.batch_shape_mismatch._value.get() == before + 1


def test_row_past_its_deadline_is_dropped_before_it_runs(model: Model, start: Start) -> None:
    batcher = start()
    occupy(model, batcher)
    late = batcher.submit([row(9)], time.monotonic())
    kept = batcher.submit([row(8)], soon())
    model.let_go.set()
    with pytest.raises(DeadlineError):
        late.future.result(10)
    assert values(kept) == [8]
    assert model.batches == [1, 1]


def test_row_that_nobody_waits_for_is_not_run(model: Model, start: Start) -> None:
    batcher = start()
    occupy(model, batcher)
    gone = batcher.submit([row(9)], soon())
    assert gone.future.cancel()
    model.let_go.set()
    assert values(batcher.submit([row(8)], soon())) == [8]
    assert model.batches == [1, 1]
    with pytest.raises(CancelledError):
        gone.future.result(10)


def test_hung_call_keeps_its_slot_after_its_caller_has_gone_bentoml_5642(model: Model, start: Start) -> None:
    """BentoML#5642: a timeout freed the slot while the work went on, so more ran at once than was allowed."""
    batcher = start(slots=1, threads=3)
    held = occupy(model, batcher)
    held[0].future.cancel()
    waiting = [batcher.submit([row(value)], soon()) for value in (1, 2)]
    time.sleep(0.1)
    assert model.most_at_once == 1
    assert len(model.batches) == 1
    model.let_go.set()
    assert [values(pending) for pending in waiting] == [[1], [2]]
    assert model.most_at_once == 1


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 4), np.uint8), np.zeros(SHAPE, np.float32)])
def test_row_of_another_shape_or_type_never_reaches_a_batch(start: Start, bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="row"):
        start().submit([row(1), bad], soon())


def test_closing_answers_what_waits_and_refuses_what_comes(model: Model, start: Start) -> None:
    batcher = start(slots=2, threads=3)
    occupy(model, batcher)
    asked = batcher.submit([row(1), b"2"], soon())
    closer = threading.Thread(target=batcher.close)
    closer.start()
    model.let_go.set()
    closer.join(10)
    assert not closer.is_alive()
    assert values(asked) == [1, 2]
    with pytest.raises(NotReadyError):
        batcher.submit([row(3)], soon())


class Panic(BaseException):
    """As what a library in Rust raises."""


def test_panic_of_a_decoder_fails_its_own_request_and_ends_no_thread(model: Model) -> None:
    def panic(data: bytes) -> Decoded:
        if data == b"bad":
            raise Panic("index out of range")
        return decode(data)

    batcher = MicroBatcher(Lanes(model, 1, None, 1, 4, 4, 0.001), panic, SHAPE, np.dtype(np.uint8))
    for _ in range(3):
        with pytest.raises(RuntimeError, match="Panic: index out of range"):
            batcher.submit([b"bad"], soon()).future.result(10)
        assert values(batcher.submit([b"7"], soon())) == [7]
    batcher.close()
