"""Series leave an index: by id, by a condition, by patient.

Decisions: the rows go first, in one commit, then their pictures, so that a killed removal shows nobody who is not there.
The bytes of rows stay in their segment until it is compacted.
"""

from collections.abc import Iterable, Sequence

import polars as pl

from index.filter import matching
from index.record import patient_hash
from index.store import Index
from models.errors import DecipherError


def chosen(index: Index, series_ids: Sequence[str], where: Sequence[str], patients: Sequence[str]) -> list[str]:
    """The series that are named, and those that a condition or a patient means, in the index's order.

    patients: a patient_id as the index has it, or the identifier that the archive has. Errors: DecipherError for a series or
    a patient that is not here.
    """
    here = (
        index.columns(["series_id", "patient_id"]) if len(index) else pl.DataFrame({"series_id": [], "patient_id": []})
    )
    _must_be_here("series", series_ids, here["series_id"])
    hashed = {raw: patient_hash(raw, index.key) for raw in patients}
    known = set(here["patient_id"])
    _must_be_here("patient", [raw for raw in patients if hashed[raw] not in known], here["patient_id"])
    wanted = pl.col("series_id").is_in(list(series_ids)) | pl.col("patient_id").is_in([*patients, *hashed.values()])
    mask = here.select(wanted.fill_null(False).alias("wanted"))["wanted"]
    if where:
        mask = mask | pl.Series(matching(index, where))
    return here.filter(mask)["series_id"].to_list()


def _must_be_here(what: str, asked: Iterable[str], here: pl.Series) -> None:
    known = set(here)
    for one in asked:
        if one not in known:
            raise DecipherError(
                f"There is no {what} {one} in this index.", "See what there is: decipher search --where 1=1 --json"
            )


def remove(index: Index, series_ids: Sequence[str]) -> int:
    """Remove series and their pictures; returns how many were here."""
    with index.writing():
        removed = index.remove(series_ids)
        for one in series_ids:
            (index.folder / "thumbnails" / f"{one}.png").unlink(missing_ok=True)
    return removed


def compact(index: Index) -> None:
    """Write the index anew without what was removed, pictures included."""
    with index.writing():
        index.compact()
        living = set(index.columns(["series_id"])["series_id"])
        for picture in (index.folder / "thumbnails").glob("*.png"):
            if picture.stem not in living:
                picture.unlink()
