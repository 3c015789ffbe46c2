"""The series of an archive or of an index, labels and reports joined, and where the files of each lie."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from index.catalog import Progress
from index.labelled import read_archive
from index.labels import join_labels, join_reports, load_labels, load_reports
from index.ledger import Rejection
from index.reading import read_volume
from index.store import Index, is_index
from models.errors import DecipherError
from models.volume import Volume


@dataclass(frozen=True)
class Contents:
    """records: one row a series; root_of: the archive's root of a record; notes: sentences on the tables that were joined."""

    records: pl.DataFrame
    root_of: Callable[[Mapping[str, Any]], Path]
    notes: list[str]

    def read(self, record: Mapping[str, Any]) -> Volume | Rejection:
        """A record's volume, or why there is none."""
        try:
            return read_volume(self.root_of(record), record)
        except Rejection as rejection:
            return rejection

    def read_all(self, groups: list[list[dict[str, Any]]]) -> Iterator[list[Volume | Rejection]]:
        """The volumes of each group of records in order, the next group read ahead."""
        with ThreadPoolExecutor(2) as pool:
            ahead = None
            for group in [*groups, []]:
                now, ahead = ahead, [pool.submit(self.read, record) for record in group]
                if now is not None:
                    yield [one.result() for one in now]


def contents_of(
    place: Path, labels: Path | None = None, reports: Path | None = None, progress: Progress | None = None
) -> Contents:
    """What an index or an archive holds.

    Errors: DecipherError where `place` is neither, holds no series, or a table cannot be joined.
    """
    if not place.exists():
        raise DecipherError(
            f"No such archive or index: {place}.", "Name a folder of DICOM or NIfTI files, or an index."
        )
    if not is_index(place):
        found = read_archive(place, labels=labels, reports=reports, progress=progress)
        if not found.records.height:
            raise DecipherError(f"No MRI series in {place}.", f"See why: decipher scan {place}")
        return Contents(found.records, lambda record: found.root, found.notes)
    index = Index.open(place)
    records, notes = index.records, []
    for table, load, join in ((labels, load_labels, join_labels), (reports, load_reports, join_reports)):
        if table:
            joined = join(records, load(table), index.key)
            records = joined.records
            notes.append(f"{table.name}: {joined.matched} rows matched, {joined.unmatched} not")
    return Contents(records, index.root_of, notes)
