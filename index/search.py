"""Search: words, examples, exclusions and tags in one exact query.

Decisions (the rule by which evidence is fused):
- Positives (the text, each `like`) are averaged, the average of the negatives (`unlike`, `unlike_text`) is subtracted
  with weight 0.5, and the result is brought to length 1.
- Volumes are matched with the pixels' vectors. Text is matched with these (evidence "pixels"), with the text vectors of
  the captions built from the series' tags ("tags"), or with both.
- The score is the cosine. Where pixels and tags both play, each cosine is standardised by its mean and deviation over
  the whole live index (0 where the deviation is 0) and the score is their mean; a side of negatives alone counts half.
- `where` holds before the search: k hits come back when k exist. Ties go to the lower row.
- Grouped by study or patient, each group answers with its best series; a series of unknown group is its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from index.filter import matching
from index.nearest import ROUNDING, best, candidates, contenders, inner_products, load
from index.store import Index
from models.errors import DecipherError

NEGATIVE_WEIGHT = 0.5
FLAT_DEVIATION = 1e-6
GROUPS = {"series": "series_id", "study": "study_id", "patient": "patient_id"}
EVIDENCE = ("both", "pixels", "tags")
Ranking = Callable[[int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Hit:
    """rank from 1; score, higher is closer, None where nothing but a filter was asked; record: the catalogue's row."""

    rank: int
    score: float | None
    record: dict[str, Any]


@dataclass(frozen=True)
class Side:
    """What is asked of "vectors" or of "captions" (`kind`): score = (cosine with query (E,) - mean) * factor."""

    kind: str
    query: np.ndarray
    mean: float = 0.0
    factor: float = 1.0


def search(
    index: Index,
    text: np.ndarray | None = None,
    *,
    like: Sequence[np.ndarray] = (),
    unlike: Sequence[np.ndarray] = (),
    unlike_text: Sequence[np.ndarray] = (),
    where: Sequence[str] = (),
    evidence: str = "both",
    k: int = 10,
    by: str = "series",
) -> list[Hit]:
    """The k best series for a text vector (E,), volume vectors `like` and `unlike`, and text vectors `unlike_text`.

    where: polars SQL expressions on the catalogue's columns, all of which must hold; with nothing else, the series that
    pass come in the index's order. evidence: "both", "pixels" or "tags". by: "series", "study" or "patient".
    """
    _check_choice("evidence", evidence, EVIDENCE)
    _check_choice("by", by, tuple(GROUPS))
    queries = fuse(text, like, unlike, unlike_text, evidence)
    if not queries and not where:
        raise DecipherError("The query is empty.", 'Say what to look for: decipher search "T2 hyperintense lesion"')
    if not len(index):
        return []
    allowed = matching(index, where)
    total = len(index) if allowed is None else int(allowed.sum())
    ranking = _ranking(index, queries, allowed) if queries else _in_order(index, allowed)
    scores, rows = _grouped(index, ranking, max(0, min(k, total)), total, by)
    found = index.rows(rows).iter_rows(named=True)
    return [
        Hit(rank, None if np.isnan(score) else float(score), record)
        for rank, (score, record) in enumerate(zip(scores, found, strict=True), start=1)
    ]


def fuse(
    text: np.ndarray | None,
    like: Sequence[np.ndarray],
    unlike: Sequence[np.ndarray],
    unlike_text: Sequence[np.ndarray],
    evidence: str,
) -> dict[str, tuple[np.ndarray, float]]:
    """What to look for, by the module's rule: {"vectors" or "captions": (query (E,) of length 1, its weight)}."""
    texts = [] if text is None else [text]
    asked: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {
        "vectors": ([*like], [*unlike]),
        "captions": ([], []),
    }
    for kind, silent in (("vectors", "tags"), ("captions", "pixels")):
        if evidence != silent:
            asked[kind][0].extend(texts)
            asked[kind][1].extend(unlike_text)
    return {
        kind: (_direction(positives, negatives), 1.0 if positives else NEGATIVE_WEIGHT)
        for kind, (positives, negatives) in asked.items()
        if positives or negatives
    }


