"""What a decoder leaves in a folder: masks of each series as NIfTI and DICOM SEG, tables of volumes and boxes, a picture sheet.

Decisions:
- Of a series that came from DICOM both are written, so that a viewer of the clinic shows what a script has measured; of NIfTI
  files there are no DICOM images to refer to. Where DICOM SEG cannot refer to a series, its NIfTI mask is there all the same.
- A NIfTI mask is named by its series, and by its label where the decoder knows several; a DICOM SEG holds all labels of its
  series. The table says which is whose.
- The table is there from the beginning, so that a folder that was begun is known as our own and may be gone on with.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from index.ledger import Rejection
from index.seg import check_labels, write_seg
from index.segment import replace_file
from index.writing import write_mask
from models.errors import DecipherError
from models.volume import Volume
from training.overlap import components
from training.sheet import MOST, sheet_png, tile_of

FORMATS = ("both", "nifti", "seg")
TABLE, BOXES, SHEET = "volumes.csv", "boxes.csv", "sheet.png"
COLUMNS = {"tile": pl.Int64, "series_id": pl.String, "path": pl.String, "label": pl.String, "volume_ml": pl.Float64,
           "components": pl.Int64, "mask": pl.String, "seg": pl.String}  # fmt: skip
BOX_COLUMNS = ("tile", "series_id", "label", "score", "r_mm", "a_mm", "s_mm", "i_extent_mm", "j_extent_mm", "k_extent_mm",
               "volume_ml")  # fmt: skip
"""a box's score, its centre in RAS+, its extent along the axes of the volume"""


@dataclass(frozen=True)
class Source:
    """A series: where its archive lies, its record, its volume, and the hash that a DICOM SEG calls its patient by."""

    root: Path
    record: Mapping[str, Any]
    volume: Volume
    patient_id: str


@dataclass
class Results:
    """folder: to write in; format: of FORMATS; algorithm: who marks, 64 characters at most; named: whether a mask's name
    tells its label; rows: of the table, so far."""

    folder: Path
    format: str
    algorithm: str
    named: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    boxes: list[dict[str, Any]] = field(default_factory=list)
    tiles: list[np.ndarray] = field(default_factory=list)

    def begin(self) -> None:
        """Make the folder. Errors: DecipherError where it holds something else."""
        check_output(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_table()

    def add(self, source: Source, masks: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], str]:
        """Write the masks (I, J, K) bool of a series by label.

        Returns a row each, and a sentence where the series has no DICOM SEG that was asked for.
        """
        seg, why = self._write_seg(source, masks) if self._wants_seg(source.record) else (None, "")
        before = len(self.rows)
        for label, mask in masks.items():
            name = None if seg and self.format == "seg" else self._write_mask(source, label, mask)
            self.rows.append({"tile": len(self.rows) + 1, **_measured(source, label, mask), "mask": name, "seg": seg})
            if len(self.tiles) < MOST:
                self.tiles.append(tile_of(source.volume, mask, _caption(self.rows[-1])))
        return self.rows[before:], why

    def add_boxes(self, row: Mapping[str, Any], boxes: Sequence[Mapping[str, Any]]) -> None:
        """The boxes of a row, as training.overlap describes them, for a table of their own."""
        for box in boxes:
            figures = [box.get("score"), *box["centre_mm"], *box["extent_mm"], box["volume_ml"]]
            told = [row[name] for name in BOX_COLUMNS[:3]]
            self.boxes.append(dict(zip(BOX_COLUMNS, [*told, *figures], strict=True)))

    def finish(self) -> None:
        """The tables and the sheet. Errors: DecipherError where nothing was added."""
        if not self.rows:
            raise DecipherError("No series could be read.", "See why: decipher scan ARCHIVE --check")
        self._write_table()
        if self.boxes:
            frame = pl.DataFrame(self.boxes, infer_schema_length=None)
            replace_file(self.folder / BOXES, frame.write_csv().encode())
        replace_file(self.folder / SHEET, sheet_png(self.tiles))

    def _wants_seg(self, record: Mapping[str, Any]) -> bool:
        return self.format != "nifti" and record["format"] == "dicom"

    def _write_mask(self, source: Source, label: str, mask: np.ndarray) -> str:
        name = self._free_name(source.record["series_id"], label if self.named else "", ".nii.gz")
        write_mask(self.folder / name, mask, source.root, source.record)
        return name

    def _write_seg(self, source: Source, masks: Mapping[str, np.ndarray]) -> tuple[str | None, str]:
        name = self._free_name(source.record["series_id"], "", ".dcm")
        to = (source.root, source.record, source.patient_id, self.algorithm)
        try:
            write_seg(self.folder / name, masks, *to)
        except (DecipherError, Rejection) as error:
            return None, f"{source.record['path']}: {error}"
        return name, ""

    def _free_name(self, series_id: str, label: str, ending: str) -> str:
        """A file's name that no earlier row has."""
        stem = "-".join(filter(None, [series_id, re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")]))
        taken = {row[kind] for row in self.rows for kind in ("mask", "seg")}
        names = [stem, *(f"{stem}-{n}" for n in range(2, len(self.rows) + 3))]
        return next(f"{name}{ending}" for name in names if f"{name}{ending}" not in taken)

    def _write_table(self) -> None:
        replace_file(self.folder / TABLE, pl.DataFrame(self.rows, schema=COLUMNS).write_csv().encode())


def _measured(source: Source, label: str, mask: np.ndarray) -> dict[str, Any]:
    voxel_ml = abs(float(np.linalg.det(source.volume.affine_mm[:3, :3]))) / 1000
    return {
        "series_id": source.record["series_id"], "path": source.record["path"], "label": label,
        "volume_ml": round(float(mask.sum()) * voxel_ml, 4), "components": components(mask)[1],
    }  # fmt: skip


def _caption(row: Mapping[str, Any]) -> str:
    parts = f"{row['components']} part{'' if row['components'] == 1 else 's'}"
    told = [str(row["tile"]), row["label"], f"{row['volume_ml']:.2f} ml in {parts}", row["series_id"]]
    return "   ".join(filter(None, told))


def check_output(folder: Path) -> None:
    """Errors: DecipherError where `folder` holds something else than masks that were written before."""
    if folder.exists() and not (folder / TABLE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DecipherError(f"{folder} holds something else than masks.", "Name a new folder with -o.")


def check_format(format: str, records: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    """Errors: DecipherError for a format that there is not, or that does not hold these series or labels."""
    if format not in FORMATS:
        raise DecipherError(f"There is no format {format!r}.", f"Take one of: {', '.join(FORMATS)}.")
    files = [record["path"] for record in records if record["format"] == "nifti"]
    if format == "seg" and files:
        raise DecipherError(
            f"{len(files)} of {len(records)} series came from no DICOM images that a DICOM SEG could refer to: {files[0]}.",
            "Take --format both: DICOM SEG where there can be one, and NIfTI of all.",
        )
    if format != "nifti" and len(files) < len(records):
        check_labels(labels)
