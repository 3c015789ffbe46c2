"""Search: words, examples, exclusions and tags in one exact query.

Decisions (the rule by which evidence is fused):
- Positives (the text, each `like`) are averaged, the average of the negatives (`unlike`, `unlike_text`) is subtracted
  with weight 0.5, and the result is brought to length 1.
- Volumes are matched with the pixels' vectors. Text is matched with these (evidence "pixels"), with the text vectors of
  the captions built from the series' tags ("tags"), or with both.
- The score is the cosine. Where pixels and tags both play, each cosine is standardised by pairs of this index that do not
  belong together (index.background), the same for every query, and the score is their mean, brought to the deviation 1
  of these pairs; a side of negatives alone counts half. Where tags tell neither sequence nor region, pixels alone count.
- `where` and `among` hold before the search: k hits come back when k exist. Ties go to the lower row.
- Grouped by study or patient, each group answers with its best series; a series of unknown group is its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from index.background import Background, Pairs, background, nothing_better, scale, spread, standing
from index.filter import matching
from index.nearest import load
from index.prompts import class_vectors, probabilities
from index.ranking import Ranking, Side, ranking
from index.store import Index
from models.errors import DecipherError

NEGATIVE_WEIGHT = 0.5
LEAST_LENGTH = 1e-6
GROUPS = {"series": "series_id", "study": "study_id", "patient": "patient_id"}
EVIDENCE = ("both", "pixels", "tags")


@dataclass(frozen=True)
class Hit:
    """rank from 1; score, higher is closer, None where nothing but a filter was asked; record: the catalogue's row.

    standing: the share of pairs of this index that do not belong together and score lower; None where that is not known.
    """

    rank: int
    score: float | None
    record: dict[str, Any]
    standing: float | None = None


@dataclass(frozen=True)
class Answer:
    """Hits, best first; nothing_better: the best of them scores no higher than unrelated pairs do."""

    hits: list[Hit]
    nothing_better: bool = False


@dataclass(frozen=True)
class Direction:
    """What is looked for in "vectors" or "captions" (`kind`): a unit query (E,), how much it counts, and the background.

    mean, deviation: of the cosines of pairs that do not belong together; pairs: how these score, standardised.
    """

    kind: str
    query: np.ndarray
    weight: float
    mean: float
    deviation: float
    pairs: Pairs | None


def search(
    index: Index,
    text: np.ndarray | None = None,
    *,
    like: Sequence[np.ndarray] = (),
    unlike: Sequence[np.ndarray] = (),
    unlike_text: Sequence[np.ndarray] = (),
    where: Sequence[str] = (),
    among: Collection[str] | None = None,
    evidence: str = "both",
    k: int = 10,
    by: str = "series",
    columns: Sequence[str] | None = None,
) -> Answer:
    """The k best series for a text vector (E,), volume vectors `like` and `unlike`, and text vectors `unlike_text`.

    where: polars SQL expressions on the catalogue's columns, all of which must hold; among: the series that may be found;
    with nothing else, those that pass come in the order of `among`, else of the index. evidence: "both", "pixels" or
    "tags". by: "series", "study" or "patient". columns: what of each record is read, None for all.
    """
    _check_choice("evidence", evidence, EVIDENCE)
    _check_choice("by", by, tuple(GROUPS))
    if text is None and not like and not unlike and not unlike_text and not where and among is None:
        raise DecipherError("The query is empty.", 'Say what to look for: decipher search "T2 hyperintense lesion"')
    if not len(index):
        return Answer([])
    chosen = None if among is None else index.row_of(among)
    allowed = _allowed(index, where, chosen)
    around = background(index)
    asked = directions(around, text, like, unlike, unlike_text, evidence)
    if asked:
        ranked = ranking(index, _sides(asked, around), allowed, load(index) if allowed is None else None)
    else:
        ranked = _in_order(index, allowed, [chosen[one] for one in among or () if chosen and one in chosen])
    total = len(index) if allowed is None else int(allowed.sum())
    scores, rows = _grouped(index, ranked, max(0, min(k, total)), total, by)
    stands, background_only = _stands(asked, around, scores)
    return Answer(_hits(index, rows, scores, stands, columns), background_only)


def directions(
    around: Background | None,
    text: np.ndarray | None,
    like: Sequence[np.ndarray],
    unlike: Sequence[np.ndarray],
    unlike_text: Sequence[np.ndarray],
    evidence: str,
) -> list[Direction]:
    """What to look for, by the module's rule: at most one direction among the vectors and one among the captions."""
    texts = [] if text is None else [text]
    pixels, tags, volumes = (around.pixels, around.tags, around.volumes) if around else (None, None, None)
    found = []
    for kind, silent, pairs in (("vectors", "tags", pixels), ("captions", "pixels", tags)):
        examples, others = (like, unlike) if kind == "vectors" else ((), ())
        spoken, against = ([], []) if evidence == silent else (texts, unlike_text)
        positives = [(one, pairs) for one in spoken] + [(one, volumes) for one in examples]
        negatives = [(one, pairs) for one in against] + [(one, volumes) for one in others]
        if positives or negatives:
            found.append(_direction(kind, positives, negatives))
    return found


