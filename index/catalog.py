"""The catalogue: what an archive holds, one row a series or a part of one; and the way back from a row to its volume.

Design: `scan` puts every file in exactly one place: the `files` of records, or one ledger row. It reads headers, and of
pixels only a look: one image of each DICOM volume, and of a NIfTI file what tells an image from a mask or from damage, so
that what cannot be decoded or shows nothing is known before encoding starts. A scan that knows an earlier one looks again
only at what changed, and at what is described together with it.
`read_volume` describes the record's files again, in the same code, before it reads their pixels, so that a volume is
always the one that the catalogue describes; files that have changed since are refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from index import dicom, nifti, pixels, series
from index.changes import differing, is_same, members, stamps_of, untouched, with_groups
from index.finding import File, path_of, walk
from index.frames import volumes
from index.ledger import Rejection, rejects_frame
from index.look import Look, Seen, crashed
from index.options import INCLUDABLE, ScanOptions
from index.pool import each
from index.record import ORDER, SCHEMA, records_frame
from index.report import attach
from index.surroundings import Surroundings
from models.errors import DecipherError
from models.volume import Volume

__all__ = ["SCHEMA", "Catalogue", "read_volume", "scan", "volume_at"]


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
    root = root_of(archive)
    found, odd = walk(archive)
    stamps, oddities = stamps_of(found), rejects_frame(odd)
    files = len(found) + len(odd)
    if known is None:
        known = Catalogue(records_frame([]), rejects_frame([]), with_groups(stamps_of([]), {}), 0)
    elif is_same(known.seen, stamps) and known.rejects.join(stamps, on="path", how="anti").equals(oddities):
        return known
    look = Look(root, Surroundings.of(root, [file.path for file in found]), options or ScanOptions(), key)
    seen, touched = _look(look, found, known, progress or (lambda done, of: None))
    records, rejects = _described(seen, look)
    kept = known.rejects.join(stamps, on="path", how="semi").filter(~pl.col("path").is_in(list(touched)))
    records = pl.concat([untouched(known.records, touched).with_columns(report=pl.lit(None, pl.String)), records]).sort(
        ORDER
    )
    records, of_reports = attach(records, [one.report for one in seen if one.report])
    rejects = pl.concat([oddities, kept, rejects, rejects_frame(of_reports)]).sort("path")
    groups = {
        **dict(known.seen.select("path", "group").drop_nulls().iter_rows()),
        **{one.file.path: one.group for one in seen if one.group},
    }
    return Catalogue(records, rejects, with_groups(stamps, groups), files)


def root_of(archive: Path) -> Path:
    """The folder that an archive's paths are relative to: the archive, or where the one file lies."""
    return archive if archive.is_dir() else archive.parent


def _look(look: Look, found: list[File], known: Catalogue, progress: Progress) -> tuple[list[Seen], set[str]]:
    """Looks at what changed and at what has to be described with it; and the paths of all that `known` no longer tells."""
    first, touched, groups = differing(known.seen, stamps_of(found))
    seen: list[Seen] = []

    def look_at(files: list[File]) -> None:
        for one in each(look, files, crashed):
            seen.append(one)
            progress(len(found) - len(first) + len(seen), len(found))

    look_at(first)
    groups |= {one.group for one in seen if one.header and one.group}
    beside = members(known.seen, known.records, groups, touched)
    look_at(beside)
    return seen, touched | {file.path for file in beside}


