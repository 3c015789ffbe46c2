"""The archives that feed one index: each has a name, a root, and ids that no other archive's collide with.

    card.json: "archives": [{"name": "hospital-a", "root": "/data/hospital-a", "salts": []}, ...]

Decisions: a DICOM series carries its own identifiers, so that it is one series wherever it lies, and its patient one
person. A NIfTI file is known by its path and its subject by a name of the dataset alone, which another archive may use
too; so the ids of NIfTI series of a second archive are hashed once more, with its salts. An archive is known by its root,
and one that lies elsewhere by its series: where half of those that the index has are here, with path, size and time, it was
moved. A smaller part of it elsewhere is another archive, whatever the part's share of what lies there.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from index.record import hash_of

HASHED = ("series_id", "study_id", "patient_id")


@dataclass(frozen=True)
class Archive:
    """`salts`: worked one after the other into the ids of its NIfTI series; none for the first archive of an index."""

    name: str
    root: Path
    salts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "root": str(self.root), "salts": list(self.salts)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Archive":
        return cls(entry["name"], Path(entry["root"]), tuple(entry["salts"]))

    def lies_at(self, root: Path) -> bool:
        """Whether `root` is where the archive was, also by another way to the same folder."""
        return self.root == root.absolute() or (self.root.exists() and root.exists() and self.root.samefile(root))

    def own(self, records: pl.DataFrame) -> pl.DataFrame:
        """The archive's records as the index keeps them: its name beside each, its ids where they might collide."""
        for salt in self.salts:
            records = salted(records, salt)
        return records.with_columns(archive=pl.lit(self.name))


def salted(records: pl.DataFrame, salt: str) -> pl.DataFrame:
    """The records with `salt` worked into the ids of the NIfTI series."""
    again = [
        pl.when(pl.col("format") == "nifti")
        .then(pl.col(name).map_elements(lambda one: hash_of(salt, one), pl.String))
        .otherwise(pl.col(name))
        .alias(name)
        for name in HASHED
    ]
    return records.with_columns(again)


def archive_at(known: Mapping[str, Archive], root: Path, records: pl.DataFrame, stamps: pl.DataFrame) -> Archive:
    """The archive that lies at `root` and holds `records`: a known one, one that was moved there, or a new one.

    stamps: series_id, fingerprint and archive of the index's rows.
    """
    for archive in known.values():
        if archive.lies_at(root):
            return archive
    root = root.absolute()
    for archive in known.values():
        had = stamps.filter(pl.col("archive") == archive.name)
        here = had.join(archive.own(records), on=["series_id", "fingerprint"], how="semi")
        if 2 * here.height >= max(1, had.height):
            return Archive(archive.name, root, archive.salts)
    name = free_name(root.name, known)
    return Archive(name, root, (name,) if known else ())


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """`wanted`, in letters that do in a file's name, with a number where it is taken."""
    plain = re.sub(r"[^\w.-]+", "-", wanted).strip("-.") or "archive"
    names, number, name = set(taken), 2, plain
    while name in names:
        name, number = f"{plain}-{number}", number + 1
    return name
