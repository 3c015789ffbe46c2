"""One run of rows on disk, and files that are either wholly there or not at all.

    segments/000001/ series.parquet  vectors.npy  captions.npy  caption_of.npy  patches.npy where they are kept

Decisions: a segment is written under another name, brought to the disk (fsync), then renamed, and never changed again.
Parquet has small row groups, so that a few hits are read without the rest. Arrays are memory-mapped, never unpickled.
An open segment holds a shared lock, so that a writer does not sweep away what somebody still reads.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from index import tombstones
from index.array_files import blocks_of, write_npy
from index.lock import SharedLock
from index.part import Part, PatchShape
from models.errors import DecipherError

ROWS_PER_GROUP = 16384
SLICED_ROWS = 64
DAMAGED = "Restore the folder from a copy, or remove it and run decipher encode again."
UNREADABLE = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
ARRAYS = ("vectors.npy", "captions.npy", "caption_of.npy")
PATCHES = "patches.npy"


@dataclass(frozen=True)
class Segment:
    """`keep` (rows,) bool: which rows still live, None when all do; `start`: the index row of the first live one;
    `patches` (rows, N, E) float16, None where the index keeps none."""

    folder: Path
    rows: int
    start: int
    keep: np.ndarray | None
    vectors: np.ndarray
    captions: np.ndarray
    caption_of: np.ndarray
    patches: np.ndarray | None
    held: SharedLock

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def live(self) -> int:
        return self.rows if self.keep is None else int(self.keep.sum())

    def physical(self, live_rows: np.ndarray) -> np.ndarray:
        """Row numbers in the files of live rows counted from 0 in this segment."""
        return live_rows if self.keep is None else np.flatnonzero(self.keep)[live_rows]

    def alive(self, rows: np.ndarray) -> np.ndarray:
        """The live ones of an array that has all `rows` rows."""
        return rows if self.keep is None else rows[self.keep]

    def gather(self, live_rows: np.ndarray, kind: str) -> np.ndarray:
        """float32 (m, E): "vectors" or "captions" (`kind`) of some live rows."""
        physical = self.physical(live_rows)
        return self.vectors[physical] if kind == "vectors" else self.captions[self.caption_of[physical]]

    def gather_patches(self, live_rows: np.ndarray) -> np.ndarray:
        """float16 (m, N, E) of some live rows of an index that keeps them."""
        return self.patches[self.physical(live_rows)]  # type: ignore[index]

    def silent(self, live_rows: np.ndarray | None = None) -> np.ndarray:
        """bool: which of some live rows, or of all, have a caption that says nothing."""
        own = self.alive(self.caption_of) if live_rows is None else self.caption_of[self.physical(live_rows)]
        return silent(self.captions)[own]

    def similarity(self, query: np.ndarray, kind: str) -> np.ndarray:
        """float32 (live,) or (live, C): `query` (E,) or (E, C) times each live row's vector or caption (`kind`)."""
        if kind == "vectors":
            return self.alive(self.vectors @ query)
        return (self.captions @ query)[self.alive(self.caption_of)]

    def scan(self) -> pl.LazyFrame:
        """The records of the live rows, in order, read when collected."""
        path = self.folder / "series.parquet"
        if self.keep is None:
            return pl.scan_parquet(path)
        gone = pl.Series(np.flatnonzero(~self.keep), dtype=pl.UInt32)
        return pl.scan_parquet(path, row_index_name="_row").filter(~pl.col("_row").is_in(gone.implode())).drop("_row")

    def schema(self) -> dict[str, pl.DataType]:
        """Names and types of the records' columns."""
        with _readable(self.folder):
            return dict(self.scan().collect_schema())

    def columns(self, names: list[str] | None) -> pl.DataFrame:
        """Some columns (None: all) of the live rows; those that are not here are left out, series_id always stays."""
        with _readable(self.folder):
            return _chosen(self.scan(), names).collect()

    def run(self, start: int, count: int) -> pl.DataFrame:
        """All columns of `count` live rows from number `start` on."""
        with _readable(self.folder):
            return self.scan().slice(start, count).collect()

    def take(self, live_rows: np.ndarray, names: list[str] | None) -> pl.DataFrame:
        """As `columns`, of some live rows, which ascend; few rows are read by slices of the file, many by one pass."""
        physical = self.physical(live_rows)
        path = self.folder / "series.parquet"
        with _readable(self.folder):
            if len(physical) <= SLICED_ROWS:
                whole = pl.scan_parquet(path)
                return pl.concat([_chosen(whole.slice(int(row), 1), names) for row in physical]).collect()
            wanted = pl.Series(physical, dtype=pl.UInt32)
            numbered = pl.scan_parquet(path, row_index_name="_row").filter(pl.col("_row").is_in(wanted.implode()))
            return _chosen(numbered.drop("_row"), names).collect()

    def part(self) -> Part:
        """The live rows, to be stored again, and no caption but theirs."""
        used, own = np.unique(self.alive(self.caption_of), return_inverse=True)
        patches = None if self.patches is None else blocks_of(self.patches, self.keep)
        return Part(self.scan(), self.live, blocks_of(self.vectors, self.keep), self.captions[used], own, patches)


def _chosen(records: pl.LazyFrame, names: list[str] | None) -> pl.LazyFrame:
    if names is None:
        return records
    here = set(records.collect_schema().names())
    return records.select([name for name in names if name in here] or ["series_id"])


