"""The masks that a decoder learns from: a table of series and masks, joined to an archive, checked before anything runs.

Decisions:
- A row names its series by series_id or path, and its mask by a path below the table's folder or the archive's root. Rows
  without a mask say nothing and are passed over; an empty mask is a negative.
- A mask has the grid of its volume: the same shape and place once both are in RAS+ order. It is never resampled, since a
  mask of another grid is more often the wrong file than the right one.
- Marked is what is above 0.5; with a column `value`, the voxels of that value, so that one file may hold several organs. Of a
  DICOM Segmentation object it is what any segment marks, or the segment of that number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from index.contents import Contents
from index.geometry import ras_geometry
from index.labels import load_labels
from index.ledger import Rejection
from index.nifti import NiftiHeader, read_header, read_part
from index.record import subjects
from index.segmented import is_dicom, read_seg
from models.errors import DecipherError

SAME_GRID = "Give a mask drawn on this volume, with its shape and affine."
APART = 0.1
"""of the smallest voxel edge: how far corner voxels of a mask may lie from the volume's"""


@dataclass(frozen=True)
class Case:
    """A series and a mask of it; label: what is marked, "" where the table says nothing; value: None for all voxels."""

    record: dict[str, Any]
    patient: str
    mask: Path
    label: str
    value: int | None

    def read_mask(self) -> np.ndarray:
        """bool (I, J, K) in RAS+ order. Errors: DecipherError when it cannot be read."""
        try:
            if is_dicom(self.mask):
                return read_seg(self.mask, self.record, self.value)
            data = read_part(self.mask, 0).data[0]
        except Rejection as rejection:
            raise DecipherError(f"The mask {self.mask} cannot be read: {rejection}.", SAME_GRID) from None
        return data > 0.5 if self.value is None else np.rint(data) == self.value


@dataclass(frozen=True)
class Cases:
    """cases in the table's order; notes: sentences on rows that were passed over."""

    cases: list[Case]
    notes: list[str]

    @property
    def labels(self) -> list[str]:
        """What is marked in any of them, sorted."""
        return sorted({case.label for case in self.cases})

    @property
    def patients(self) -> list[str]:
        return [case.patient for case in self.cases]


def read_cases(table: Path, contents: Contents) -> Cases:
    """The table's rows as cases, each mask's grid checked against its volume's.

    Errors: DecipherError for a table without what is needed, rows that name no series here or several, and masks that are
    missing, damaged, of another grid, or all empty.
    """
    rows = _rows(table)
    places = _Places.of(contents, table.parent)
    who = dict(zip(contents.records["series_id"], subjects(contents.records), strict=True))
    cases, lost = [], []
    for row in rows:
        record = places.record(row)
        if record is None:
            lost.append(str(row.get("series_id") or row.get("path")))
            continue
        case = Case(record, who[record["series_id"]], places.mask(row, record), _text(row.get("label")), _value(row))
        _check_grid(case)
        cases.append(case)
    _check_cases(cases, lost, table)
    notes = [f"{len(lost)} of {len(rows)} rows name no series here: {', '.join(lost[:5])}"] if lost else []
    return Cases(cases, notes)


def _rows(table: Path) -> list[dict[str, Any]]:
    frame = load_labels(table)
    if "mask" not in frame.columns or not {"series_id", "path"} & set(frame.columns):
        raise DecipherError(
            f"{table} is no table of masks.", "Expected columns: path or series_id; mask; label if any."
        )
    rows = list(frame.filter(pl.col("mask").is_not_null()).iter_rows(named=True))
    if not rows:
        raise DecipherError(f"No row of {table} names a mask.", "Write the masks' paths in the column mask.")
    return rows


