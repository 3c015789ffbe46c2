"""Columns are saved beside the records of an index, checked, carried into a merged one, and freed of what was removed.

Decisions: as for reading, see index.saved_columns. Saving a name again replaces the column. A name is refused where it
would hide or be hidden by a column of the catalogue, or where --where could not read it. What was removed from an index
leaves its saved columns when the index is compacted, with the rest of its bytes. A merged index has the columns of all its
sources; of a series that stands in two, the first one's value.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from index.archive import Archive, salted
from index.labels import KEYS as LABEL_KEYS
from index.lock import writable
from index.record import SCHEMA
from index.saved_columns import ABOUT, FOLDER, HIGH, KEYS, LOW, PROBABILITY, about, files_in, kinds_in, read
from index.segment import sync
from index.store import Index
from models.errors import DecipherError

IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
RESERVED = (*SCHEMA, *LABEL_KEYS, "archive", "rank", "score", "standing", "split", "age", "region", ABOUT)
SEAL = "blake2b"


def check_name(index: Index, name: str) -> None:
    """DecipherError unless a column may be saved under `name`, and the index can be written to now."""
    if not IDENTIFIER.fullmatch(name) or not _is_readable(name):
        raise DecipherError(
            f"{name!r} is no name for a column.", "Letters, digits and _, a letter first: --save sequence_guess"
        )
    own = {one for one, path in index.saved.items() if path == index.folder / FOLDER / f"{name}.parquet"}
    taken = {one.casefold(): one for one in {*RESERVED, *index.schema} - own}
    for one in (name + end for end in ("", PROBABILITY, LOW, HIGH)):
        if there := taken.get(one.casefold()):
            raise DecipherError(f"There is a column {there} already.", f"Choose another name: --save {name}_guess")
    with index.writing():
        pass  # where nothing can be written, that is told now and not after the work


def _is_readable(name: str) -> bool:
    """Whether SQL takes the name for a column's, as it does not take `order`."""
    try:
        return pl.sql_expr(f"{name} = 'x'").meta.root_names() == [name]
    except pl.exceptions.PolarsError:
        return False


def save(
    index: Index, name: str, rows: np.ndarray, labels: Sequence[str], shares: np.ndarray, origin: Mapping[str, Any]
) -> Path:
    """Keep labels (m,) and their probabilities (m,) of the live `rows` (m,) as the column `name`; returns its file.

    origin: where they come from, ready for json.dumps. DecipherError as `check_name`.
    """
    texts, numbers = pl.Series(labels, dtype=pl.String), pl.Series(shares, dtype=pl.Float64)
    return _save(index, name, rows, {name: texts, name + PROBABILITY: numbers}, origin)


def save_numbers(
    index: Index, name: str, rows: np.ndarray, values: np.ndarray, half_width: float | None, origin: Mapping[str, Any]
) -> Path:
    """Keep numbers (m,) of the live `rows` (m,) as the column `name`, with an interval where half_width is known.

    Otherwise as `save`.
    """
    around = {} if half_width is None else {name + LOW: values - half_width, name + HIGH: values + half_width}
    columns = {one: pl.Series(column, dtype=pl.Float64) for one, column in {name: values, **around}.items()}
    return _save(index, name, rows, columns, origin)


def _save(
    index: Index, name: str, rows: np.ndarray, values: Mapping[str, pl.Series], origin: Mapping[str, Any]
) -> Path:
    with index.writing():
        check_name(index, name)
        frame = index.rows(rows, [key for key in KEYS if key in index.schema]).with_columns(**values)
        path = _write(index, name, frame, origin)
        index.reread()
    return path


def origins(index: Index) -> dict[str, dict[str, Any]]:
    """Where each saved column comes from, by name; of one that cannot be read, that."""
    found: dict[str, dict[str, Any]] = {}
    for path in dict.fromkeys(index.saved.values()):
        try:
            found[path.stem] = {k: v for k, v in about(path).items() if k != SEAL}
        except DecipherError as error:
            found[path.stem] = {"error": error.message}
    return found


