from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from fmx.data import open_source
from fmx.decoded import Decoded
from fmx.drift import BINS, FEATURES, TOPS, count, kolmogorov_smirnov, merge_rare, reference_counts, stability_index
from fmx.package import Package
from fmx.predictor import PackagePredictor
from serve import metrics
from serve.drift import DriftMonitor, read_reference
from tests.e2e.conftest import eventually


def alarms() -> dict[str, float]:
    return {name: metrics.drift_alarm.labels(name)._value.get() for name in FEATURES}


@pytest.fixture(scope="module")
def seen(small_package: Package) -> tuple[PackagePredictor, np.ndarray]:
    """The package, and 300 rows of its test data in random order."""
    predictor = PackagePredictor.open(small_package.folder)
    files = open_source("digits").splits["test"]
    order = np.random.default_rng(0).permutation(len(files))[:300]
    return predictor, np.stack([predictor.task.row(files[int(i)].read()) for i in order])


def watch(predictor: PackagePredictor, rows: np.ndarray, least_rows: int = 200, size: float | None = 3.0) -> dict[str, float]:
    for name in FEATURES:
        metrics.drift_alarm.labels(name).set(0)
    reference = read_reference(predictor.package.folder, predictor.contract.labels)
    monitor = DriftMonitor(reference, predictor.task.features, window_rows=2000, least_rows=least_rows, rows_per_second=1e9)
    monitor.show(shown=True)
    for row, probabilities in zip(rows, predictor.run_all(rows), strict=True):
        while monitor._rows.full():
            pass
        monitor.offer(Decoded(row, {"size": size} if size is not None else {}), probabilities)
    monitor.close()
    return alarms()


def test_rows_before_a_quiet_spell_are_judged_without_another_one(seen: tuple[PackagePredictor, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.drift.EVALUATE_SECONDS", 0.2)
    predictor, rows = seen
    reference = read_reference(predictor.package.folder, predictor.contract.labels)
    monitor = DriftMonitor(reference, predictor.task.features, window_rows=2000, least_rows=200, rows_per_second=1e9)
    monitor.show(shown=True)
    monitor.offer(Decoded(rows[0], {}), predictor.run(rows[:1])[0])
    assert eventually(lambda: metrics.drift_rows._value.get() == 1, 5)
    monitor.close()


def test_rows_like_the_reference_raise_no_alarm(seen: tuple[PackagePredictor, np.ndarray]) -> None:
    assert not any(watch(*seen).values())


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("brightness", lambda rows: np.clip(rows.astype(int) + 60, 0, 255).astype(np.uint8)),
        ("contrast", lambda rows: (rows // 3 + 40).astype(np.uint8)),
        ("red", lambda rows: np.stack([255 - rows[..., 0], rows[..., 1], rows[..., 2]], axis=-1)),
        ("sharpness", lambda rows: np.repeat(np.repeat(rows[:, ::8, ::8], 8, axis=1), 8, axis=2) // 4),
        ("class_share", lambda rows: np.repeat(rows[:1], len(rows), axis=0)),
    ],
)
def test_shifted_rows_raise_the_alarm_of_what_shifted(seen: tuple[PackagePredictor, np.ndarray], name: str, rows: object) -> None:
    predictor, plain = seen
    assert watch(predictor, rows(plain))[name] == 1  # type: ignore[operator]


def test_images_of_another_size_raise_the_alarm_and_rows_without_one_do_not(seen: tuple[PackagePredictor, np.ndarray]) -> None:
    predictor, rows = seen  # of digits, which are 8 x 8 pixels: 2 ** 3
    assert [name for name, alarm in watch(predictor, rows, size=5.0).items() if alarm] == ["size"]
    assert not any(watch(predictor, rows, size=None).values())


def test_quiet_hour_raises_no_alarm(seen: tuple[PackagePredictor, np.ndarray]) -> None:
    predictor, plain = seen
    assert not any(watch(predictor, np.full_like(plain[:50], 255)).values())
    assert not any(watch(predictor, plain[:12], least_rows=2).values())


def test_alarm_is_logged_once(seen: tuple[PackagePredictor, np.ndarray], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fmx.serve")
    watch(seen[0], np.full_like(seen[1], 200))
    assert len([record for record in caplog.records if "brightness" in record.message]) == 1


def test_chance_alone_seldom_makes_a_large_index_notable() -> None:
    random, reference = np.random.default_rng(0), np.random.default_rng(1).poisson(50, BINS)
    share = reference / reference.sum()
    found = [stability_index(reference, random.multinomial(rows, share)) for rows in (20, 60, 200, 1000) for _ in range(250)]
    assert sum(notable for _, notable in found) <= 5
    assert stability_index(reference, random.multinomial(200, np.roll(np.linspace(0, 1, BINS) / 10, 0)))[1]


def test_rare_bins_are_taken_together() -> None:
    reference, counts = np.array([1, 1, 98, 0, 0, 100, 2]), np.arange(7)
    expected, got = merge_rare(reference, counts)
    assert (expected.sum(), got.sum()) == (reference.sum(), counts.sum())
    assert (expected >= 0.05 * reference.sum()).all()


@pytest.mark.parametrize(("reference", "counts"), [([970, 30], [0, 500]), ([0] * 18 + [10, 990], [25] * 20)])
def test_reference_that_lies_in_one_bin_is_compared_too(reference: list[int], counts: list[int]) -> None:
    """The confidence of any accurate model, and the classes of any inspection where nearly all is well."""
    assert stability_index(np.array(reference), np.array(counts))[1]
    assert not stability_index(np.array(reference), np.array(reference) // 3)[1]


def test_distances_of_nothing_are_nothing() -> None:
    nothing, some = np.zeros(BINS, int), count(np.array([3.0, 900.0, -5.0]), 255.0)
    assert some.sum() == 3
    assert stability_index(some, nothing) == (0.0, False)
    assert stability_index(nothing, some) == (0.0, False)
    assert kolmogorov_smirnov(some, nothing) == 0.0
    assert kolmogorov_smirnov(some, some) == 0.0


def test_reference_of_an_earlier_version_is_read_as_far_as_it_goes(small_package: Package, tmp_path: Path) -> None:
    reference = json.loads((small_package.folder / "reference.json").read_text())
    labels = small_package.manifest.labels
    of_texts = {"tokens", "unknown_share", "latin_share", "han_share", "embedding_distance"}
    assert set(reference_counts(reference, labels)) == set(FEATURES) - of_texts
    for name in ("sharpness", "entropy", "red", "green", "blue", "size"):
        del reference[name]
    assert set(reference_counts(reference, labels)) == {"brightness", "contrast", "confidence", "class_share"}
    assert not reference_counts({"rows": 3, "class_share": {"other": 1.0}, **dict.fromkeys(TOPS, 7)}, labels)
