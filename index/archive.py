"""An archive as a person keeps it: its catalogue with the labels and reports that lie beside it joined in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from index.catalog import Catalogue, scan
from index.labels import archive_labels, archive_reports, join_labels, join_reports, load_labels, load_reports


@dataclass(frozen=True)
class LabelledCatalogue:
    """The catalogue with labels in its records; `notes` tells, in sentences, which tables were joined and how well."""

    records: pl.DataFrame
    rejects: pl.DataFrame
    files: int
    notes: list[str]


def read_archive(
    archive: Path,
    *,
    labels: Path | None = None,
    reports: Path | None = None,
    min_slices: int = 5,
    key: bytes = b"",
    progress: Callable[[int, int], None] | None = None,
) -> LabelledCatalogue:
    """Scan an archive; join `labels` and `reports`, or the tables at its root where none are named.

    Errors: DecipherError for a missing archive or a table that cannot be joined.
    """
    found: Catalogue = scan(archive, min_slices=min_slices, key=key, progress=progress)
    records, notes = found.records, []
    labels = labels or archive_labels(archive)
    reports = reports or archive_reports(archive)
    if labels and records.height:
        joined = join_labels(records, load_labels(labels), key)
        records = joined.records
        notes.append(f"labels from {labels.name}: {joined.matched} rows matched, {joined.unmatched} not")
    if reports and records.height:
        joined = join_reports(records, load_reports(reports), key)
        records = joined.records
        notes.append(f"reports from {reports.name}: {joined.matched} rows matched, {joined.unmatched} not")
    return LabelledCatalogue(records, found.rejects, found.files, notes)
