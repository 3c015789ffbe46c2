"""The series of an archive or of an index, labels and reports joined, and where the files of each lie."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from index.catalog import Progress
from index.labelled import read_archive
from index.labels import join_labels, join_reports, load_labels, load_reports
from index.ledger import Rejection
from index.reading import read_volume
from index.store import Index, is_index
from models.config import PrepareConfig
from models.errors import DecipherError

if TYPE_CHECKING:
    from models.prepare import Prepared
    from models.volume import Volume


@dataclass(frozen=True)
class Contents:
    """records: one row a series; root_of: the archive's root of a record; notes: sentences on the tables that were joined;
    model: name of an index's encoder, None of an archive."""

    records: pl.DataFrame
    root_of: Callable[[Mapping[str, Any]], Path]
    notes: list[str]
    model: str | None = None

    def prepared(self, record: Mapping[str, Any], config: PrepareConfig) -> "Prepared | str":
        """A record's volume as an encoder takes it, or a sentence on why there is none."""
        read = self.read(record, config)
        return read if isinstance(read, str) else read[1]

    def read(self, record: Mapping[str, Any], config: PrepareConfig) -> "tuple[Volume, Prepared] | str":
        """A record's volume, and as an encoder takes it, or a sentence on why there is none."""
        from models.prepare import prepare

        try:
            volume = read_volume(self.root_of(record), record)
            return volume, prepare(volume, config)
        except Rejection as rejection:
            said = f"{rejection.code} {rejection.detail}".strip()
        except DecipherError as wrong:
            said = wrong.message
        return f"{record['path']}: {said}"

    def prepared_all(
        self, groups: list[list[dict[str, Any]]], config: PrepareConfig
    ) -> "Iterator[list[Prepared | str]]":
        """The volumes of each group of records in order, the next group read ahead."""
        with ThreadPoolExecutor(2) as pool:
            ahead = None
            for group in [*groups, []]:
                now, ahead = ahead, [pool.submit(self.prepared, record, config) for record in group]
                if now is not None:
                    yield [one.result() for one in now]


def contents_of(
    place: Path, labels: Path | None = None, reports: Path | None = None, progress: Progress | None = None
) -> Contents:
    """What an index or an archive holds.

    Errors: DecipherError where `place` is neither, holds no series, none of its archives is there, or a table cannot be
    joined.
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
    records, notes = _there(index)
    for table, load, join in ((labels, load_labels, join_labels), (reports, load_reports, join_reports)):
        if table:
            joined = join(records, load(table), index.key)
            records = joined.records
            notes.append(f"{table.name}: {joined.matched} rows matched, {joined.unmatched} not")
    return Contents(records, index.root_of, notes, index.card.get("model"))


def _there(index: Index) -> tuple[pl.DataFrame, list[str]]:
    """The records whose archives are there, and a sentence on each archive that is not."""
    records = index.records
    if not records.height:
        raise DecipherError(f"{index.folder} holds no series.", f"Fill it: decipher encode ARCHIVE -i {index.folder}")
    counts = dict(records["archive"].value_counts().iter_rows())
    lost = {
        name: archive.root for name, archive in index.archives.items() if name in counts and not archive.root.exists()
    }
    kept = records.filter(~pl.col("archive").is_in(list(lost)))
    if not kept.height:
        roots = ", ".join(map(str, lost.values()))
        raise DecipherError(
            f"The archive of {index.folder} is not there: {roots}.",
            f"Mount it, or say where it is now: decipher encode ARCHIVE -i {index.folder}",
        )
    return kept, [f"{counts[name]} series are left out, since {root} is not there" for name, root in lost.items()]
