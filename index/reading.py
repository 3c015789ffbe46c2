"""The way back from a catalogue's row to its volume.

Design: the record's files are described again, in the code that described them, before their pixels are read, so that a
volume is always the one that the catalogue tells of; files that have changed since are refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from index import dicom, nifti, pixels
from index.catalog import Catalogue, root_of, scan
from index.finding import opened, path_of, place_of
from index.frames import of_part, volumes
from index.ledger import Rejection
from index.options import INCLUDABLE, ScanOptions
from models.errors import DecipherError
from models.volume import Volume


def read_volume(root: Path, record: Mapping[str, Any]) -> Volume:
    """The record's pixels: float32 (1, I, J, K) in RAS+ order; shape, affine and sequence as the record has them.

    Raises Rejection where pixels cannot be read, or the files are no longer those that the record describes.
    """
    root = root_of(root)
    volume = _read_nifti(root, record) if record["format"] == "nifti" else _read_dicom(root, record)
    affine = np.array(record["affine_mm"], dtype=np.float64).reshape(4, 4)
    if list(volume.data.shape[1:]) != list(record["shape"]) or not np.allclose(volume.affine_mm, affine, atol=1e-6):
        raise Rejection("changed", "shape or affine differ from the catalogue's")
    return replace(volume, sequence=record.get("sequence"))


def _read_nifti(root: Path, record: Mapping[str, Any]) -> Volume:
    part = record["part"]
    return nifti.read_part(path_of(root, record["files"][0]), int(part.removeprefix("t=")) if part else 0)


def _read_dicom(root: Path, record: Mapping[str, Any]) -> Volume:
    headers, load = _opened(root, record["files"])
    stacks, refused = volumes([frame for header in headers for frame in header.frames], 1)
    stack = of_part(stacks, record["part"])
    if stack is None:
        raise Rejection("changed", refused[0].code if refused else "the part is no longer there")
    return pixels.read_stack(stack, load)


def _opened(root: Path, files: list[str]) -> tuple[list[dicom.DicomHeader], Callable[[str], Any]]:
    """The headers of a record's files, and what opens one of them; a file that is the whole record is opened once for both."""
    if len(files) == 1:
        with dicom.named_errors("bad_header"):
            dataset = pixels.load(path_of(root, files[0]))
            return [dicom.header_of(dataset, files[0])], lambda file: dataset
    every = frozenset(INCLUDABLE)
    headers = [dicom.read_header(opened(place_of(root, file)), file, every) for file in files]
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
