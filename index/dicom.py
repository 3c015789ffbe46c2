"""DICOM files: headers to frames, frames to pixels.

Design: pydicom reads the header up to the pixel data, and only the tags named here; everything that a damaged file can do
to it ends as a Rejection. One file gives one frame, or many (enhanced multi-frame, Siemens mosaic, UIH grid), and from then
on all are treated alike. Pixels are rescaled once, each frame by its own slope and intercept.
"""

import math
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.frames import Frame, Stack
from index.intensity import finite_float32, rescaled
from index.ledger import Rejection
from index.multiframe import frames_of
from index.sequence import is_localizer
from index.tags import HEADER_TAGS, number, tags_of, text, words
from models.volume import Volume, to_ras

_MR_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.3",
    "1.2.840.10008.5.1.4.1.1.4.4",
}
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_CAPTURE_PREFIX = "1.2.840.10008.5.1.4.1.1.7"


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


def read_header(path: Path, file: str) -> DicomHeader:
    """The header of one DICOM file, `file` being its name in the catalogue. Raises Rejection for all that is no MR image."""
    import pydicom

    with named_errors("bad_header"), path.open("rb") as stream:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=HEADER_TAGS)
        check_is_image(dataset)
        check_pixels_there(dataset, stream, path.stat().st_size)
        return header_of(dataset, file)


def header_of(dataset: Any, file: str) -> DicomHeader:
    """What the catalogue needs of a data set. Raises Rejection where its frames have no place."""
    age, birth, study = (text(dataset, name) or "" for name in ("PatientAge", "PatientBirthDate", "StudyDate"))
    return DicomHeader(
        file=file,
        series_uid=str(dataset.SeriesInstanceUID),
        study_uid=text(dataset, "StudyInstanceUID"),
        patient=text(dataset, "PatientID"),
        instance_uid=text(dataset, "SOPInstanceUID"),
        frames=frames_of(dataset, file, tags_of(dataset)),
        age=(age, birth, study),
        sex=text(dataset, "PatientSex"),
    )


def check_is_image(dataset: Any) -> None:
    """Raise Rejection unless the data set is one MR image that may be used, by its class, modality, type and marks."""
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality")
    kinds = {word.upper() for word in words(dataset, "ImageType")}
    meta = getattr(dataset, "file_meta", None)
    if _DICOMDIR_CLASS in (sop_class, str(meta.get("MediaStorageSOPClassUID", "")) if meta else ""):
        raise Rejection("dicomdir")
    if sop_class is None and modality is None:
        raise Rejection("missing_tags", "neither SOPClassUID nor Modality")
    if (modality or "MR") != "MR" or (modality is None and sop_class not in _MR_CLASSES):
        raise Rejection("not_mr", f"modality {modality or sop_class}")
    if (sop_class or "").startswith(_CAPTURE_PREFIX) or "SCREEN SAVE" in kinds:
        raise Rejection("secondary_capture")
    if sop_class is not None and sop_class not in _MR_CLASSES:
        raise Rejection("not_mr", f"class {sop_class}")
    if number(dataset, "SamplesPerPixel") not in (None, 1.0):
        raise Rejection("not_grayscale", "colour image")
    if text(dataset, "BurnedInAnnotation") == "YES":
        raise Rejection("burned_in")
    if "LOCALIZER" in kinds or is_localizer(text(dataset, "SeriesDescription"), text(dataset, "ProtocolName")):
        raise Rejection("localizer")
    if kinds & {"PROJECTION IMAGE", "MIP", "MNIP"}:
        raise Rejection("projection")
    missing = [name for name in ("SeriesInstanceUID", "Rows", "Columns", "BitsAllocated") if not text(dataset, name)]
    if missing:
        raise Rejection("missing_tags", ", ".join(missing))