def _direction(positives: list[np.ndarray], negatives: list[np.ndarray]) -> np.ndarray:
    """mean(positives) - 0.5 mean(negatives), brought to length 1; float32 (E,)."""
    towards = np.mean(positives, axis=0, dtype=np.float64) if positives else 0.0
    away = np.mean(negatives, axis=0, dtype=np.float64) if negatives else 0.0
    direction = np.asarray(towards - NEGATIVE_WEIGHT * away)
    length = np.linalg.norm(direction)
    if not length > FLAT_DEVIATION:
        raise DecipherError("What is asked for and what is excluded cancel out.", "Leave out one of them.")
    return (direction / length).astype(np.float32)


def _ranking(index: Index, queries: dict[str, tuple[np.ndarray, float]], allowed: np.ndarray | None) -> Ranking:
    """A function that gives the m best rows: (scores float64 (m,), rows), best first."""
    if len(queries) == 1:
        ((kind, (query, _)),) = queries.items()
        sides = [Side(kind, query)]
        loaded = load(index) if kind == "vectors" and allowed is None else None
        if loaded is not None:
            return lambda count: best(_rescore(index, sides), candidates(loaded, query, count), count)
        rough = index.similarity(query, kind)
    else:
        sides, rough = _standardised(index, queries)
    if allowed is not None:
        rough[~allowed] = -np.inf
    slack = ROUNDING * max(1.0, sum(side.factor for side in sides))
    return lambda count: best(_rescore(index, sides), contenders(rough, count, slack), count)


def _standardised(index: Index, queries: dict[str, tuple[np.ndarray, float]]) -> tuple[list[Side], np.ndarray]:
    """Sides whose scores add up to the weighted mean of z-scores over the live index, and that sum (n,) in float32."""
    total_weight = sum(weight for _, weight in queries.values())
    sides, rough = [], np.zeros(len(index), dtype=np.float32)
    for kind, (query, weight) in queries.items():
        cosines = index.similarity(query, kind)
        mean, deviation = float(cosines.mean(dtype=np.float64)), float(cosines.std(dtype=np.float64))
        factor = weight / total_weight / deviation if deviation > FLAT_DEVIATION else 0.0
        sides.append(Side(kind, query, mean, factor))
        rough += (cosines - np.float32(mean)) * np.float32(factor)
    return sides, rough


def _rescore(index: Index, sides: list[Side]) -> Callable[[np.ndarray], np.ndarray]:
    def score(rows: np.ndarray) -> np.ndarray:
        total = np.zeros(len(rows))
        for side in sides:
            cosines = inner_products(lambda part: index.gather(part, side.kind), rows, side.query)  # noqa: B023
            total += (cosines - side.mean) * side.factor
        return total

    return score


def _in_order(index: Index, allowed: np.ndarray | None) -> Ranking:
    rows = np.arange(len(index)) if allowed is None else np.flatnonzero(allowed)
    return lambda count: (np.full(min(count, len(rows)), np.nan), rows[:count])


def _grouped(index: Index, ranking: Ranking, k: int, total: int, by: str) -> tuple[np.ndarray, np.ndarray]:
    """The best k, one a group. Looks deeper by steps until k groups are met or everything was looked at."""
    if by == "series" or k == 0:
        return ranking(k)
    groups = index.columns(["series_id", GROUPS[by]])
    names = groups[GROUPS[by]] if GROUPS[by] in groups.columns else pl.Series([None] * len(index), dtype=pl.String)
    depth = 4 * k
    while True:
        scores, rows = ranking(min(depth, total))
        first = _first_of_each(names[rows])
        if len(first) >= k or depth >= total:
            return scores[first[:k]], rows[first[:k]]
        depth *= 4


def _first_of_each(names: pl.Series) -> np.ndarray:
    """Positions at which a name stands for the first time; each null is a name of its own."""
    return (names.is_first_distinct() | names.is_null()).arg_true().to_numpy()


def _check_choice(what: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise DecipherError(f"{what} is {given}, not one of {', '.join(choices)}.", f"Choose --{what} {choices[0]}.")


def classify(index: Index, prompts: Sequence[np.ndarray], scale: float) -> np.ndarray:
    """Zero-shot probabilities float32 (n, C) of the live rows: softmax of scale times cosine with each class's vector.

    prompts: for each class the text vectors (W, E) of its wordings; they are averaged and brought to length 1.
    """
    means = np.stack([wordings.mean(axis=0) for wordings in prompts])
    classes = means / np.linalg.norm(means, axis=1, keepdims=True)
    logits = scale * np.stack([index.similarity(c) for c in classes], axis=1)
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    return share / share.sum(axis=1, keepdims=True)
