"""The index folder: vectors and their records as plain files, safe as a database file.

    card.json  manifest.json  key  lock  segments/000001/{series.parquet, vectors.npy, ...}  rejects.parquet

Decisions: a commit is one atomic rename of manifest.json. Segments are never changed; removing is a tombstone, a row
number in the manifest. What a killed writer left is named by no manifest, hence unseen by readers, and swept by the
next writer; segments that compacting retires go the same way, once nobody reads them. Row i of series.parquet is row i of
vectors.npy. Records are read by column and by row, vectors are memory-mapped, so that opening costs the same for a
thousand series and a million. Readers see the commit that was last when they opened. Segments of like size are joined
as they come, so that there are few and a row is written again but a few times.
"""

import dataclasses
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from index import tombstones
from index.archive import Archive
from index.lock import is_read, writer_lock
from index.rows import Rows
from index.segment import (
    Part,
    Segment,
    check_rows,
    joined,
    open_segment,
    part_of,
    read_json,
    replace_file,
    sync,
    write_json,
    write_segment,
)
from models.errors import DecipherError

FORMAT = 2
MOST_SEGMENTS = 16
"""more young ones are joined, since each costs a little at every opening"""
OWN_NAMES = {"card.json", "key", "lock", "segments"}


class Index(Rows):
    """An index folder as of one commit. Use `Index.create` or `Index.open`; row numbers are those of `records`."""

    def __init__(self, folder: Path, card: dict[str, Any], manifest: dict[str, Any]) -> None:
        super().__init__(int(card["passport"]["dim"]))
        self.folder, self.card = folder, card
        self._writing = False
        self._load(manifest)

    @classmethod
    def create(
        cls, folder: Path, passport: Mapping[str, Any], archives: Iterable[Archive] = (), key: bytes | None = None
    ) -> "Index":
        """Make an empty index in a new or empty folder for vectors of `passport["dim"]`; never takes over another's.

        `key` (32 bytes, random by default) is the secret under which patients are hashed; it stays in this folder.
        """
        folder = Path(folder)
        _check_free(folder)
        card = {
            "kind": "decipher index",
            "format": FORMAT,
            "passport": dict(passport),
            "versions": {"decipher": _version()},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "archives": [archive.to_json() for archive in archives],
            "series": 0,
        }
        with _writable(folder):
            (folder / "segments").mkdir(parents=True, exist_ok=True)
            with writer_lock(folder):
                _check_free(folder)
                replace_file(folder / "key", key or secrets.token_bytes(32), mode=0o600)
                write_json(folder / "card.json", card)
                write_json(folder / "manifest.json", {"format": FORMAT, "commit": 0, "next_segment": 1, "segments": []})
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """The index in `folder` at its last commit; checks sizes and row counts, not checksums (see `verify`)."""
        folder = Path(folder)
        if not folder.exists():
            raise DecipherError(f"No index in {folder}.", "Make one: decipher encode ARCHIVE")
        if not is_index(folder):
            raise DecipherError(f"{folder} is not an index.", "Make one elsewhere: decipher encode ARCHIVE -i FOLDER")
        manifest = read_json(folder / "manifest.json")
        while True:
            try:
                return cls(folder, read_json(folder / "card.json"), manifest)
            except DecipherError:
                # A writer may have swept segments away between our reading the manifest and opening them.
                newer = read_json(folder / "manifest.json")
                if newer == manifest:
                    raise
                manifest = newer

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
        return (self.folder / "key").read_bytes()

    @property
    def rejects(self) -> pl.DataFrame | None:
        """The ledger of what was not encoded; None when none was written."""
        path = self.folder / "rejects.parquet"
        return pl.read_parquet(path) if path.is_file() else None

    def check_passport(self, passport: Mapping[str, Any]) -> None:
        """DecipherError naming both models when `passport` is not that of the encoder of these vectors."""
        if passport.get("hash") == self.passport.get("hash") and passport.get("dim") == self.passport.get("dim"):
            return
        raise DecipherError(
            f"The index {self.folder} was made by another encoder: {_name(self.passport)}, not {_name(passport)}.",
            "Use -m with the model that made it, or -i with another folder.",
        )

    def stamped(self) -> Iterator[tuple[Segment, dict[str, Any]]]:
        """Each segment with what its files were when they were written: {name: {"bytes": ..., "blake2b": ...}}."""
        return zip(self.segments, (entry["files"] for entry in self._entries), strict=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's lock over several changes, each still a commit of its own; starts from the last commit."""
        if self._writing:
            yield
            return
        with writer_lock(self.folder):
            self._writing = True
            try:
                manifest = read_json(self.folder / "manifest.json")
                if manifest != self._manifest:
                    self._load(manifest)
                self._sweep()
                yield
            finally:
                self._writing = False

    def append(self, records: pl.DataFrame, vectors: np.ndarray, captions: np.ndarray | None = None) -> None:
        """Add rows in one commit. vectors, captions: float32 (n, E), vectors of length 1; no captions: zeros."""
        with self.writing():
            if taken := self.row_of(records["series_id"]):
                raise DecipherError(f"Series {min(taken)} is in the index already.", "Replace it, or remove it first.")
            self._commit(self._manifest["segments"], records, vectors, captions)

    def replace(self, records: pl.DataFrame, vectors: np.ndarray, captions: np.ndarray | None = None) -> None:
        """Add rows and remove those that had the same series_id, in one commit."""
        with self.writing():
            self._commit(self._without(records["series_id"]), records, vectors, captions)

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
        """Where there are many young segments, join them: from the first that is no larger than all after it together."""
        with self.writing():
            sizes = [segment.live for segment in self.segments]
            young = [at for at, size in enumerate(sizes) if size <= sum(sizes[at + 1 :])]
            if young and len(sizes) - young[0] > MOST_SEGMENTS:
                self._join(young[0])

    def update_card(self, **changes: Any) -> None:
        """Change entries of card.json atomically."""
        with self.writing(), _writable(self.folder):
            self.card = {**read_json(self.folder / "card.json"), **changes, "series": len(self)}
            write_json(self.folder / "card.json", self.card)

    def write_rejects(self, rejects: pl.DataFrame) -> None:
        """Replace rejects.parquet: what was not encoded, and why."""
        with self.writing(), _writable(self.folder):
            partial = self.folder / "rejects.parquet.partial"
            rejects.write_parquet(partial, compression="zstd")
            sync(partial)
            partial.replace(self.folder / "rejects.parquet")

    def _load(self, manifest: dict[str, Any]) -> None:
        if manifest.get("format") != FORMAT:
            raise DecipherError(
                f"The index {self.folder} was written by another version of decipher.",
                "Update decipher, or encode the archive into a new folder with -i.",
            )
        before = {one.name: (one, entry) for one, entry in zip(self.segments, self._entries, strict=True)}
        segments: list[Segment] = []
        start = 0
        for entry in manifest["segments"]:
            known, same = before.get(entry["name"], (None, None))
            if known and same == entry:
                segments.append(dataclasses.replace(known, start=start))
            else:
                segments.append(open_segment(self.folder / "segments" / entry["name"], entry, start, self.dim))
            start += segments[-1].live
        self._manifest = manifest
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
        self, entries: list[dict[str, Any]], records: pl.DataFrame, vectors: np.ndarray, captions: np.ndarray | None
    ) -> None:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        captions = np.zeros_like(vectors) if captions is None else np.ascontiguousarray(captions, dtype=np.float32)
        check_rows(records, vectors, captions, self.dim)
        if records.height:
            self._store(entries, part_of(records, vectors, captions))

    def _join(self, first: int) -> None:
        """Commit the live rows of the segments from number `first` on as one segment."""
        self._store(self._entries[:first], joined([segment.part() for segment in self.segments[first:]]))

    def _store(self, entries: list[dict[str, Any]], part: Part) -> None:
        name = f"{self._manifest['next_segment']:06d}"
        with _writable(self.folder):
            entry = write_segment(self.folder / "segments" / name, part, self.dim)
        self._publish([*entries, entry])

    def _publish(self, entries: list[dict[str, Any]]) -> None:
        """The commit point: rename the new manifest over the old, then follow it."""
        numbers = [self._manifest["next_segment"], *(int(entry["name"]) + 1 for entry in entries)]
        manifest = {"format": FORMAT, "commit": self.commit + 1, "next_segment": max(numbers), "segments": entries}
        with _writable(self.folder):
            write_json(self.folder / "manifest.json", manifest)
            self._load(manifest)
            write_json(self.folder / "card.json", self.card)

    def _sweep(self) -> None:
        """Delete what a killed writer left and what no manifest names any more; only ever under the lock."""
        known = {entry["name"] for entry in self._manifest["segments"]}
        with _writable(self.folder):
            for path in (self.folder / "segments").iterdir():
                ours = path.name.removesuffix(".partial").isdigit()
                if ours and path.name not in known and not is_read(path / "vectors.npy"):
                    shutil.rmtree(path)
            for path in self.folder.glob("*.partial"):
                path.unlink()


