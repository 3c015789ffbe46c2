"""The nearest vectors by inner product, exactly, and the FAISS file that stands beside them.

    nearest.faiss  (FAISS id = live row)    nearest.json  (the commit and the factory string it was built for)

Decisions: candidates are found in float32 by the fastest way at hand (matrix product or FAISS), then scored again in
float64, each row in the same order of sums, so that equal vectors score equally wherever they lie and ties go to the
lower row, on any machine, by any path. The FAISS file is derived: it is used only when its stamp is that of the commit,
else passed over, and can be built again at any time. A filter goes before the search: the allowed rows are scored,
hence k are found when k exist.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from index.segment import read_json, sync, write_json
from index.store import Index
from models.errors import DecipherError

ROUNDING = 1e-5
BLOCK_ROWS = 16384
SPARSE = 0.1


def nearest(
    vectors: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None, faiss_index: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of `vectors` (n, E) for each of `queries` (q, E): scores float64 (q, k'), rows int64 (q, k').

    allowed: bool (n,), the rows that may be found; k' = min(k, rows allowed). faiss_index, from `build` or `load`,
    proposes the candidates when there is no filter; approximate factories may then miss some.
    """
    queries = np.atleast_2d(np.asarray(queries, dtype=np.float32))
    count = len(vectors) if allowed is None else int(allowed.sum())
    k = min(k, count)
    found = [_nearest_one(vectors, query, k, allowed, faiss_index) for query in queries]
    scores = np.array([scores for scores, _ in found], dtype=np.float64).reshape(len(queries), -1)
    return scores, np.array([rows for _, rows in found], dtype=np.int64).reshape(len(queries), -1)


def _nearest_one(
    vectors: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray | None, faiss_index: Any
) -> tuple[np.ndarray, np.ndarray]:
    def rescore(rows: np.ndarray) -> np.ndarray:
        return inner_products(vectors, rows, query)

    if allowed is None and faiss_index is not None:
        return best(rescore, candidates(faiss_index, query, k), k)
    if allowed is not None and allowed.mean() < SPARSE:
        return best(rescore, np.flatnonzero(allowed), k)
    scores = vectors @ query
    if allowed is not None:
        scores[~allowed] = -np.inf
    return best(rescore, contenders(scores, k), k)


def contenders(scores: np.ndarray, k: int, slack: float = ROUNDING) -> np.ndarray:
    """Rows that may be among the k best when each of `scores` (n,) is right within slack / 2; int64, ascending."""
    k = min(k, len(scores))
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k] - slack
    return np.flatnonzero(scores >= threshold)


def best(rescore: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of `rows` by rescore(rows) -> float64, best first, ties by row: (scores, rows)."""
    scores = rescore(rows)
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def inner_products(
    vectors: np.ndarray | Callable[[np.ndarray], np.ndarray], rows: np.ndarray, query: np.ndarray
) -> np.ndarray:
    """float64 (m,): vectors[rows] times query (E,), each row summed in the same order. vectors: (n, E), or a gather."""
    wide = query.astype(np.float64)
    scores = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        block = vectors(part) if callable(vectors) else vectors[part]
        np.einsum("ij,j->i", block.astype(np.float64), wide, out=scores[start : start + BLOCK_ROWS])
    return scores


def candidates(faiss_index: Any, query: np.ndarray, k: int) -> np.ndarray:
    """Rows that FAISS holds for the k best, ties at the k-th place included; int64, ascending."""
    wanted, total = k + 16, faiss_index.ntotal
    while True:
        scores, rows = faiss_index.search(query[None], min(wanted, total))
        reached = wanted >= total or rows[0, -1] < 0 or scores[0, -1] < scores[0, k - 1] - ROUNDING
        if k == 0 or reached:
            return np.sort(rows[0][rows[0] >= 0])
        wanted *= 4


def build(vectors: np.ndarray, factory: str = "Flat") -> Any:
    """A FAISS index over `vectors` (n, E) by inner product; factory: any FAISS factory string, "Flat" is exact."""
    import faiss

    try:
        made = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not made.is_trained:
            made.train(np.ascontiguousarray(vectors))
        for start in range(0, len(vectors), BLOCK_ROWS):
            made.add(np.ascontiguousarray(vectors[start : start + BLOCK_ROWS]))
    except RuntimeError as error:
        raise DecipherError(
            f'FAISS cannot build "{factory}" over {len(vectors)} vectors.', 'Try "Flat", which is exact, or "HNSW32".'
        ) from error
    return made


def refresh(index: Index, factory: str = "Flat") -> None:
    """Write nearest.faiss for the last commit, unless it is there already."""
    import faiss

    with index.writing():
        if is_fresh(index, factory) or not len(index):
            return
        partial = index.folder / "nearest.faiss.partial"
        made = build(index.vectors, factory)
        faiss.write_index(made, str(partial))
        sync(partial)
        stamp = {"commit": index.commit, "factory": factory, "rows": len(index), "bytes": partial.stat().st_size}
        (index.folder / "nearest.json").unlink(missing_ok=True)
        partial.replace(index.folder / "nearest.faiss")
        write_json(index.folder / "nearest.json", stamp)


def is_fresh(index: Index, factory: str | None = None) -> bool:
    """Whether nearest.faiss is there, whole, and built for this commit (and by this factory string, when given)."""
    path, stamp_path = index.folder / "nearest.faiss", index.folder / "nearest.json"
    if not path.is_file() or not stamp_path.is_file():
        return False
    try:
        stamp = read_json(stamp_path)
    except DecipherError:
        return False
    same = stamp.get("commit") == index.commit and stamp.get("bytes") == path.stat().st_size
    return same and factory in (None, stamp.get("factory"))


def load(index: Index) -> Any:
    """The FAISS index of this commit, memory-mapped where FAISS can; None when there is none, or an outdated one."""
    if not is_fresh(index):
        return None
    import faiss

    try:
        loaded = faiss.read_index(str(index.folder / "nearest.faiss"), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
    except RuntimeError:
        return None
    return loaded if loaded.ntotal == len(index) and loaded.d == index.dim else None
