"""A phantom series as classic single-frame MR Image Storage, one file a slice.

- Slices and rows run as scanners write them: axial from feet to head, rows to the back, columns to the patient's left;
  sagittal and coronal rows run down. Directions and positions come from the affine, turned from RAS+ to LPS+.
- Every UID is derived from names, so that the same archive is the same bytes.
"""

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from training.phantom.series import PhantomSeries

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])
# plane: volume axes of (slices, rows, columns) and whether each runs against the volume's axis
LAYOUT = {
    "axial": ((2, 1, 0), (False, True, True)),
    "sagittal": ((0, 2, 1), (False, True, True)),
    "coronal": ((1, 2, 0), (True, True, True)),
}
MANUFACTURER = {
    "Siemens": "SIEMENS",
    "GE": "GE MEDICAL SYSTEMS",
    "Philips": "Philips Medical Systems",
    "Canon": "CANON_MEC",
}
SCANNING = {
    "T2STAR": ["GR"],
    "FLAIR": ["SE", "IR"],
    "STIR": ["SE", "IR"],
    "DWI": ["EP", "SE"],
    "ADC": ["EP", "SE"],
    "EPI": ["EP", "GR"],
}
BODY_PART = {name: name.upper() for name in ("brain", "knee", "abdomen", "spine", "pelvis", "breast", "heart")}


def describe(series: PhantomSeries) -> str:
    """A series description as technologists write it, such as "AX T2 FLAIR" or "SAG STIR"."""
    plane = {"axial": "AX", "sagittal": "SAG", "coronal": "COR", "3d": "3D"}[series.labels["plane"]]
    names = {"T1C": "T1 POST GAD", "FLAIR": "T2 FLAIR", "T2STAR": "T2* GRE", "DWI": f"DWI b{_b_value(series)}"}
    names |= {"CINE": "CINE SSFP", "MRA": "TOF MRA", "DCE": "T1 DYN GAD", "EPI": "EPI BOLD"}
    sequence = series.labels["sequence"]
    suffix = " FS" if series.tags["fat_suppressed"] and sequence in ("T1C", "T2", "PD") else ""
    return f"{plane} {names.get(sequence, sequence)}{suffix}"


def _b_value(series: PhantomSeries) -> int:
    return int(series.tags["b_value"] or 0)


def dicom_slices(series: PhantomSeries, patient_id: str, study_date: str, number: int) -> Iterator[bytes]:
    """The files of one series, in slice order; `number` is the SeriesNumber, `study_date` is YYYYMMDD."""
    (across, down, along), against = LAYOUT[_layout(series)]
    data = series.volume.data[0].transpose(across, down, along)
    affine = series.volume.affine_mm
    flips = dict(zip((across, down, along), against, strict=True))
    data = np.flip(data, tuple(place for place, flip in enumerate(against) if flip))
    pixels = np.clip(np.rint(data), 0, 65535).astype("<u2")
    start = [series.volume.data.shape[axis + 1] - 1 if flips[axis] else 0 for axis in range(3)]
    origin = LPS_FROM_RAS @ (affine @ [*start, 1.0])[:3]
    step = {axis: LPS_FROM_RAS @ affine[:3, axis] * (-1 if flips[axis] else 1) for axis in range(3)}
    spacing = series.volume.spacing_mm
    common = _common(series, patient_id, study_date, number)
    common.ImageOrientationPatient = [_number(v) for v in (*step[along] / spacing[along], *step[down] / spacing[down])]
    common.PixelSpacing = [_number(spacing[down]), _number(spacing[along])]
    common.SpacingBetweenSlices = _number(spacing[across])
    common.SliceThickness = _number(series.tags["slice_thickness_mm"])
    common.Rows, common.Columns = pixels.shape[1:]
    for index, image in enumerate(pixels):
        common.ImagePositionPatient = [_number(v) for v in origin + index * step[across]]
        yield _slice_bytes(common, image, index)


