"""What may be said of a new series beside a prediction: calibrated probabilities, or an interval around a number.

Decisions
- Everything is learned from out-of-fold outputs, and judged on patients that it was not learned from.
- Classes: a scale and biases on log probabilities (see training.calibration), which also bring back how frequent the
  classes are, since heads are fitted as if all were. Of more than 20,000 rows a sample of patients does.
- Numbers: the half-width that 95 % of patients' residuals stay within, split-conformal with pooled patients (Dunn et al.
  2022): each patient weighs the same, and one more patient is counted who lies outside. Fewer than 19 patients give none.
"""

from typing import Any

import numpy as np

from training import metrics
from training.calibration import FEWEST_SERIES, LEAST, calibrate
from training.folds import grouped_folds
from training.judge import MANY_ROWS, known
from training.probe import ProbeResult
from training.target import MULTILABEL

LEVEL = 0.95


def honest_outputs(result: ProbeResult) -> dict[str, Any]:
    """Ready for json.dumps: {"interval": ...} of numbers, {"calibrations": [...]} of classes: one, or one a label.

    A calibration is None below 10 series; half_width is None below 19 patients.
    """
    if not result.classes:
        return {"interval": interval(result.target, result.outputs[:, 0], result.who)}
    if result.kind != MULTILABEL:
        return {"calibrations": [_calibration(log_odds(result.outputs), result.target, result.who)]}
    both = [np.stack([1 - positive, positive], axis=1) for positive in result.outputs.T]
    return {
        "calibrations": [
            _calibration(
                log_odds(two[~np.isnan(truth)]), truth[~np.isnan(truth)].astype(int), result.who[~np.isnan(truth)]
            )
            for two, truth in zip(both, result.target.T, strict=True)
        ]
    }


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Logits (n, K) whose softmax is `probabilities` (n, K)."""
    return np.log(np.maximum(probabilities, LEAST))


def _calibration(logits: np.ndarray, truth: np.ndarray, who: np.ndarray) -> dict[str, Any] | None:
    if len(truth) > MANY_ROWS:
        names, member = np.unique(who, return_inverse=True)
        chance = np.random.default_rng(0).permutation(len(names))[member]
        kept = np.sort(np.argsort(chance, kind="stable")[:MANY_ROWS])
        logits, truth, who = logits[kept], truth[kept], who[kept]
    if len(truth) < FEWEST_SERIES or len(np.unique(truth)) < 2:
        return None
    return calibrate(logits, truth, list(who)).to_json()


def interval(truth: np.ndarray, predicted: np.ndarray, who: np.ndarray) -> dict[str, Any]:
    """level, half_width in the unit of truth (n,), and the coverage measured across folds of patients who (n,)."""
    residuals = np.abs(truth - predicted)
    covered = np.full(len(truth), np.nan)
    for train, test in grouped_folds(who):
        half = half_width(residuals[train], who[train])
        if half is not None:
            covered[test] = residuals[test] <= half
    told = ~np.isnan(covered)
    coverage: dict[str, float | None] = dict.fromkeys(("value", "low", "high"))
    if told.any():
        low, high = metrics.bootstrap(who[told], lambda w: metrics.mean(covered[told], w))
        coverage = {"value": known(metrics.mean(covered[told])), "low": known(low), "high": known(high)}
    return {"level": LEVEL, "half_width": half_width(residuals, who), "coverage": coverage}


def half_width(residuals: np.ndarray, who: np.ndarray) -> float | None:
    """The least width that the residuals (n,) of LEVEL of (patients + 1) stay within; None for too few patients."""
    names, member, counts = np.unique(who, return_inverse=True, return_counts=True)
    order = np.argsort(residuals, kind="stable")
    reached = np.cumsum(1 / counts[member][order])
    enough = reached >= LEVEL * (len(names) + 1) - 1e-9
    return float(residuals[order][enough.argmax()]) if enough.any() else None