@contextmanager
def _readable(folder: Path, errors: tuple[type[BaseException], ...] = UNREADABLE) -> Iterator[None]:
    """What damaged bytes make the parsers raise becomes one sentence about the segment."""
    try:
        yield
    except errors as error:
        raise DecipherError(f"The segment {folder} cannot be read.", DAMAGED) from error


def changed(folder: Path, stamps: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each file of a segment that is not what it was when it was written; reads all of them."""
    for name, stamp in stamps.items():
        try:
            same = digest(folder / name) == stamp["blake2b"]
        except OSError as error:
            yield f"segments/{folder.name}/{name} cannot be read: {error.strerror}."
            continue
        if not same:
            yield f"segments/{folder.name}/{name} differs from its checksum."


def open_segment(
    folder: Path, entry: Mapping[str, Any], start: int, dim: int, patch_shape: PatchShape | None = None
) -> Segment:
    """The segment of a manifest's `entry`; DecipherError when files are missing, cut short, or disagree."""
    rows = int(entry["rows"])
    for name, stamp in entry["files"].items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != stamp["bytes"]:
            raise DecipherError(f"{folder / name} is {'missing' if size is None else 'cut short or changed'}.", DAMAGED)
    with _readable(folder, (*UNREADABLE, Exception)):  # NumPy's parser of headers raises whatever Python's does
        held = SharedLock(folder / "vectors.npy")
        vectors, captions, caption_of = (_mapped(folder / name) for name in ARRAYS)
        patches = _mapped(folder / PATCHES) if patch_shape else None
        count = pl.scan_parquet(folder / "series.parquet").select(pl.len()).collect().item()
    if not vectors.shape == (rows, dim) == (count, captions.shape[1]) or caption_of.shape != (rows,):
        raise DecipherError(f"In {folder} records and vectors do not have the same number of rows.", DAMAGED)
    if patches is not None and (patches.shape != (rows, *patch_shape) or patches.dtype != np.float16):  # type: ignore[misc]
        raise DecipherError(f"{folder / PATCHES} does not hold the patch vectors of {rows} series.", DAMAGED)
    keep = tombstones.keep(entry["removed"], rows)
    return Segment(folder, rows, start, keep, vectors, captions, caption_of, patches, held)


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def write_segment(folder: Path, part: Part, dim: int, patch_shape: PatchShape | None = None) -> dict[str, Any]:
    """Write a segment whole or not at all, block by block; returns its entry for the manifest."""
    partial = folder.with_name(folder.name + ".partial")
    for left in (partial, folder):
        shutil.rmtree(left, ignore_errors=True)
    try:
        return _written(partial, folder, part, dim, patch_shape)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk gets its space back
        raise


def _written(partial: Path, folder: Path, part: Part, dim: int, patch_shape: PatchShape | None) -> dict[str, Any]:
    partial.mkdir(parents=True)
    part.records.sink_parquet(partial / "series.parquet", compression="zstd", row_group_size=ROWS_PER_GROUP)
    write_npy(partial / "vectors.npy", np.dtype(np.float32), (part.rows, dim), part.vectors)
    write_npy(partial / "captions.npy", np.dtype(np.float32), part.captions.shape, [part.captions])
    write_npy(partial / "caption_of.npy", np.dtype(np.int32), part.caption_of.shape, [part.caption_of])
    if patch_shape:
        write_npy(partial / PATCHES, np.dtype(np.float16), (part.rows, *patch_shape), part.patches or ())
    files = {}
    for path in sorted(partial.iterdir()):
        sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "blake2b": digest(path)}
    sync(partial)
    partial.replace(folder)
    sync(folder.parent)
    return {"name": folder.name, "rows": part.rows, "removed": "", "files": files}


def check_rows(records: pl.DataFrame, vectors: np.ndarray, captions: np.ndarray, dim: int) -> None:
    """DecipherError unless these rows may be stored: one vector (dim,) of length 1 a record, no series twice."""
    expected = (records.height, dim)
    if vectors.shape != expected or captions.shape != expected:
        raise DecipherError(f"Vectors {vectors.shape} and captions {captions.shape} do not match {expected}.")
    if not normalised(vectors) or not all(np.isfinite(block).all() for block in blocks_of(captions)):
        raise DecipherError("The encoder gave vectors that are not finite or not of length 1.", "Check the model.")
    if records["series_id"].is_duplicated().any():
        twice = records.filter(pl.col("series_id").is_duplicated())["series_id"][0]
        raise DecipherError(f"Series {twice} stands twice in one batch of records.")


def silent(captions: np.ndarray) -> np.ndarray:
    """bool (n,): which of captions' vectors (n, E) say nothing: they are zeros, all others of length 1."""
    found = np.zeros(len(captions), dtype=bool)
    maybe = np.flatnonzero(captions[:, 0] == 0)
    found[maybe] = ~captions[maybe].any(axis=1)
    return found


def normalised(vectors: np.ndarray) -> bool:
    """Whether each row has length 1 within 1e-3; reads a block at a time."""
    return all(bool((np.abs(np.einsum("ij,ij->i", block, block) - 1) < 2e-3).all()) for block in blocks_of(vectors))


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` atomically: whoever reads finds the old bytes or the new ones, also after a power cut."""
    partial = path.with_name(path.name + ".partial")
    handle = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    sync(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file of an index; DecipherError when it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DecipherError(f"{path} cannot be read.", DAMAGED) from error
    if not isinstance(content, dict):
        raise DecipherError(f"{path} is not a JSON object.", DAMAGED)
    return content


def digest(path: Path) -> str:
    """BLAKE2b of a file's bytes, 32 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def sync(path: Path) -> None:
    """Bring a file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
