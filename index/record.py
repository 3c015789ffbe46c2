"""One catalogue row: its columns, its identifiers, its geometry.

Design: the columns are an allow-list, so that nothing else of a header can reach the catalogue. Shape, spacing and affine
are those of the volume after `to_ras`, found from the header alone. Identifiers are hashes: stable, and they tell nothing.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

_TEXT, _NUMBER = pl.String(), pl.Float64()

SCHEMA: dict[str, pl.DataType] = {
    "series_id": _TEXT,
    "study_id": _TEXT,
    "patient_id": _TEXT,
    "path": _TEXT,
    "format": _TEXT,
    "files": pl.List(pl.String),
    "part": _TEXT,
    "fingerprint": _TEXT,
    "sequence": _TEXT,
    "sequence_from": _TEXT,
    "plane": _TEXT,
    "plane_from": _TEXT,
    "body_region": _TEXT,
    "body_region_from": _TEXT,
    "contrast": _TEXT,
    "contrast_from": _TEXT,
    "spacing_mm": pl.List(pl.Float64),
    "shape": pl.List(pl.Int64),
    "affine_mm": pl.List(pl.Float64),
    "age_years": _NUMBER,
    "age_years_from": _TEXT,
    "sex": _TEXT,
    "sex_from": _TEXT,
    "repetition_time_ms": _NUMBER,
    "echo_time_ms": _NUMBER,
    "inversion_time_ms": _NUMBER,
    "flip_angle_deg": _NUMBER,
    "b_value": _NUMBER,
    "field_strength_t": _NUMBER,
    "vendor": _TEXT,
    "model_name": _TEXT,
    "sequence_name": _TEXT,
    "contrast_agent": _TEXT,
    "body_part": _TEXT,
    "contradictions": _TEXT,
    "report": _TEXT,
}

ACQUISITION = (
    "repetition_time_ms",
    "echo_time_ms",
    "inversion_time_ms",
    "flip_angle_deg",
    "b_value",
    "field_strength_t",
    "vendor",
    "model_name",
    "sequence_name",
    "contrast_agent",
    "body_part",
)


ORDER = ("path", "part")


def hash_of(*words: str | None) -> str:
    """16 hex digits of the words, kept apart from each other; the same on every machine."""
    joined = "\0".join("" if word is None else word for word in words)
    return hashlib.blake2b(joined.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def patient_hash(raw: str | None, key: bytes) -> str | None:
    """Keyed hash of a patient's identifier, 16 hex digits; None where there is no identifier."""
    if raw is None or not raw.strip():
        return None
    return hashlib.blake2b(raw.strip().encode("utf-8", "surrogateescape"), key=key[:64], digest_size=8).hexdigest()


def fingerprint(files: Iterable[tuple[str, int, int]]) -> str:
    """Hash of (relative path, size in bytes, mtime in ns) of the files: changes when one of them does."""
    return hash_of(*(f"{path}|{size}|{mtime_ns}" for path, size, mtime_ns in files))


def common_folder(files: list[str]) -> str:
    """The file itself, or the folder that holds all of them; '.' for the archive's root."""
    if len(files) == 1:
        return files[0]
    folders = {file.rpartition("/")[0] for file in files}
    shared = []
    for level in zip(*(folder.split("/") for folder in folders), strict=False):
        if len(set(level)) != 1:
            break
        shared.append(level[0])
    return "/".join(shared) or "."


def records_frame(records: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Records as a frame of SCHEMA, sorted by path and part; absent columns are null, unknown ones an error."""
    rows = list(records)
    unknown = {name for one in rows for name in one} - set(SCHEMA)
    if unknown:
        raise KeyError(f"not catalogue columns: {sorted(unknown)}")
    columns = {name: [one.get(name) for one in rows] for name in SCHEMA}
    series = [
        _lists(name, kind, columns[name]) if isinstance(kind, pl.List) else pl.Series(name, columns[name], kind)
        for name, kind in SCHEMA.items()
    ]
    return pl.DataFrame(series).sort(ORDER)


def _lists(name: str, kind: pl.List, values: list[list[Any] | None]) -> pl.Series:
    """A column of lists; made flat first, since one at a time takes ten times as long."""
    rows = pl.Series("row", np.repeat(np.arange(len(values)), [len(one or ()) for one in values]))
    flat = pl.DataFrame(
        {"row": rows, name: pl.Series([item for one in values for item in one or ()], dtype=kind.inner)}
    )
    lists = flat.group_by("row", maintain_order=True).agg(name)
    return pl.DataFrame({"row": np.arange(len(values))}).join(lists, on="row", how="left", maintain_order="left")[name]


def subjects(records: pl.DataFrame) -> list[str]:
    """Who each row is about: the patient, else the study, else the series itself; never the same for two unknowns."""
    return records.select(pl.coalesce("patient_id", "study_id", "series_id")).to_series().to_list()
