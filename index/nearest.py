"""nearest.faiss: an approximate index beside the segments, so that a search need not look at every vector.

Decisions:
- It is derived: where it is missing, damaged or covers too little, search is exact, and it can be built again.
- Appending and removing outdate nothing: rows removed since are dropped from what it finds, rows added since are looked at
  beside it. A refresh adds and removes in place once a fiftieth has changed, and learns anew when the index has doubled.
- Small indexes are searched exactly; the file that they get holds their vectors as they are (FAISS id = live row), for
  other tools. In between there is none, since it would only double the vectors.
- Deeper than recall was measured for it is not asked.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from index import approximate
from index.building import Progress, build, change, write_faiss
from index.covered import Place, Stamp, is_whole, places_in, read_stamp, replace
from index.ranking import contenders
from index.segment import Segment
from index.store import Index

FLAT_ROWS = 20_000
"""up to here a copy of the vectors costs nothing"""
IN_PLACE, ANEW = 0.02, 0.2
"""share of rows that may have come and gone, for a kind that can be changed in place and for one that cannot"""
OUTDATED = 0.5
_loaded: "WeakKeyDictionary[Index, tuple[object, Nearest | None]]" = WeakKeyDictionary()


class Nearest:
    """What nearest.faiss knows of an index as of one commit; see `load`.

    depths: {number of neighbours: how deep to look}; others: segments that are not covered.
    """

    def __init__(
        self, made: Any, depths: Mapping[int, int], places: Sequence[Place], others: Sequence[Segment]
    ) -> None:
        self._made, self._depths, self._places, self._others = made, depths, places, others
        self._covered = sum(place.segment.live for place in places)

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray | None:
        """Live rows, int64 ascending, nearly all of the `count` nearest of `query` (E,) among them.

        None where recall was not measured for so many, or so many are not found.
        """
        depth = min((k for k in self._depths if k >= count), default=None)
        if depth is None:
            return None
        approximate.set_depth(self._made, self._depths[depth])
        beside = [segment.start + contenders(segment.similarity(query, "vectors"), count) for segment in self._others]
        wanted = approximate.asked_for(count)
        while True:
            _, ids = self._made.search(query[None], min(wanted, self._made.ntotal))
            found = np.concatenate([place.live_rows(ids[0]) for place in self._places])
            if len(found) >= min(count, self._covered):
                return np.sort(np.concatenate([found, *beside]))
            if wanted >= self._made.ntotal or ids[0, -1] < 0:
                return None
            wanted *= 4


def load(index: Index) -> Nearest | None:
    """The approximate index of the rows that `index` shows, memory-mapped; None where search is exact."""
    state = _state(index)
    if index not in _loaded or _loaded[index][0] != state:
        found = _load(index)
        if state != _state(index):
            return None  # a writer put another file in place while we looked
        _loaded[index] = (state, found)
    return _loaded[index][1]


def _state(index: Index) -> object:
    try:
        stat = (index.folder / "nearest.json").stat()
    except OSError:
        return None
    return index.commit, stat.st_ino, stat.st_mtime_ns


def _load(index: Index) -> Nearest | None:
    stamp = read_stamp(index.folder)
    if not stamp.get("segments") or not is_whole(index.folder, stamp):
        return None
    places = places_in(index, stamp)
    if _changed(index, stamp, places) > OUTDATED:
        return None
    try:
        made = approximate.mapped(index.folder / "nearest.faiss")
    except RuntimeError:
        return None
    if made.d != index.dim or made.ntotal != stamp["rows"]:
        return None
    covered = {place.segment.name for place in places}
    depths = {int(k): one["depth"] for k, one in stamp["depths"].items()}
    others = [segment for segment in index.segments if segment.name not in covered]
    return Nearest(made, depths, places, others)


def refresh(
    index: Index,
    factory: str | None = None,
    progress: Progress | None = None,
    *,
    forget: bool = False,
    anew: bool = False,
) -> None:
    """Bring nearest.faiss up to date, where too much has changed since, or where another kind is asked for.

    factory: "auto", "exact" or a FAISS factory string; None: what was asked for last, at first "auto". progress: called
    with rows added and rows to be added. forget: leave no trace of rows that were removed, be they ever so few. anew: build
    whatever is there. Errors: DecipherError for a wrong string or a full disk; what was there stays.
    """
    with index.writing():
        stamp = {} if anew else read_stamp(index.folder)
        asked = factory or stamp.get("asked", "auto")
        kind = approximate.automatic(len(index)) if asked == "auto" else asked
        if kind == "exact" or not len(index):
            _keep_small(index, stamp, asked)
            return
        same = (stamp.get("factory"), stamp.get("asked")) == (kind, asked) and is_whole(index.folder, stamp)
        if same and _is_recent(index, stamp, forget):
            return
        if same and stamp["in_place"] and stamp["learnt_from"] / 2 <= len(index) <= stamp["learnt_from"] * 2:
            change(index, stamp, progress)
        else:
            build(index, kind, asked, progress)


def rebuild(index: Index, factory: str = "auto", progress: Progress | None = None) -> dict[str, Any]:
    """Build nearest.faiss anew, whatever is there: {factory, rows, bytes, seconds, recall@10, ...} of what was made."""
    with index.writing():
        began = time.monotonic()
        refresh(index, factory, progress, anew=True)
        return described(index) | {"seconds": round(time.monotonic() - began, 2)}


def described(index: Index) -> dict[str, Any]:
    """What nearest.faiss is: factory ("exact" where there is none), and, where it is used, rows, bytes, depth and recall."""
    stamp = read_stamp(index.folder)
    told: dict[str, Any] = {"factory": stamp.get("factory", "exact")}
    if "rows" in stamp:
        told |= {"rows": stamp["rows"], "bytes": stamp["bytes"]}
    for k, one in stamp.get("depths", {}).items():
        told |= {f"depth@{k}": one["depth"], f"recall@{k}": round(min(one["recall"].values()), 4)}
    return told


def _is_recent(index: Index, stamp: Stamp, forget: bool) -> bool:
    places = places_in(index, stamp)
    gone = stamp["rows"] - sum(place.segment.live for place in places)
    return not (forget and gone) and _changed(index, stamp, places) <= (IN_PLACE if stamp["in_place"] else ANEW)


def _changed(index: Index, stamp: Stamp, places: Sequence[Place]) -> float:
    """Rows added and rows removed since, as a share of the rows that live."""
    still = sum(place.segment.live for place in places)
    return (stamp["rows"] - still + len(index) - still) / max(len(index), 1)


def _keep_small(index: Index, stamp: Stamp, asked: str) -> None:
    """A plain copy of the vectors where they are few, and nothing where not, or where nothing is asked for."""
    if asked == "exact" or not 0 < len(index) <= FLAT_ROWS:
        if (stamp.get("factory"), stamp.get("asked")) != ("exact", asked):
            replace(index.folder, {"asked": asked, "factory": "exact"})
        return
    if stamp.get("commit") == index.commit and is_whole(index.folder, stamp):
        return
    import faiss

    made = faiss.IndexFlatIP(index.dim)
    made.add(np.ascontiguousarray(index.vectors))
    stamp = {"asked": asked, "factory": "Flat", "commit": index.commit, "rows": len(index)}
    write_faiss(index, made)
    replace(index.folder, stamp, head=approximate.HEAD)
