"""Series whose pixels and tags disagree most: mislabelled sequences, the wrong part of the body.

Decisions (measured with planted wrong tags by tests/benchmarks/evidence.py):
- What the pixels suggest is read from series of other patients alone, in two ways of equal weight: a ridge regression of
  the tags on the vectors, fitted in FOLDS parts that share no patient, and the votes of the nearest series. Each gives
  the shares of the evidence that speak for each value. Text prototypes were tried and left out: on real body regions they
  found planted tags hardly better than chance.
- disagreement = share for the suggested value less share for the tag: 1 when all speaks for the suggestion and nothing
  for the tag, 0 when undecided. Only what is above 0 is listed.
- A value is a reference with LEAST_PATIENTS patients or more; "OTHER" and null are neither judged nor suggested.
- At most REFERENCES series of a value teach, spread evenly. The regression reads all vectors block by block; the votes
  are counted for the SHORTLIST series that it doubts most. So a million rows take seconds and bounded memory.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from index.background import sample_rows
from index.store import Index
from models.errors import DecipherError

FIELDS = ("sequence", "body_region")
LEAST_PATIENTS = 3
REFERENCES = 1024
SHORTLIST = 1000
FOLDS = 5
RIDGE = 1.0
NEIGHBOURS = 20
SHARPNESS = 10.0
"""a neighbour whose cosine is lower by 0.1 than the nearest one's has 1/e of its vote"""
SHOWN = 5
BLOCK_ROWS = 16384
VOTE_ROWS = 512
SCHEMA = {
    "series_id": pl.String(),
    "path": pl.String(),
    "field": pl.String(),
    "tagged": pl.String(),
    "suggested": pl.String(),
    "disagreement": pl.Float64(),
    "votes": pl.Int64(),
    "of": pl.Int64(),
    "neighbours": pl.List(pl.String),
}


@dataclass(frozen=True)
class Conflicts:
    """found: SCHEMA, largest disagreement first; votes: how many `of` the nearest series of other patients have the
    suggested value; neighbours: series_id of the nearest of those. values: what could be judged or suggested, none where
    the tags tell too little; judged: how many series were; unjudged: how many have a value that is no reference."""

    found: pl.DataFrame
    values: tuple[str, ...]
    judged: int
    unjudged: int


@dataclass(frozen=True)
class Known:
    """Tags of all rows. codes (n,): which of `values`, -1 for none of them; tagged (n,): has any; who, fold (n,): the
    patient and the part of the regression that never sees this patient."""

    values: tuple[str, ...]
    codes: np.ndarray
    who: np.ndarray
    fold: np.ndarray
    tagged: np.ndarray


def conflicts(index: Index, field: str = "sequence", k: int = 20, rows: np.ndarray | None = None) -> Conflicts:
    """The k series whose `field` (one of FIELDS) disagrees most with their pixels; `rows` (m,) narrows what is judged.

    Errors: DecipherError for another field.
    """
    if field not in FIELDS:
        raise DecipherError(f"Conflicts of {field} cannot be found.", f"Choose one of {', '.join(FIELDS)}.")
    known = _known(index, field)
    wanted = np.arange(len(index)) if rows is None else rows
    judged, tagged = wanted[known.codes[wanted] >= 0], int(known.tagged[wanted].sum())
    if len(known.values) < 2 or not len(judged):
        return Conflicts(pl.DataFrame(schema=SCHEMA), (), 0, tagged)
    references = _references(known)
    fitted = fit(index.gather(references), known.codes[references], known.fold[references], len(known.values))
    doubted = _most_doubted(index, known, judged, fitted, max(k, SHORTLIST))
    found = _listed(index, known, field, doubted, references, fitted, k)
    return Conflicts(found, known.values, len(judged), tagged - len(judged))


def fit(vectors: np.ndarray, codes: np.ndarray, fold: np.ndarray, count: int) -> np.ndarray:
    """Ridge regression of one-hot codes (m,) on vectors (m, E), for each part without the rows of that part.

    Returns float64 (FOLDS, E + 1, count); the last row is the intercept.
    """
    wide, wanted = vectors.astype(np.float64), np.eye(count)[codes]
    fitted = np.zeros((FOLDS, vectors.shape[1] + 1, count))
    for part in range(FOLDS):
        others = fold != part
        if not others.any():
            continue
        middle, share = wide[others].mean(axis=0), wanted[others].mean(axis=0)
        centred = wide[others] - middle
        gram = centred.T @ centred + RIDGE * np.eye(len(middle))
        fitted[part, :-1] = np.linalg.solve(gram, centred.T @ (wanted[others] - share))
        fitted[part, -1] = share - middle @ fitted[part, :-1]
    return fitted


def predict(fitted: np.ndarray, vectors: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Shares float64 (m, count) that the regression which never saw their patients gives to vectors (m, E)."""
    found = np.empty((len(vectors), fitted.shape[2]))
    for part in np.unique(fold):
        own = fold == part
        found[own] = vectors[own] @ fitted[part, :-1] + fitted[part, -1]
    found = found.clip(0.0)
    return found / np.maximum(found.sum(axis=1, keepdims=True), 1e-9)


def vote(cosines: np.ndarray, codes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares float64 (m, count) of the votes of the NEIGHBOURS nearest of r references, and which these are, (m, <= r).

    cosines: (m, r), -inf where a reference may not vote; codes (r,): the references' values. Nearest first, -1 for none.
    """
    most = min(NEIGHBOURS, cosines.shape[1])
    nearest = np.sort(np.argpartition(-cosines, most - 1, axis=1)[:, :most], axis=1)
    close = np.take_along_axis(cosines, nearest, axis=1).astype(np.float64)
    order = np.argsort(-close, axis=1, kind="stable")
    nearest, close = np.take_along_axis(nearest, order, axis=1), np.take_along_axis(close, order, axis=1)
    nearest[np.isneginf(close)] = -1
    with np.errstate(invalid="ignore"):
        weights = np.nan_to_num(np.exp(SHARPNESS * (close - close[:, :1])))
    shares = (weights[:, :, None] * np.eye(count)[codes[nearest]]).sum(axis=1)
    return shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-9), nearest


