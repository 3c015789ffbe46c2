"""Labels and reports that people keep beside an archive, joined to the catalogue.

Decisions:
- The key is the most particular column of KEYS by which any series is found: a row that names a path speaks of that
  path only, though it names a patient too. A path may be a folder: it speaks of all series below, the deepest one wins.
- Patients are compared by the catalogue's keyed hash, with and without BIDS' "sub-"; raw identities are never kept.
- "", "n/a" and the like are no value; for a column of the catalogue "unknown" is none either. A label with a value
  replaces the catalogue's, and the column's `*_from` says "labels". Other columns are added, as numbers where all are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from index.patient import capped
from index.record import SCHEMA, hash_of, patient_hash
from index.sequence import PLANES, REGIONS, SEQUENCES
from models.errors import DecipherError

PATIENT_KEYS = ("patient_id", "subject_id", "participant_id")
KEYS = ("series_id", "path", "study_id", *PATIENT_KEYS)
NO_VALUE = ("", "n/a", "na", "nan")
FIXED = {*KEYS, "format", "files", "part", "fingerprint", "spacing_mm", "shape", "affine_mm"}
REPLACEABLE = {name for name in SCHEMA if name not in FIXED and not name.endswith("_from")}
CLOSED = {
    "sex": {"f": "F", "female": "F", "m": "M", "male": "M", "o": "O", "other": "O"},
    "contrast": {"yes": "yes", "y": "yes", "true": "yes", "1": "yes", "no": "no", "n": "no", "false": "no", "0": "no"},
}
OPEN = {
    "sequence": {word.lower(): word for word in SEQUENCES} | {"t1w": "T1", "t2w": "T2", "pdw": "PD"},
    "plane": {word: word for word in PLANES},
    "body_region": {word.replace("_", " "): word for word in REGIONS} | {word: word for word in REGIONS},
}


@dataclass(frozen=True)
class Joined:
    """records with the labels in them; `by`: the key column used; how many label rows found a series, how many none."""

    records: pl.DataFrame
    by: str | None
    matched: int
    unmatched: int


def archive_labels(root: Path) -> Path | None:
    """labels.csv or participants.tsv at the archive's root, where there is one."""
    return next((root / name for name in ("labels.csv", "participants.tsv") if (root / name).is_file()), None)


def archive_reports(root: Path) -> Path | None:
    """reports.csv at the archive's root, where there is one."""
    return root / "reports.csv" if (root / "reports.csv").is_file() else None


def load_labels(path: Path) -> pl.DataFrame:
    """A table of labels from CSV, TSV or Parquet; text is stripped, empty values are null, `age` is age_years."""
    frame = read_table(path)
    frame = frame.rename({name: name.strip() for name in frame.columns})
    if "age" in frame.columns and "age_years" not in frame.columns:
        frame = frame.rename({"age": "age_years"})
    if not set(KEYS) & set(frame.columns):
        raise DecipherError(f"{path} has no column that says what a row is about.", f"Name one: {', '.join(KEYS)}.")
    return frame.with_columns([_tidy(frame[name]) for name in frame.columns])


def load_reports(path: Path) -> pl.DataFrame:
    """A table with key columns (path, series_id or study_id) and `report`; other columns are left out."""
    frame = load_labels(path)
    if "report" not in frame.columns:
        raise DecipherError(f"{path} has no column named report.", "Expected: path, series_id or study_id; and report.")
    return frame.select([name for name in frame.columns if name in (*KEYS, "report")])


def join_labels(records: pl.DataFrame, labels: pl.DataFrame, key: bytes = b"") -> Joined:
    """Put the labels' values into the records, whose rows and order stay. `key` hashes patients as the catalogue did.

    DecipherError when two label rows speak of the same thing.
    """
    for by in [name for name in KEYS if name in labels.columns and column_of(name) in records.columns]:
        names, twice = _names(labels[by], by, records, key)
        found = _find(records, by, names)
        if found.null_count() == len(found):
            continue
        if twice is not None:
            raise DecipherError(f'Two rows of the labels are about {by} "{twice}".', "Keep one row for each.")
        matched = found.drop_nulls().n_unique()
        return Joined(_merge(records, labels, found, by, key), by, matched, labels.height - matched)
    return Joined(records, None, 0, labels.height)


def join_reports(records: pl.DataFrame, reports: pl.DataFrame, key: bytes = b"") -> Joined:
    """Put the reports' texts into the column `report`; otherwise as `join_labels`."""
    return join_labels(records, reports, key)


def column_of(by: str) -> str:
    """The catalogue's column that a key column of labels speaks of."""
    return "patient_id" if by in PATIENT_KEYS else by


def read_table(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise DecipherError(f"No such file: {path}.", "Name a CSV, TSV or Parquet file.")
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path)
        with path.open(encoding="utf-8", errors="replace") as stream:
            header = stream.readline()
        separator = max("\t,;", key=header.count)
        return pl.read_csv(path, separator=separator, infer_schema=False, encoding="utf8-lossy")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DecipherError(
            f"{path} cannot be read as a table.", "Expected CSV, TSV or Parquet with a header."
        ) from error


