"""Whether two wordings rank volumes alike: paraphrases should, a query and its negation should not.

Decisions:
- Agreement is Spearman's correlation of two queries' cosines over the volumes. The overlap of the first ten would depend on
  how many volumes the words are true of, and on chance among them; ranks over all are finer, and need no such number.
- A query and its negation share words (`knee` in `knee with a tear`), which rank most volumes alike and should. They are
  compared over the third of the volumes that those words find: there what is affirmed and denied alone decides.
- Chance are pairs of queries that have nothing to do with each other: first and second wordings of different pairs, over the
  same volumes. A pair agrees where it is above 95 % of them; paraphrases do so by chance in one of twenty.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.metrics import bootstrap

CHANCE = 0.95
"""quantile of unrelated pairs above which a pair agrees"""
SHARED = 3
"""one of how many volumes the words that a pair shares must find"""
FEWEST = 8
"""volumes that a rank correlation is taken over, at least"""
Encode = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """each (Q,): Spearman's correlation of each pair; agrees (Q,) bool: above its chance; chance: mean of unrelated pairs."""

    each: np.ndarray
    agrees: np.ndarray
    chance: float


def read_queries(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV of pairs: first, second, and of negations common, the words that both share."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def agreement(first: np.ndarray, second: np.ndarray, among: np.ndarray | None = None) -> Agreement:
    """Of pairs of queries with cosines first and second (Q, N) to volumes; among (Q, N) bool: which volumes count.

    A pair's chance is that of its first wording and all other pairs' second over the same volumes.
    """
    counted = np.ones(first.shape, dtype=bool) if among is None else among
    each, bars, chances = [], [], []
    for query, (scores, where) in enumerate(zip(first, counted, strict=True)):
        found = _spearman(scores[where], second[:, where])
        others = np.delete(found, query)
        each.append(found[query])
        bars.append(np.quantile(others, CHANCE))
        chances.append(others.mean())
    return Agreement(np.array(each), np.array(each) > np.array(bars), float(np.mean(chances)))


def found_by(common: np.ndarray) -> np.ndarray:
    """(Q, N) bool: of each query's cosines (Q, N) the best third."""
    count = min(common.shape[1], max(FEWEST, common.shape[1] // SHARED))
    among = np.zeros(common.shape, dtype=bool)
    np.put_along_axis(among, np.argsort(-common, axis=1, kind="stable")[:, :count], True, axis=1)
    return among


def _spearman(one: np.ndarray, several: np.ndarray) -> np.ndarray:
    """Rank correlation of (n,) with each of (m, n), ties by mean rank; 0 where a side is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(np.atleast_2d(values), axis=1) for values in (one, several)]
    a, b = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide(b @ a[0], size, out=np.zeros(len(b)), where=size > 0)


def wording_figures(
    encode: Encode, volumes: np.ndarray, paraphrases: dict[str, list[str]], negations: dict[str, list[str]]
) -> dict[str, dict[str, float]]:
    """{"paraphrases agree", "negations disagree": {value, low, high, correlation, chance}} of any model.

    encode: texts to unit vectors (Q, E), as the model's own; volumes (N, E) of unit length. value: the share of the pairs, its
    95 % interval over pairs; correlation, chance: mean rank correlation of the pairs and of unrelated ones.
    """
    cosines = {name: encode(texts) @ volumes.T for name, texts in paraphrases.items() if name in ("first", "second")}
    same = agreement(cosines["first"], cosines["second"])
    denied = {name: encode(negations[name]) @ volumes.T for name in ("first", "second", "common")}
    other = agreement(denied["first"], denied["second"], found_by(denied["common"]))
    return {
        "paraphrases agree": _figure(same, same.agrees),
        "negations disagree": _figure(other, ~other.agrees),
    }


def _figure(found: Agreement, right: np.ndarray) -> dict[str, float]:
    low, high = bootstrap(np.arange(len(right)), lambda weights: weights @ right / weights.sum(axis=-1))
    figures: Sequence[tuple[str, float]] = (("value", right.mean()), ("low", low), ("high", high))
    return {
        name: float(value) for name, value in (*figures, ("correlation", found.each.mean()), ("chance", found.chance))
    }