def _described(seen: list[Seen], look: Look) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Records and rejects of everything looked at."""
    found = series.series_of([one.header for one in seen if one.header], look.options)
    stamps = {one.file.path: one.file for one in seen}
    records, rejects = series.describe(found, _bad_pixels(found, look.root), stamps, look.key)
    records += [record for one in seen for record in one.records]
    rejects += [one.refused for one in seen if one.refused]
    used = {file for record in records for file in record["files"]}
    return records_frame(records), rejects_frame(one for one in rejects if one["path"] not in used)


def _bad_pixels(found: list[series.Series], root: Path) -> dict[int, Rejection]:
    """The chosen stacks, by id, that cannot be decoded or show nothing: by their middle image, by all where that is flat."""
    stacks = [stack for one in found for stack in one.chosen]
    middles = [stack.frames[len(stack.frames) // 2] for stack in stacks]
    bad: dict[int, Rejection] = {}
    verdicts = each(
        partial(pixels.is_flat, root), middles, lambda frame: Rejection("undecodable", "reading it crashed")
    )
    for stack, verdict in zip(stacks, verdicts, strict=True):
        try:
            if isinstance(verdict, Rejection):
                raise verdict
            if verdict:
                pixels.check_varies(stack, root)
        except Rejection as rejection:
            bad[id(stack)] = rejection
    return bad


def read_volume(root: Path, record: Mapping[str, Any]) -> Volume:
    """The record's pixels: float32 (1, I, J, K) in RAS+ order, shape and affine as the record has them.

    Raises Rejection where pixels cannot be read, or the files are no longer those that the record describes.
    """
    root = root_of(root)
    volume = _read_nifti(root, record) if record["format"] == "nifti" else _read_dicom(root, record)
    affine = np.array(record["affine_mm"], dtype=np.float64).reshape(4, 4)
    if list(volume.data.shape[1:]) != list(record["shape"]) or not np.allclose(volume.affine_mm, affine, atol=1e-6):
        raise Rejection("changed", "shape or affine differ from the catalogue's")
    return volume


def _read_nifti(root: Path, record: Mapping[str, Any]) -> Volume:
    part = record["part"]
    return nifti.read_part(path_of(root, record["files"][0]), int(part.removeprefix("t=")) if part else 0)


def _read_dicom(root: Path, record: Mapping[str, Any]) -> Volume:
    headers, opened = _opened(root, record["files"])
    stacks, refused = volumes([frame for header in headers for frame in header.frames], 1)
    matching = [stack for stack in stacks if len(stacks) == 1 or stack.part == record["part"]]
    if not matching:
        raise Rejection("changed", refused[0].code if refused else "the part is no longer there")
    return pixels.read_stack(matching[0], opened)


def _opened(root: Path, files: list[str]) -> tuple[list[dicom.DicomHeader], Callable[[str], Any]]:
    """The headers of a record's files, and what opens one of them; a file that is the whole record is opened once for both."""
    if len(files) == 1:
        with dicom.named_errors("bad_header"):
            dataset = pixels.load(path_of(root, files[0]))
            return [dicom.header_of(dataset, files[0])], lambda file: dataset
    every = frozenset(INCLUDABLE)
    headers = [dicom.read_header(path_of(root, file), file, include=every) for file in files]
    return headers, lambda file: pixels.load(path_of(root, file))


def volume_at(path: Path) -> tuple[Volume, dict[str, Any]]:
    """The first volume at `path` and its record: a NIfTI file, a DICOM file (its whole series) or a DICOM folder."""
    hint = "Give a NIfTI file, a DICOM file or a folder of one DICOM series."
    if not path.exists():
        raise DecipherError(f"There is no file or folder {path}.", hint)
    two = ScanOptions(min_slices=2)
    found = scan(path, two)
    root = root_of(path)
    record = _first(found, None)
    if record is None and path.is_file():
        found = scan(root, two)
        record = _first(found, path.name)
    if record is None:
        codes = ", ".join(sorted(set(found.rejects["code"]))) or "nothing found"
        raise DecipherError(f"There is no MRI volume at {path} ({codes}).", hint)
    try:
        return read_volume(root, record), record
    except Rejection as rejection:
        raise DecipherError(f"The volume at {path} cannot be read: {rejection}.", hint) from None


def _first(found: Catalogue, file: str | None) -> dict[str, Any] | None:
    for record in found.records.iter_rows(named=True):
        if file is None or file in record["files"]:
            return record
    return None
