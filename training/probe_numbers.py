"""The numbers in a probe's pictures: ROC curves, reliability of probabilities, confusion of classes.

Decisions
- As the rest of a probe they come from predictions of patients that it did not see; intervals resample patients.
- The mean ROC is the mean at equal false positive rates, also where curves go straight up, so that the area under it is the
  mean of the areas: the macro AUROC.
- Probabilities are judged by those of the class that is named, in the bins of `calibration_error`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from training import metrics
from training.calibration import BINS
from training.judge import with_interval
from training.probe import ProbeResult
from training.target import MULTILABEL

Figure = dict[str, float | None]
"""value, low, high; None where undefined"""


@dataclass(frozen=True)
class Roc:
    """A class against the rest: false and true positive rates (t,) from 0 to 1, the area, and the rows of the class."""

    name: str
    false: np.ndarray
    true: np.ndarray
    area: Figure
    n: int


@dataclass(frozen=True)
class Bin:
    """Rows whose named class has about one probability, from `place` tenths on: the mean of it, the share that is right,
    and how many rows."""

    place: int
    sure: float
    right: Figure
    n: int


def roc(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates (t,) at each distinct score, highest first, after (0, 0); positive bool, scores (n,)."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
    true, false = (np.cumsum(positive[order] == wanted)[last] for wanted in (True, False))
    return np.r_[0, false / false[-1]], np.r_[0, true / true[-1]]


def mean_roc(rocs: Sequence[Roc]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of several ROCs: at each false positive rate twice, before they rise there and after."""
    at = np.unique(np.concatenate([one.false for one in rocs]))
    before = [1 - np.interp(1 - at, 1 - one.false[::-1], 1 - one.true[::-1]) for one in rocs]
    after = [np.interp(at, one.false, one.true) for one in rocs]
    return np.repeat(at, 2), np.stack([np.mean(before, axis=0), np.mean(after, axis=0)], axis=1).ravel()


def rocs_of(result: ProbeResult) -> list[Roc]:
    """One of each class, of each of several labels, or of the second of two classes, where it has both outcomes."""
    numbers = range(1, 2) if result.kind == "binary" else range(len(result.classes))
    return [one for number in numbers if (one := _roc_of(result, number))]


def _roc_of(result: ProbeResult, number: int) -> Roc | None:
    if result.kind == MULTILABEL:
        rows = np.flatnonzero(~np.isnan(result.target[:, number]))
        positive = result.target[rows, number] == 1
    else:
        rows = np.arange(len(result.target))
        positive = result.target == number
    if positive.all() or not positive.any():
        return None
    scores = result.outputs[rows, number]
    area = with_interval(partial(metrics.auroc, positive.astype(int), scores), result.who[rows])
    return Roc(result.classes[number], *roc(positive, scores), area, int(positive.sum()))


def reliability(result: ProbeResult) -> list[Bin]:
    """The rows of a probe of classes in 10 equal bins of the probability of the class it names, empty bins left out."""
    sure, hit = result.outputs.max(axis=1), result.outputs.argmax(axis=1) == result.target
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    found = []
    for one in np.unique(place):
        own = place == one
        right = with_interval(partial(metrics.mean, hit[own].astype(float)), result.who[own])
        found.append(Bin(int(one), float(sure[own].mean()), right, int(own.sum())))
    return found


def confusion(result: ProbeResult) -> np.ndarray:
    """(K, K) int: how many rows of each class (first axis) were given each class."""
    classes = len(result.classes)
    pairs = result.target * classes + result.outputs.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