def _tidy(column: pl.Series) -> pl.Series:
    if column.name in KEYS:
        column = column.cast(pl.String)
    if column.dtype != pl.String:
        return column
    text = column.str.strip_chars()
    text = text.set(text.str.to_lowercase().is_in(NO_VALUE).fill_null(False), None)
    if column.name in KEYS or column.name in SCHEMA or text.null_count() == len(text):
        return text
    for kind in (pl.Int64, pl.Float64):
        numbers = text.cast(kind, strict=False)
        if numbers.null_count() == text.null_count():
            return numbers
    return text


def _names(values: pl.Series, by: str, records: pl.DataFrame, key: bytes) -> tuple[dict[str, int], str | None]:
    """Every name under which the catalogue may know what a label row is about -> row; and a value that stands twice."""
    parts = records["part"].unique().to_list() if by == "series_id" and "part" in records.columns else [None]
    names: dict[str, int] = {}
    twice = None
    for row, value in enumerate(values.to_list()):
        for name in () if value is None else _aliases(value, by, parts, key):
            if names.setdefault(name, row) != row:
                twice = value
    return names, twice


def _aliases(value: str, by: str, parts: list[str | None], key: bytes) -> Iterable[str]:
    if by == "path":
        return [_plain_path(value)]
    if by == "series_id":
        return [value, *(hash_of(value, part) for part in parts)]
    if by == "study_id":
        return [value, hash_of(value)]
    bare = value.removeprefix("sub-")
    return [value, *(str(patient_hash(raw, key)) for raw in {bare, f"sub-{bare}"})]


def _plain_path(path: str) -> str:
    path = path.replace("\\", "/").rstrip("/")
    return "" if path == "." else path.removeprefix("./")


def _find(records: pl.DataFrame, by: str, names: dict[str, int]) -> pl.Series:
    """The label row of each record, null where there is none; a path is also looked for by the folders above it."""
    known = pl.DataFrame(
        {"name": list(names), "row": list(names.values())}, schema={"name": pl.String, "row": pl.Int64}
    )
    wanted = records.select(name=pl.col(column_of(by)))
    if by == "path":
        wanted = wanted.select(pl.col("name").map_elements(_plain_path, return_dtype=pl.String))
    found = wanted.join(known, on="name", how="left", maintain_order="left")["row"]
    while by == "path" and wanted["name"].str.len_chars().max():
        wanted = wanted.select(pl.col("name").str.replace(r"/?[^/]*$", ""))
        above = wanted.join(known, on="name", how="left", maintain_order="left")["row"]
        found = found.zip_with(found.is_not_null(), above)
    return found


def _merge(records: pl.DataFrame, labels: pl.DataFrame, found: pl.Series, by: str, key: bytes) -> pl.DataFrame:
    taken = labels.with_row_index("_row").with_columns(pl.col("_row").cast(pl.Int64))
    taken = pl.DataFrame({"_row": found}).join(taken, on="_row", how="left", maintain_order="left")
    merged = records
    for name in labels.columns:
        if name in REPLACEABLE and name in records.columns:
            merged = _replace(merged, name, _canonical(taken[name]))
        elif name in PATIENT_KEYS and by not in PATIENT_KEYS and "patient_id" in records.columns:
            hashed = taken[name].map_elements(lambda raw: patient_hash(raw, key), return_dtype=pl.String)
            merged = merged.with_columns(patient_id=hashed.zip_with(hashed.is_not_null(), merged["patient_id"]))
        elif name not in SCHEMA and name not in KEYS:
            old = merged[name] if name in merged.columns else pl.Series([None] * merged.height, dtype=taken[name].dtype)
            merged = merged.with_columns(pl.select(pl.coalesce(taken[name], old)).to_series().alias(name))
    return merged


def _replace(records: pl.DataFrame, name: str, values: pl.Series) -> pl.DataFrame:
    """Values stand in for the catalogue's where there is one, and `*_from` says so."""
    given = values.is_not_null()
    columns = [values.zip_with(given, records[name].cast(values.dtype)).alias(name)]
    source = f"{name}_from"
    if source in records.columns:
        labels = pl.Series(["labels"] * len(values), dtype=pl.String)
        columns.append(labels.zip_with(given, records[source].cast(pl.String)).alias(source))
    return records.with_columns(columns)


def _canonical(values: pl.Series) -> pl.Series:
    """A label column in the catalogue's type and words; what cannot be read as such is null."""
    name = values.name
    text = values.cast(pl.String)
    lower = text.str.to_lowercase()
    text = text.set((lower == "unknown").fill_null(False), None)
    if SCHEMA[name] == pl.Float64:
        digits = text.str.extract(r"(?i)^([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*(?:\+|y|yrs?|years?)?$")
        numbers = digits.cast(pl.Float64, strict=False)
        return numbers.map_elements(capped, return_dtype=pl.Float64) if name == "age_years" else numbers
    if name in CLOSED:
        return lower.replace_strict(CLOSED[name], default=None, return_dtype=pl.String)
    if name in OPEN:
        known = lower.replace_strict(OPEN[name], default=None, return_dtype=pl.String)
        return known.zip_with(known.is_not_null(), text)
    return text
