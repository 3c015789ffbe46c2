"""One run of rows on disk, and files that are either wholly there or not at all.

    segments/000001/ series.parquet  vectors.npy  captions.npy

Decisions: a segment is written under another name, brought to the disk (fsync), then renamed, and never changed again.
Parquet has small row groups, so that a few hits are read without the rest. Arrays are memory-mapped, never unpickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from models.errors import DecipherError

ROWS_PER_GROUP = 2048
SLICED_ROWS = 64
DAMAGED = "Restore the folder from a copy, or remove it and run decipher encode again."
Rows = TypeVar("Rows", np.ndarray, pl.DataFrame)


@dataclass(frozen=True)
class Segment:
    """`keep` (rows,) bool: which rows still live, None when all do; `start`: the index row of the first live one."""

    folder: Path
    rows: int
    start: int
    keep: np.ndarray | None
    vectors: np.ndarray
    captions: np.ndarray

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def live(self) -> int:
        return self.rows if self.keep is None else int(self.keep.sum())

    def physical(self, live_rows: np.ndarray) -> np.ndarray:
        """Row numbers in the files of live rows counted from 0 in this segment."""
        return live_rows if self.keep is None else np.flatnonzero(self.keep)[live_rows]

    def alive(self, rows: Rows) -> Rows:
        """The live ones of something that has all `rows` rows."""
        if self.keep is None:
            return rows
        return rows.filter(self.keep) if isinstance(rows, pl.DataFrame) else rows[self.keep]

    def scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.folder / "series.parquet")

    def columns(self, names: list[str] | None) -> pl.DataFrame:
        """Some columns (None: all) of the live rows; those that are not here are left out, series_id always stays."""
        lazy = self.scan()
        if names is not None:
            here = set(lazy.collect_schema().names())
            lazy = lazy.select([name for name in names if name in here] or ["series_id"])
        return self.alive(lazy.collect())

    def take(self, live_rows: np.ndarray) -> pl.DataFrame:
        """All columns of some live rows, which ascend; few rows are read by slices of the file, many by one pass."""
        physical = self.physical(live_rows)
        if len(physical) <= SLICED_ROWS:
            return pl.concat([self.scan().slice(int(row), 1) for row in physical]).collect()
        numbered = pl.scan_parquet(self.folder / "series.parquet", row_index_name="_row")
        return numbered.filter(pl.col("_row").is_in(physical.tolist())).drop("_row").collect()


def open_segment(folder: Path, entry: Mapping[str, Any], start: int, dim: int) -> Segment:
    """The segment of a manifest's `entry`; DecipherError when files are missing, cut short, or disagree."""
    rows, removed = int(entry["rows"]), entry["removed"]
    keep = None
    if removed:
        keep = np.ones(rows, dtype=bool)
        keep[removed] = False
    for name, stamp in entry["files"].items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != stamp["bytes"]:
            raise DecipherError(f"{folder / name} is {'missing' if size is None else 'cut short or changed'}.", DAMAGED)
    try:
        vectors, captions = (
            np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in ("vectors.npy", "captions.npy")
        )
        count = pl.scan_parquet(folder / "series.parquet").select(pl.len()).collect().item()
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DecipherError(f"The segment {folder} cannot be read.", DAMAGED) from error
    if not vectors.shape == captions.shape == (rows, dim) or count != rows:
        raise DecipherError(f"In {folder} records and vectors do not have the same number of rows.", DAMAGED)
    return Segment(folder, rows, start, keep, vectors, captions)


def write_segment(folder: Path, records: pl.DataFrame, vectors: np.ndarray, captions: np.ndarray) -> dict[str, Any]:
    """Write a segment whole or not at all; returns its entry for the manifest: name, rows, removed, files."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    records.write_parquet(partial / "series.parquet", compression="zstd", row_group_size=ROWS_PER_GROUP)
    np.save(partial / "vectors.npy", vectors, allow_pickle=False)
    np.save(partial / "captions.npy", captions, allow_pickle=False)
    files = {}
    for path in sorted(partial.iterdir()):
        sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "blake2b": digest(path)}
    sync(partial)
    partial.replace(folder)
    sync(folder.parent)
    return {"name": folder.name, "rows": records.height, "removed": [], "files": files}


def check_rows(records: pl.DataFrame, vectors: np.ndarray, captions: np.ndarray, dim: int) -> None:
    """DecipherError unless these rows may be stored: one vector (dim,) of length 1 a record, no series twice."""
    expected = (records.height, dim)
    if vectors.shape != expected or captions.shape != expected:
        raise DecipherError(f"Vectors {vectors.shape} and captions {captions.shape} do not match {expected}.")
    if not normalised(vectors) or not np.isfinite(captions).all():
        raise DecipherError("The encoder gave vectors that are not finite or not of length 1.", "Check the model.")
    if records["series_id"].is_duplicated().any():
        twice = records.filter(pl.col("series_id").is_duplicated())["series_id"][0]
        raise DecipherError(f"Series {twice} stands twice in one batch of records.")


def normalised(vectors: np.ndarray) -> bool:
    """Whether each row has length 1 within 1e-3; reads a block at a time."""
    blocks = (vectors[start : start + 65536] for start in range(0, len(vectors), 65536))
    return all(bool((np.abs(np.einsum("ij,ij->i", block, block) - 1) < 2e-3).all()) for block in blocks)


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
