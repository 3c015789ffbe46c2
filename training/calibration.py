"""Zero-shot probabilities that mean what they say: a temperature and a bias for each class, from labelled series.

Without labels there is the one temperature that training leaves in the model (`fit_scale`).

Decisions
- softmax(scale * logits + bias), Guo et al. 2017 with vector bias; of two classes this is Platt's sigmoid. The scale is
  positive, so that calibration never turns the prompts round.
- Maximum a posteriori: log scale and biases are normal around 0 with deviation PRIOR, so that a handful of labels moves
  little and classes that labels part perfectly stay finite. A class without a label keeps the bias 0.
- What is said of the quality comes from patients that the calibration did not see (grouped folds), before and after on
  the same rows, beside the class shares of the other folds, with 95 % intervals by patient bootstrap. What is then applied
  is fitted on all labelled series.
- Shares of classes are learned from the labels: where these do not stand for the index, neither does what comes of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from models.errors import DecipherError
from training import metrics
from training.folds import grouped_folds

FEWEST_SERIES = 10
FEWEST_GROUPS = 2
PRIOR = 2.0
LARGEST_SCALE = 100.0
"""of cosines, as in training (models.decipher)"""
BINS = 10
LEAST = 1e-12
"""probabilities below count as this much in the log loss"""

Quality = dict[str, dict[str, float | None]]
"""balanced_accuracy, log_loss and calibration_error, each with value, low and high; None where undefined."""


@dataclass(frozen=True)
class Calibration:
    """scale > 0, a number, and bias (C,)."""

    scale: float
    bias: np.ndarray

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float64 (n, C) of logits (n, C)."""
        return np.exp(_log_softmax(self.scale * logits.astype(np.float64) + self.bias))

    def to_json(self) -> dict[str, Any]:
        return {"scale": round(self.scale, 6), "bias": [round(float(b), 6) for b in self.bias]}


@dataclass(frozen=True)
class Calibrated:
    """A calibration of all labelled series, and how good it was on unseen patients; n series of `groups` patients."""

    calibration: Calibration
    n: int
    groups: int
    before: Quality
    after: Quality
    prior: Quality

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for json.dumps."""
        names = ("n", "groups", "before", "after", "prior")
        return {**self.calibration.to_json(), **{name: getattr(self, name) for name in names}}


def calibrate(logits: np.ndarray, truth: np.ndarray, groups: Sequence[str], seed: int = 0) -> Calibrated:
    """Fit and judge a calibration, patients apart.

    logits (n, C), truth (n,) int below C, groups (n,): the patient of each row. DecipherError for fewer than 10 series
    or 2 patients, and for labels of one class.
    """
    who = np.asarray(groups, dtype=str)
    _check(truth, who)
    classes = logits.shape[1]
    after, prior = np.zeros(logits.shape), np.zeros(logits.shape)
    for train, test in grouped_folds(who, seed=seed, strata=truth):
        after[test] = fit(logits[train], truth[train]).probabilities(logits[test])
        counts = np.bincount(truth[train], minlength=classes) + 1.0
        prior[test] = counts / counts.sum()
    before = Calibration(1.0, np.zeros(classes)).probabilities(logits)
    qualities = [quality(truth, shares, who, seed) for shares in (before, after, prior)]
    return Calibrated(fit(logits, truth), len(truth), len(np.unique(who)), *qualities)


def _check(truth: np.ndarray, who: np.ndarray) -> None:
    hint = "Label more series, or leave out --calibrate."
    if len(truth) < FEWEST_SERIES:
        raise DecipherError(f"Calibration needs {FEWEST_SERIES} labelled series; there are {len(truth)}.", hint)
    if len(np.unique(who)) < FEWEST_GROUPS:
        raise DecipherError(f"Calibration needs labelled series of {FEWEST_GROUPS} patients; all are of one.", hint)
    if len(np.unique(truth)) < 2:
        raise DecipherError("All labels are of one class.", "Calibration needs labelled series of two classes or more.")


def fit(logits: np.ndarray, truth: np.ndarray) -> Calibration:
    """The most probable scale and biases for logits (n, C) and truth (n,), by the module's prior (L-BFGS)."""
    from scipy.optimize import minimize

    present, codes = np.unique(truth, return_inverse=True)
    own = logits[:, present].astype(np.float64)
    own = own - own.mean(axis=1, keepdims=True)
    found = minimize(partial(_loss, own, codes), np.zeros(1 + len(present)), jac=True, method="L-BFGS-B")
    bias = np.zeros(logits.shape[1])
    bias[present] = found.x[1:]
    return Calibration(math.exp(found.x[0]), bias)


