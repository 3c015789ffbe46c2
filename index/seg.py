"""Masks as a DICOM Segmentation object, so that a viewer lays them over the images that they were found in.

Decisions:
- Every frame lies where its source image lies, pixel by pixel, and refers to it by UID; slices without a mark have none.
- No patient stands in the file: no name, birth date, sex, age, study date or accession number, and as PatientID a hash. The
  UIDs of study, series and images stay, since without them no viewer finds the images; they name a patient only to who
  holds the archive. The source's header is rebuilt from an allow-list, so that nothing else can come along.
- The UIDs follow from series, labels and pixels: the same mask is the same instance, however often it is written.
- A label has the code that the standard gives that word, else one of our own.
- What cannot refer to its images is refused: tiles of a mosaic, slices out of several multi-frame files, images without UIDs.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from index.dicom import MR_CLASSES, header_of, named_errors
from index.finding import named_damage, open_unpacked, path_of
from index.frames import Frame, Stack, of_part, volumes
from index.ledger import Rejection
from index.segment import replace_file
from index.writing import from_ras
from models.errors import DecipherError

UNNAMED = "lesion"
"""the label of what has none"""
LONGEST = 64
"""characters of a label: DICOM's long string"""
SHARED_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
UIDS = (*SHARED_UIDS, "SOPClassUID", "SOPInstanceUID")
EMPTY = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")
SCHEME = "99DECIPHER"
SERIES_NUMBER = 1000


def check_labels(labels: Sequence[str]) -> None:
    """Errors: DecipherError for a label that is no DICOM text."""
    for label in labels:
        if len(label) > LONGEST or "\\" in label or not (label or UNNAMED).isprintable():
            raise DecipherError(
                f"The label {label[:80]!r} cannot stand in DICOM: {LONGEST} characters at most, no backslash.",
                "Take --format nifti, or shorten the label.",
            )


def write_seg(
    path: Path, masks: Mapping[str, np.ndarray], root: Path, record: Mapping[str, Any], patient_id: str, algorithm: str
) -> None:
    """Write masks (I, J, K) bool by label, on the RAS+ grid of a DICOM `record` of the archive at `root`, as one object.

    patient_id: a hash, or "" for none; algorithm: what marked them, 64 characters at most. Errors: DecipherError where the
    series cannot be referred to; Rejection where its files have changed.
    """
    stack, headers = _source(root, record)
    images = _images(stack, headers, patient_id)
    pixels = np.stack([from_ras(mask, stack.affine_mm).transpose(2, 1, 0) for mask in masks.values()], axis=-1)
    made = _segmentation(images, pixels.astype(np.uint8), list(masks), record, algorithm)
    if "NumberOfFrames" in images[0]:
        _number_frames(made, stack)
    with BytesIO() as whole:
        made.save_as(whole)
        replace_file(path, whole.getvalue())


def _source(root: Path, record: Mapping[str, Any]) -> tuple[Stack, dict[str, Any]]:
    """The frames that the record's volume was made of, and the headers of their files."""
    headers = {file: _header(path_of(root, file)) for file in record["files"]}
    stacks, _ = volumes([frame for file, header in headers.items() for frame in header_of(header, file).frames], 1)
    stack = of_part(stacks, record["part"])
    if stack is None:
        raise Rejection("changed", "the part is no longer there")
    return stack, {file: headers[file] for file in stack.files}


def _header(path: Path) -> Any:
    import pydicom

    with named_errors("bad_header"), named_damage(), open_unpacked(path) as stream:
        return pydicom.dcmread(stream, stop_before_pixels=True, force=True)


def _images(stack: Stack, headers: Mapping[str, Any], patient_id: str) -> list[Any]:
    """What highdicom is told of the source: an image each, or the one file that holds all frames, of those of the stack."""
    _check_referable(stack, headers)
    if not _is_multiframe(headers):
        return [_image(frame, headers[frame.file], patient_id, _place(stack, frame)) for frame in stack.frames]
    whole = _image(stack.frames[0], next(iter(headers.values())), patient_id, _groups(stack))
    whole.NumberOfFrames = len(stack.frames)
    return [whole]


def _check_referable(stack: Stack, headers: Mapping[str, Any]) -> None:
    lost = [name for name in UIDS if not all(header.get(name) for header in headers.values())]
    mixed = [name for name in SHARED_UIDS if len({str(header.get(name)) for header in headers.values()}) > 1]
    classes = {str(header.get("SOPClassUID")) for header in headers.values()}
    if any(frame.tile is not None for frame in stack.frames):
        raise _refused("its slices are tiles of one image")
    if _is_multiframe(headers) and (len(headers) > 1 or len(stack.frames) == 1):
        raise _refused("its slices are single frames out of files of many")
    if lost:
        raise _refused(f"its images have no {' and no '.join(lost)}")
    if mixed:
        raise _refused(f"its images do not share one {mixed[0]}")
    if len(classes) > 1 or not classes <= MR_CLASSES:
        raise _refused("its images are not of one class of MR images")


