"""What changed in an archive since an earlier scan, by size and time of its files; no file is opened for that.

Design: a file has changed when its size or its modification time did. Files that are described together form a group: the
files of one DICOM series; all NIfTI files, where a table or sidecar changed; all reports, always. A change in a group means
another look at all of it.
"""

from collections.abc import Iterable, Mapping

import polars as pl

from index.finding import File

STAMPS: dict[str, pl.DataType] = {"path": pl.String(), "size_bytes": pl.Int64(), "mtime_ns": pl.Int64()}
SEEN: dict[str, pl.DataType] = {**STAMPS, "group": pl.String()}
NIFTI, REPORT = "nifti", "report"
_TABLES = (".json", ".tsv", ".bval", ".img", ".img.gz")


def stamps_of(files: Iterable[File]) -> pl.DataFrame:
    """The files as a frame of STAMPS, in their order."""
    columns = list(zip(*files, strict=True)) or [()] * len(STAMPS)
    return pl.DataFrame(dict(zip(STAMPS, columns, strict=True)), schema=STAMPS)


def with_groups(stamps: pl.DataFrame, groups: Mapping[str, str]) -> pl.DataFrame:
    """Stamps with each file's group, null for what is described by itself, as a frame of SEEN."""
    known = pl.DataFrame(list(groups.items()), schema={"path": pl.String, "group": pl.String}, orient="row")
    return stamps.join(known, on="path", how="left", maintain_order="left")


def is_same(seen: pl.DataFrame, stamps: pl.DataFrame) -> bool:
    """True where the archive has the files of an earlier scan, as they were."""
    return seen.select(STAMPS.keys()).equals(stamps)


def differing(seen: pl.DataFrame, stamps: pl.DataFrame) -> tuple[list[File], set[str], set[str]]:
    """The files that are new or changed; the paths of these and of those that are gone; the groups that they touch."""
    fresh = stamps.join(seen, on=list(STAMPS), how="anti")
    stale = seen.join(stamps, on=list(STAMPS), how="anti")
    paths = {*fresh["path"], *stale["path"]}
    groups = {REPORT, *stale["group"].drop_nulls()} - {NIFTI}
    if any(path.lower().endswith(_TABLES) for path in paths):
        groups.add(NIFTI)
    return files_of(fresh), paths, groups


def members(seen: pl.DataFrame, records: pl.DataFrame, groups: set[str], paths: set[str]) -> list[File]:
    """The other files of these groups, and of the records that hold one of `paths`."""
    beside = records.join(untouched(records, paths), on="series_id", how="anti").explode("files")["files"]
    wanted = pl.col("group").is_in(list(groups)) | pl.col("path").is_in(beside.to_list())
    return files_of(seen.filter(wanted & ~pl.col("path").is_in(list(paths))))


def untouched(records: pl.DataFrame, paths: set[str]) -> pl.DataFrame:
    """The records none of whose files is among `paths`."""
    other = pl.DataFrame({"files": list(paths)}, schema={"files": pl.String})
    touched = records.select("series_id", "files").explode("files").join(other, on="files", how="semi")
    return records.join(touched, on="series_id", how="anti", maintain_order="left")


def files_of(stamps: pl.DataFrame) -> list[File]:
    """A frame of STAMPS as files."""
    return [File(*one) for one in stamps.select(STAMPS.keys()).iter_rows()]