def check_pixels_there(dataset: Any, stream: Any, size: int) -> None:
    """Raise Rejection no_pixels or truncated by the length of the pixel element and of the file; reads no pixel.

    `stream` stands where reading stopped, at the tag of the pixel data.
    """
    syntax = transfer_syntax(dataset)
    if syntax.is_deflated:
        return
    counts = [number(dataset, name) or 0 for name in ("Rows", "Columns", "BitsAllocated")]
    claimed = math.prod(counts) * max(1, number(dataset, "NumberOfFrames") or 1) / 8
    left = size - stream.tell() - 8
    if left <= 0:
        raise Rejection("no_pixels")
    if not syntax.is_encapsulated:
        start = stream.read(12)
        order = "<" if syntax.is_little_endian else ">"
        (stated,) = struct.unpack(order + "I", start[4:8] if syntax.is_implicit_VR else start[8:12].ljust(4, b"\0"))
        claimed = max(claimed, 0 if stated == 0xFFFFFFFF else stated)
        if left < claimed:
            raise Rejection("truncated", f"{claimed:.0f} bytes of pixels are claimed, {left} are left")


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


def read_stack(stack: Stack, paths: Mapping[str, Path]) -> Volume:
    """The stack's pixels, rescaled, in RAS+ order, float32; NaN and Inf are 0. Raises Rejection."""
    data = np.zeros(stack.shape, dtype=np.float32)
    wanted: dict[str, list[tuple[int, Frame]]] = {}
    for place, frame in enumerate(stack.frames):
        wanted.setdefault(frame.file, []).append((place, frame))
    inverted = False
    for file, places in wanted.items():
        with named_errors("undecodable"):
            dataset = load(paths[file])
            inverted |= text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
            for place, image in images_of(dataset, places):
                data[:, :, place] = image.T
    if inverted:
        data = data.max() + data.min() - data
    return to_ras(data, stack.affine_mm)


def check_stack(stack: Stack, paths: Mapping[str, Path]) -> None:
    """Decode the middle image, and all where it has but one value. Raises Rejection: undecodable, constant_image."""
    middle = stack.frames[len(stack.frames) // 2]
    with named_errors("undecodable"):
        for _, image in images_of(load(paths[middle.file]), [(0, middle)]):
            if image.min() != image.max():
                return
    data = read_stack(stack, paths).data
    if data.min() == data.max():
        raise Rejection("constant_image", f"every voxel is {data.flat[0]:g}")


def load(path: Path) -> Any:
    """The whole data set of a file, with a transfer syntax that its pixels can be decoded by."""
    import pydicom

    dataset = pydicom.dcmread(path, force=True)
    if not getattr(dataset, "file_meta", None) or "TransferSyntaxUID" not in dataset.file_meta:
        syntax = transfer_syntax(dataset)
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def images_of(dataset: Any, wanted: list[tuple[int, Frame]]) -> Iterator[tuple[int, np.ndarray]]:
    """(place, image (rows, columns) float32, rescaled and finite) of each wanted (place, frame) of one data set."""
    from pydicom.pixels import pixel_array

    many = int(number(dataset, "NumberOfFrames") or 1) > 1
    sheet, at = np.zeros((0, 0)), -1
    for place, frame in wanted:
        if frame.index != at:
            sheet, at = pixel_array(dataset, index=frame.index if many else None, raw=True), frame.index
        yield place, finite_float32(rescaled(tile_of(sheet, frame), *_rescale(dataset, frame.index)))


def tile_of(image: np.ndarray, frame: Frame) -> np.ndarray:
    """The frame's own pixels (rows, columns): the image, or its tile of a mosaic or grid."""
    if image.ndim != 2:
        raise Rejection("undecodable", f"pixels of shape {image.shape}")
    if frame.tile is None:
        return image
    down, across = divmod(frame.tile, image.shape[1] // frame.columns)
    top, left = down * frame.rows, across * frame.columns
    return image[top : top + frame.rows, left : left + frame.columns]


def _rescale(dataset: Any, index: int) -> tuple[float, float]:
    """Slope and intercept of one frame: its own functional group's, else the shared one's, else the file's."""
    for key, item in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        groups = dataset.get(key)
        transform = groups[item].get("PixelValueTransformationSequence") if groups and item < len(groups) else None
        if transform:
            return _slope(transform[0])
    return _slope(dataset)


def _slope(holder: Any) -> tuple[float, float]:
    slope, intercept = number(holder, "RescaleSlope"), number(holder, "RescaleIntercept")
    return (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)