def _layout(series: PhantomSeries) -> str:
    """A three-dimensional series of a head is stored in sagittal slices, others in axial ones."""
    plane = series.labels["plane"]
    if plane != "3d":
        return str(plane)
    return "sagittal" if series.labels["body_region"] == "brain" else "axial"


def _number(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{float(value):.7f}"[:16]


def _uid(*names: Any) -> str:
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=["phantom", *map(str, names)]))


def _common(series: PhantomSeries, patient_id: str, study_date: str, number: int) -> "Dataset":
    """What all slices of the series share."""
    from pydicom.dataset import Dataset

    labels, tags = series.labels, series.tags
    found = Dataset()
    found.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    found.Modality = "MR"
    found.Manufacturer = MANUFACTURER[tags["vendor"]]
    found.StudyDate = found.SeriesDate = found.ContentDate = study_date
    found.StudyTime = found.SeriesTime = found.ContentTime = f"{9 + number % 8:02d}0000"
    found.AccessionNumber = found.ReferringPhysicianName = ""
    found.PatientName, found.PatientID = f"Phantom^{patient_id[-4:]}", patient_id
    found.PatientBirthDate = ""
    found.PatientSex, found.PatientAge = labels["sex"], f"{int(labels['age_years']):03d}Y"
    found.BodyPartExamined, found.PatientPosition = BODY_PART[labels["body_region"]], "HFS"
    found.StudyDescription = f"MR {BODY_PART[labels['body_region']]}"
    found.SeriesDescription = found.ProtocolName = describe(series)
    found.StudyInstanceUID = _uid(patient_id, study_date)
    found.SeriesInstanceUID = _uid(patient_id, study_date, number)
    found.FrameOfReferenceUID = _uid(patient_id, study_date, "frame")
    found.StudyID, found.SeriesNumber = "1", number
    _add_timing(found, series)
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated = found.BitsStored = 16
    found.HighBit, found.PixelRepresentation = 15, 0
    return found


def _add_timing(found: "Dataset", series: PhantomSeries) -> None:
    """Acquisition tags: timing, field, kind of sequence."""
    labels, tags = series.labels, series.tags
    sequence = labels["sequence"]
    found.ImageType = ["DERIVED" if sequence == "ADC" else "ORIGINAL", "PRIMARY", "ADC" if sequence == "ADC" else "M"]
    gradient = tags["gradient_echo"]
    found.ScanningSequence = SCANNING.get(sequence, ["GR"] if gradient else ["SE"])
    if gradient and tags["inversion_time_ms"]:
        found.ScanningSequence = ["GR", "IR"]
    found.SequenceVariant = "SK"
    found.ScanOptions = "FS" if tags["fat_suppressed"] else ""
    found.MRAcquisitionType = "3D" if labels["plane"] == "3d" else "2D"
    found.RepetitionTime, found.EchoTime = tags["repetition_time_ms"], tags["echo_time_ms"]
    if tags["inversion_time_ms"] is not None:
        found.InversionTime = tags["inversion_time_ms"]
    found.FlipAngle, found.MagneticFieldStrength = tags["flip_angle_deg"], tags["field_strength_t"]
    if sequence == "DWI":
        found.DiffusionBValue = float(_b_value(series))
    if labels["contrast"] == "yes":
        found.ContrastBolusAgent = "GADOTERATE"


def _slice_bytes(common: "Dataset", image: np.ndarray, index: int) -> bytes:
    """One file: explicit VR little endian, uncompressed."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import ExplicitVRLittleEndian

    common.InstanceNumber = index + 1
    common.SOPInstanceUID = _uid(common.SeriesInstanceUID, index)
    common.PixelData = image.tobytes()
    common.file_meta = FileMetaDataset()
    common.file_meta.MediaStorageSOPClassUID = common.SOPClassUID
    common.file_meta.MediaStorageSOPInstanceUID = common.SOPInstanceUID
    common.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = BytesIO()
    dcmwrite(stream, common, enforce_file_format=True)
    return stream.getvalue()