def _is_multiframe(headers: Mapping[str, Any]) -> bool:
    return any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers.values())


def _refused(why: str) -> DecipherError:
    return DecipherError(f"No DICOM SEG can refer to the series: {why}.", "Take its NIfTI mask.")


def _image(frame: Frame, header: Any, patient_id: str, place: Mapping[str, Any]) -> Any:
    """A header of its own: UIDs, size and place, and blanks for the rest."""
    from pydicom.dataset import Dataset

    found = Dataset()
    told = {name: str(header.get(name)) for name in UIDS} | dict.fromkeys(EMPTY, "")
    told |= {"PatientID": patient_id, "Modality": "MR", "SpecificCharacterSet": "ISO_IR 192"}
    for name, value in {**told, "Rows": frame.rows, "Columns": frame.columns, **place}.items():
        setattr(found, name, value)
    return found


def _place(stack: Stack, frame: Frame) -> dict[str, Any]:
    return {"ImagePositionPatient": _texts(frame.position_mm), **_orientation(stack), **_measures(stack)}


def _orientation(stack: Stack) -> dict[str, Any]:
    return {"ImageOrientationPatient": _texts(stack.frames[0].orientation)}


def _measures(stack: Stack) -> dict[str, Any]:
    first = stack.frames[0]
    (between,) = _texts([float(np.linalg.norm(stack.affine_mm[:3, 2]))])
    (thickness,) = _texts([first.thickness_mm])
    return {"PixelSpacing": _texts(first.spacing_mm), "SliceThickness": thickness, "SpacingBetweenSlices": between}


def _texts(values: Sequence[float]) -> list[str]:
    """Decimal strings of at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in values]


def _groups(stack: Stack) -> dict[str, Any]:
    """Functional groups of the frames of the stack, as if the file held no others."""
    shared = _item(
        PlaneOrientationSequence=[_item(**_orientation(stack))], PixelMeasuresSequence=[_item(**_measures(stack))]
    )
    places = [[_item(ImagePositionPatient=_texts(frame.position_mm))] for frame in stack.frames]
    each = [_item(PlanePositionSequence=place) for place in places]
    return {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": each}


def _item(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def _number_frames(made: Any, stack: Stack) -> None:
    """Frames of the stack are called by their numbers in the file."""
    for group in made.PerFrameFunctionalGroupsSequence:
        for image in group.DerivationImageSequence[0].SourceImageSequence:
            image.ReferencedFrameNumber = stack.frames[int(image.ReferencedFrameNumber) - 1].index + 1


def _segmentation(
    images: list[Any], pixels: np.ndarray, labels: list[str], record: Mapping[str, Any], algorithm: str
) -> Any:
    """pixels: uint8 (slices, rows, columns, labels)."""
    from highdicom.seg import Segmentation, SegmentationTypeValues

    known = [*labels, algorithm, record["part"] or "", hashlib.blake2b(pixels.tobytes()).hexdigest()]
    return Segmentation(
        images, pixels, SegmentationTypeValues.BINARY, list(_segments(labels, algorithm)),
        series_instance_uid=_uid(images[0].SeriesInstanceUID, *known, "series"), series_number=SERIES_NUMBER,
        sop_instance_uid=_uid(images[0].SeriesInstanceUID, *known, "instance"), instance_number=1,
        manufacturer="decipher", manufacturer_model_name=algorithm, software_versions=version("decipher-mri"),
        device_serial_number="1", series_description=f"Marked by {algorithm}"[:LONGEST],
    )  # fmt: skip


def _uid(*words: str) -> str:
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=list(words)))


def _segments(labels: Sequence[str], algorithm: str) -> Iterator[Any]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    told = AlgorithmIdentificationSequence(algorithm, codes.DCM.ArtificialIntelligence, version("decipher-mri"))
    for number, label in enumerate(labels, start=1):
        category, kind = _codes(label or UNNAMED)
        yield SegmentDescription(number, label or UNNAMED, category, kind, SegmentAlgorithmTypeValues.AUTOMATIC, told)


def _codes(label: str) -> tuple[Any, Any]:
    """The standard's category and type of what a label names; where no list has the word, a type of our own."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    categories = codes.cid7150
    lists = {
        categories.MorphologicallyAbnormalStructure: codes.cid7194,
        categories.AnatomicalStructure: codes.cid7192,
        categories.Tissue: codes.cid7191,
    }
    for category, words in lists.items():
        for code in words.concepts.values():
            if code.meaning.lower() == label.lower():
                return category, code
    own = hashlib.blake2b(label.lower().encode(), digest_size=8).hexdigest()
    return categories.SpatialAndRelationalConcept, Code(own, SCHEME, label)
