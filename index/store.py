"""The index folder: vectors and their records as plain files, safe as a database file.

    card.json  manifest.json  key  lock  segments/000001/{series.parquet, vectors.npy, ...}  rejects.parquet

Decisions: a commit is one atomic rename of manifest.json. Segments are never changed; removing is a tombstone, a row
number in the manifest. What a killed writer left is named by no manifest, hence unseen by readers, and swept by the
next writer (see index.leftovers). Row i of series.parquet is row i of vectors.npy. Records are read by column and by row,
vectors are memory-mapped, so that opening costs the same for a thousand series and a million. Readers see the commit that
was last when they opened; a writer starts from the last one, card included, whatever it knew before. Segments of like size
are joined as they come, so that there are few and a row is written again but a few times.
"""

import dataclasses
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from index import card as cards
from index import manifest, tombstones
from index.archive import Archive
from index.card import check_free, is_index
from index.leftovers import sweep_pictures, sweep_segments
from index.lock import writable, writer_lock
from index.part import Part, PatchShape, joined, part_of
from index.rows import Rows
from index.segment import (
    DAMAGED,
    Segment,
    changed,
    check_rows,
    open_segment,
    replace_file,
    sync,
    write_json,
    write_segment,
)
from models.errors import DecipherError
from models.folder import titled

MOST_SEGMENTS = 16
"""more young ones are joined, since each costs a little at every opening"""


