"""Series leave an index: by id, by a condition, by patient.

Decisions: the rows go first, in one commit, then their pictures, so that a killed removal shows nobody who is not there.
The bytes of rows stay in their segment until it is compacted; then saved columns and the last scans forget them too, and a
scan looks again at their files when the archive is encoded once more.
"""

from collections.abc import Container, Iterable, Sequence
from functools import reduce

import polars as pl

from index import kept, saving
from index.filter import matching
from index.leftovers import sweep_pictures, sweep_segments
from index.lock import writable
from index.record import hash_of, patient_hash
from index.scanned import forget
from index.store import Index
from models.errors import DecipherError


def chosen(index: Index, series_ids: Sequence[str], where: Sequence[str], patients: Sequence[str]) -> list[str]:
    """The series that are named, and those that a condition or a patient means, in the index's order.

    where: conditions of which all must hold. patients: a patient_id as the index has it, or the identifier that an archive
    has, in each archive that has it. Errors: DecipherError for a series or a patient that is not here.
    """
    here = index.columns(["series_id", "patient_id"])
    _must_be_here("series", series_ids, set(here["series_id"]))
    names = {raw: _names(index, raw) for raw in patients}
    people = set(here["patient_id"].drop_nulls())
    _must_be_here("patient", [raw for raw in patients if not names[raw] & people], ())
    wanted = pl.col("series_id").is_in(list(series_ids)) | pl.col("patient_id").is_in(
        list(set().union(*names.values()))
    )
    mask = here.select(wanted.fill_null(False).alias("wanted"))["wanted"]
    if where:
        mask = mask | pl.Series(matching(index, where))
    return here.filter(mask)["series_id"].to_list()


def _names(index: Index, raw: str) -> set[str]:
    """What patient_id a person may have here: the one given, or the hash of it, as each archive of the index has it."""
    names = {raw}
    if hashed := patient_hash(raw, index.key):
        for salts in {(), *(archive.salts for archive in index.archives.values())}:
            names.add(reduce(lambda name, salt: hash_of(salt, name), salts, hashed))
    return names


def _must_be_here(what: str, asked: Iterable[str], here: Container[str]) -> None:
    for one in asked:
        if one not in here:
            raise DecipherError(
                f"There is no {what} {one} in this index.", "See what there is: decipher search --where 1=1 --json"
            )


def remove(index: Index, series_ids: Sequence[str]) -> int:
    """Remove series and their pictures; returns how many were here."""
    with index.writing():
        removed = index.remove(series_ids)
        with writable(index.folder):
            for one in series_ids:
                (index.folder / "thumbnails" / f"{one}.png").unlink(missing_ok=True)
    return removed


def compact(index: Index) -> None:
    """Write the index anew without what was removed: rows, pictures, and what the last scans tell of them.

    What somebody still reads is deleted by a later writer.
    """
    with index.writing():
        index.compact()
        living = set(index.columns(["series_id"])["series_id"])
        with writable(index.folder):
            sweep_segments(index.folder, {segment.name for segment in index.segments})
            sweep_pictures(index.folder, living)
            for archive in index.archives.values():
                forget(index.folder / "scan" / f"{archive.name}.parquet", archive, living)
        saving.forget(index)
        kept.forget(index)
