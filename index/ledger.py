"""The ledger: every file that did not become part of a series, with the reason in a fixed code.

Design: a code is a word that programs may match on; its sentence is for people; `detail` holds what is particular to the
file. Readers raise `Rejection`; the scan turns it into one row a file. No code stands for "something went wrong".
"""

from collections.abc import Iterable, Mapping

import polars as pl

CODES: dict[str, str] = {
    "not_an_image": "The file is neither DICOM nor NIfTI.",
    "companion": "A sidecar, table or text that lies beside images and holds none.",
    "report": "A report; its text is kept with the series of its study.",
    "unreadable": "The file cannot be opened, or is not a regular file.",
    "empty_file": "The file has no bytes.",
    "empty_folder": "The archive holds no file.",
    "packed": "The file is an archive of files; unpack it first.",
    "dicomdir": "A DICOMDIR lists other files and holds no image.",
    "bad_header": "The header is damaged.",
    "missing_tags": "The header lacks what is needed to tell what this is.",
    "not_mr": "The image or object is not magnetic resonance.",
    "no_pixels": "The file has no pixel data.",
    "truncated": "The file is shorter than its header says.",
    "undecodable": "The pixel data cannot be decoded.",
    "corrupt": "The compressed data are damaged.",
    "secondary_capture": "A screenshot or secondary capture, not a measured image.",
    "not_grayscale": "The voxels are colours, complex numbers or records, not one intensity each.",
    "localizer": "A localiser, made to plan the other series.",
    "projection": "A projection (MIP), not a stack of slices.",
    "burned_in": "The pixels are marked as carrying burned-in annotation, which may name the patient.",
    "mask": "A mask or label map, not an image.",
    "too_few_slices": "Fewer slices than asked for (--min-slices).",
    "duplicate": "A copy of an instance that was read already.",
    "duplicate_position": "Several slices claim the same place, and nothing tells them apart.",
    "missing_slice": "A slice is missing inside the stack.",
    "uneven_spacing": "The slices are not evenly spaced.",
    "mixed_orientation": "The slices of one series lie in crossing planes.",
    "sheared": "The slices drift sideways: the stack is tilted.",
    "incomplete_volume": "One volume of a series of several has fewer slices than the others.",
    "no_geometry": "The header does not say where the voxels lie in the patient.",
    "bad_geometry": "The geometry in the header is impossible.",
    "unsupported_shape": "The array is not 3D, nor a series of 3D volumes.",
    "part_not_chosen": "The series has more parts than are encoded; evenly chosen ones stand for it.",
    "changed": "The files are no longer what the catalogue describes; scan again.",
    "constant_image": "All voxels have one value.",
    "no_finite_voxels": "No voxel has a finite value.",
}

REJECT_SCHEMA: dict[str, pl.DataType] = {
    "path": pl.String(),
    "code": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}


class Rejection(Exception):
    """A file or series that cannot be used. `code` is a key of CODES, `detail` what is particular to this one."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


def row(path: str, code: str, detail: str = "") -> dict[str, str]:
    """One ledger row; `path` is relative to the archive root. An unknown code is a KeyError: codes are documented."""
    return {"path": path, "code": code, "reason": CODES[code], "detail": detail}


def rejects_frame(rows: Iterable[Mapping[str, str]]) -> pl.DataFrame:
    """Rows of `row` as a frame of REJECT_SCHEMA, sorted by path."""
    return pl.DataFrame([dict(one) for one in rows], schema=REJECT_SCHEMA).sort("path")


def count_codes(rejects: pl.DataFrame) -> dict[str, int]:
    """How many files stand under each code, most first."""
    return dict(rejects["code"].value_counts(sort=True).sort("count", "code", descending=[True, False]).iter_rows())
