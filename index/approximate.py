"""FAISS indexes for large archives: which kind, how it learns its cells, how deep it looks.

Decisions, measured on 2 cores with up to a million clustered vectors of width 384 (tests/benchmarks/growth.py):
- Cells with 8-bit codes (IVF, SQ8). A graph (HNSW32) took three times as long to build, and of the ten nearest of a text,
  which lies elsewhere in the space than volumes do, found 0.90 in the time in which cells find 0.99. What is found is scored
  again from the vectors, so that codes cost no exactness.
- The cells' centres come from k-means on directions with NumPy's matrix product, here four times as quick as FAISS's
  own. Where faiss has GPUs, it trains and adds there.
- How many cells are looked through is measured, not guessed: as many as it takes until rows of the index, means of two
  rows, and texts find what exact search finds.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from index.oracle import recalls
from models.errors import DecipherError

FROM_ROWS = 1_000_000
"""below, exact search takes less than a tenth of a second"""
CELLS_PER_ROOT = 3.0
SAMPLE_PER_CELL = 40
SMALLEST_SAMPLE = 65536
CODES_SAMPLE = 10_000
ROUNDS = 6
HEAD = 2**20
"""bytes that are checked where codes and ids do not come last"""
PRODUCTS = 2**24
"""inner products held in memory at a time"""
TARGETS = {10: 0.995, 100: 0.99, 1000: 0.998}
"""mean recall wanted among so many nearest; where tags play too, what is missing among 1,000 is missing in the end"""
WORST = 0.005
"""how much less the worst kind of query may have"""
STEPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
Block = tuple[np.ndarray, np.ndarray]


def automatic(rows: int) -> str:
    """The FAISS factory string for so many rows, or "exact" where searching everything is quick."""
    if rows < FROM_ROWS:
        return "exact"
    return f"IVF{2 ** round(np.log2(CELLS_PER_ROOT * rows**0.5))},SQ8"


def empty(factory: str, dim: int) -> Any:
    """An untrained FAISS index by inner product that keeps the ids it is given; DecipherError for a wrong string."""
    import faiss

    try:
        made = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        return made if isinstance(made, faiss.IndexIVF | faiss.IndexIDMap) else faiss.IndexIDMap2(made)
    except RuntimeError as error:
        raise _impossible(factory) from error


def sample_size(made: Any) -> int:
    """How many vectors it wants to learn from."""
    return max(SMALLEST_SAMPLE, SAMPLE_PER_CELL * getattr(made, "nlist", 0))


def filled(made: Any, sample: np.ndarray | None, blocks: Iterable[Block]) -> Any:
    """Train `made` on `sample` (m, E), unless None, and add blocks of (ids int64 (b,), vectors float32 (b, E)).

    Returns the index, on the CPU; the work is done on all GPUs where faiss has some and the kind can go there.
    """
    import faiss

    working = _on_gpus(made)
    try:
        if sample is not None and not working.is_trained:
            _train(working, np.ascontiguousarray(sample))
        for ids, vectors in blocks:
            _add(working, ids, np.ascontiguousarray(vectors))
    except RuntimeError as error:
        raise _impossible(type(made).__name__) from error
    return made if working is made else faiss.index_gpu_to_cpu(working)


def read(path: Path) -> Any:
    """A FAISS index in memory, as `filled` and `remove` change it."""
    import faiss

    return faiss.read_index(str(path))


def mapped(path: Path) -> Any:
    """A FAISS index that is only read, memory-mapped where its kind can be. RuntimeError when the file is damaged."""
    import faiss

    made = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    if not isinstance(made, faiss.IndexIVF):
        return faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
    lists: Any = faiss.downcast_InvertedLists(made.invlists)  # type: ignore[arg-type]
    if hasattr(lists, "prefetch_nthread"):
        lists.prefetch_nthread = 0  # starting threads for a few cells takes longer than reading these
    return made


def remove(made: Any, dead: np.ndarray) -> None:
    """Take the ids out at which bool (ids,) `dead` is true."""
    import faiss

    selector: Any = faiss.IDSelectorBitmap
    made.remove_ids(selector(np.packbits(dead, bitorder="little")))


def can_change(made: Any) -> bool:
    """Whether `remove` and `filled` can bring it up to date."""
    import faiss

    return isinstance(made, faiss.IndexIVF)


def head_bytes(made: Any, size: int) -> int:
    """How many of the first of `size` bytes of its file lead to others: all but codes and ids, where these come last."""
    import faiss

    if isinstance(made, faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer):
        return size - made.ntotal * (made.code_size + 8)
    return min(size, HEAD)


def set_depth(made: Any, depth: int) -> None:
    """How many cells (nprobe) or nodes (efSearch) a search looks at; nothing for kinds that have neither."""
    import faiss

    if name := depth_name(made):
        faiss.ParameterSpace().set_index_parameter(made, name, depth)


def depth_name(made: Any) -> str | None:
    """What sets how deep an index looks: "nprobe", "efSearch" or None."""
    import faiss

    if faiss.try_extract_index_ivf(_inner(made)) is not None:
        return "nprobe"
    return "efSearch" if isinstance(_inner(made), faiss.IndexHNSW) else None


def depths(
    made: Any,
    queries: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    scores: Callable[[str, np.ndarray], np.ndarray],
) -> dict[int, dict[str, Any]]:
    """For each number of neighbours in TARGETS that the truth holds: {"depth", "recall": {kind of query: recall}}.

    queries: {kind: (q, E)}; truth: {kind: the highest scores (q, K), descending}; scores(kind, ids (q, m)): the scores of
    what was found. The depth is the least at which the recall is what is wanted, or the one that does best.
    """
    cells = getattr(made, "nlist", None)
    steps = [step for step in STEPS if cells is None or step <= cells] if depth_name(made) else [0]
    chosen: dict[int, dict[str, Any]] = {}
    for k, target in TARGETS.items():
        if min(true.shape[1] for true in truth.values()) < k:
            continue
        tried: list[dict[str, Any]] = []
        for step in steps:
            set_depth(made, step)
            found = {kind: scores(kind, made.search(asked, asked_for(k))[1]) for kind, asked in queries.items()}
            recall = {kind: round(float(recalls(found[kind], truth[kind][:, :k]).mean()), 5) for kind in queries}
            tried.append({"depth": step, "recall": recall})
            if np.mean([*recall.values()]) >= target and min(recall.values()) >= target - WORST:
                break
        chosen[k] = max(tried, key=lambda one: min(one["recall"].values()))
        steps = [step for step in steps if step >= chosen[k]["depth"]]
    return chosen


def asked_for(count: int) -> int:
    """How many rows to ask for when `count` are wanted, since codes are not quite the vectors."""
    return count + count // 4 + 16


def _inner(made: Any) -> Any:
    """What an id map wraps; the cells behind it are found by `try_extract_index_ivf`."""
    import faiss

    return faiss.downcast_index(made.index) if isinstance(made, faiss.IndexIDMap) else made


def _on_gpus(made: Any) -> Any:
    import faiss

    if not getattr(faiss, "get_num_gpus", int)():
        return made
    try:
        return faiss.index_cpu_to_all_gpus(made)
    except RuntimeError:
        return made


def _has_plain_cells(made: Any) -> bool:
    """Whether our own k-means and product stand in for FAISS's."""
    import faiss

    flat = isinstance(made, faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer)
    return flat and isinstance(faiss.downcast_index(made.quantizer), faiss.IndexFlat)


