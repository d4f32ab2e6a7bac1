"""Whether every peer says what fmx's predictor says: `python -m benchmarks.serve_peers.check ENVIRONMENTS PACKAGE [PEER ...]`.

Starts one peer after another, asks it about two photographs, one call alone and then several at a time, and compares labels and scores.
"""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sklearn.datasets

from benchmarks.serve_peers.peers import PEERS, Peer
from benchmarks.serve_peers.processes import running
from fmx.package import load_package
from fmx.predictor import PackagePredictor

TOLERANCE = 1e-5
CALLERS, CALLS = 8, 32
PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def main() -> None:
    """Check the peers that are named, or all; exit 1 where one differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("environments", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--variant", help="the one that fmx would serve here, unless named")
    parser.add_argument("--port", type=int, default=4170)
    given = parser.parse_args()
    variant = given.variant or load_package(given.package).variant().name
    images = photographs()
    expected = PackagePredictor.open(given.package, variant=variant, threads=1).predict(images)
    if expected[0] == expected[1]:
        raise SystemExit("This package gives both photographs the same answer, so that agreement would say nothing.")
    names = given.peers or [name for name in PEERS if name != "null"]
    place = {"environments": given.environments, "port": given.port, "package": given.package, "variant": variant}
    agree = [check(name, place, images, [answer["labels"] for answer in expected]) for name in names]
    sys.exit(0 if all(agree) else 1)


def photographs() -> list[bytes]:
    """Give scikit-learn's two photographs as they are on disk."""
    folder = Path(sklearn.datasets.__file__).parent / "images"
    return [(folder / name).read_bytes() for name in PHOTOGRAPHS]


def check(name: str, place: dict[str, Any], images: list[bytes], expected: list[Any]) -> bool:
    """Ask one peer, say in a line what came of it, and give whether every answer was right."""
    peer = PEERS[name]
    with running(peer, **place) as server:

        def ask(turn: int) -> str:
            return fault_of(peer, server.url, images[turn % len(images)], expected[turn % len(images)])

        faults = [ask(turn) for turn in range(len(images))]
        with ThreadPoolExecutor(CALLERS) as pool:
            faults += pool.map(ask, range(CALLS))
    found = sorted(set(faults) - {""})
    outcome = f"{len(faults) - faults.count('')} of {len(faults)} calls failed: {'; '.join(found)}" if found else f"{len(faults)} calls agree"
    print(f"{name}: ready after {server.ready_s:.1f} s, {outcome}.", flush=True)
    return not found


def fault_of(peer: Peer, url: str, image: bytes, expected: list[dict[str, Any]]) -> str:
    """Ask about one image and say what is wrong with the answer; nothing where it is right."""
    request = urllib.request.Request(url, peer.body(image), {"Content-Type": peer.content_type})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            labels = peer.labels(answer.read())
    except urllib.error.HTTPError as error:
        return f"status {error.code}: {error.read()[:200].decode(errors='replace')}"
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    if [item["label"] for item in labels] != [item["label"] for item in expected]:
        return f"other labels: {labels}"
    furthest = max(abs(one["score"] - other["score"]) for one, other in zip(labels, expected, strict=True))
    return f"a score differs by {furthest:.1e}" if furthest > TOLERANCE else ""


if __name__ == "__main__":
    main()
