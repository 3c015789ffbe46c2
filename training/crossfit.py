"""Predictions of rows whose patient the fit never saw: folds, and folds within them to tune on.

Decisions
- Each row has one inner part for all outer folds, so that inner folds of any share of the rows are those parts in it.
- Features are standardised by the training rows of each fold; patch vectors stay as they were stored.
- Large tables are fitted in single precision, which tells what double would and takes half the time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from index.patches import Patches
from training.folds import grouped_folds
from training.heads import Folds

OUTER_FOLDS, INNER_FOLDS = 5, 3
SINGLE_FROM = 4_000_000
"""values of a table that is fitted in single precision"""
Fit = Callable[..., Callable[[Any], np.ndarray]]
Features = np.ndarray | Patches
"""vectors (n, p), or patches (n, N, E) in memory or where they were stored"""


@dataclass(frozen=True)
class Question:
    """What is asked of one column: of `rows` (n,) the `values` (n,), codes below n_classes or numbers (n_classes 0).

    outer: folds of 0..n; part (n,): the inner part of each row.
    """

    rows: np.ndarray
    values: np.ndarray
    n_classes: int
    outer: Folds
    part: np.ndarray

    def inner(self, rows: np.ndarray) -> Folds:
        """Folds within `rows`, numbered from 0 in `rows`; none where all are of one part."""
        part = self.part[rows]
        parts = np.unique(part)
        return [(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in parts] if len(parts) > 1 else []


def question(rows: np.ndarray, values: np.ndarray, n_classes: int, apart: np.ndarray, seed: int) -> Question:
    """Folds for `rows` (n,) that keep rows of one name in `apart` (n,) together, classes or fifths of numbers spread."""
    strata = strata_of(values, n_classes)
    outer = grouped_folds(apart, OUTER_FOLDS, seed, strata)
    part = np.zeros(len(rows), dtype=int)
    for number, (_, test) in enumerate(grouped_folds(apart, INNER_FOLDS, seed + 1, strata)):
        part[test] = number
    return Question(rows, values, n_classes, outer, part)


def strata_of(values: np.ndarray, n_classes: int) -> np.ndarray:
    """Classes, or fifths of the numbers, so that every fold spans the range."""
    if n_classes:
        return values
    return np.searchsorted(np.quantile(values, [0.2, 0.4, 0.6, 0.8]), values)


def thinned(asked: Question, training: list[np.ndarray]) -> Question:
    """The question with fewer training rows in each fold."""
    return replace(asked, outer=[(train, test) for train, (_, test) in zip(training, asked.outer, strict=True)])


def out_of_fold(fit: Fit, features: Features, asked: Question, seed: int) -> np.ndarray:
    """Outputs (n, 1) or (n, K) for features (n, p), or patches (n, N, E), of the question's rows."""
    parts = []
    for train, test in asked.outer:
        mean, scale = standard(features[train])
        predict = fit(
            scaled(features[train], mean, scale),
            asked.values[train],
            asked.inner(train),
            n_classes=asked.n_classes,
            seed=seed,
        )
        parts.append(predict(scaled(features[test], mean, scale)))
    outputs = np.zeros((len(asked.values), parts[0].shape[1]))
    outputs[np.concatenate([test for _, test in asked.outer])] = np.concatenate(parts)
    return outputs


def standard(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (p,) in float64; a column that does not vary is divided by 1; patches: 0 and 1."""
    if features.ndim > 2:
        return np.zeros(1), np.ones(1)
    table = np.asarray(features)
    mean, scale = table.mean(0, dtype=np.float64), table.std(0, dtype=np.float64)
    return mean, np.where(scale > 1e-7 * np.maximum(np.abs(mean), 1e-30), scale, 1.0)


def scaled(features: Features, mean: np.ndarray, scale: np.ndarray) -> Features:
    """Features (n, p) standardised; patches (n, N, E) as they are."""
    if features.ndim > 2:
        return features
    table = np.asarray(features)
    kind = np.float32 if table.size >= SINGLE_FROM else np.float64
    return (table.astype(kind, copy=False) - mean.astype(kind)) / scale.astype(kind)