Vectors = list[tuple[np.ndarray, Pairs | None]]


def _direction(kind: str, positives: Vectors, negatives: Vectors) -> Direction:
    """mean(positives) - 0.5 mean(negatives), brought to length 1."""
    weighted = [(1 / len(positives), *one) for one in positives]
    weighted += [(-NEGATIVE_WEIGHT / len(negatives), *one) for one in negatives]
    sum_of = np.sum([weight * vector.astype(np.float64) for weight, vector, _ in weighted], axis=0)
    length = float(np.linalg.norm(sum_of))
    if not length > LEAST_LENGTH:
        raise DecipherError("What is asked for and what is excluded cancel out.", "Leave out one of them.")
    mean, deviation = scale([(weight, pairs) for weight, _, pairs in weighted], length)
    own = (positives or negatives)[0][1]
    weight = 1.0 if positives else NEGATIVE_WEIGHT
    return Direction(kind, (sum_of / length).astype(np.float32), weight, mean, deviation, own)


def _sides(asked: list[Direction], around: Background | None) -> list[Side]:
    """One direction scores by its cosine, two by the weighted mean of their standardised cosines."""
    if len(asked) == 1:
        return [Side(asked[0].kind, asked[0].query)]
    pixels, tags = asked
    share = tags.weight / (pixels.weight + tags.weight)
    whole = spread(around.correlation, share) if around else 1.0
    return [
        Side(pixels.kind, pixels.query, pixels.mean, (1 - share) / pixels.deviation / whole, 1 / pixels.deviation),
        Side(tags.kind, tags.query, tags.mean, share / tags.deviation / whole, 0.0),
    ]


def _stands(asked: list[Direction], around: Background | None, scores: np.ndarray) -> tuple[np.ndarray, bool]:
    """The standing of each score (n,), NaN where unknown, and whether the best of them is no better than background."""
    if len(asked) == 1:
        pairs, standard = asked[0].pairs, (scores - asked[0].mean) / asked[0].deviation
    else:
        pairs, standard = around.both if around and asked else None, scores
    return standing(pairs, standard), bool(len(scores)) and nothing_better(pairs, float(standard[0]))


def _hits(
    index: Index, rows: np.ndarray, scores: np.ndarray, stands: np.ndarray, columns: Sequence[str] | None
) -> list[Hit]:
    wanted = None if columns is None else ["series_id", *columns]
    found = zip(scores.tolist(), stands.tolist(), index.rows(rows, wanted).iter_rows(named=True), strict=True)
    return [
        Hit(rank, None if np.isnan(score) else score, record, None if np.isnan(share) else share)
        for rank, (score, share, record) in enumerate(found, start=1)
    ]


def _allowed(index: Index, where: Sequence[str], chosen: dict[str, int] | None) -> np.ndarray | None:
    """bool (n,): the rows that may be found; None when all may."""
    passing = matching(index, where)
    if chosen is None:
        return passing
    among = np.zeros(len(index), dtype=bool)
    among[list(chosen.values())] = True
    return among if passing is None else among & passing


def _in_order(index: Index, allowed: np.ndarray | None, listed: list[int]) -> Ranking:
    """The rows that may be found, in the order in which they are listed, else in the index's."""
    rows = np.array(listed, dtype=np.int64) if listed else np.arange(len(index))
    rows = rows if allowed is None else rows[allowed[rows]]
    return lambda count: (np.full(min(count, len(rows)), np.nan), rows[:count])


def _grouped(index: Index, ranked: Ranking, k: int, total: int, by: str) -> tuple[np.ndarray, np.ndarray]:
    """The best k, one a group. Looks deeper by steps until k groups are met or everything was looked at."""
    if by == "series" or k == 0:
        return ranked(k)
    groups = index.columns(["series_id", GROUPS[by]])
    names = groups[GROUPS[by]] if GROUPS[by] in groups.columns else pl.Series([None] * len(index), dtype=pl.String)
    depth = 4 * k
    while True:
        scores, rows = ranked(min(depth, total))
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


def classify(
    index: Index, prompts: Sequence[np.ndarray], scale: float, against: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Zero-shot probabilities float32 (n, C) of the live rows, by pixels alone; see index.prompts for the rules.

    prompts: for each class the text vectors (W, E) of its wordings; against: those of what denies it, for findings.
    """
    return probabilities(evidence(index, class_vectors(prompts, against), scale), bool(against))


def evidence(index: Index, classes: np.ndarray, scale: float) -> np.ndarray:
    """Logits float32 (n, C) of the live rows: one product of all vectors with scale times the class vectors (C, E)."""
    return index.similarity(np.float32(scale) * classes.T)
