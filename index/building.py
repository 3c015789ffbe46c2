"""How nearest.faiss is made and changed: learn from a sample, add in blocks, measure against exact search, write.

Decisions: vectors are read in blocks from the memory-mapped segments, so that ten million need no more memory than their
codes. What is learnt is kept while the index grows to twice its size: then adding is all there is to do.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from index import approximate
from index.covered import Place, Stamp, entries_of, places_in, replace
from index.oracle import answers, questions
from index.segment import Segment
from index.store import Index
from models.errors import DecipherError

QUESTIONS = 100
"""of each kind, by which the depth is chosen"""
Progress = Callable[[int, int], None]


def build(index: Index, kind: str, asked: str, progress: Progress | None = None) -> None:
    """Learn `kind`, a FAISS factory string, from the index and cover all its rows."""
    places = _appended([], index.segments, 0)
    made = approximate.empty(kind, index.dim)
    rng = np.random.default_rng(0)
    size = min(len(index), approximate.sample_size(made))
    sample = index.gather(np.sort(rng.choice(len(index), size, replace=False)))
    made = approximate.filled(made, sample, _blocks(places, progress))
    _write(index, made, places, {"asked": asked, "factory": kind, "learnt_from": len(index)})


def change(index: Index, stamp: Stamp, progress: Progress | None = None) -> None:
    """Take out of nearest.faiss what does not live any more and add what is new, by what was learnt before."""
    made, before = approximate.read(index.folder / "nearest.faiss"), places_in(index, stamp)
    if before:
        approximate.remove(made, _dead(before, stamp["next"]))
        first = stamp["next"]
    else:
        made.reset()
        first = 0
    known = {place.segment.name for place in before}
    places = _appended(before, [one for one in index.segments if one.name not in known], first)
    made = approximate.filled(made, None, _blocks(places[len(before) :], progress))
    _write(index, made, places, {name: stamp[name] for name in ("asked", "factory", "learnt_from")})


def _appended(places: Sequence[Place], segments: Sequence[Segment], first: int) -> list[Place]:
    starts = np.cumsum([first, *(segment.rows for segment in segments)]).tolist()
    return [*places, *(Place(segment, start) for segment, start in zip(segments, starts, strict=False))]


def _dead(places: Sequence[Place], positions: int) -> np.ndarray:
    """bool (positions,): those at which nothing lives."""
    dead = np.ones(positions, dtype=bool)
    for place in places:
        dead[place.first : place.first + place.segment.rows] = ~place.living()
    return dead


def _blocks(places: Sequence[Place], progress: Progress | None = None) -> Iterator[approximate.Block]:
    total, done = sum(place.segment.live for place in places), 0
    for ids, vectors in chain.from_iterable(place.blocks() for place in places):
        yield ids, vectors
        done += len(ids)
        if progress:
            progress(done, total)


def _write(index: Index, made: Any, places: Sequence[Place], stamp: Stamp) -> None:
    stamp |= {
        "rows": made.ntotal,
        "in_place": approximate.can_change(made),
        "next": max(place.first + place.segment.rows for place in places),
        "segments": entries_of(index, places),
        "depths": {str(k): one for k, one in _depths(index, made, places).items()},
    }
    size = write_faiss(index, made)
    replace(index.folder, stamp, approximate.head_bytes(made, size))


def write_faiss(index: Index, made: Any) -> int:
    """Write nearest.faiss.partial; its bytes. DecipherError where the disk is full or the folder is not ours to write."""
    import faiss

    partial = index.folder / "nearest.faiss.partial"
    try:
        faiss.write_index(made, str(partial))
    except RuntimeError as error:
        partial.unlink(missing_ok=True)
        raise DecipherError(
            f"{partial.with_suffix('')} cannot be written.",
            "Check the disk's space and the folder's permissions; the index is whole, and is searched exactly.",
        ) from error
    return partial.stat().st_size


def _depths(index: Index, made: Any, places: Sequence[Place]) -> dict[int, dict[str, Any]]:
    asked, rows = questions(index, QUESTIONS)
    own = np.zeros(len(rows), dtype=np.int64)
    for place in places:
        here = (rows >= place.segment.start) & (rows < place.segment.start + place.segment.live)
        own[here] = place.segment.physical(rows[here] - place.segment.start) + place.first

    def scores(kind: str, ids: np.ndarray) -> np.ndarray:
        if kind == "volumes":
            ids = np.where(ids == own[:, None], -1, ids)
        return np.stack([_scores(places, one, query) for one, query in zip(ids, asked[kind], strict=True)])

    truth = answers(_blocks(places), asked, max(approximate.TARGETS), own)
    return approximate.depths(made, asked, truth, scores)


def _scores(places: Sequence[Place], ids: np.ndarray, query: np.ndarray) -> np.ndarray:
    """float32 (m,): inner products of `query` with what stands at these positions; -inf where nothing does."""
    scores = np.full(len(ids), -np.inf, dtype=np.float32)
    for place in places:
        here = (ids >= place.first) & (ids < place.first + place.segment.rows)
        scores[here] = place.segment.vectors[ids[here] - place.first] @ query
    return scores