def is_index(folder: Path) -> bool:
    """Whether `folder` holds an index, whole or damaged."""
    return (folder / "manifest.json").is_file() and (folder / "card.json").is_file()


def _check_free(folder: Path) -> None:
    """DecipherError unless an index may be made here: nothing there, or only what a killed `create` left."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DecipherError(f"{folder} is a file, not a folder.", "Choose another folder with -i.")
    if is_index(folder):
        raise DecipherError(f"There is an index in {folder} already.", "Choose another folder with -i, or remove it.")
    names = {path.name for path in folder.iterdir() if not path.name.endswith(".partial")}
    segments = folder / "segments"
    if names - OWN_NAMES or (segments.is_dir() and any(segments.iterdir())):
        raise DecipherError(f"{folder} holds other files and is not an index.", "Choose another folder with -i.")


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DecipherError(
            f"The index {folder} cannot be written: {error.strerror or error}.",
            "Check the disk's space and the folder's permissions; the index is as it was before.",
        ) from error


def _name(passport: Mapping[str, Any]) -> str:
    return f"{passport.get('name', 'unnamed')} ({str(passport.get('hash', ''))[:12]})"


def _version() -> str:
    try:
        return metadata.version("decipher-mri")
    except metadata.PackageNotFoundError:
        return "unknown"
