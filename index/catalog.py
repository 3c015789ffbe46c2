"""The catalogue: what an archive holds, one row a series or a part of one; and the way back from a row to its volume.

Design: `scan` puts every file in exactly one place: the `files` of records, or one ledger row. It reads headers, and of
pixels only a look: one image of each DICOM volume, the first megabytes of each NIfTI file, so that what cannot be decoded
or shows nothing is known before encoding starts.
`read_volume` describes the record's files again, in the same code, before it reads their pixels, so that a volume is
always the one that the catalogue describes; files that have changed since are refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from index import bids, dicom, nifti, series
from index.finding import kind_of, path_of, text_of, walk
from index.frames import volumes
from index.ledger import Rejection, rejects_frame, row
from index.record import SCHEMA, records_frame
from models.errors import DecipherError
from models.volume import Volume

__all__ = ["SCHEMA", "Catalogue", "read_volume", "scan", "volume_at"]


@dataclass(frozen=True)
class Catalogue:
    """`records` has SCHEMA, `rejects` has REJECT_SCHEMA; `files` counts every file that was found."""

    records: pl.DataFrame
    rejects: pl.DataFrame
    files: int


def scan(
    archive: Path, *, min_slices: int = 5, key: bytes = b"", progress: Callable[[int, int], None] | None = None
) -> Catalogue:
    """Catalogue an archive: a folder, or one file. No damaged file stops it.

    `key` makes patient_id (see record.patient_hash); `progress` is called with files done and files in all.
    """
    if not archive.exists():
        raise DecipherError(f"There is no file or folder {archive}.", "Check the path of the archive.")
    root = archive if archive.is_dir() else archive.parent
    found = walk(archive)
    records: list[dict[str, Any]] = []
    rejects: list[dict[str, str]] = []
    headers: list[dicom.DicomHeader] = []
    stamps: dict[str, tuple[int, int]] = {}
    for done, relative in enumerate(found, start=1):
        file = text_of(relative)
        try:
            kind = kind_of(root / relative)
            status = (root / relative).stat()
            stamps[file] = (status.st_size, status.st_mtime_ns)
            if kind == "dicom":
                headers.append(dicom.read_header(root / relative, file))
            else:
                records += bids.describe(root, relative, file, key)
        except Rejection as rejection:
            rejects.append(row(file, rejection.code, rejection.detail))
        except (OSError, MemoryError) as error:
            rejects.append(row(file, "unreadable", type(error).__name__))
        if progress is not None:
            progress(done, len(found))
    paths = {header.file: path_of(root, header.file) for header in headers}
    more, refused = series.describe(headers, stamps, min_slices, key, lambda stack: dicom.check_stack(stack, paths))
    records, rejects = records + more, rejects + refused
    used = {file for record in records for file in record["files"]}
    rejects = [one for one in rejects if one["path"] not in used]
    return Catalogue(records_frame(records), rejects_frame(rejects), len(found))


def read_volume(root: Path, record: Mapping[str, Any]) -> Volume:
    """The record's pixels: float32 (1, I, J, K) in RAS+ order, shape and affine as the record has them.

    Raises Rejection where pixels cannot be read, or the files are no longer those that the record describes.
    """
    volume = _read_nifti(root, record) if record["format"] == "nifti" else _read_dicom(root, record)
    affine = np.array(record["affine_mm"], dtype=np.float64).reshape(4, 4)
    if list(volume.data.shape[1:]) != list(record["shape"]) or not np.allclose(volume.affine_mm, affine, atol=1e-6):
        raise Rejection("changed", "shape or affine differ from the catalogue's")
    return volume


def _read_nifti(root: Path, record: Mapping[str, Any]) -> Volume:
    part = record["part"]
    return nifti.read_part(path_of(root, record["files"][0]), int(part.removeprefix("t=")) if part else 0)


def _read_dicom(root: Path, record: Mapping[str, Any]) -> Volume:
    paths = {file: path_of(root, file) for file in record["files"]}
    headers = [dicom.read_header(path, file) for file, path in paths.items()]
    stacks, refused = volumes([frame for header in headers for frame in header.frames], 1)
    matching = [stack for stack in stacks if len(stacks) == 1 or stack.part == record["part"]]
    if not matching:
        raise Rejection("changed", refused[0].code if refused else "the part is no longer there")
    return dicom.read_stack(matching[0], paths)


def volume_at(path: Path) -> tuple[Volume, dict[str, Any]]:
    """The first volume at `path` and its record: a NIfTI file, a DICOM file (its whole series) or a DICOM folder."""
    hint = "Give a NIfTI file, a DICOM file or a folder of one DICOM series."
    if not path.exists():
        raise DecipherError(f"There is no file or folder {path}.", hint)
    found = scan(path, min_slices=2)
    root = path if path.is_dir() else path.parent
    record = _first(found, None)
    if record is None and path.is_file():
        found = scan(root, min_slices=2)
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
