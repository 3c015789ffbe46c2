"""What may leak between the parts of a split, and how well they are balanced.

Decisions
- Copies under two names are looked for with the encoder's vectors: each series of the smaller parts beside its nearest in
  the larger ones. It is a near copy above a cosine of 0.999, or of more where neighbours are that near by nature: it must
  be 20 times nearer than a quarter of the series have their fifth neighbour (the fifth: copies take the first places).
- Matrix products go by blocks, and beyond MOST_PAIRS an even sample is compared: memory and time stay bounded.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from training.split import NAMES, people

NEAR_COSINE, EXACT_COSINE = 0.999, 0.99999
NEIGHBOUR, TIMES_NEARER = 5, 20
BLOCK_VALUES = 32_000_000
MOST_PAIRS = 10_000_000_000
SAMPLE = 2000
LISTED = 1000
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pair:
    """Two series of different parts, and the cosine of their vectors; a patient is None where unknown."""

    cosine: float
    series: tuple[str, str]
    patients: tuple[str | None, str | None]
    parts: tuple[str, str]


@dataclass(frozen=True)
class LeakageReport:
    """What may leak, in numbers.

    patients_parted, studies_parted: how many stand in several parts; patients_unknown: series of no known patient.
    comparable: series outside the largest part, compared: those of them that were compared with all larger parts, near:
    those that have a near copy there, by a cosine above `threshold`; usual: the median cosine of nearest neighbours.
    nearest: each with its nearest, worst first, at most LISTED, those below the threshold too. balance: see `balance`.
    """

    patients_parted: int
    studies_parted: int
    patients_unknown: int
    comparable: int
    compared: int
    near: int
    threshold: float
    usual: float | None
    nearest: list[Pair]
    balance: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The same as an object of JSON."""
        return asdict(self)


def leakage_report(
    records: pl.DataFrame, vectors: np.ndarray, progress: Progress = lambda done, of: None
) -> LeakageReport:
    """What may leak between the parts of `records` (the columns of `split`, and split), vectors float32 (n, E) row by row.

    100,000 series in 0.7/0.15/0.15 take a minute or less on two cores; similarities are held 128 MB at a time.
    """
    sizes = records["split"].value_counts().sort("count", "split", descending=[True, False])
    rank = records.select(pl.col("split").replace_strict(sizes["split"], range(sizes.height)))["split"].to_numpy()
    order = np.lexsort((records["series_id"].to_numpy(), rank))
    starts = [0, *np.cumsum(sizes["count"]).tolist()]
    rows, other, cosine, threshold = _nearest(np.ascontiguousarray(vectors[order]), starts, progress)
    worst = np.lexsort((rows, -cosine))[:LISTED]
    left, right = records[order[rows[worst]]], records[order[other[worst]]]
    return LeakageReport(
        patients_parted=_parted(records, "patient_id"),
        studies_parted=_parted(records, "study_id"),
        patients_unknown=records["patient_id"].null_count(),
        comparable=records.height - starts[1] if records.height else 0,
        compared=len(rows),
        near=int((cosine > threshold).sum()),
        threshold=threshold,
        usual=round(float(np.median(cosine)), 6) if len(rows) else None,
        nearest=_pairs(cosine[worst], left, right),
        balance=balance(records),
    )


def _nearest(
    vectors: np.ndarray, starts: list[int], progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Rows of the smaller parts, the nearest row of a larger part, their cosine, and above which one is a near copy.

    vectors (n, E) by part, the largest first; starts: where each part begins, and n.
    """
    blocks = list(_blocks(starts))
    rows = np.concatenate([np.zeros(0, dtype=int), *(block for block, _ in blocks)])
    other, cosine, fifth = np.zeros(len(rows), dtype=int), np.zeros(len(rows), dtype=np.float32), [np.zeros(0)]
    every, done = max(1, len(rows) // SAMPLE), 0
    for block, width in blocks:
        found = vectors[block] @ vectors[:width].T
        part = slice(done, done + len(block))
        other[part] = found.argmax(1)
        cosine[part] = found[np.arange(len(block)), other[part]]
        place = max(0, width - NEIGHBOUR)
        fifth.append(np.partition(found[::every], place, axis=1)[:, place])
        done += len(block)
        progress(done, len(rows))
    return rows, other, cosine, _threshold(np.concatenate(fifth))


def _threshold(fifth: np.ndarray) -> float:
    """The cosine above which a neighbour is a near copy, from those of fifth neighbours."""
    usual = 1 - np.quantile(fifth, 0.75) if len(fifth) else 1.0
    return float(np.clip(1 - usual / TIMES_NEARER, NEAR_COSINE, EXACT_COSINE))


def _blocks(starts: list[int]) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of each part but the first, a block at a time, and how many rows stand before their part."""
    parts = list(pairwise(starts[1:]))
    pairs = sum(first * (last - first) for first, last in parts)
    for first, last in parts:
        rows = np.arange(first, last, max(1, math.ceil(pairs / MOST_PAIRS)))
        size = max(1, BLOCK_VALUES // first)
        yield from ((rows[at : at + size], first) for at in range(0, len(rows), size))


def _pairs(cosine: np.ndarray, left: pl.DataFrame, right: pl.DataFrame) -> list[Pair]:
    columns = [zip(left[name], right[name], strict=True) for name in ("series_id", "patient_id", "split")]
    return [Pair(round(float(min(near, 1)), 6), *two) for near, *two in zip(cosine, *columns, strict=True)]


def _parted(records: pl.DataFrame, name: str) -> int:
    known = records.filter(pl.col(name).is_not_null())
    return int((known.group_by(name).agg(pl.col("split").n_unique())["split"] > 1).sum())


def balance(records: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows {what, value, and a number for each part}: patients, series, series by sequence, patients by sex, median age."""
    parts = sorted(records["split"].unique(), key=lambda name: (*(name != one for one in NAMES[3]), len(name), name))
    persons = records.select("split", "sex", "age_years", person=people(records))
    persons = persons.group_by("split", "person").agg(pl.col("sex").min(), pl.col("age_years").median())
    ages = dict(persons.group_by("split").agg(pl.col("age_years").median().round(1)).iter_rows())
    return [
        *_counted(persons.with_columns(patients=pl.lit("")), "patients", parts),
        *_counted(records.with_columns(series=pl.lit("")), "series", parts),
        *_counted(records, "sequence", parts),
        *_counted(persons, "sex", parts),
        {"what": "median age", "value": ""} | {part: ages[part] for part in parts},
    ]


def _counted(rows: pl.DataFrame, what: str, parts: list[str]) -> list[dict[str, Any]]:
    """One line for each value of the column `what`, the most frequent first."""
    values = rows[what].fill_null("unknown")
    counts = Counter(zip(values, rows["split"], strict=True))
    most = sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"what": what, "value": value} | {part: counts[value, part] for part in parts} for value, _ in most]
