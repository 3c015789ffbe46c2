"""The best rows for what is asked, exactly: roughly in float32 first, then the few that matter in float64.

Decisions: rough scores are found by the cheapest way at hand: one matrix product where many rows are allowed, the rows
themselves where few are. Those that may be among the best are scored again in float64, each row in the same order of
sums, so that equal vectors score equally wherever they lie and ties go to the lower row, on any machine, by any path.
A filter goes before the search, hence k are found when k exist.

An approximate index can speak for the pixels alone. Where tags play too, the rows it proposes and the rows with the
best captions are scored together; a row among neither scores at most what the last of both would together. When the
k-th found reaches that, the answer stands (the threshold algorithm: Fagin, Lotem and Naor, 2003), else all is scored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol

import numpy as np

from index.rows import Rows

ROUNDING = 1e-5
"""more than twice what a float32 inner product of vectors of length 1 is off"""
SPARSE = 0.05
"""share of allowed rows below which fetching them is cheaper than one product over all"""
BLOCK_ROWS = 1024
PROPOSED = 1000
"""rows that an approximate index proposes where tags play too"""
BEST_TAGGED = 10_000
"""rows with the best captions that are scored beside them"""

Ranking = Callable[[int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Side:
    """What is asked of "vectors" or of "captions" (`kind`): score = (cosine with query (E,) - mean) * factor.

    alone: the factor for rows whose caption says nothing, where it is another. cosines: float32 (n,), those of all live
    rows, where they are known already.
    """

    kind: str
    query: np.ndarray
    mean: float = 0.0
    factor: float = 1.0
    alone: float | None = None
    cosines: np.ndarray | None = field(default=None, compare=False, repr=False)


class Proposer(Protocol):
    """What stands in for a product over all rows: `index.nearest.Nearest`."""

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray | None:
        """Live rows, int64 ascending, nearly all of the `count` nearest among them; None where it cannot tell."""


def ranking(
    index: Rows, sides: Sequence[Side], allowed: np.ndarray | None = None, nearest: Proposer | None = None
) -> Ranking:
    """A function that gives the m best rows by the sum of `sides`: (scores float64 (m,), rows int64 (m,)), best first.

    allowed: bool (n,), the rows that may be found. nearest: proposes candidates where there is no filter.
    """
    playing = sorted((side for side in sides if side.factor), key=lambda side: side.kind, reverse=True)
    kinds = [side.kind for side in playing]
    exactly = cache(lambda: exact(index, sides, allowed))
    if nearest is None or allowed is not None or kinds not in (["vectors"], ["vectors", "captions"]):
        return lambda count: exactly()(count)

    def best_of(count: int) -> tuple[np.ndarray, np.ndarray]:
        found = _proposed(index, playing, nearest, count)
        return exactly()(count) if found is None else found

    return best_of


def exact(index: Rows, sides: Sequence[Side], allowed: np.ndarray | None = None) -> Ranking:
    """As `ranking`, by scoring every allowed row."""
    rows = None if allowed is None else np.flatnonzero(allowed)
    rough = _rough(index, sides, rows)

    def best_of(count: int) -> tuple[np.ndarray, np.ndarray]:
        found = contenders(rough, count, _slack(sides))
        return best(lambda own: _scores(index, sides, own), found if rows is None else rows[found], count)

    return best_of


def contenders(scores: np.ndarray, k: int, slack: float = ROUNDING) -> np.ndarray:
    """Rows that may be among the k best when each of `scores` (n,) is right within slack / 2; int64, ascending."""
    k = min(k, len(scores))
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k] - slack
    return np.flatnonzero(scores >= threshold)


def best(rescore: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of `rows` by rescore(rows) -> float64, best first, ties by row: (scores, rows)."""
    scores = rescore(rows)
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def inner_products(
    vectors: np.ndarray | Callable[[np.ndarray], np.ndarray], rows: np.ndarray, query: np.ndarray
) -> np.ndarray:
    """float64 (m,): vectors[rows] times query (E,), each row summed in the same order. vectors: (n, E), or a gather."""
    wide = query.astype(np.float64)
    scores = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        block = vectors(part) if callable(vectors) else vectors[part]
        np.einsum("ij,j->i", block.astype(np.float64), wide, out=scores[start : start + BLOCK_ROWS])
    return scores


