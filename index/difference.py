"""What an index lacks of an archive: series that are new or changed, that are gone, that say something new.

Decisions: a series is known by series_id and unchanged by its files' fingerprint. One that another archive of the index holds
stays that one's.
"""

from dataclasses import dataclass

import polars as pl

from index.archive import Archive
from index.store import Index


@dataclass(frozen=True)
class Difference:
    """What an index lacks of an archive: records to encode, records as they were, ids it holds that the archive lacks."""

    new: pl.DataFrame
    kept: pl.DataFrame
    missing: list[str]
    elsewhere: int


def compare(index: Index, home: Archive, records: pl.DataFrame) -> Difference:
    """What `index` lacks of `records`, which are those of its archive `home`."""
    stamps = index.columns(["series_id", "fingerprint", "archive"])
    if not len(index):
        return Difference(records, records.clear(), [], 0)
    known = stamps.rename({"fingerprint": "_fingerprint", "archive": "_archive"})
    mine = records.join(known, on="series_id", how="left", maintain_order="left")
    elsewhere = (pl.col("_archive") != home.name).fill_null(False)
    same = (pl.col("fingerprint") == pl.col("_fingerprint")).fill_null(False) & ~elsewhere
    gone = stamps.filter(pl.col("archive") == home.name).join(records, on="series_id", how="anti")
    plain = mine.drop("_fingerprint", "_archive")
    return Difference(
        new=plain.filter(mine.select((~same & ~elsewhere).alias("_new"))["_new"]),
        kept=plain.filter(mine.select(same.alias("_same"))["_same"]),
        missing=gone["series_id"].to_list(),
        elsewhere=int(mine.select(elsewhere.alias("_other"))["_other"].sum()),
    )


def differ(known: pl.DataFrame, fresh: pl.DataFrame) -> pl.Series:
    """bool (n,): whether two rows say different things, where a column that is not there says as much as a null."""
    both = pl.concat([known, fresh], how="diagonal_relaxed")
    hashes = both.select(sorted(both.columns)).hash_rows()
    return hashes[: known.height] != hashes[known.height :]
