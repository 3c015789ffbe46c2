"""How good predictions are, with an interval: the numbers that probes and evaluation report.

Decisions
- Every metric takes optional `weights`: how often each row counts, (n,) or one line a resample, (tries, n). So the
  bootstrap sorts scores once and answers all resamples in a few array operations, also for 100,000 rows.
- Without weights the values are those of scikit-learn; rows of classes that are absent do not enter a macro average.
- What is not defined (one class, constant prediction) is NaN, never an exception.
- The bootstrap resamples groups (patients), since the series of one patient are no independent witnesses.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

Score = float | np.ndarray
"""A float, or (tries,) where the weights were (tries, n)."""

Weighted = Callable[[np.ndarray | None], Score]
"""A metric of given predictions, as a function of row weights."""

CHUNK_VALUES = 2_000_000


def balanced_accuracy(truth: np.ndarray, said: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """Mean recall of the classes that `truth` (n,) holds; `said` (n,) are the predicted classes."""
    w = _weights(weights, len(truth))
    member = _one_hot(truth, np.unique(truth))
    with np.errstate(invalid="ignore"):
        recall = w @ (member * (truth == said)[:, None]) / (w @ member)
    return _shaped(_mean_known(recall), weights)


def f1(truth: np.ndarray, said: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """Macro F1 over the classes that `truth` (n,) or `said` (n,) holds."""
    w = _weights(weights, len(truth))
    classes = np.unique(np.concatenate([truth, said]))
    true, predicted = _one_hot(truth, classes), _one_hot(said, classes)
    with np.errstate(invalid="ignore"):
        values = 2 * (w @ (true * predicted)) / (w @ true + w @ predicted)
    return _shaped(_mean_known(values), weights)


def auroc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """Area under the ROC curve, ties counted half (Mann-Whitney).

    Binary: truth (n,) of 0 and 1, scores (n,). Several classes: truth (n,) of codes below C, scores (n, C), macro
    average of one class against the rest over the classes present.
    """
    return _shaped(_by_class(_auroc, truth, scores, _weights(weights, len(truth))), weights)


def auprc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """Average precision, shapes as for `auroc`: sum over thresholds of precision times the recall gained."""
    return _shaped(_by_class(_auprc, truth, scores, _weights(weights, len(truth))), weights)


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """Mean of values (n,)."""
    return _shaped(_mean(values, _weights(weights, len(values))), weights)


def mae(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """Mean absolute error of predicted (n,) in the unit of truth (n,)."""
    return _shaped(_mean(np.abs(predicted - truth), _weights(weights, len(truth))), weights)


def r2(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """Coefficient of determination: 1 less squared error over variance; NaN for a constant truth."""
    w = _weights(weights, len(truth))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = _mean((predicted - truth) ** 2, w) / _covariance(truth, truth, w)
    return _shaped(np.where(np.isfinite(ratio), 1 - ratio, np.nan), weights)


def pearson(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """Linear correlation of predicted (n,) with truth (n,); NaN where either is constant."""
    w = _weights(weights, len(truth))
    variances = _covariance(truth, truth, w) * _covariance(predicted, predicted, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = _covariance(truth, predicted, w) / np.sqrt(variances)
    return _shaped(np.where(variances > 0, values, np.nan), weights)


def class_scores(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, Weighted]:
    """Every metric of classes by name, for truth (n,) of codes below K and probabilities (n, K); of two, 1 is positive."""
    graded = probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities
    said = probabilities.argmax(1)
    pairs = ((auroc, graded), (auprc, graded), (balanced_accuracy, said), (f1, said))
    return {metric.__name__: partial(metric, truth, predicted) for metric, predicted in pairs}


def number_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, Weighted]:
    """Every metric of numbers by name, for truth (n,) and predicted (n,)."""
    return {metric.__name__: partial(metric, truth, predicted) for metric in (mae, r2, pearson)}


def bootstrap(
    groups: Sequence[str] | np.ndarray, score: Callable[[np.ndarray], Score], tries: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a score over resampled groups (patients), each drawn with all its rows.

    `groups` (n,) names the group of every row. `score` takes weights (tries, n), how often each row was drawn, and
    returns (tries,): `lambda w: auroc(truth, scores, w)`, or `lambda w: w @ values / w.sum(1)` for a mean. Undefined
    resamples are left out; NaN, NaN where all are. The result does not depend on the order of rows.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng, values, done = np.random.default_rng(seed), [], 0
    while done < tries:
        now = min(tries - done, max(1, CHUNK_VALUES // len(member)))
        drawn = rng.integers(len(names), size=(now, len(names))) + len(names) * np.arange(now)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=now * len(names)).reshape(now, len(names))
        values.append(np.asarray(score(counts[:, member].astype(np.float64))))
        done += now
    known = np.concatenate(values)
    known = known[~np.isnan(known)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _weights(weights: np.ndarray | None, rows: int) -> np.ndarray:
    return np.ones((1, rows)) if weights is None else np.atleast_2d(weights).astype(np.float64, copy=False)


def _shaped(values: np.ndarray, weights: np.ndarray | None) -> Score:
    return values if weights is not None and weights.ndim == 2 else float(values[0])


def _mean(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    return w @ values / w.sum(axis=1)


def _covariance(a: np.ndarray, b: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weighted covariance (tries,); centred first on the plain means, so that nothing cancels."""
    a, b = a - a.mean(), b - b.mean()
    values = _mean(a * b, w) - _mean(a, w) * _mean(b, w)
    return np.where(np.abs(values) > 1e-12 * (np.abs(a).max() * np.abs(b).max()), values, 0.0)


def _mean_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=-1) / known.sum(axis=-1)


def _one_hot(codes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return (codes[:, None] == classes[None]).astype(np.float64)


def _by_class(
    curve: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    truth: np.ndarray,
    scores: np.ndarray,
    w: np.ndarray,
) -> np.ndarray:
    if scores.ndim == 1:
        return curve(truth == 1, scores, w)
    return _mean_known(np.stack([curve(truth == c, scores[:, c], w) for c in np.unique(truth)], axis=-1))


def _thresholds(positive: np.ndarray, scores: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives at each distinct score, highest first: twice (tries, thresholds)."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    everyone = np.add.reduceat(w[:, order], starts, axis=1)
    found = np.add.reduceat(w[:, order] * positive[order], starts, axis=1)
    return found, everyone - found


def _auroc(positive: np.ndarray, scores: np.ndarray, w: np.ndarray) -> np.ndarray:
    found, false = _thresholds(positive, scores, w)
    missed = found.sum(axis=1, keepdims=True) - np.cumsum(found, axis=1) + found / 2
    beaten = (missed * false).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return 1 - beaten / (found.sum(axis=1) * false.sum(axis=1))


def _auprc(positive: np.ndarray, scores: np.ndarray, w: np.ndarray) -> np.ndarray:
    found, false = _thresholds(positive, scores, w)
    hits = np.cumsum(found, axis=1)
    precision = hits / np.maximum(hits + np.cumsum(false, axis=1), 1e-300)
    with np.errstate(invalid="ignore"):
        return (precision * found).sum(axis=1) / found.sum(axis=1)
