"""What nearest.faiss covers: which rows of which segments have which FAISS ids, and whether the files are whole.

    nearest.faiss   nearest.json (the stamp: what it covers, how deep it looks, what recall was measured)

Decisions: a FAISS id is a position: a row counted through the files of the covered segments, removed ones included. Those
files never change, so a position means one row for ever. Segments are known by name and by their vectors' checksum. The
stamp is sealed with its own checksum, and has that of the head of nearest.faiss, where a changed byte could lead astray;
the rest are codes and ids, which may at worst propose a wrong row.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from index.lock import writable
from index.segment import Segment, read_json, sync, write_json
from index.store import Index
from models.errors import DecipherError

FORMAT = 1
BLOCK_ROWS = 16384
SEAL = "blake2b"
Stamp = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A covered segment, and the position of its row 0."""

    segment: Segment
    first: int

    def live_rows(self, positions: np.ndarray) -> np.ndarray:
        """The index's live rows of those of the positions that are here and live."""
        own = positions[(positions >= self.first) & (positions < self.first + self.segment.rows)] - self.first
        if self.segment.keep is not None:
            own = self._live_of[own[self.segment.keep[own]]]
        return own + self.segment.start

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(positions int64 (b,), vectors float32 (b, E)) of the rows that live, in order."""
        for start in range(0, self.segment.rows, BLOCK_ROWS):
            vectors = self.segment.vectors[start : start + BLOCK_ROWS]
            rows = np.arange(start, start + len(vectors))
            if self.segment.keep is not None:
                own = self.segment.keep[rows]
                rows, vectors = rows[own], vectors[own]
            yield rows + self.first, np.asarray(vectors)

    def living(self) -> np.ndarray:
        """bool (rows,): which of its positions live."""
        return np.ones(self.segment.rows, dtype=bool) if self.segment.keep is None else self.segment.keep

    @cached_property
    def _live_of(self) -> np.ndarray:
        return np.cumsum(self.living(), dtype=np.int64) - 1


def places_in(index: Index, stamp: Stamp) -> list[Place]:
    """The covered segments that are still there."""
    known = {(one["name"], one["vectors"]): one["first"] for one in stamp.get("segments", [])}
    here = [(segment, known.get((segment.name, _checksum(files)))) for segment, files in index.stamped()]
    return [Place(segment, first) for segment, first in here if first is not None]


def entries_of(index: Index, places: Sequence[Place]) -> list[Stamp]:
    """What the stamp says of these places."""
    checksums = {segment.name: _checksum(files) for segment, files in index.stamped()}
    return [
        {"name": place.segment.name, "vectors": checksums[place.segment.name], "first": place.first} for place in places
    ]


def _checksum(files: Mapping[str, Any]) -> str:
    """That of a segment's vectors, as the manifest has it."""
    return str(files["vectors.npy"]["blake2b"])


def read_stamp(folder: Path) -> Stamp:
    """What nearest.json says; empty where it is missing, damaged or of another version."""
    try:
        stamp = read_json(folder / "nearest.json")
    except DecipherError:
        return {}
    whole = stamp.pop(SEAL, None) == _seal(stamp) and stamp.get("format") == FORMAT
    return stamp if whole else {}


def is_whole(folder: Path, stamp: Stamp) -> bool:
    """Whether nearest.faiss is the file that the stamp speaks of, as far as can be told without reading all of it."""
    path = folder / "nearest.faiss"
    try:
        same = "bytes" in stamp and path.stat().st_size == stamp["bytes"]
        return same and _digest(path, stamp["head"]) == stamp["head_blake2b"]
    except OSError:
        return False


def remove(folder: Path) -> None:
    """Delete nearest.faiss and its stamp; the stamp goes first, so that nobody trusts what is left."""
    with writable(folder):
        for name in ("nearest.json", "nearest.faiss"):
            (folder / name).unlink(missing_ok=True)


def replace(folder: Path, stamp: Stamp, head: int | None = None) -> None:
    """Write a stamp, and with `head`, the number of its first bytes that lead to others, put nearest.faiss.partial in place."""
    with writable(folder):
        remove(folder)
        if head is not None:
            partial = folder / "nearest.faiss.partial"
            sync(partial)
            size = partial.stat().st_size
            stamp = {**stamp, "bytes": size, "head": min(head, size), "head_blake2b": _digest(partial, min(head, size))}
            partial.replace(folder / "nearest.faiss")
        stamp = {"format": FORMAT, **stamp}
        write_json(folder / "nearest.json", {**stamp, SEAL: _seal(stamp)})


def _digest(path: Path, size: int) -> str:
    """BLAKE2b of a file's first `size` bytes, 32 hex digits."""
    with path.open("rb") as stream:
        return hashlib.blake2b(stream.read(size), digest_size=16).hexdigest()


def _seal(stamp: Stamp) -> str:
    return hashlib.blake2b(json.dumps(stamp, sort_keys=True).encode(), digest_size=16).hexdigest()
