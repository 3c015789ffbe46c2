"""Ranks of what is relevant: figures of retrieval, and what random order gives.

Decisions
- recall@k: the share of queries with something relevant among the first k (Karpathy and Fei-Fei, CVPR 2015). precision@10: of
  the first ten, or of all where there are fewer. map: mean average precision. median_rank: of the first that is relevant.
- Chance is what random order gives in expectation, computed and not drawn, since it depends on the pool; of the median
  rank, the median over queries and orders.
- Ties, cosines on one step of TIED counted from the best, go against the encoder: what is not relevant stands first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from training.health import TIED
from training.metrics import Score, bootstrap

DEPTHS = (1, 5, 10)
FIRST = max(DEPTHS)
LAST = 2**30
"""the step of what is not in the pool; even, hence never relevant"""
Figures = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Ranks:
    """Of each query (m,): rank of the first relevant, average precision, precision at FIRST, relevant and pool sizes."""

    first: np.ndarray
    average_precision: np.ndarray
    precision: np.ndarray
    relevant: np.ndarray
    pool: np.ndarray


def ordered(scores: np.ndarray, relevant: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """bool (b, n): whether what stands at each rank is relevant, best first, what is hidden last; all three (b, n)."""
    best = np.where(hidden, -np.inf, scores).max(axis=1, keepdims=True)
    keys = 2 * np.rint((best - scores) / np.float32(TIED)).astype(np.int32) + (relevant & ~hidden)
    keys[hidden] = LAST
    keys.sort(axis=1)
    return (keys & 1).astype(bool)


def ranks_of(order: np.ndarray, pool: np.ndarray) -> Ranks:
    """What `order` bool (b, n) of `ordered` says, for pool sizes (b,); each line has something relevant."""
    count = order.sum(axis=1)
    line, place = np.nonzero(order)
    start = np.cumsum(count) - count
    hits = np.arange(1, len(line) + 1) - start[line]
    average = np.bincount(line, hits / (place + 1), minlength=len(order)) / count
    precision = order[:, :FIRST].sum(axis=1) / np.minimum(FIRST, pool)
    return Ranks(place[start] + 1, average, precision, count, pool)


def joined(parts: Sequence[Ranks]) -> Ranks:
    """Parts one after the other."""
    return Ranks(*(np.concatenate([getattr(one, name) for one in parts]) for name in Ranks.__dataclass_fields__))


def chance(pool: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """Each metric in expectation over random orders and queries; pool, relevant: whole numbers (m,), relevant at least 1.

    recall@k is 1 - C(N - R, k) / C(N, k), the average precision ((R - 1) / (N - 1) (N - H) + H) / N with H = 1 + ... + 1/N.
    """
    pairs, times = np.unique(np.stack([pool, relevant], axis=1), axis=0, return_counts=True)
    n, r = pairs.T.astype(np.float64)
    mean = partial(np.average, weights=times)
    found = {f"recall@{k}": float(mean(1 - _none_among(n, r, k))) for k in DEPTHS}
    harmonic = np.cumsum(1 / np.arange(1, pairs[:, 0].max() + 1))[pairs[:, 0] - 1]
    average = (harmonic + (r - 1) / np.maximum(n - 1, 1) * (n - harmonic)) / n
    return found | {
        f"precision@{FIRST}": float(mean(r / n)),
        "map": float(mean(average)),
        "median_rank": float(_median_of_chance(n, r, times)),
    }


def _none_among(n: np.ndarray, r: np.ndarray, k: int) -> np.ndarray:
    """Probability that none of r relevant of n is among the first k."""
    drawn = np.arange(k)[:, None]
    return np.prod(np.maximum(n - r - drawn, 0) / np.maximum(n - drawn, 1), axis=0)


def _median_of_chance(n: np.ndarray, r: np.ndarray, times: np.ndarray) -> int:
    """The lowest rank by which random orders have found something relevant for half of the queries, by bisection."""
    from scipy.special import gammaln

    def share(rank: int) -> float:
        rest = np.maximum(n - r - rank, 0)
        logs = gammaln(n - r + 1) - gammaln(rest + 1) - gammaln(n + 1) + gammaln(np.maximum(n - rank, 0) + 1)
        return float(np.average(np.where(rank > n - r, 1.0, 1 - np.exp(logs)), weights=times))

    low, high = 1, int(n.max())
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if share(middle) >= 0.5 - 1e-9 else (middle + 1, high)
    return low


def figures(ranks: Ranks, owners: np.ndarray) -> Figures:
    """{metric: {value, low, high}} with 95 % intervals over the patients owners (m,); no interval of one patient.

    Without average precision (NaN) only what the first ten tell.
    """
    names, member = np.unique(owners, return_inverse=True)
    each = {f"recall@{k}": ranks.first <= k for k in DEPTHS} | {f"precision@{FIRST}": ranks.precision}
    whole = not np.isnan(ranks.average_precision).any()
    each |= {"map": ranks.average_precision} if whole else {}
    people, found = np.bincount(member).astype(np.float64), {}
    for name, values in each.items():
        total = np.bincount(member, values)
        low, high = bootstrap(names, partial(_ratio, total, people))
        found[name] = {"value": float(values.mean()), "low": low, "high": high}
    if whole:
        low, high = bootstrap(owners, lambda w: median(ranks.first, w))
        found["median_rank"] = {"value": float(np.median(ranks.first)), "low": low, "high": high}
    if len(names) < 2:
        return {name: {**one, "low": None, "high": None} for name, one in found.items()}
    return found  # type: ignore[return-value]


def median(values: np.ndarray, weights: np.ndarray | None = None) -> Score:
    """Median of (m,), each value counted as often as weights (tries, m) say: (tries,), or a float without weights."""
    order = np.argsort(values, kind="stable")
    ranked, w = values[order].astype(np.float64), np.ones((1, len(values))) if weights is None else weights[:, order]
    reached = np.cumsum(w, axis=1)
    half = reached[:, -1:] / 2
    middle = (ranked[(reached >= half).argmax(axis=1)] + ranked[(reached > half).argmax(axis=1)]) / 2
    return float(middle[0]) if weights is None else middle


def _ratio(total: np.ndarray, count: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (weights @ total) / (weights @ count)
