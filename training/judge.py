"""How good out-of-fold outputs are: every metric with an interval, for all that was judged or for a part of it.

Decisions
- Intervals resample patients and hold the fits fixed; of more than 20,000 rows 200 resamples tell as much as 1000.
- Of several labels each is judged where it is known, as if it had been probed alone; figures of all are means over labels.
- A part of fewer than 5 patients gets no figures: they would speak of persons, not of the part.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from training import metrics
from training.target import MOST_CATEGORIES, MULTILABEL, clean

FEWEST_PATIENTS = 5
MANY_ROWS, TRIES_OF_MANY = 20_000, 200
UNKNOWN = "unknown"
Figures = dict[str, dict[str, float | None]]
"""{metric: {value, low, high}}; None where undefined."""


@dataclass(frozen=True)
class Judge:
    """The truth (n,) or (n, L) of what is judged, and whose it is: who (n,) names patients."""

    kind: str
    classes: list[str]
    truth: np.ndarray
    who: np.ndarray
    seed: int

    def scores(self, outputs: np.ndarray, rows: np.ndarray | None = None) -> dict[str, metrics.Weighted]:
        """Every metric by name, for outputs (n, K) and, where given, some rows alone."""
        kept = np.arange(len(self.truth)) if rows is None else rows
        truth, outputs = self.truth[kept], outputs[kept]
        if self.kind == MULTILABEL:
            each = [self._label(truth, outputs, number) for number in range(len(self.classes))]
            return {name: partial(_mean_of, [one[name] for one in each]) for name in each[0]}
        if self.classes:
            return metrics.class_scores(truth, outputs)
        return metrics.number_scores(truth, outputs[:, 0])

    def _label(self, truth: np.ndarray, outputs: np.ndarray, number: int) -> dict[str, metrics.Weighted]:
        known = np.flatnonzero(~np.isnan(truth[:, number]))
        positive = outputs[known, number]
        found = metrics.class_scores(truth[known, number].astype(int), np.stack([1 - positive, positive], axis=1))
        return {name: partial(_weighted_rows, score, known) for name, score in found.items()}

    def trivial(self) -> np.ndarray:
        """Outputs that know the truth's shares alone: the largest class, or the mean, for every row."""
        if self.kind == MULTILABEL:
            return np.tile(np.round(np.nanmean(self.truth, axis=0)), (len(self.truth), 1))
        if not self.classes:
            return np.full((len(self.truth), 1), self.truth.mean())
        largest = np.bincount(self.truth).argmax()
        return np.tile(np.eye(len(self.classes))[largest], (len(self.truth), 1))

    def values(self, outputs: np.ndarray) -> dict[str, float | None]:
        """Every metric without its interval."""
        return {name: known(score(None)) for name, score in self.scores(outputs).items()}

    def figures(self, *draws: np.ndarray, rows: np.ndarray | None = None) -> Figures:
        """Every metric with its 95 % interval; of several draws of outputs (n, K), the mean."""
        found = [self.scores(outputs, rows) for outputs in draws]
        who = self.who if rows is None else self.who[rows]
        each = {name: partial(_mean_of, [one[name] for one in found]) for name in found[0]}
        return {name: with_interval(score, who, self.seed) for name, score in each.items()}

    def labels(self, outputs: np.ndarray) -> dict[str, Figures]:
        """The figures of each of several labels, by its name."""
        found = {}
        for number, name in enumerate(self.classes):
            scores = self._label(self.truth, outputs, number)
            found[name] = {metric: with_interval(score, self.who, self.seed) for metric, score in scores.items()}
        return found

    def parts(self, outputs: np.ndarray, column: Sequence[object]) -> dict[str, dict[str, Any]]:
        """{value: {n, groups, metrics}} for each value of a column (n,); metrics is None below 5 patients."""
        named = _parted(column)
        found: dict[str, dict[str, Any]] = {}
        for value in dict.fromkeys(sorted(named)):
            rows = np.flatnonzero(np.asarray(named) == value)
            groups = len(np.unique(self.who[rows]))
            told = self.figures(outputs, rows=rows) if groups >= FEWEST_PATIENTS else None
            found[value] = {"n": len(rows), "groups": groups, "metrics": told}
        return found


def known(value: metrics.Score) -> float | None:
    """A float, None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def _parted(column: Sequence[object]) -> list[str]:
    """The name of each row's part: its value; of many numbers the third it lies in."""
    cleaned = [clean(value) for value in column]
    numbers = [value for value in cleaned if isinstance(value, float)]
    texts = any(isinstance(value, str) for value in cleaned)
    if texts or len(set(numbers)) <= MOST_CATEGORIES:
        return [UNKNOWN if value is None else f"{value:g}" if isinstance(value, float) else value for value in cleaned]
    low, high = np.quantile(numbers, [1 / 3, 2 / 3])
    names = [f"below {low:g}", f"{low:g} to {high:g}", f"above {high:g}"]
    return [UNKNOWN if v is None else names[int(v >= low) + int(v > high)] for v in cleaned]


def _mean_of(scores: Sequence[metrics.Weighted], weights: np.ndarray | None) -> metrics.Score:
    """Mean over scores of those that are defined."""
    if len(scores) == 1:
        return scores[0](weights)
    found = np.stack([np.asarray(score(weights)) for score in scores])
    defined = np.isfinite(found)
    with np.errstate(invalid="ignore"):
        mean = np.where(defined, found, 0.0).sum(axis=0) / defined.sum(axis=0)
    return float(mean) if weights is None else mean


def _weighted_rows(score: metrics.Weighted, rows: np.ndarray, weights: np.ndarray | None) -> metrics.Score:
    return score(None if weights is None else weights[..., rows])


def with_interval(score: metrics.Weighted, who: np.ndarray, seed: int = 0) -> dict[str, float | None]:
    """value, and low and high of its 95 % interval over patients who (n,); None where undefined."""
    many: Mapping[str, int] = {"tries": TRIES_OF_MANY} if len(who) > MANY_ROWS else {}
    low, high = metrics.bootstrap(who, score, seed=seed, **many)
    return {"value": known(score(None)), "low": known(low), "high": known(high)}
