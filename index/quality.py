"""How good an index is: does search find what is nearest, how quickly, and do the vectors use their space?

Decisions: recall and latency are those of the paths that search takes, from a query's vector to ranked rows. Volumes stand
for themselves and are not counted among their own neighbours. The vectors' spread is measured on a sample of at most
SAMPLE rows; hubness depends on how many rows there are, so it compares encoders on one archive, not archives.

Source: intervals of shares, Wilson (1927), each query one trial.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from index.nearest import described, load
from index.oracle import questions, recalls
from index.ranking import Proposer, Side, ranking
from index.spread import NEIGHBOURS, effective_rank, mean_cosine, occurrences, skewness
from index.store import Index
from models.errors import DecipherError

SAMPLE = 10_000
SAME = 0.9999
"""cosine from which two vectors are taken for one"""
Progress = Callable[[int, int], None]


def measure(index: Index, queries: int = 100, seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """Recall at 10 against exact search, latency, and the spread of the vectors; {"value", "low", "high"} with 95 %.

    queries: of each kind (rows, means of two rows, captions). progress: called with queries done and queries in all.
    Errors: DecipherError for an index of fewer than 12 series.
    """
    if len(index) < NEIGHBOURS + 2:
        raise DecipherError(f"{index.folder} has too few series to be measured.", f"It takes {NEIGHBOURS + 2} or more.")
    rng = np.random.default_rng(seed)
    sample = index.gather(np.sort(rng.choice(len(index), min(SAMPLE, len(index)), replace=False)))
    counts = occurrences(sample, NEIGHBOURS)
    return {
        "series": len(index),
        "dim": index.dim,
        **_searched(index, queries, seed, progress),
        "nearest": described(index),
        "effective_rank": effective_rank(sample),
        "mean_cosine": mean_cosine(sample),
        "hubness": {"skewness": skewness(counts), "antihubs": float((counts == 0).mean()), "k": NEIGHBOURS},
        "sample": len(sample),
    }


def _searched(index: Index, queries: int, seed: int, progress: Progress | None) -> dict[str, Any]:
    nearest = load(index)
    asked, own = questions(index, queries, seed)
    recall: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {"exact": [], "automatic": []}
    total, twins = sum(len(vectors) for vectors in asked.values()), 0
    for kind, vectors in asked.items():
        found = []
        for number, query in enumerate(vectors):
            hidden = int(own[number]) if kind == "volumes" else -1
            true = _timed(index, query, hidden, None, seconds["exact"])
            quick = true if nearest is None else _timed(index, query, hidden, nearest, seconds["automatic"])
            found.append(recalls(quick[None], true[None])[0])
            twins += kind == "volumes" and true[0] > SAME
            if progress:
                progress(len(seconds["exact"]), total)
        recall[kind] = np.array(found)
    every = np.concatenate(list(recall.values()))
    return {
        "recall@10": share(every, nearest is None),
        "recall@10_by_query": {kind: share(found, nearest is None) for kind, found in recall.items()},
        "latency_ms": {name: _milliseconds(taken or seconds["exact"]) for name, taken in seconds.items()},
        "duplicates": share(np.arange(len(own)) < twins, len(own) == len(index)),
    }


def _timed(index: Index, query: np.ndarray, hidden: int, nearest: Proposer | None, seconds: list[float]) -> np.ndarray:
    """Scores of the ten best but for the row `hidden`, best first; adds to `seconds` how long it took."""
    began = time.perf_counter()
    scores, rows = ranking(index, [Side("vectors", query)], None, nearest)(NEIGHBOURS + (hidden >= 0))
    seconds.append(time.perf_counter() - began)
    return scores[rows != hidden][:NEIGHBOURS]


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    median, p95 = np.quantile(seconds, [0.5, 0.95]) * 1000
    return {"median": round(float(median), 3), "p95": round(float(p95), 3)}


def share(values: np.ndarray, known: bool = False) -> dict[str, float]:
    """Mean of values (n,) in 0..1 with Wilson's 95 % interval; of no width where it is `known` and not estimated."""
    mean, n, z = float(values.mean()), len(values), 1.959964
    if known:
        return {"value": mean, "low": mean, "high": mean}
    middle = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    return {"value": mean, "low": float(max(middle - half, 0.0)), "high": float(min(middle + half, 1.0))}
