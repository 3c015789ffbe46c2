"""Folds for cross-validation that never part a patient.

Decisions
- Folds follow from group names and the seed alone: the order of rows changes nothing, and adding vectors of another
  encoder gives the same folds, so that results compare.
- Greedy: groups that hold the rarest class go first, largest first, each to the fold that holds least of that class,
  then of its next rarest class, then of rows. Rare classes are thereby spread as widely as they can be.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from models.errors import DecipherError


def grouped_folds(
    groups: Sequence[str] | np.ndarray,
    n_folds: int = 5,
    seed: int = 0,
    strata: Sequence[object] | np.ndarray | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows of every fold; each row is tested once, each group in one fold only.

    groups (n,) names the group (patient) of every row; strata (n,) its class, kept as even over folds as the groups
    allow. With fewer groups than folds there are as many folds as groups. Raises DecipherError below two groups.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise DecipherError(
            f"Cross-validation needs rows of at least 2 patients; there {'is 1' if len(names) else 'are none'}.",
            "add labelled series of more patients, or check the column that tells patients apart",
        )
    classes = np.zeros(len(member)) if strata is None else np.asarray(strata)
    codes = np.unique(classes, return_inverse=True)[1]
    fold_of_row = _assign(names, member, codes, min(max(n_folds, 2), len(names)), seed)[member]
    return [(np.flatnonzero(fold_of_row != k), np.flatnonzero(fold_of_row == k)) for k in range(fold_of_row.max() + 1)]


def _assign(names: np.ndarray, member: np.ndarray, codes: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """The fold of every group (G,), from the group of every row (n,) and the class of every row (n,)."""
    counts = np.zeros((len(names), codes.max() + 1), dtype=int)
    np.add.at(counts, (member, codes), 1)
    counts = counts[:, np.lexsort((counts.sum(0), (counts > 0).sum(0)))]
    rarest = (counts > 0).argmax(axis=1)
    drawn = np.array([_draw(str(name), seed) for name in names])
    order = np.lexsort((drawn, -counts.sum(1), -counts[np.arange(len(names)), rarest], rarest))

    held = np.zeros((n_folds, counts.shape[1] + 1), dtype=int)
    fold = np.zeros(len(names), dtype=int)
    for group in order:
        rarest_last = [-1, *np.flatnonzero(counts[group])[::-1]]
        fold[group] = np.lexsort(held[:, rarest_last].T)[0]
        held[fold[group], :-1] += counts[group]
        held[fold[group], -1] += counts[group].sum()
    return fold


def _draw(name: str, seed: int) -> str:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).hexdigest()