class Index(Rows):
    """An index folder as of one commit. Use `Index.create` or `Index.open`; row numbers are those of `records`."""

    def __init__(self, folder: Path, card: dict[str, Any], commit: dict[str, Any]) -> None:
        super().__init__(int(card["passport"]["dim"]), folder, cards.patch_shape(card))
        self.card = card
        self._writing = False
        self._load(commit)

    @classmethod
    def create(
        cls,
        folder: Path,
        passport: Mapping[str, Any],
        archives: Iterable[Archive] = (),
        key: bytes | None = None,
        patches: PatchShape | None = None,
    ) -> "Index":
        """Make an empty index in a new or empty folder for vectors of `passport["dim"]`; never takes over another's.

        `key` (32 bytes, random by default) is the secret under which patients are hashed; it stays in this folder.
        patches: (N, E) of the patch vectors that it keeps of all its series, None for none.
        """
        folder = Path(folder)
        check_free(folder)
        with writable(folder):
            (folder / "segments").mkdir(parents=True, exist_ok=True)
            with writer_lock(folder):
                check_free(folder)
                replace_file(folder / "key", key or secrets.token_bytes(32), mode=0o600)
                write_json(folder / cards.NAME, cards.new(passport, archives, patches))
                manifest.write(folder, manifest.EMPTY)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """The index in `folder` at its last commit; checks sizes and row counts, not checksums (see `verify`)."""
        folder = Path(folder)
        if not folder.exists():
            raise DecipherError(f"No index in {folder}.", "Make one: decipher encode ARCHIVE")
        if not is_index(folder):
            raise DecipherError(f"{folder} is not an index.", "Make one elsewhere: decipher encode ARCHIVE -i FOLDER")
        commit = manifest.read(folder)
        while True:
            try:
                return cls(folder, cards.read(folder), commit)
            except DecipherError:
                # A writer may have swept segments away between our reading the manifest and opening them.
                newer = manifest.read(folder)
                if newer == commit:
                    raise
                commit = newer

    @property
    def passport(self) -> dict[str, Any]:
        """Which encoder made these vectors: name, hash, dim, and what else the model says of itself."""
        return self.card["passport"]

    @property
    def commit(self) -> int:
        """How many commits led here; what is derived from the rows is stamped with it."""
        return int(self._manifest["commit"])

    @property
    def archives(self) -> dict[str, Archive]:
        """The archives that feed this index, by name."""
        return {entry["name"]: Archive.from_json(entry) for entry in self.card["archives"]}

    def root_of(self, record: Mapping[str, Any]) -> Path:
        """The absolute folder that a record's path and files are relative to."""
        return self.archives[record["archive"]].root

    @property
    def key(self) -> bytes:
        """The 32 secret bytes under which patient identities are hashed."""
        try:
            return (self.folder / "key").read_bytes()
        except OSError as error:
            raise DecipherError(f"{self.folder / 'key'} cannot be read.", DAMAGED) from error

    @property
    def rejects(self) -> pl.DataFrame | None:
        """The ledger of what was not encoded; None when none was written."""
        path = self.folder / "rejects.parquet"
        try:
            return pl.read_parquet(path) if path.is_file() else None
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise DecipherError(f"{path} cannot be read.", "Remove it; the next encode writes it anew.") from error

    def check_passport(self, passport: Mapping[str, Any]) -> None:
        """DecipherError naming both models when `passport` is not that of the encoder of these vectors."""
        if passport.get("hash") == self.passport.get("hash") and passport.get("dim") == self.passport.get("dim"):
            return
        raise DecipherError(
            f"The index {self.folder} was made by another encoder: {titled(self.passport)}, not {titled(passport)}.",
            "Use -m with the model that made it, or -i with another folder.",
        )

    def stamped(self) -> Iterator[tuple[Segment, dict[str, Any]]]:
        """Each segment with what its files were when they were written: {name: {"bytes": ..., "blake2b": ...}}."""
        return zip(self.segments, (entry["files"] for entry in self._entries), strict=True)

    def check_sums(self, first: int = 0) -> None:
        """DecipherError where a file of the segments from number `first` on differs from its checksum; reads all of them."""
        for segment, stamps in list(self.stamped())[first:]:
            for sentence in changed(segment.folder, stamps):
                raise DecipherError(f"{self.folder}: {sentence}", DAMAGED)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's lock over several changes, each still a commit of its own; starts from the last commit."""
        if self._writing:
            yield
            return
        with writer_lock(self.folder) as orderly:
            self._writing = True
            try:
                commit = manifest.read(self.folder)
                if commit != self._manifest:
                    self._load(commit)
                self.card = {**cards.read(self.folder), "series": len(self)}
                self._sweep(orderly)
                yield
            finally:
                self._writing = False

    def append(
        self,
        records: pl.DataFrame,
        vectors: np.ndarray,
        captions: np.ndarray | None = None,
        patches: Iterable[np.ndarray] | None = None,
    ) -> None:
        """Add rows in one commit. vectors, captions: float32 (n, E), vectors of length 1; no captions: zeros.

        patches: blocks (b, N, E) that make up those of all rows, where this index keeps them; read while they are written.
        """
        with self.writing():
            if taken := self.row_of(records["series_id"]):
                raise DecipherError(f"Series {min(taken)} is in the index already.", "Replace it, or remove it first.")
            self._commit(self._manifest["segments"], records, vectors, captions, patches)

    def replace(
        self,
        records: pl.DataFrame,
        vectors: np.ndarray,
        captions: np.ndarray | None = None,
        patches: Iterable[np.ndarray] | None = None,
    ) -> None:
        """Add rows as `append` does and remove those that had the same series_id, in one commit."""
        with self.writing():
            self._commit(self._without(records["series_id"]), records, vectors, captions, patches)

    def remove(self, series_ids: Iterable[str]) -> int:
        """Remove series in one commit; those that are not here are passed over. Returns how many were removed."""
        with self.writing():
            before = len(self)
            entries = self._without(series_ids)
            if entries != self._manifest["segments"]:
                self._publish(entries)
            return before - len(self)

    def compact(self) -> None:
        """Write the live rows as one segment, in order, in one commit; the next writer sweeps the old ones away."""
        with self.writing():
            if len(self.segments) > 1 or any(segment.keep is not None for segment in self.segments):
                self._join(0)

    def tidy(self) -> None:
        """Join the young segments where there are many of them (see `first_young`)."""
        with self.writing():
            sizes = [segment.live for segment in self.segments]
            if len(sizes) - first_young(sizes) > MOST_SEGMENTS:
                self._join(first_young(sizes))

    def update_card(self, **changes: Any) -> None:
        """Change entries of card.json atomically."""
        with self.writing(), writable(self.folder):
            write_json(self.folder / cards.NAME, {**self.card, **changes})
            self.card |= changes

    def write_rejects(self, rejects: pl.DataFrame) -> None:
        """Replace rejects.parquet: what was not encoded, and why."""
        with self.writing(), writable(self.folder):
            partial = self.folder / "rejects.parquet.partial"
            rejects.write_parquet(partial, compression="zstd")
            sync(partial)
            partial.replace(self.folder / "rejects.parquet")

    def _load(self, commit: dict[str, Any]) -> None:
        before = {one.name: (one, entry) for one, entry in zip(self.segments, self._entries, strict=True)}
        segments: list[Segment] = []
        start = 0
        for entry in commit["segments"]:
            known, same = before.get(entry["name"], (None, None))
            if known and same == entry:
                segments.append(dataclasses.replace(known, start=start))
            else:
                place = self.folder / "segments" / entry["name"]
                segments.append(open_segment(place, entry, start, self.dim, self.patch_shape))
            start += segments[-1].live
        self._manifest = commit
        self._hold(segments)
        self.card = {**self.card, "series": start}

    @property
    def _entries(self) -> list[dict[str, Any]]:
        return self._manifest["segments"] if self.segments else []

    def _without(self, series_ids: Iterable[str]) -> list[dict[str, Any]]:
        """The manifest's segment entries with tombstones for these series; segments left empty drop out."""
        gone = np.array(sorted(self.row_of(series_ids).values()), dtype=np.int64)
        fresh = {segment.name: segment.physical(own) for segment, own in self._shares(gone)}
        entries = []
        for entry in self._manifest["segments"]:
            removed = tombstones.read(entry["removed"])
            if entry["name"] in fresh:
                removed = np.union1d(removed, fresh[entry["name"]])
            if len(removed) < entry["rows"]:
                entries.append({**entry, "removed": tombstones.write(removed)})
        return entries

    def _commit(
        self,
        entries: list[dict[str, Any]],
        records: pl.DataFrame,
        vectors: np.ndarray,
        captions: np.ndarray | None,
        patches: Iterable[np.ndarray] | None,
    ) -> None:
        if (patches is not None) != self.has_patches:
            keeps = "keeps patch vectors of all its series" if self.has_patches else "keeps no patch vectors"
            raise DecipherError(f"The index {self.folder} {keeps}.", "Make another with -i.")
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        captions = (
            np.broadcast_to(np.float32(0), vectors.shape)
            if captions is None
            else captions.astype(np.float32, copy=False)
        )
        check_rows(records, vectors, captions, self.dim)
        if records.height:
            self._store(entries, part_of(records, vectors, captions, patches))

    def _join(self, first: int) -> None:
        """Commit the live rows of the segments from number `first` on as one segment; damaged ones are never copied."""
        self.check_sums(first)
        self._store(self._entries[:first], joined([segment.part() for segment in self.segments[first:]]))

    def _store(self, entries: list[dict[str, Any]], part: Part) -> None:
        name = f"{self._manifest['next_segment']:06d}"
        with writable(self.folder):
            entry = write_segment(self.folder / "segments" / name, part, self.dim, self.patch_shape)
        self._publish([*entries, entry])

    def _publish(self, entries: list[dict[str, Any]]) -> None:
        """The commit point: rename the new manifest over the old, then follow it."""
        commit = manifest.after(self._manifest, entries)
        with writable(self.folder):
            manifest.write(self.folder, commit)
        self._load(commit)
        with writable(self.folder):
            write_json(self.folder / cards.NAME, self.card)

    def _sweep(self, orderly: bool) -> None:
        """Clear away what earlier writers left; all of it where the last one did not come to its end."""
        with writable(self.folder):
            sweep_segments(self.folder, {segment.name for segment in self.segments})
            if not orderly:
                sweep_pictures(self.folder, set(self.columns(["series_id"])["series_id"]))


def first_young(sizes: Sequence[int]) -> int:
    """The first segment that is no larger than all after it together: before it each is half of what is left, or more."""
    left = sum(sizes)
    for at, size in enumerate(sizes):
        left -= size
        if size <= left:
            return at
    return len(sizes)
