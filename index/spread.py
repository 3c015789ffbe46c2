"""How vectors use their space: in how many directions they vary, how alike they are, and which are near to all."""

import numpy as np

NEIGHBOURS = 10
BLOCK_ROWS = 2048
SAME = 1e-5
"""share of the vectors' norm below which their spread is the rounding of float32"""


def effective_rank(vectors: np.ndarray) -> float:
    """Number of directions in which vectors (n, D) vary: exp of the entropy of their normalised singular values.

    From 1 to min(n - 1, D); the vectors are centred first, so that an offset common to all is no direction. 0 where all are
    the same. Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007; as a sign of collapse: Garrido et al., ICML 2023.
    """
    given = np.asarray(vectors, dtype=np.float64)
    if not len(given) or not np.isfinite(given).all():
        return float("nan")
    centred = given - given.mean(axis=0)
    if np.linalg.norm(centred) <= SAME * np.linalg.norm(given):
        return 0.0
    values = np.linalg.svd(centred, compute_uv=False)
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows of vectors (n, D).

    Source: Ethayarajh, "How contextual are contextualized word representations?", EMNLP 2019, as anisotropy.
    """
    if len(vectors) < 2:
        return float("nan")
    unit = unit_length(vectors)
    total = unit.sum(axis=0)
    return float((total @ total - (unit * unit).sum()) / (len(unit) * (len(unit) - 1)))


def hubness(vectors: np.ndarray, k: int = NEIGHBOURS) -> float:
    """How unevenly vectors (n, D) are each other's neighbours: skewness of how often each is among the k nearest of another.

    0 where all are as often, and about 0 for random vectors of few numbers; above 1, a few (hubs) are near to very many. NaN
    with fewer than k + 2. Source: Radovanovic, Nanopoulos and Ivanovic, "Hubs in space", JMLR 11 (2010), section 2.
    """
    if len(vectors) < k + 2 or not np.isfinite(vectors).all():
        return float("nan")
    return skewness(occurrences(unit_length(vectors), k))


def occurrences(vectors: np.ndarray, k: int) -> np.ndarray:
    """int64 (n,): among the k nearest of how many other rows each row of (n, E) is; the mean is k."""
    counts = np.zeros(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        scores = vectors[start : start + BLOCK_ROWS] @ vectors.T
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -np.inf
        counts += np.bincount(np.argpartition(-scores, k, axis=1)[:, :k].ravel(), minlength=len(vectors))
    return counts


def skewness(counts: np.ndarray) -> float:
    """Third standardised moment; 0 where all are alike. Above 1, a few rows are neighbours of very many (hubs)."""
    centred = counts - counts.mean()
    deviation = centred.std()
    return float((centred**3).mean() / deviation**3) if deviation > 0 else 0.0


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, D) brought to length 1, float64; zeros stay zeros."""
    given = np.asarray(vectors, dtype=np.float64)
    return given / np.maximum(np.linalg.norm(given, axis=1, keepdims=True), 1e-12)