@dataclass(frozen=True)
class _Places:
    """Records by series_id and by path; folder: where the table lies."""

    by_id: dict[str, dict[str, Any]]
    by_path: dict[str, list[dict[str, Any]]]
    folder: Path
    root_of: Callable[[Mapping[str, Any]], Path]

    @staticmethod
    def of(contents: Contents, folder: Path) -> "_Places":
        by_id, by_path = {}, dict[str, list[dict[str, Any]]]()
        for record in contents.records.iter_rows(named=True):
            by_id[record["series_id"]] = record
            for path in {record["path"].strip("/"), *record["files"]}:
                by_path.setdefault(path, []).append(record)
                by_path.setdefault(str((contents.root_of(record) / path).resolve()), []).append(record)
        return _Places(by_id, by_path, folder, contents.root_of)

    def record(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        if row.get("series_id"):
            return self.by_id.get(str(row["series_id"]))
        path = str(row["path"])
        for name in (path.strip("/"), str((self.folder / path).resolve())):
            found = self.by_path.get(name, [])
            if len(found) > 1:
                raise DecipherError(f"{path} holds {len(found)} series.", "Name the series in a column series_id.")
            if found:
                return found[0]
        return None

    def mask(self, row: Mapping[str, Any], record: Mapping[str, Any]) -> Path:
        root = self.root_of(record)
        for folder in (self.folder, root):
            if (folder / str(row["mask"])).is_file():
                return folder / str(row["mask"])
        raise DecipherError(f"There is no mask {row['mask']}.", f"Paths are read from {self.folder} and from {root}.")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _value(row: Mapping[str, Any]) -> int | None:
    if row.get("value") is None:
        return None
    try:
        return int(float(row["value"]))
    except ValueError:
        raise DecipherError(
            f"{row['value']!r} is no value of a mask.", "Write whole numbers in the column value."
        ) from None


def _check_grid(case: Case) -> None:
    """Errors: DecipherError naming the mask when its shape or place is not its volume's."""
    if is_dicom(case.mask):
        case.read_mask()
        return
    try:
        header = read_header(case.mask)
    except Rejection as rejection:
        raise DecipherError(f"The mask {case.mask} cannot be read: {rejection}.", SAME_GRID) from None
    shape, affine = ras_geometry(header.shape, header.affine_mm)
    _check_shape(case, header, shape)
    wanted = np.array(case.record["affine_mm"]).reshape(4, 4)
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])])
    apart_mm = np.linalg.norm((affine - wanted) @ corners.T, axis=0).max()
    if apart_mm > APART * min(case.record["spacing_mm"]):
        raise DecipherError(
            f"The mask {case.mask} has another affine than {case.record['path']}: they lie {apart_mm:.1f} mm apart.",
            SAME_GRID,
        )


def _check_shape(case: Case, header: NiftiHeader, shape: Sequence[int]) -> None:
    wanted = list(case.record["shape"])
    if list(shape) != wanted or header.volumes > 1:
        volumes = f" and {header.volumes} volumes" if header.volumes > 1 else ""
        raise DecipherError(
            f"The mask {case.mask} has shape {_times(shape)}{volumes}, but {case.record['path']} has {_times(wanted)}.",
            SAME_GRID,
        )


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _check_cases(cases: list[Case], lost: list[str], table: Path) -> None:
    if not cases:
        raise DecipherError(
            f"None of the {len(lost)} rows of {table} names a series here, such as {lost[0]}.",
            "Paths are those that `decipher scan` shows; name the archive with --data.",
        )
    seen = [(case.record["series_id"], case.label) for case in cases]
    twice = next((one for one in seen if seen.count(one) > 1), None)
    if twice:
        raise DecipherError(
            f"Two rows of {table} are about series {twice[0]}{f' and label {twice[1]}' if twice[1] else ''}.",
            "Keep one row for each, or tell them apart in a column label.",
        )
    if any(case.label for case in cases) and not all(case.label for case in cases):
        raise DecipherError(f"Some rows of {table} have a label and some have none.", "Give every row one, or none.")
    if not any(case.read_mask().any() for case in cases):
        raise DecipherError(f"All {len(cases)} masks of {table} are empty.", "Bring masks that mark something.")