def _known(index: Index, field: str) -> Known:
    names = ["patient_id", "study_id", "series_id"]
    frame = index.columns([*names, field])
    absent = [pl.lit(None, dtype=pl.String).alias(name) for name in (*names, field) if name not in frame.columns]
    frame = frame.with_columns(absent).select(
        who=pl.coalesce(names).rank("dense") - 1,
        value=pl.when(pl.col(field) != "OTHER").then(pl.col(field)),
        tagged=pl.col(field).is_not_null(),
    )
    counts = (
        frame.drop_nulls("value").group_by("value").agg(patients=pl.col("who").n_unique()).sort("patients", "value")
    )
    values = tuple(counts.filter(pl.col("patients") >= LEAST_PATIENTS)["value"])
    place = {value: code for code, value in enumerate(values)}
    codes = frame["value"].replace_strict(place, default=-1, return_dtype=pl.Int64).fill_null(-1).to_numpy()
    who = frame["who"].to_numpy().astype(np.int64)
    return Known(values, codes, who, _folds(codes, who, len(values)), frame["tagged"].to_numpy())


def _folds(codes: np.ndarray, who: np.ndarray, count: int) -> np.ndarray:
    """int64 (n,): a part for each row, the same for all of a patient; the patients of a rare value spread over parts."""
    rarest = np.full(who.max(initial=-1) + 1, count)
    np.minimum.at(rarest, who[codes >= 0], codes[codes >= 0])
    part = np.empty(len(rarest), dtype=np.int64)
    part[np.argsort(rarest, kind="stable")] = np.arange(len(rarest)) % FOLDS
    return part[who]


def _references(known: Known) -> np.ndarray:
    """Rows that teach, ascending."""
    of_each = [np.flatnonzero(known.codes == code) for code in range(len(known.values))]
    return np.sort(np.concatenate([rows[sample_rows(len(rows), REFERENCES)] for rows in of_each]))


def _margins(shares: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the best other value less share of the tag (m,), and which value that is (m,)."""
    each = np.arange(len(codes))
    own, others = shares[each, codes], shares.copy()
    others[each, codes] = -np.inf
    return others.max(axis=1) - own, others.argmax(axis=1)


def _most_doubted(index: Index, known: Known, judged: np.ndarray, fitted: np.ndarray, most: int) -> np.ndarray:
    """Up to `most` of the judged rows, those whose tag the regression doubts most."""
    if len(judged) <= most:
        return judged
    margins = np.empty(len(judged))
    for start in range(0, len(judged), BLOCK_ROWS):
        part = judged[start : start + BLOCK_ROWS]
        shares = predict(fitted, index.gather(part), known.fold[part])
        margins[start : start + BLOCK_ROWS] = _margins(shares, known.codes[part])[0]
    return np.sort(judged[np.argsort(-margins, kind="stable")[:most]])


def _judge(
    index: Index, known: Known, rows: np.ndarray, references: np.ndarray, fitted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `rows` (m,): disagreement, the value suggested, and the nearest references, -1 for none, (m, <= r)."""
    codes, teachers = known.codes[references], index.gather(references)
    found = []
    for start in range(0, len(rows), VOTE_ROWS):
        part = rows[start : start + VOTE_ROWS]
        vectors = index.gather(part)
        cosines = vectors @ teachers.T
        cosines[known.who[part][:, None] == known.who[references][None]] = -np.inf
        votes, nearest = vote(cosines, codes, len(known.values))
        shares = (predict(fitted, vectors, known.fold[part]) + votes) / 2
        found.append((*_margins(shares, known.codes[part]), nearest))
    margins, suggested, near = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return margins, suggested, near


def _listed(
    index: Index, known: Known, field: str, rows: np.ndarray, references: np.ndarray, fitted: np.ndarray, k: int
) -> pl.DataFrame:
    """SCHEMA for the k of `rows` whose tags are contradicted most."""
    margins, suggested, nearest = _judge(index, known, rows, references, fitted)
    order = np.lexsort((rows, -margins))[:k]
    order = order[margins[order] > 0]
    if not len(order):
        return pl.DataFrame(schema=SCHEMA)
    agreeing = (nearest[order] >= 0) & (known.codes[references[nearest[order]]] == suggested[order][:, None])
    shown = [references[near[of]][:SHOWN] for near, of in zip(nearest[order], agreeing, strict=True)]
    met = np.unique(np.concatenate(shown))
    name_of = dict(zip(met.tolist(), index.rows(met, ["series_id"])["series_id"], strict=True))
    records = index.rows(rows[order], ["series_id", "path"])
    return pl.DataFrame(
        {
            "series_id": records["series_id"],
            "path": records["path"] if "path" in records.columns else [None] * len(order),
            "field": [field] * len(order),
            "tagged": [known.values[code] for code in known.codes[rows[order]]],
            "suggested": [known.values[code] for code in suggested[order]],
            "disagreement": margins[order],
            "votes": agreeing.sum(axis=1),
            "of": (nearest[order] >= 0).sum(axis=1),
            "neighbours": [[name_of[row] for row in one.tolist()] for one in shown],
        },
        schema=SCHEMA,
    )
