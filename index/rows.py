"""The live rows of several segments as one table: records, vectors and captions under one row number.

Decisions: records are read by column and by row, vectors are memory-mapped, so that nothing here reads more than it is
asked for; what is read whole (`records`, `vectors`) is kept until the segments change. Saved columns are read as if they
were the records' own; `stored` tells which are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from index.part import PatchShape
from index.patches import Patches
from index.saved_columns import KEYS, files_in, kind_of, with_saved
from index.segment import Segment
from models.errors import DecipherError


class Rows:
    """Rows of `dim` = E wide vectors, numbered from 0 through all segments, those that were removed left out."""

    def __init__(self, dim: int, folder: Path, patch_shape: PatchShape | None = None) -> None:
        self.dim, self.folder, self.patch_shape = dim, folder, patch_shape
        self.segments: Sequence[Segment] = []

    def __len__(self) -> int:
        return sum(segment.live for segment in self.segments)

    @cached_property
    def records(self) -> pl.DataFrame:
        """All columns of all live rows, in order. Read at first use; see `columns` and `rows` for less."""
        return self.columns(None)

    @cached_property
    def vectors(self) -> np.ndarray:
        """float32 (n, E) of the live rows; memory-mapped where one segment without tombstones holds them all."""
        parts = [segment.alive(segment.vectors) for segment in self.segments]
        if not parts:
            return np.zeros((0, self.dim), np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @cached_property
    def saved(self) -> dict[str, Path]:
        """The file of each saved column, where the records have none of that name themselves (see index.saved_columns)."""
        files = files_in(self.folder)
        hidden = {path for name, path in files.items() if name in self.stored}
        return {name: path for name, path in files.items() if path not in hidden}

    @cached_property
    def schema(self) -> dict[str, pl.DataType]:
        """Column names and types over all segments, then those of the saved columns."""
        return {**self.stored, **{name: kind_of(name, path) for name, path in self.saved.items()}}

    @cached_property
    def stored(self) -> dict[str, pl.DataType]:
        """Column names and types over all segments, saved columns left out."""
        frames = [pl.DataFrame(schema=segment.schema()) for segment in self.segments]
        return dict(pl.concat(frames, how="diagonal_relaxed").schema) if frames else {}

    def columns(self, names: Iterable[str] | None) -> pl.DataFrame:
        """The live rows of some columns (None: of all), in order; a segment that lacks a column gives nulls."""
        wanted = _distinct(names)
        if not self.segments:
            return pl.DataFrame(schema=dict.fromkeys(wanted or ["series_id"], pl.String))
        return self._with_saved(lambda own: _joined([segment.columns(own) for segment in self.segments], own), wanted)

    def rows(self, rows: np.ndarray, names: Iterable[str] | None = None) -> pl.DataFrame:
        """Some columns (None: all) of the given live rows, in the order given; reads little more than those rows."""
        wanted = _distinct(names)
        if not len(rows):
            kept = [name for name in self.schema if wanted is None or name in wanted]
            return pl.DataFrame(schema={name: self.schema[name] for name in kept})
        order, back = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        shares = list(self._shares(order))
        return self._with_saved(lambda own: _joined([one.take(at, own) for one, at in shares], own), wanted)[back]

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, pl.DataFrame, np.ndarray, np.ndarray]]:
        """All live rows in order, up to `size` at a time: their numbers, records, vectors and captions, float32 (m, E) each."""
        for segment in self.segments:
            for start in range(0, segment.live, size):
                own = np.arange(start, min(start + size, segment.live))
                arrays = segment.gather(own, "vectors"), segment.gather(own, "captions")
                yield own + segment.start, segment.run(start, len(own)), *arrays

    def gather(self, rows: np.ndarray, kind: str = "vectors") -> np.ndarray:
        """float32 (m, E): vectors or captions (`kind`) of the given live rows, in the order given."""
        order, back = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        parts = [segment.gather(own, kind) for segment, own in self._shares(order)]
        return np.concatenate(parts)[back] if parts else np.zeros((0, self.dim), np.float32)

    @property
    def has_patches(self) -> bool:
        """Whether patch vectors are kept of all rows; otherwise of none."""
        return self.patch_shape is not None

    @property
    def patches(self) -> Patches:
        """The patch vectors of all live rows, (n, N, E), read when they are asked for as an array.

        Errors: DecipherError where none are kept.
        """
        if self.patch_shape is None:
            raise DecipherError(
                f"The index {self.folder} keeps no patch vectors.",
                f"Encode once more, into another: decipher encode ARCHIVE --patches -i {self.folder}-patches",
            )
        return Patches(self.gather_patches, np.arange(len(self)), self.patch_shape)

    def gather_patches(self, rows: np.ndarray) -> np.ndarray:
        """float16 (m, N, E): patch vectors of the given live rows in the order given, zeros where a token is padding.

        Errors: as `patches`.
        """
        each = self.patches.each
        order, back = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        parts = [segment.gather_patches(own) for segment, own in self._shares(order)]
        return np.concatenate(parts)[back] if parts else np.zeros((0, *each), np.float16)

    def similarity(self, query: np.ndarray, kind: str = "vectors") -> np.ndarray:
        """float32 (n,): inner product of `query` (E,) with the vectors or captions (`kind`) of all live rows.

        Of several queries (E, C): (n, C), in one product over the memory-mapped file of each segment.
        """
        query = np.ascontiguousarray(query, dtype=np.float32)
        parts = [segment.similarity(query, kind) for segment in self.segments]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros((0, *query.shape[1:]), np.float32)

    def silent(self, rows: np.ndarray | None = None) -> np.ndarray:
        """bool: which of the given live rows, which ascend, or of all, have a caption that says nothing."""
        if rows is None:
            parts = [segment.silent() for segment in self.segments]
        else:
            parts = [segment.silent(own) for segment, own in self._shares(rows)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)

    def row_of(self, series_ids: Iterable[str]) -> dict[str, int]:
        """Live row of each of the given series that is here; the others are left out."""
        wanted = pl.Series(list(series_ids), dtype=pl.String)
        here = self.columns(["series_id"]).with_row_index("row").filter(pl.col("series_id").is_in(wanted.implode()))
        return dict(zip(here["series_id"].to_list(), here["row"].to_list(), strict=True))

    def reread(self) -> None:
        """Forget what is kept of the files, since they have changed."""
        for name in ("records", "vectors", "schema", "stored", "saved"):
            self.__dict__.pop(name, None)

    def _hold(self, segments: Sequence[Segment]) -> None:
        self.reread()
        self.segments = segments

    def _with_saved(self, read: Callable[[list[str] | None], pl.DataFrame], wanted: list[str] | None) -> pl.DataFrame:
        """What `read` gives of some columns (None: all), and saved ones in their place."""
        added = {name: path for name, path in self.saved.items() if wanted is None or name in wanted}
        if not added:
            return read(wanted)
        if wanted is None:
            return with_saved(read(None), added)
        whole = with_saved(read(list(dict.fromkeys([*wanted, *KEYS]))), added)
        return whole.select([name for name in wanted if name in whole.columns])

    def _shares(self, rows: np.ndarray) -> Iterator[tuple[Segment, np.ndarray]]:
        """Ascending live rows of the index, split by segment and counted from each segment's own first live row."""
        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self):
            raise IndexError(f"rows {rows[0]} to {rows[-1]} of an index of {len(self)}")
        for segment in self.segments:
            first, last = np.searchsorted(rows, [segment.start, segment.start + segment.live])
            if last > first:
                yield segment, rows[first:last] - segment.start


def _distinct(names: Iterable[str] | None) -> list[str] | None:
    return None if names is None else list(dict.fromkeys(names))


def _joined(frames: list[pl.DataFrame], wanted: list[str] | None) -> pl.DataFrame:
    frame = pl.concat(frames, how="diagonal_relaxed").rechunk()
    return frame if wanted is None else frame.select([name for name in wanted if name in frame.columns])
