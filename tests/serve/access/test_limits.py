from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from limits import parse

from serve import metrics
from serve.access.caller import Caller
from serve.access.limits import Limiter, limit_headers, quota_a_day
from serve.errors import OverQuotaError

SHOP = Caller("shop", "shop", frozenset({"predict"}), rate=parse("3/minute"))


async def take(limiter: Limiter, caller: Caller, times: int) -> int:
    """Give how many of so many requests are let in."""
    let_in = 0
    for _ in range(times):
        try:
            await limiter.take(caller)
            let_in += 1
        except OverQuotaError:
            pass
    return let_in


def test_rate_is_held_for_each_caller_alone() -> None:
    limiter, app = Limiter(None, 1), Caller("app", "app", frozenset(), rate=parse("5/minute"))
    assert asyncio.run(take(limiter, SHOP, 10)) == 3
    assert asyncio.run(take(limiter, app, 10)) == 5
    assert asyncio.run(take(limiter, Caller("free", "free", frozenset()), 100)) == 100


def test_quota_a_day_is_held_beside_the_rate() -> None:
    caller = Caller("shop", "shop", frozenset(), rate=parse("100/second"), quota=quota_a_day(4))
    limiter = Limiter(None, 1)
    assert asyncio.run(take(limiter, caller, 10)) == 4
    with pytest.raises(OverQuotaError) as caught:
        asyncio.run(limiter.take(caller))
    assert caught.value.code == "over_quota"
    assert caught.value.http_status == 429
    assert 1 <= caught.value.retry_after_s <= 86_400


def test_headers_say_where_a_caller_stands() -> None:
    limiter = Limiter(None, 1)
    headers = limit_headers(asyncio.run(limiter.take(SHOP)))
    assert headers["ratelimit-policy"] == '"rate";q=3;w=60'
    assert headers["ratelimit"].startswith('"rate";r=2;t=')
    assert limit_headers([]) == {}


def test_workers_without_redis_take_their_shares() -> None:
    assert asyncio.run(take(Limiter(None, 2), Caller("shop", "shop", frozenset(), rate=parse("10/minute")), 10)) == 5


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real Redis on loopback."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}/0", server
    server.kill()
    server.wait()


def test_replicas_share_a_rate_in_redis(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    async def both() -> int:
        replicas = [Limiter(redis[0], 1) for _ in range(2)]
        let_in = [await take(replica, SHOP, 3) for replica in replicas]
        for replica in replicas:
            await replica.close()
        return sum(let_in)

    assert asyncio.run(both()) == 3


def test_lost_redis_leaves_the_rate_counted_here(redis: tuple[str, subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture) -> None:
    async def lose() -> int:
        limiter = Limiter(redis[0], 3)
        await limiter.take(SHOP)
        redis[1].kill()
        redis[1].wait()
        let_in = await take(limiter, SHOP, 10)
        await limiter.close()
        return let_in

    assert asyncio.run(lose()) == 1  # a third of the rate is this worker's share
    assert [record.message for record in caplog.records if "Redis does not answer" in record.message]


def test_a_look_tells_of_a_lost_redis_before_a_request_does(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    async def look() -> list[float]:
        limiter, seen = Limiter(redis[0], 1), []
        for is_lost in (False, True):
            if is_lost:
                redis[1].kill()
                redis[1].wait()
            await limiter.look()
            seen.append(metrics.limits_shared._value.get())
        await limiter.close()
        return seen

    assert asyncio.run(look()) == [1, 0]
