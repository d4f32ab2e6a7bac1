from __future__ import annotations

import pytest

from fmx import comparison
from fmx.comparison import Limits, compare_packages
from fmx.package import Package
from fmx.predictor import PackagePredictor

LOOSE = Limits(drop=100, slower=1e6, larger=1e6)


def test_a_package_is_no_worse_than_itself(small_package: Package) -> None:
    compared = compare_packages(small_package.folder, small_package.folder, "digits", Limits(drop=0, slower=1e6, larger=0))
    assert compared.worse == ()
    assert compared.facts["drop"] == 0
    assert compared.facts["changed"] == 0
    assert compared.facts["old"]["accuracy"] == compared.facts["new"]["accuracy"]


def test_each_measure_that_got_worse_is_a_sentence(small_package: Package, light_package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """From digits' ten classes to a random network's three: labels are gone, and it can be said before any row is read."""
    monkeypatch.setattr(comparison, "_medians", lambda sides: {"old": 1.0, "new": 1.5})
    compared = compare_packages(small_package.folder, small_package.folder, "digits", Limits(drop=0.5, slower=10, larger=10))
    assert compared.worse == ("A row takes 50 % longer (1.00 to 1.50 ms), more than 10 %.",)
    both = PackagePair(small_package, light_package)
    assert comparison._contract_changes(*both.predictors()) == ["Labels are gone: 0, 1, 2, 3, 4."]


def test_a_larger_file_is_worse(small_package: Package) -> None:
    int8, fp32 = (variant.name for variant in small_package.manifest.variants)
    small = compare_packages(small_package.folder, small_package.folder, "digits", LOOSE, variant=int8)
    large = compare_packages(small_package.folder, small_package.folder, "digits", LOOSE, variant=fp32)
    assert small.facts["new"]["bytes"] < large.facts["new"]["bytes"]
    assert small.facts["old"]["variant"] == int8


class PackagePair:
    def __init__(self, *packages: Package) -> None:
        self.packages = packages

    def predictors(self) -> list[PackagePredictor]:
        return [PackagePredictor.open(package.folder, variant="fp32") for package in self.packages]


def test_accuracy_that_falls_is_worse(small_package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    run_all, calls = PackagePredictor.run_all, []

    def blinded(self: PackagePredictor, rows: object, advance: object = None) -> object:
        calls.append(1)
        answers = run_all(self, rows)  # type: ignore[arg-type]
        return answers if len(calls) == 1 else answers[:, ::-1]

    monkeypatch.setattr(PackagePredictor, "run_all", blinded)
    compared = compare_packages(small_package.folder, small_package.folder, "digits", Limits(drop=1, slower=1e6, larger=1e6))
    assert len(compared.worse) == 1
    assert "Accuracy fell by" in compared.worse[0]
    assert compared.facts["p_value"] < 0.001


def test_gone_labels_and_other_sizes_end_the_comparison(small_package: Package, light_package: Package) -> None:
    compared = compare_packages(small_package.folder, light_package.folder, "digits", LOOSE)
    assert "Labels are gone" in compared.worse[0]
    old = PackagePredictor.open(small_package.folder)
    new = PackagePredictor.open(small_package.folder)
    new.contract = old.contract.model_copy(update={"input": old.contract.input.model_copy(update={"height": 64})})
    assert comparison._contract_changes(old, new) == ["The input's height is 64, no longer 32."]


def test_every_variant_has_a_tolerance() -> None:
    from typing import get_args

    from fmx.contract import Variant
    from fmx.predictor import TOLERANCE

    assert set(TOLERANCE) == set(get_args(Variant.model_fields["name"].annotation))
