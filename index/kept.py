"""Numbers worked out from the pixels of each series, kept in the index so that its archive is read for them once.

    INDEX/rivals.parquet   series_id, fingerprint, made_of, and a column of numbers, all of one length, for each kind

Decisions
- As a saved column (see index.saved_columns) they are no part of a segment, and hold for a series as long as its files are
  the same; also as long as the same words, `made_of`, say how numbers are made.
- A file that is damaged is as one that is not there: all of it can be worked out again.
- What left the index leaves the file when it is next written, or when the index is compacted.
"""

from pathlib import Path

import polars as pl

from index.lock import writable
from index.saved_columns import KEYS, UNREADABLE
from index.segment import sync
from index.store import Index

FILE = "rivals.parquet"
MADE_OF = "made_of"


def read(folder: Path, made_of: str) -> pl.DataFrame:
    """KEYS and a column a kind, of the series whose numbers were made so; KEYS alone where there are none."""
    try:
        return pl.read_parquet(folder / FILE).filter(pl.col(MADE_OF) == made_of).drop(MADE_OF)
    except UNREADABLE:
        return pl.DataFrame(schema=dict.fromkeys(KEYS, pl.String))


def keep(folder: Path, made_of: str, fresh: pl.DataFrame) -> None:
    """Add numbers of series (KEYS and a column a kind) to those of the index in `folder`; those made otherwise go.

    Takes the lock with a handle of its own: the rows of an index that somebody has opened stay as they are.
    Errors: DecipherError where the index cannot be written to, now or at all.
    """
    index = Index.open(folder)
    with index.writing():
        both = pl.concat([fresh, read(folder, made_of)], how="diagonal").unique(KEYS, keep="first", maintain_order=True)
        living = both.join(index.columns(KEYS), on=KEYS, how="semi")
        _write(folder, living.with_columns(pl.lit(made_of).alias(MADE_OF)))


def forget(index: Index) -> None:
    """Drop the numbers of series that are no longer in the index, or whose files have changed."""
    try:
        found = pl.read_parquet(index.folder / FILE)
    except UNREADABLE:
        return
    with index.writing():
        kept = found.join(index.columns(KEYS), on=KEYS, how="semi")
        if kept.height < found.height:
            _write(index.folder, kept)


def _write(folder: Path, frame: pl.DataFrame) -> None:
    """Replace the file whole or not at all; its partial lies where writers sweep."""
    partial = folder / f"{FILE}.partial"
    with writable(folder):
        frame.write_parquet(partial, compression="zstd")
        sync(partial)
        partial.replace(folder / FILE)
        sync(folder)