def fit_scale(questions: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The number by which cosines are multiplied so that their softmax is as sure as it is right: the least mean log loss.

    questions: of each the cosines (n, C) of n series with C prompts, and the true one (n,). All count alike, however many
    series each has. One number and no bias, since prompts are not known before they are typed (temperature scaling: Guo et
    al., ICML 2017). It stays within 1 and LARGEST_SCALE.
    """
    from scipy.optimize import minimize_scalar

    known = [(cosines.astype(np.float64), truth) for cosines, truth in questions]

    def loss(log_scale: float) -> float:
        logs = [_log_softmax(math.exp(log_scale) * cosines) for cosines, _ in known]
        return -float(
            np.mean([own[np.arange(len(own)), truth].mean() for own, (_, truth) in zip(logs, known, strict=True)])
        )

    return float(math.exp(minimize_scalar(loss, bounds=(0.0, math.log(LARGEST_SCALE)), method="bounded").x))


def _loss(logits: np.ndarray, truth: np.ndarray, params: np.ndarray) -> tuple[float, np.ndarray]:
    """Negative log posterior of (log scale, bias (C,)), and its gradient."""
    scale = math.exp(params[0])
    logs = _log_softmax(scale * logits + params[1:])
    rest = np.exp(logs)
    rows = np.arange(len(truth))
    loss = -logs[rows, truth].sum() + params @ params / (2 * PRIOR**2)
    rest[rows, truth] -= 1
    gradient = np.concatenate([[scale * (rest * logits).sum()], rest.sum(axis=0)])
    return float(loss), gradient + params / PRIOR**2


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def quality(truth: np.ndarray, shares: np.ndarray, groups: Sequence[str] | np.ndarray, seed: int = 0) -> Quality:
    """How good probabilities (n, C) are for truth (n,), with 95 % intervals over groups (n,)."""
    scores: dict[str, metrics.Weighted] = {
        "balanced_accuracy": partial(metrics.balanced_accuracy, truth, shares.argmax(axis=1)),
        "log_loss": partial(log_loss, truth, shares),
        "calibration_error": partial(calibration_error, truth, shares),
    }
    found = {name: (score(None), *metrics.bootstrap(groups, score, seed=seed)) for name, score in scores.items()}
    return {
        name: dict(zip(("value", "low", "high"), map(_known, all_of), strict=True)) for name, all_of in found.items()
    }


def _known(value: metrics.Score) -> float | None:
    return float(value) if math.isfinite(value) else None


def log_loss(truth: np.ndarray, shares: np.ndarray, weights: np.ndarray | None = None) -> metrics.Score:
    """Mean of -log of the probability (n, C) of the true class (n,); weights as in training.metrics."""
    losses = -np.log(np.maximum(shares[np.arange(len(truth)), truth].astype(np.float64), LEAST))
    return _weighted(losses[:, None], weights)


def calibration_error(truth: np.ndarray, shares: np.ndarray, weights: np.ndarray | None = None) -> metrics.Score:
    """Expected calibration error: |share of right answers - mean probability of the winner|, over 10 equal bins of it.

    Naeini et al. 2015; bins count by their rows. truth (n,), shares (n, C), weights as in training.metrics.
    """
    winner = shares.argmax(axis=1)
    sure = shares[np.arange(len(truth)), winner].astype(np.float64)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = (bins[:, None] == np.arange(BINS)) * ((winner == truth) - sure)[:, None]
    return _weighted(gaps, weights)


def _weighted(parts: np.ndarray, weights: np.ndarray | None) -> metrics.Score:
    """Sum over k of |weighted mean of parts (n, k)|."""
    if weights is None:
        return float(np.abs(parts.mean(axis=0)).sum())
    means = np.abs(weights @ parts) / np.sum(weights, axis=-1, keepdims=True)
    return means.sum(axis=-1)
