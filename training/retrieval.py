"""Retrieval: how well vectors find what belongs together, exactly and as search answers, with intervals over patients."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from index.nearest import load as load_nearest
from index.ranking import Proposer, Side, ranking
from index.record import subjects
from index.store import Index
from models.errors import DecipherError
from training.ranks import FIRST, Ranks, chance, figures, joined, ordered, ranks_of
from training.retrieval_tasks import LABELS, Progress, Task, tasks_of
from training.target import MOST_CATEGORIES

BLOCK_VALUES = 2**22
"""cosines held in memory at a time"""
COLUMNS = ("series_id", "study_id", "patient_id", "path", "part", "sequence", "report")


@dataclass(frozen=True)
class Retrieval:
    """rows: a JSON object a kind of query; notes: sentences on what was left out or cut."""

    rows: list[dict[str, Any]]
    notes: list[str]


def measure_retrieval(
    index: Index,
    label: str | None = None,
    queries: int = 1000,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Retrieval:
    """Every kind of query that the index can answer; at most `queries` of each, drawn by `seed`.

    label: a column in place of LABELS. A row has kind, queries, pool (its median), patients, metrics {name: {value, low,
    high}}, chance {name: value}, indexed (as metrics, through nearest.faiss; None where search is exact) and left_out
    {why: count}.
    Errors: DecipherError for an empty index, one patient, vectors that are not finite, and a column that cannot be used.
    """
    records = _records(index, label)
    who = np.array(subjects(records))
    _check(index, who)
    tasks, notes = tasks_of(index, records, who, label, seed, progress)
    nearest, rows = load_nearest(index), []
    for task in tasks:
        count = len(task.queries)
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(count, min(queries, count), replace=False))
        rows.append(_measured(index, task, chosen, nearest, partial(progress, task.kind)))
    return Retrieval(rows, notes)


def _records(index: Index, label: str | None) -> pl.DataFrame:
    """The columns that are needed, null where the index lacks one.

    Errors: DecipherError for an empty index and for a column of no categories.
    """
    if not len(index):
        raise DecipherError(f"{index.folder} holds no series.", f"Fill it: decipher encode ARCHIVE -i {index.folder}")
    if label and label not in index.schema:
        near = get_close_matches(label, list(index.schema), n=1)
        hint = f"Did you mean --label {near[0]}?" if near else "Labels join when encoding: decipher encode --labels CSV"
        raise DecipherError(f"No column {label!r} in {index.folder}.", hint)
    wanted = dict.fromkeys([*COLUMNS, *(name for one in LABELS for name in one), *([label] if label else [])])
    found = index.columns(wanted)
    records = found.with_columns(
        pl.lit(None, dtype=pl.String).alias(name) for name in wanted if name not in found.columns
    )
    if label and (
        records[label].dtype.is_nested()
        or (records[label].dtype.is_float() and records[label].n_unique() > MOST_CATEGORIES)
    ):
        raise DecipherError(f"Column {label!r} holds numbers or lists, not categories.", "Name one such as sequence.")
    return records


def _check(index: Index, who: np.ndarray) -> None:
    if len(np.unique(who)) < 2:
        raise DecipherError(
            f"All series of {index.folder} are of one patient: there is nobody to tell apart.",
            f"Add series of others: decipher encode ARCHIVE -i {index.folder}",
        )
    if not np.isfinite(index.vectors).all():
        raise DecipherError("The vectors hold numbers that are not finite.", "Encode the archive again.")


def _measured(
    index: Index, task: Task, chosen: np.ndarray, nearest: Proposer | None, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    exact, owners = _exact_ranks(task, chosen, progress), task.owners[chosen]
    quick = None if nearest is None or task.rows is None else _indexed_ranks(index, task, chosen, nearest)
    return {
        "kind": task.kind,
        "queries": len(chosen),
        "pool": int(np.median(exact.pool)),
        "patients": len(np.unique(owners)),
        "metrics": figures(exact, owners),
        "chance": chance(exact.pool, exact.relevant),
        "indexed": quick and figures(quick, owners),
        "left_out": task.left_out,
    }


def _exact_ranks(task: Task, chosen: np.ndarray, progress: Callable[[int, int], None]) -> Ranks:
    size, parts = max(1, BLOCK_VALUES // len(task.pool)), []
    for start in range(0, len(chosen), size):
        now = chosen[start : start + size]
        relevant, hidden = task.judge(now)
        order = ordered(task.queries[now] @ task.pool.T, relevant, hidden)
        parts.append(ranks_of(order, len(task.pool) - hidden.sum(axis=1)))
        progress(min(start + size, len(chosen)), len(chosen))
    return joined(parts)


def _indexed_ranks(index: Index, task: Task, chosen: np.ndarray, nearest: Proposer) -> Ranks:
    """As search answers, without what is hidden: the first ten alone, what is relevant further on at rank infinity."""
    assert task.rows is not None
    place = np.full(len(index), -1)
    place[task.rows] = np.arange(len(task.rows))
    parts = []
    for number in chosen:
        relevant, hidden = (one[0] for one in task.judge(np.array([number])))
        scores, found = _first_of_pool(index, task.queries[number], nearest, place, hidden)
        order = ordered(scores[None].astype(np.float32), relevant[found][None], np.zeros((1, len(found)), dtype=bool))
        hits, left = order[0, :FIRST], np.array([len(hidden) - hidden.sum()])
        first = hits.argmax() + 1 if hits.any() else np.inf
        precision = hits.sum() / min(FIRST, left[0])
        parts.append(Ranks(np.array([first]), np.array([np.nan]), np.array([precision]), left * 0, left))
    return joined(parts)


def _first_of_pool(
    index: Index, query: np.ndarray, nearest: Proposer, place: np.ndarray, hidden: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and pool numbers of at least FIRST that search finds, looking deeper until that many are in the pool."""
    ranked, depth = ranking(index, [Side("vectors", query)], None, nearest), FIRST
    while True:
        depth = min(depth, len(index))
        scores, rows = ranked(depth)
        at = place[rows]
        kept = (at >= 0) & ~hidden[at]
        if kept.sum() >= FIRST or depth == len(index):
            return scores[kept], at[kept]
        depth *= 4
