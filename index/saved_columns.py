"""Columns that somebody had worked out for an index, beside its records and read like them.

    INDEX/columns/NAME.parquet   series_id, fingerprint, NAME and what goes with it, and in each row the same `about` (JSON)

With a text goes NAME_probability, with a number NAME_low and NAME_high.

Decisions
- They are no part of a segment: encoding an archive once more compares records with the archive, and would take a column
  that the archive does not have for a change.
- A value holds for a series as long as its files are the same, so it is joined by series_id and fingerprint: when a series
  is encoded anew, what was said of its old vector is not said of the new one.
- A column of the records hides a saved one of the same name. One file is one column, so that saving is one rename; it says
  itself which columns of which type it holds.
- A file that is damaged spoils nothing but the reading of its own column.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from models.errors import DecipherError

FOLDER = "columns"
ABOUT = "about"
PROBABILITY, LOW, HIGH = "_probability", "_low", "_high"
KEYS = ("series_id", "fingerprint")
UNREADABLE = (OSError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


def files_in(folder: Path) -> dict[str, Path]:
    """The file of each saved column below the index `folder`; NAME and NAME_probability have the same."""
    paths = sorted((folder / FOLDER).glob("*.parquet"))
    return {name: path for path in paths for name in kinds_in(path)}


def kinds_in(path: Path) -> dict[str, pl.DataType]:
    """Names and types of a saved column and what goes with it; of one that cannot be read, a text with its probability."""
    try:
        found = pl.read_parquet_schema(path)
    except UNREADABLE:
        return {path.stem: pl.String(), path.stem + PROBABILITY: pl.Float64()}
    return {name: found[name] for name in (path.stem + end for end in ("", PROBABILITY, LOW, HIGH)) if name in found}


def kind_of(name: str, path: Path) -> pl.DataType:
    """The type of a saved column, as its file says."""
    return kinds_in(path)[name]


def with_saved(records: pl.DataFrame, files: Mapping[str, Path]) -> pl.DataFrame:
    """Records (n rows, with the columns of KEYS that they have) and saved columns beside them, null where none is known.

    files: the file of each column wanted. DecipherError for one that cannot be read.
    """
    for path in dict.fromkeys(files.values()):
        names = [name for name, own in files.items() if own == path]
        found = read(path)
        keys = [name for name in KEYS if name in records.columns and name in found.columns]
        records = records.join(found.select(*keys, *names), on=keys, how="left", maintain_order="left")
    return records


def read(path: Path) -> pl.DataFrame:
    """A saved column's file, all of it. DecipherError where it cannot be read or is not one."""
    try:
        found = pl.read_parquet(path)
        found.select("series_id", path.stem, ABOUT)
        return found
    except UNREADABLE as error:
        raise _unreadable(path) from error


def about(path: Path) -> dict[str, Any]:
    """Where a saved column comes from; reads little more than that."""
    try:
        return dict(json.loads(pl.scan_parquet(path).select(ABOUT).head(1).collect().item()))
    except UNREADABLE as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> DecipherError:
    return DecipherError(
        f"The saved column {path.stem} cannot be read.",
        f"Remove {path}, or save it again with --save {path.stem}",
    )
