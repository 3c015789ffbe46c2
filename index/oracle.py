"""What exact search answers to questions like those that people ask: what approximate search is held against.

Decisions: the questions are rows of the index itself (a volume), means of two rows (two volumes), and captions' vectors
(a text, which lies elsewhere in the space than volumes do). A row is not counted among its own neighbours. Recall goes by
scores, not by rows: of many equal vectors, any is as good as another.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from index.ranking import ROUNDING
from index.rows import Rows

Block = tuple[np.ndarray, np.ndarray]


def questions(index: Rows, count: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """{"volumes", "pairs", "texts": float32 (count, E) each, of length 1}, and the live rows that "volumes" are.

    Fewer where the index has fewer rows; no texts where it has no captions.
    """
    rng = np.random.default_rng(seed)
    count = min(count, len(index))
    own, others, told = (np.sort(rng.choice(len(index), count, replace=False)) for _ in range(3))
    volumes, texts = index.gather(own), index.gather(told, "captions")
    asked = {"volumes": volumes, "pairs": _unit(volumes + index.gather(rng.permutation(others)))}
    texts = texts[np.linalg.norm(texts, axis=1) > 0.5]
    return asked | ({"texts": texts} if len(texts) else {}), own


def answers(
    blocks: Iterable[Block], queries: Mapping[str, np.ndarray], k: int, own: np.ndarray
) -> dict[str, np.ndarray]:
    """{kind: float32 (q, k)}: the k highest inner products of each query, highest first; fewer where there are not k.

    blocks: (ids (b,), vectors float32 (b, E)). queries: {kind: (q, E)}. own: ids of the "volumes", left out for each.
    """
    asked = np.concatenate(list(queries.values()))
    first = sum(len(queries[kind]) for kind in list(queries)[: list(queries).index("volumes")])
    hidden = np.full(len(asked), -1)
    hidden[first : first + len(own)] = own
    best, seen = np.zeros((len(asked), 0), dtype=np.float32), 0
    for ids, vectors in blocks:
        scores = asked @ vectors.T
        scores[hidden[:, None] == ids] = -np.inf
        best = _highest(np.hstack([best, _highest(scores, k)]), k)
        seen += len(ids)
    best = -np.sort(-best, axis=1)[:, : min(k, seen - 1)]
    return dict(zip(queries, np.split(best, np.cumsum([len(one) for one in queries.values()])[:-1]), strict=True))


def recalls(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64 (q,): the share of the k best that was found; found (q, m) and true (q, k) are scores, true ones descending."""
    k = true.shape[1]
    return np.minimum((found >= true[:, -1:] - ROUNDING / 2).sum(axis=1), k) / k


def _highest(scores: np.ndarray, k: int) -> np.ndarray:
    if scores.shape[1] <= k:
        return scores
    return np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k :]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
