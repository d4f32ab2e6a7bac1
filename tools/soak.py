"""A long load on a real service: good requests, bad ones, aborted ones. Memory must stay flat, and no file or connection be left behind.

`make soak` asks 100,000 times: about ten minutes with the default package on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil

from fmx.package import find_package, load_package
from serve.scaling.capacity import golden_bodies
from serve.scaling.replica import replica_of

CALLERS = 8
ROUNDS = 10
MOST_GROWTH = 0.01
"""Of the memory, a round: after the first two, in which what is needed once is taken."""


@dataclass(frozen=True)
class Held:
    """What a service holds."""

    bytes: int
    files: int
    """Open files, connections included."""
    temporary: int
    """Files in its temporary folder."""


def main() -> None:
    """Soak, print a line a round, and exit 1 where something grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--package", default=None, help="default: the latest")
    parser.add_argument("--requests", type=int, default=100_000)
    given = parser.parse_args()
    rounds = soak(Path(find_package(given.package)), given.requests)
    faults = faults_of(rounds)
    print("\n".join(faults) or "Flat.")
    sys.exit(1 if faults else 0)


def soak(folder: Path, requests: int) -> list[Held]:
    """Load a service of its own; gives what it held after each round."""
    package = load_package(folder)
    bodies = golden_bodies(package)
    with tempfile.TemporaryDirectory(prefix="fmx-soak-") as temporary:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = temporary
        tempfile.tempdir = None
        try:
            with replica_of(package, 1) as url:
                return asyncio.run(_rounds(url, bodies, requests, Path(temporary)))
        finally:
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before
            tempfile.tempdir = None


async def _rounds(url: str, bodies: list[tuple[bytes, str]], requests: int, temporary: Path) -> list[Held]:
    held = []
    for number in range(ROUNDS):
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(_call(session, url, bodies, caller, requests // ROUNDS // CALLERS) for caller in range(CALLERS)))
        await asyncio.sleep(1.0)  # connections close
        held.append(_held(int(url.rsplit(":", 1)[1]), temporary))
        print(f"{(number + 1) * requests // ROUNDS} requests: {held[-1]}", flush=True)
    return held


async def _call(session: aiohttp.ClientSession, url: str, bodies: list[tuple[bytes, str]], caller: int, times: int) -> None:
    """Ask so often: of twenty requests one is no image, one a form, one is given up while it is answered."""
    for turn in range(times):
        body, kind = bodies[(caller + turn) % len(bodies)]
        wanted = 200
        data: object = body
        headers = {"Content-Type": kind}
        if turn % 20 == 7:
            data, wanted = b"no image", 400
        elif turn % 20 == 13:
            form = aiohttp.FormData()
            form.add_field("a", body, filename="a", content_type=kind)
            data, headers = form, {}
        timeout = aiohttp.ClientTimeout(total=0.001 if turn % 20 == 17 else 60)
        with contextlib.suppress(TimeoutError, aiohttp.ClientError) if turn % 20 == 17 else contextlib.nullcontext():
            async with session.post(f"{url}/v1/predict", data=data, headers=headers, timeout=timeout) as answer:
                await answer.read()
                if answer.status != wanted:
                    raise SystemExit(f"status {answer.status}, not {wanted}: {await answer.text()}")


def _held(port: int, temporary: Path) -> Held:
    workers = [process for process in psutil.Process().children(recursive=True) if "_bentoml_impl.worker" in " ".join(process.cmdline())]
    listening = [process for process in workers if any(at.laddr.port == port for at in process.net_connections() if at.laddr)]
    own = [file for file in temporary.rglob("*") if file.is_file() and "prometheus" not in str(file) and file.name != "log"]
    return Held(sum(one.memory_info().rss for one in listening), sum(one.num_fds() for one in listening), len(own))


def faults_of(rounds: list[Held], most_growth: float = MOST_GROWTH) -> list[str]:
    """Say what grew after the first two rounds."""
    first, last, steps = rounds[1], rounds[-1], len(rounds) - 2
    faults = []
    growth = (last.bytes / first.bytes - 1) / steps
    if growth > most_growth:
        faults.append(f"Memory grew by {100 * growth:.2f} % a round.")
    if last.files > first.files + 2:
        faults.append(f"Open files grew from {first.files} to {last.files}.")
    if last.temporary > first.temporary:
        faults.append(f"Temporary files grew from {first.temporary} to {last.temporary}.")
    return faults


if __name__ == "__main__":
    main()
