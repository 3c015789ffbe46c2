"""DICOM headers: one file to its frames, or to a named refusal.

Design: index.plain cuts the header of a plain file, pydicom reads every other, and from then on both are asked by the same
functions. Only the tags named in index.tags are read, and everything that a damaged file can do ends as a Rejection. One
file gives one frame, or many (enhanced multi-frame, Siemens mosaic, UIH grid).
"""

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from index.finding import Opened, named_damage, open_unpacked, unpacked_size
from index.frames import Frame
from index.ledger import Rejection
from index.multiframe import frames_of
from index.plain import NATIVE, read_plain
from index.sequence import is_localizer
from index.tags import number, remembered, tags_of, text, wanted, words

MR_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.3",
    "1.2.840.10008.5.1.4.1.1.4.4",
}
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_CAPTURE_PREFIX = "1.2.840.10008.5.1.4.1.1.7"
REPORT_PREFIX = "1.2.840.10008.5.1.4.1.1.88."


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """One file: its frames, the series it belongs to, and what the catalogue may know of patient and study."""

    file: str
    series_uid: str
    study_uid: str | None
    patient: str | None
    instance_uid: str | None
    frames: list[Frame]
    age: tuple[str, str, str]
    sex: str | None


@contextmanager
def named_errors(code: str) -> Iterator[None]:
    """Turn whatever a damaged file makes a reader raise into a Rejection of this code; memory errors pass.

    The error's own words are left out: they may quote the header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (Rejection, MemoryError):
            raise
        except Exception as error:  # pydicom raises nearly every built-in type on damaged files
            raise Rejection(code, type(error).__name__) from None


def read_header(found: Opened, file: str, include: frozenset[str] = frozenset()) -> DicomHeader:
    """The header of one DICOM file, `file` being its name in the catalogue; `include` names codes that are let in.

    Raises Rejection for all that is no MR image.
    """
    plain = None if found.packed else read_plain(found.place, found.start, wanted())
    if plain is None:
        return _read_with_pydicom(found.place, file, include)
    _check_kind(plain, include)
    encapsulated = plain.syntax not in NATIVE
    _check_length(plain, found.size_bytes - plain.pixels_at, plain.pixels_stated, encapsulated)
    return header_of(plain, file)


def _read_with_pydicom(place: str, file: str, include: frozenset[str]) -> DicomHeader:
    import pydicom

    with named_errors("bad_header"), named_damage(), open_unpacked(place) as stream:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(wanted()))
        _check_kind(dataset, include)
        _check_pixels_there(dataset, stream, unpacked_size(place))
        return header_of(dataset, file)


def header_of(dataset: Any, file: str) -> DicomHeader:
    """What the catalogue needs of a data set. Raises Rejection where its frames have no place."""
    series_uid, study_uid, patient, sex, age = _about(dataset)
    return DicomHeader(
        file=file,
        series_uid=series_uid,
        study_uid=study_uid,
        patient=patient,
        instance_uid=text(dataset, "SOPInstanceUID"),
        frames=frames_of(dataset, file, tags_of(dataset)),
        age=age,
        sex=sex,
    )


@remembered(
    "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate"
)
def _about(dataset: Any) -> tuple[str, str | None, str | None, str | None, tuple[str, str, str]]:
    """Series, study, patient, sex; age string, birth date, study date."""
    names = ("PatientAge", "PatientBirthDate", "StudyDate")
    age, birth, study = (text(dataset, name) or "" for name in names)
    study_uid, patient, sex = (text(dataset, name) for name in ("StudyInstanceUID", "PatientID", "PatientSex"))
    return text(dataset, "SeriesInstanceUID") or "", study_uid, patient, sex, (age, birth, study)


def _check_kind(dataset: Any, include: frozenset[str]) -> None:
    """Raise Rejection unless the data set is one MR image that may be used."""
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and str(meta.get("MediaStorageSOPClassUID", "")) == _DICOMDIR_CLASS:
        raise Rejection("dicomdir")
    for code, detail in _reasons(dataset):
        if code not in include:
            raise Rejection(code, detail)


@remembered(
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SamplesPerPixel",
    "BurnedInAnnotation",
    "SeriesDescription",
    "ProtocolName",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "BitsAllocated",
)
def _reasons(dataset: Any) -> tuple[tuple[str, str], ...]:
    """(code, detail) of everything by its class, modality, type and marks that keeps a data set out of the catalogue."""
    return tuple(_told_reasons(dataset))


def _told_reasons(dataset: Any) -> Iterator[tuple[str, str]]:
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality")
    kinds = {word.upper() for word in words(dataset, "ImageType")}
    if sop_class == _DICOMDIR_CLASS:
        yield "dicomdir", ""
    if sop_class is None and modality is None:
        yield "missing_tags", "neither SOPClassUID nor Modality"
    elif (sop_class or "").startswith(REPORT_PREFIX):
        yield "report", ""
    elif (sop_class or "").startswith(_CAPTURE_PREFIX) or "SCREEN SAVE" in kinds:
        yield "secondary_capture", ""
    elif (modality or "MR") != "MR" or (sop_class or "MR") not in {*MR_CLASSES, "MR"}:
        yield "not_mr", f"modality {modality or 'unknown'}, class {sop_class or 'unknown'}"
    if number(dataset, "SamplesPerPixel") not in (None, 1.0):
        yield "not_grayscale", "colour image"
    if text(dataset, "BurnedInAnnotation") == "YES":
        yield "burned_in", ""
    if "LOCALIZER" in kinds or is_localizer(text(dataset, "SeriesDescription"), text(dataset, "ProtocolName")):
        yield "localizer", ""
    if kinds & {"PROJECTION IMAGE", "MIP", "MNIP"}:
        yield "projection", ""
    missing = [name for name in ("SeriesInstanceUID", "Rows", "Columns", "BitsAllocated") if not text(dataset, name)]
    if missing:
        yield "missing_tags", ", ".join(missing)


def _check_pixels_there(dataset: Any, stream: Any, size: int) -> None:
    """Raise Rejection no_pixels or truncated; `stream` stands where reading stopped, at the tag of the pixel data."""
    syntax = transfer_syntax(dataset)
    if syntax.is_deflated:
        return
    start = stream.read(12)
    if len(start) < 8:
        raise Rejection("no_pixels")
    order = "<" if syntax.is_little_endian else ">"
    short = syntax.is_implicit_VR
    (stated,) = struct.unpack(order + "I", start[4:8] if short else start[8:12].ljust(4, b"\0"))
    _check_length(dataset, size - stream.tell() + (4 if short else 0), stated, syntax.is_encapsulated)


def _check_length(dataset: Any, left_bytes: int, stated_bytes: int, encapsulated: bool) -> None:
    """Raise Rejection no_pixels or truncated by the length of the pixel element and of the file; reads no pixel."""
    if left_bytes <= 0 or stated_bytes == 0:
        raise Rejection("no_pixels")
    if encapsulated:
        return
    counts = [number(dataset, name) or 0 for name in ("Rows", "Columns", "BitsAllocated")]
    needed = math.prod(counts) * max(1, number(dataset, "NumberOfFrames") or 1) / 8
    claimed = max(needed, 0 if stated_bytes == 0xFFFFFFFF else stated_bytes)
    if left_bytes < claimed:
        raise Rejection("truncated", f"{claimed:.0f} bytes of pixels are claimed, {left_bytes} are left")


def transfer_syntax(dataset: Any) -> Any:
    """The file's transfer syntax; where it names none, the plain one that the data set was read as."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    named = dataset.file_meta.get("TransferSyntaxUID") if getattr(dataset, "file_meta", None) else None
    if named is not None and named.is_transfer_syntax:
        return named
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little in (True, None) else ExplicitVRBigEndian
