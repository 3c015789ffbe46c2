"""The low-data curve: what a probe would have told with fewer labelled patients.

Decisions
- Shares of the training patients of each fold, nested: a larger share holds the smaller ones of its draw. All rows are tested.
- Three draws are averaged, since which patients are drawn matters most where they are few. All patients are drawn once.
- Patients are drawn class by class, so that a share keeps the classes' proportions. A share that leaves a class with
  one patient is skipped, and told.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from training.crossfit import Question, strata_of, thinned
from training.judge import Judge
from training.target import FEWEST_GROUPS_PER_CLASS

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
DRAWS = 3


def curve(
    questions: list[Question],
    who: np.ndarray,
    judge: Judge,
    whole: np.ndarray,
    outputs_of: Callable[[list[Question]], np.ndarray],
) -> tuple[list[dict[str, Any]], list[str]]:
    """[{share, patients, metrics}] and notes.

    who (n,): the patient of each row that questions count; whole: the outputs of all; outputs_of: those of thinned questions.
    """
    points, skipped = [], []
    for share in SHARES:
        draws = [[_draw(one, who, share, judge.seed + draw) for one in questions] for draw in range(_draws(share))]
        if share < 1 and not all(_is_enough(one, who) for draw in draws for one in draw):
            skipped.append(f"{share:.0%}")
            continue
        patients = [len(np.unique(who[one.rows[train]])) for draw in draws for one in draw for train, _ in one.outer]
        figures = judge.figures(*([whole] if share == 1 else map(outputs_of, draws)))
        points.append({"share": share, "patients": round(float(np.mean(patients))), "metrics": figures})
    lacking = "a class has" if judge.classes else "there are"
    return points, [f"no curve at {', '.join(skipped)}: {lacking} fewer than 2 patients"] if skipped else []


def _draws(share: float) -> int:
    return 1 if share == 1 else DRAWS


def _draw(asked: Question, who: np.ndarray, share: float, seed: int) -> Question:
    """The question with a share of each fold's training patients."""
    if share == 1:
        return asked
    return thinned(asked, [train[_kept(asked, who, train, share, seed)] for train, _ in asked.outer])


def _kept(asked: Question, who: np.ndarray, train: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool: which of the rows `train` belong to the drawn patients; each patient stands with the last of its classes."""
    names, member = np.unique(who[asked.rows[train]], return_inverse=True)
    stratum = np.zeros(len(names))
    np.maximum.at(stratum, member, strata_of(asked.values[train], asked.n_classes))
    chance = np.random.default_rng(seed).permutation(len(names))
    place = np.zeros(len(names))
    for one in np.unique(stratum):
        mine = np.flatnonzero(stratum == one)
        place[mine[np.argsort(chance[mine])]] = (np.arange(len(mine)) + 0.5) / len(mine)
    order = np.lexsort((chance, place))
    drawn = np.zeros(len(names), dtype=bool)
    drawn[order[: max(1, round(share * len(names)))]] = True
    return drawn[member]


def _is_enough(asked: Question, who: np.ndarray) -> bool:
    """Whether each fold's training rows hold two patients of every class."""
    for train, _ in asked.outer:
        values = asked.values[train] if asked.n_classes else np.zeros(len(train))
        for one in range(max(1, asked.n_classes)):
            if len(np.unique(who[asked.rows[train[values == one]]])) < FEWEST_GROUPS_PER_CLASS:
                return False
    return True
