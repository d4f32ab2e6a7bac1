"""The search for an int8 body that keeps its budget: ranges by the cheap measure, then, only where the budget is missed, layers put back to float.

The cheap measure is the signal-to-noise ratio of the logits on a few validation rows; the budget is judged on the validation rows. Test rows
are not looked at here.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.bias_correction import correct_biases
from export.calibration import Feed, RangeMethod, Ranges, collect_ranges
from export.graph import LOGITS, input_name
from export.probe import Noise, decibels, measure_noise
from export.quantize import Scheme, quantize_body
from export.start import Start
from fmx.host import usable_cpus
from fmx.runtime import open_session

CHEAP_ROWS = 64
"""Validation rows of the cheap measure."""

PROBE_ROWS = 128
"""Calibration rows on which layers are probed."""

COLLAPSED_DB = 6.0
"""Below this ratio of the logits one granularity of the weights' scales has collapsed, and the other is tried."""

WORTH_DB = 0.1
"""What putting a layer back must raise the logits' ratio by for it to stay float."""

SHARE_FLOAT = 0.5
"""Of the layers, at most this share is put back: beyond it int8 is not what the file is."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Problem:
    """What is quantised, and how a result is judged."""

    prepared: onnx.ModelProto
    start: Start | None
    feed: Feed
    calibration: np.ndarray
    """Training rows."""
    cheap: np.ndarray
    """A few validation rows."""
    drop: Callable[[onnx.ModelProto], float]
    """Points on the validation rows that a quantised body loses against the eager model."""
    speed_up: Callable[[onnx.ModelProto], float | None]
    """How many times as fast as fp32 a quantised body is here; None where this host cannot tell."""
    ranges: Callable[[RangeMethod, Callable[[], Ranges]], Ranges]
    """Keeps ranges between exports."""


@dataclass(frozen=True)
class Choice:
    """One way to quantise."""

    ranges: RangeMethod
    scheme: Scheme
    bias_correction: bool = True
    keep_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A choice and what it came to; what was not measured is None."""

    choice: Choice
    ratio_db: float
    drop: float | None = None
    speed_up: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Give what the report says about it."""
        numbers = {"ratio_db": round(self.ratio_db, 2), "drop": self.drop, "speed_up": self.speed_up}
        return {**asdict(self.choice), **numbers}


@dataclass
class Search:
    """The search while it goes on: every trial in order, and the best body so far."""

    problem: Problem
    scheme: Scheme
    max_drop: float
    deadline: float = float("inf")
    say: Say = lambda line: None
    was_cut: bool = False
    """Whether the deadline ended it."""
    trials: list[Trial] = field(default_factory=list)
    _noise: dict[Scheme, dict[str, Noise]] = field(default_factory=dict)
    _bodies: dict[Choice, onnx.ModelProto] = field(default_factory=dict)
    _wanted: np.ndarray | None = None

    def run(self) -> tuple[onnx.ModelProto, Trial]:
        """Search, and give the best body with its trial: within the budget where one is, else with the smallest drop."""
        best = self._judge(self._choose_ranges())
        if not self._holds(best) and not self._is_late():
            best = self._better(best, self._judge(self._try(Choice("entropy", best.choice.scheme, best.choice.bias_correction))))
        if not self._holds(best):
            best = self._put_back(best)
        return self._bodies[best.choice], best

    def _choose_ranges(self) -> Trial:
        """Compare range methods, granularities and bias correction by the cheap measure."""
        tried = [self._try(Choice(method, self.scheme)) for method in ("minmax", "percentile")]
        best = max(tried, key=lambda trial: trial.ratio_db)
        if best.ratio_db < COLLAPSED_DB:
            other = replace(self.scheme, per_channel=not self.scheme.per_channel)
            best = max(best, self._try(replace(best.choice, scheme=other)), key=lambda trial: trial.ratio_db)
        plain = self._try(replace(best.choice, bias_correction=False))
        return max(best, plain, key=lambda trial: trial.ratio_db)

    def _put_back(self, best: Trial) -> Trial:
        """Put the noisiest layers back to float, one by one, until the budget holds."""
        order = self._noisiest_first(best.choice)
        self.say(f"int8 loses {best.drop:.2f} points on the validation rows; putting back layers, of {len(order)} the noisiest first.")
        current = best
        for node in order:
            if self._is_late() or len(current.choice.keep_float) + 1 > SHARE_FLOAT * len(order):
                break
            trial = self._try(replace(current.choice, keep_float=(*current.choice.keep_float, node)))
            if trial.ratio_db < current.ratio_db + WORTH_DB:
                continue
            current = self._judge(trial)
            speed = "" if current.speed_up is None else f", {current.speed_up:.2f} times as fast as fp32"
            self.say(f"{node} in float: {current.drop:.2f} points{speed}.")
            best = self._better(best, current)
            if self._holds(current) or (current.speed_up is not None and current.speed_up <= 1.0):
                break
        return best

    def _noisiest_first(self, choice: Choice) -> list[str]:
        """Rank layers by the signal-to-noise ratio of their outputs, weights and input quantised, each layer alone."""
        rows = self.problem.cheap
        noise = measure_noise(self.problem.prepared, self._bodies[choice], rows, self.problem.feed, quantised_inputs=True)
        return sorted(noise, key=lambda layer: noise[layer].ratio_db)

    def _try(self, choice: Choice) -> Trial:
        """Quantise and take the cheap measure."""
        for known in self.trials:
            if known.choice == choice:
                return known
        ranges = self._ranges(choice.ranges)
        body = quantize_body(self.problem.prepared, ranges, choice.scheme, start=self.problem.start, keep_float=choice.keep_float)
        if choice.bias_correction:
            correct_biases(body, self._weight_noise(choice.scheme, body))
        self._bodies[choice] = body
        trial = Trial(choice, self._ratio(body))
        self.trials.append(trial)
        return trial

    def _judge(self, trial: Trial) -> Trial:
        """Measure what a trial loses on the validation rows, and how fast it is."""
        if trial.drop is not None:
            return trial
        body = self._bodies[trial.choice]
        judged = replace(trial, drop=round(self.problem.drop(body), 4), speed_up=self.problem.speed_up(body))
        self.trials[self.trials.index(trial)] = judged
        return judged

    def _holds(self, trial: Trial) -> bool:
        return trial.drop is not None and trial.drop <= self.max_drop

    def _better(self, first: Trial, second: Trial) -> Trial:
        """Give the one that holds the budget, or loses less."""
        return min((first, second), key=lambda trial: (not self._holds(trial), trial.drop or 0.0, -trial.ratio_db))

    def _is_late(self) -> bool:
        self.was_cut = self.was_cut or time.monotonic() > self.deadline
        return self.was_cut

    def _ranges(self, method: RangeMethod) -> Ranges:
        def collect() -> Ranges:
            with tempfile.TemporaryDirectory(prefix="fmx-ranges-") as name:
                path = Path(name) / "prepared.onnx"
                onnx.save(self.problem.prepared, path)
                return collect_ranges(path, method, self.problem.calibration, self.problem.feed, self.scheme.operators)

        return self.problem.ranges(method, collect)

    def _weight_noise(self, scheme: Scheme, body: onnx.ModelProto) -> dict[str, Noise]:
        if scheme not in self._noise:
            rows = self.problem.calibration[:: max(1, len(self.problem.calibration) // PROBE_ROWS)]
            self._noise[scheme] = measure_noise(self.problem.prepared, body, rows, self.problem.feed, quantised_inputs=False)
        return self._noise[scheme]

    def _ratio(self, body: onnx.ModelProto) -> float:
        """Give the signal-to-noise ratio of the logits, their mean taken off: what is the same for every class changes no answer."""
        if self._wanted is None:
            self._wanted = self._logits(self.problem.prepared)
        wanted, got = (logits - logits.mean(axis=1, keepdims=True) for logits in (self._wanted, self._logits(body)))
        return decibels(float((wanted**2).sum()), float(((wanted - got) ** 2).sum()))

    def _logits(self, body: onnx.ModelProto) -> np.ndarray:
        session = open_session(body.SerializeToString(), threads=usable_cpus(), exact=True)
        return np.asarray(session.run([LOGITS], {input_name(self.problem.prepared): self.problem.feed(self.problem.cheap)})[0], np.float64)
