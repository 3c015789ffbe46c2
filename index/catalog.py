"""The catalogue: what an archive holds, one row a series or a part of one.

Design: `scan` puts every file in exactly one place: the `files` of records, or one ledger row. It reads headers, and of
pixels only a look: one image of each DICOM volume, and of a NIfTI file what tells an image from a mask or from damage, so
that what cannot be decoded or shows nothing is known before encoding starts. A scan that knows an earlier one looks again
only at what changed, and at what is described together with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from index import pixels, series
from index.changes import differing, is_same, members, stamps_of, untouched, with_groups
from index.finding import File, walk
from index.ledger import Rejection, rejects_frame, row
from index.look import CRASHED, Look, Seen
from index.options import ScanOptions
from index.pool import Workers
from index.record import ORDER, SCHEMA, records_frame
from index.report import attach
from index.surroundings import Surroundings
from models.errors import DecipherError

__all__ = ["SCHEMA", "Catalogue", "scan"]


@dataclass(frozen=True)
class Catalogue:
    """`records` has SCHEMA, `rejects` has REJECT_SCHEMA, `seen` has index.changes.SEEN; `files` counts every file found."""

    records: pl.DataFrame
    rejects: pl.DataFrame
    seen: pl.DataFrame
    files: int


Progress = Callable[[int, int], None]


def scan(
    archive: Path,
    options: ScanOptions | None = None,
    *,
    key: bytes = b"",
    known: Catalogue | None = None,
    progress: Progress | None = None,
) -> Catalogue:
    """Catalogue an archive: a folder, or one file. No damaged file stops it.

    `key` makes patient_id (see record.patient_hash); `known` is an earlier scan of the same archive with the same options
    and key; `progress` is called with files done and files in all.
    """
    if not archive.exists():
        raise DecipherError(f"There is no file or folder {archive}.", "Check the path of the archive.")
    found, odd = walk(archive)
    stamps, oddities = stamps_of(found), rejects_frame(odd)
    if known and is_same(known.seen, stamps) and known.rejects.join(stamps, on="path", how="anti").equals(oddities):
        return known
    progress = progress or (lambda done, of: None)
    around = Surroundings.of(root_of(archive), [file.path for file in found])
    with _Scan(Look(root_of(archive), around, options or ScanOptions(), key)) as work:
        seen, touched = work.look_again(known, stamps, progress) if known else (work.look_at(found, progress), set())
        records, rejects = work.describe(seen)
    groups = {file.path: one.group for file, one in seen.items() if one.group}
    if known:
        old = untouched(known.records, touched).with_columns(report=pl.lit(None, pl.String))
        records = pl.concat([old, records]).sort(ORDER)
        kept = known.rejects.join(stamps, on="path", how="semi").filter(~pl.col("path").is_in(list(touched)))
        rejects = pl.concat([kept, rejects])
        groups = {**dict(known.seen.select("path", "group").drop_nulls().iter_rows()), **groups}
    records, of_reports = attach(records, [one.report for one in seen.values() if one.report])
    rejects = pl.concat([oddities, rejects, rejects_frame(of_reports)]).sort("path")
    return Catalogue(records, rejects, with_groups(stamps, groups), len(found) + len(odd))


def root_of(archive: Path) -> Path:
    """The folder that an archive's paths are relative to: the archive, or where the one file lies."""
    return archive if archive.is_dir() else archive.parent


class _Scan:
    """One scan's workers, and the two things that they are asked: to look at a file, and whether an image is flat."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.is_flat = partial(pixels.is_flat, look.root)
        self.workers = Workers(self.look, self.is_flat)

    def __enter__(self) -> "_Scan":
        return self

    def __exit__(self, *error: object) -> None:
        self.workers.stop()

    def look_at(self, files: list[File], progress: Progress, before: int = 0) -> dict[File, Seen]:
        seen: dict[File, Seen] = {}
        for file, one in zip(files, self.workers.each(self.look, files, lambda file: CRASHED), strict=True):
            seen[file] = one
            progress(before + len(seen), before + len(files))
        return seen

    def look_again(
        self, known: Catalogue, stamps: pl.DataFrame, progress: Progress
    ) -> tuple[dict[File, Seen], set[str]]:
        """Looks at what changed and at what is described with it; and the paths of all that `known` no longer tells."""
        fresh, touched, groups = differing(known.seen, stamps)
        seen = self.look_at(fresh, progress)
        groups |= {one.group for one in seen.values() if one.header and one.group}
        beside = members(known.seen, known.records, groups, touched)
        return seen | self.look_at(beside, progress, len(fresh)), touched | {file.path for file in beside}

    def describe(self, seen: dict[File, Seen]) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Records and rejects of everything looked at."""
        found = series.series_of([one.header for one in seen.values() if one.header], self.look.options)
        stamps = {file.path: file for file in seen}
        records, rejects = series.describe(found, self.bad_pixels(found), stamps, self.look.key)
        records += [record for one in seen.values() for record in one.records]
        rejects += [row(file.path, *one.refused) for file, one in seen.items() if one.refused]
        used = {file for record in records for file in record["files"]}
        return records_frame(records), rejects_frame(one for one in rejects if one["path"] not in used)

    def bad_pixels(self, found: list[series.Series]) -> dict[int, Rejection]:
        """The chosen stacks, by id, that cannot be decoded or show nothing: by the middle image, by all where it is flat."""
        stacks = [stack for one in found for stack in one.chosen]
        middles = [stack.frames[len(stack.frames) // 2] for stack in stacks]
        bad: dict[int, Rejection] = {}
        verdicts = self.workers.each(
            self.is_flat, middles, lambda frame: Rejection("undecodable", "reading it crashed")
        )
        for stack, verdict in zip(stacks, verdicts, strict=True):
            try:
                if isinstance(verdict, Rejection):
                    raise verdict
                if verdict:
                    pixels.check_varies(stack, self.look.root)
            except Rejection as rejection:
                bad[id(stack)] = rejection
        return bad