def _slack(sides: Sequence[Side]) -> float:
    most = (sum(side.factor for side in sides), sum(side.alone or 0.0 for side in sides))
    return ROUNDING * max(1.0, *most)


def _scores(index: Rows, sides: Sequence[Side], rows: np.ndarray) -> np.ndarray:
    """float64 (m,): the scores of some rows, which ascend."""
    total, silent = np.zeros(len(rows)), _silent(index, sides, rows)
    for side in sides:
        cosines = inner_products(lambda part: index.gather(part, side.kind), rows, side.query)  # noqa: B023
        total += (cosines - side.mean) * _factor(side, silent)
    return total


def _rough(index: Rows, sides: Sequence[Side], rows: np.ndarray | None) -> np.ndarray:
    """float32 (n,), or (m,) for the m `rows`: the scores within rounding."""
    if len(sides) == 1 and (sides[0].mean, sides[0].factor) == (0.0, 1.0):
        return _cosines(index, sides[0], rows)
    total, silent = np.zeros(len(index) if rows is None else len(rows), dtype=np.float32), _silent(index, sides, rows)
    for side in sides:
        total += (_cosines(index, side, rows) - np.float32(side.mean)) * _factor(side, silent).astype(np.float32)
    return total


def _silent(index: Rows, sides: Sequence[Side], rows: np.ndarray | None) -> np.ndarray | None:
    """bool: the rows that count by `alone`; None where none do."""
    if all(side.alone is None for side in sides):
        return None
    silent = index.silent(rows)
    return silent if silent.any() else None


def _factor(side: Side, silent: np.ndarray | None) -> np.ndarray:
    """What a side's cosines count: one number for all rows, or one a row."""
    return np.asarray(
        side.factor if silent is None or side.alone is None else np.where(silent, side.alone, side.factor)
    )


def _cosines(index: Rows, side: Side, rows: np.ndarray | None) -> np.ndarray:
    """float32: the cosines of all live rows, or of some, which ascend."""
    if rows is not None and side.cosines is None and len(rows) < SPARSE * len(index):
        parts = [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
        return np.concatenate(
            [np.zeros(0, np.float32), *(index.gather(part, side.kind) @ side.query for part in parts)]
        )
    cosines = index.similarity(side.query, side.kind) if side.cosines is None else side.cosines
    return cosines if rows is None else cosines[rows]


def _proposed(
    index: Rows, sides: Sequence[Side], nearest: Proposer, count: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The best of what `nearest` proposes for the first side and, where there is a second, of the best tagged rows.

    None where nothing was proposed, or where a row that was not looked at might be better.
    """
    pixels, tags = sides[0], sides[1] if len(sides) == 2 else None
    if tags is not None and (not 0 < count <= PROPOSED or len(index) < BEST_TAGGED):
        return None
    rows = nearest.candidates(pixels.query, count if tags is None else PROPOSED)
    if rows is None:
        return None
    if tags is None:
        return best(lambda own: _scores(index, sides, own), rows, count)
    proposed = np.partition(_cosines(index, pixels, rows), len(rows) - PROPOSED)[len(rows) - PROPOSED]
    tagged = _cosines(index, tags, None)
    last = np.partition(tagged, len(tagged) - BEST_TAGGED)[len(tagged) - BEST_TAGGED]
    rows = np.sort(np.concatenate([rows, np.flatnonzero(tagged > last)]))
    rows = rows[np.r_[True, np.diff(rows) > 0]]
    rough = _rough(index, [pixels, replace(tags, cosines=tagged)], rows)
    unseen = (proposed - pixels.mean) * pixels.factor + (last - tags.mean) * tags.factor
    if pixels.alone is not None:
        unseen = max(unseen, (proposed - pixels.mean) * pixels.alone)
    if np.partition(rough, len(rough) - count)[len(rough) - count] < unseen + _slack(sides):
        return None
    return best(lambda own: _scores(index, sides, own), rows[contenders(rough, count, _slack(sides))], count)
