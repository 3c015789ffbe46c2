"""An archive as a person keeps it: its catalogue with the labels and reports that lie beside it joined in."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from index.catalog import Catalogue, Progress, root_of, scan
from index.labels import archive_labels, archive_reports, join_labels, join_reports, load_labels, load_reports
from index.options import ScanOptions
from index.scanned import is_catalogue, read_catalogue


@dataclass(frozen=True)
class LabelledCatalogue:
    """A catalogue's records with labels in them; the catalogue itself; the folder that paths are relative to.

    `notes` tells, in sentences, which tables were joined and how well.
    """

    records: pl.DataFrame
    catalogue: Catalogue
    root: Path
    notes: list[str]


def read_archive(
    archive: Path,
    options: ScanOptions | None = None,
    *,
    labels: Path | None = None,
    reports: Path | None = None,
    key: bytes = b"",
    known: Catalogue | None = None,
    progress: Progress | None = None,
) -> LabelledCatalogue:
    """Scan an archive, or take the catalogue of one; join `labels` and `reports`, or the tables at the archive's root.

    Errors: DecipherError for a missing archive or a table that cannot be joined.
    """
    if is_catalogue(archive):
        found, root = read_catalogue(archive)
    else:
        found, root = scan(archive, options, key=key, known=known, progress=progress), root_of(archive)
    records, notes = _labelled(found.records, labels or archive_labels(root), reports or archive_reports(root), key)
    return LabelledCatalogue(records, found, root, notes)


def _labelled(
    records: pl.DataFrame, labels: Path | None, reports: Path | None, key: bytes
) -> tuple[pl.DataFrame, list[str]]:
    notes = []
    if labels and records.height:
        joined = join_labels(records, load_labels(labels), key)
        records = joined.records
        notes.append(f"labels from {labels.name}: {joined.matched} rows matched, {joined.unmatched} not")
    if reports and records.height:
        joined = join_reports(records, load_reports(reports), key)
        records = joined.records
        notes.append(f"reports from {reports.name}: {joined.matched} rows matched, {joined.unmatched} not")
    return records, notes
