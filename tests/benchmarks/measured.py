"""Encoders side by side, each judged on its rows, and what a figure of them is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from encoded import Encoding

from training.metrics import Weighted, mean


@dataclass(frozen=True)
class Fold:
    """An encoding, and the rows it is judged on, bool (n,)."""

    encoding: Encoding
    judged: np.ndarray


Arm = Sequence[Fold]
"""one or several encoders; no row is judged by two"""


@dataclass(frozen=True)
class Measured:
    """A figure: what weights (tries, n) over its witnesses give, whose these are (n,); what chance gives: random order or
    answers, or the largest class; and the best that these witnesses allow."""

    groups: np.ndarray
    score: Weighted
    chance: float
    best: float = 1.0


def judged_rows(arm: Arm) -> np.ndarray:
    """bool (n,): the rows that any encoder is judged on."""
    return np.any([fold.judged for fold in arm], axis=0)


def average(scores: Sequence[Weighted]) -> Weighted:
    """The mean of several scores of the same witnesses."""
    return lambda weights: np.mean([np.asarray(score(weights)) for score in scores], axis=0)


@dataclass(frozen=True)
class Witness:
    """One subject's row: its value, what chance gives it, and the best it could be."""

    who: str
    value: float
    chance: float
    best: float = 1.0


def means(witnesses: Sequence[Witness]) -> Measured | None:
    """The mean over witnesses; None without any."""
    if not witnesses:
        return None
    values, chances, bests = np.array([(one.value, one.chance, one.best) for one in witnesses]).T
    return Measured(np.array([one.who for one in witnesses]), partial(mean, values), chances.mean(), bests.mean())