def wrong(index: Index) -> Iterator[str]:
    """A sentence for each saved column that is not what it was when it was written; reads all of them."""
    for path in dict.fromkeys(files_in(index.folder).values()):
        try:
            whole = about(path).get(SEAL) == _seal(read(path).drop(ABOUT))
        except DecipherError as error:
            yield f"{error.message} {error.hint}"
            continue
        if not whole:
            yield f"{FOLDER}/{path.name} differs from its checksum; save it again with --save {path.stem}"


def forget(index: Index) -> None:
    """Drop what is said of series that are no longer in the index, and what nobody says any more."""
    living = index.columns([key for key in KEYS if key in index.stored])
    with index.writing():
        for path in dict.fromkeys(files_in(index.folder).values()):
            found = read(path)
            kept = found.join(
                living, on=[key for key in KEYS if key in found.columns and key in living.columns], how="semi"
            )
            if kept.height < found.height:
                _write(index, path.stem, kept.drop(ABOUT), about(path))
        index.reread()


def carry(made: Index, source: Index, homes: Mapping[Archive, Archive]) -> None:
    """Give `made` the saved columns of `source`; homes: what each archive of `source` is called in `made`."""
    for path in dict.fromkeys(source.saved.values()):
        names = [*kinds_in(path)]
        records = source.columns([*KEYS, "archive", "format", *names]).drop_nulls(path.stem)
        parts = [_renamed(records, own, new).select(*KEYS, *names) for own, new in homes.items()]
        frame, origin = pl.concat(parts), {k: v for k, v in about(path).items() if k != SEAL}
        there = made.folder / FOLDER / path.name
        if there.is_file():
            first = read(there).drop(ABOUT)
            _check_kinds(path.stem, first, frame)
            both = pl.concat([first, frame], how="diagonal")
            frame = both.unique("series_id", keep="first", maintain_order=True)
            origin = _both({k: v for k, v in about(there).items() if k != SEAL}, origin)
        _write(made, path.stem, frame, origin)
    made.reread()


def _check_kinds(name: str, one: pl.DataFrame, other: pl.DataFrame) -> None:
    if one[name].dtype != other[name].dtype:
        raise DecipherError(
            f"The saved column {name} is text in one index and a number in another.",
            f"Save it under another name in one of them, and remove {FOLDER}/{name}.parquet there.",
        )


def _renamed(records: pl.DataFrame, own: Archive, new: Archive) -> pl.DataFrame:
    mine = records.filter(pl.col("archive") == own.name).with_columns(study_id=pl.lit(""), patient_id=pl.lit(""))
    for salt in new.salts[len(own.salts) :]:
        mine = salted(mine, salt)
    return mine


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    if one == other:
        return one
    return {"by": "merge", "from": [*(one["from"] if one.get("by") == "merge" else [one]), other]}


def _write(index: Index, name: str, frame: pl.DataFrame, origin: Mapping[str, Any]) -> Path:
    """Replace a column's file whole or not at all; one without rows goes. Its partial lies where writers sweep."""
    path, partial = index.folder / FOLDER / f"{name}.parquet", index.folder / f"{name}.parquet.partial"
    said = json.dumps({**origin, SEAL: _seal(frame)}, allow_nan=False)
    with writable(index.folder):
        if frame.is_empty():
            path.unlink(missing_ok=True)
            return path
        path.parent.mkdir(exist_ok=True)
        frame.with_columns(pl.lit(said).alias(ABOUT)).write_parquet(partial, compression="zstd")
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    return path


def _seal(frame: pl.DataFrame) -> str:
    """BLAKE2b of a frame's names and values, 32 hex digits."""
    made = hashlib.blake2b(digest_size=16)
    for column in frame:
        text = column.dtype == pl.String
        values = "\0".join(column.fill_null("").to_list()).encode() if text else column.to_numpy().tobytes()
        made.update(column.name.encode() + b"\0" + values)
    return made.hexdigest()