def _train(made: Any, sample: np.ndarray) -> None:
    if not _has_plain_cells(made):
        made.train(sample)
        return
    if len(sample) < made.nlist:
        raise _impossible(f"{made.nlist} cells over {len(sample)} vectors")
    made.quantizer.add(centres(sample, made.nlist))
    made.train(sample[:: -(-len(sample) // CODES_SAMPLE)].copy())


def _add(made: Any, ids: np.ndarray, vectors: np.ndarray) -> None:
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    if not _has_plain_cells(made):
        made.add_with_ids(vectors, ids)
        return
    import faiss

    cells = cells_of(vectors, made.quantizer.reconstruct_n(0, made.nlist))
    made.add_core(len(ids), faiss.swig_ptr(vectors), faiss.swig_ptr(ids), faiss.swig_ptr(cells))


def centres(sample: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """float32 (count, E) of length 1: k-means by cosine on `sample` (m, E); an empty cell takes half of a full one."""
    rng = np.random.default_rng(seed)
    found = sample[rng.choice(len(sample), count, replace=False)]
    for _ in range(ROUNDS):
        cells = cells_of(sample, found)
        sizes = np.bincount(cells, minlength=count)
        full = np.flatnonzero(sizes)
        starts = np.concatenate([[0], np.cumsum(sizes[full])[:-1]])
        found[full] = np.add.reduceat(sample[np.argsort(cells, kind="stable")], starts, axis=0)
        void = np.flatnonzero(sizes == 0)
        donors = np.argsort(-sizes, kind="stable")[: len(void)]
        found[void] = found[donors] * (1 + 0.05 * rng.standard_normal((len(void), found.shape[1]), dtype=np.float32))
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return found


def cells_of(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """int64 (n,): the centre (C, E) with the largest inner product, for each of `vectors` (n, E)."""
    step = max(1, PRODUCTS // len(centres))
    parts = [(vectors[start : start + step] @ centres.T).argmax(axis=1) for start in range(0, len(vectors), step)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _impossible(what: str) -> DecipherError:
    return DecipherError(f"FAISS cannot build {what}.", "Try auto, exact, or a factory string such as HNSW32.")
