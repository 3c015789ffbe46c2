"""The DICOM tags that are read, and their values as plain Python.

Design: an allow-list: a tag that is not named here is never read, so it cannot reach the catalogue. Values are read one by
one and a value that cannot be read is as good as absent: one bad element does not spoil a file. Private tags stand in for
public ones where a vendor left those out.
"""

import math
from functools import cache, lru_cache
from typing import Any

import numpy as np

from index.sequence import Tags

_KEYWORDS = [
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "BurnedInAnnotation",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyDate",
    "Manufacturer",
    "ManufacturerModelName",
    "MagneticFieldStrength",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "ContrastBolusAgent",
    "SequenceName",
    "PulseSequenceName",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "EchoPulseSequence",
    "EchoPlanarPulseSequence",
    "InversionRecovery",
    "MRAcquisitionType",
    "AngioFlag",
    "AcquisitionContrast",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "EchoTrainLength",
    "CardiacNumberOfImages",
    "TriggerTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "AcquisitionNumber",
    "InstanceNumber",
    "TemporalPositionIdentifier",
    "AcquisitionTime",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]
SIEMENS_MOSAIC_COUNT = 0x0019100A
SIEMENS_CSA = 0x00291010
UIH_GRID = 0x00651051
_GE_B_VALUE = 0x00431039
_B_VALUES = (0x0019100C, 0x20011003, _GE_B_VALUE, 0x00651009)
_DIRECTIONS = (0x0019100E, 0x00651037)
_PRIVATE = (SIEMENS_MOSAIC_COUNT, SIEMENS_CSA, UIH_GRID, *_B_VALUES, *_DIRECTIONS)
_CREATORS = (0x00190010, 0x00290010, 0x00290011, 0x20010010, 0x00430010, 0x00650010)
HEADER_TAGS: list[Any] = [*_KEYWORDS, *_PRIVATE, *_CREATORS]

_VENDORS = (
    ("siemens", "Siemens"),
    ("philips", "Philips"),
    ("general electric", "GE"),
    ("ge ", "GE"),
    ("toshiba", "Canon"),
    ("canon", "Canon"),
    ("uih", "UIH"),
    ("united imaging", "UIH"),
    ("hitachi", "Hitachi"),
    ("fuji", "Hitachi"),
    ("bruker", "Bruker"),
    ("esaote", "Esaote"),
    ("hyperfine", "Hyperfine"),
    ("neusoft", "Neusoft"),
    ("varian", "Varian"),
    ("agilent", "Varian"),
)


@cache
def _tag(key: str | int) -> Any:
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import BaseTag

    return BaseTag(tag_for_keyword(key) or 0) if isinstance(key, str) else BaseTag(key)


def value(dataset: Any, key: str | int) -> Any:
    """The value of an element by keyword or tag; None where it is absent, empty or unreadable."""
    tag = _tag(key)
    try:
        found = dataset[tag].value if tag in dataset else None
    except Exception:  # pydicom converts lazily, and damaged values raise nearly every built-in type
        return None
    return None if found is None or (isinstance(found, str | bytes) and not found.strip()) else found


def text(dataset: Any, key: str | int) -> str | None:
    """The value as stripped text; of several values the first."""
    found = several(dataset, key)
    return str(found[0]).strip() or None if found else None


def words(dataset: Any, key: str | int) -> tuple[str, ...]:
    """All values as stripped text."""
    return tuple(str(one).strip() for one in several(dataset, key))


def several(dataset: Any, key: str | int) -> list[Any]:
    found = value(dataset, key)
    if found is None:
        return []
    if isinstance(found, bytes):
        return _of_bytes(found)
    is_many = not isinstance(found, str) and hasattr(found, "__iter__") and not hasattr(found, "components")
    return list(found) if is_many else [found]


def _of_bytes(raw: bytes) -> list[Any]:
    plain = raw.rstrip(b"\0 ")
    if plain and all(32 <= byte < 127 for byte in plain):
        return plain.decode("ascii").split("\\")
    return [float(one) for one in np.frombuffer(raw, "<f8")] if len(raw) % 8 == 0 else []


def numbers(dataset: Any, key: str | int) -> tuple[float, ...]:
    """All values as finite floats; empty where one is none."""
    try:
        found = tuple(float(one) for one in several(dataset, key))
    except (TypeError, ValueError, OverflowError):
        return ()
    return found if all(math.isfinite(one) for one in found) else ()


def number(dataset: Any, key: str | int) -> float | None:
    """The first value as a finite float, or None."""
    found = several(dataset, key)
    try:
        first = float(found[0]) if found else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return first if math.isfinite(first) else None


def vendor_of(manufacturer: str | None) -> str | None:
    """The maker's short name; None for one that is not known."""
    lowered = f"{manufacturer or ''} ".lower()
    return next((name for start, name in _VENDORS if start in lowered), None)


def b_value_of(dataset: Any) -> float | None:
    """Diffusion weighting in s/mm2 from the public tag, else from a vendor's own (GE adds multiples of 100,000).

    GE uses its element for other things where the sequence is not echo-planar.
    """
    for key in ("DiffusionBValue", *_B_VALUES):
        found = number(dataset, key)
        if found is not None and found >= 0 and (key != _GE_B_VALUE or "EP" in words(dataset, "ScanningSequence")):
            return found % 100_000
    return None


def direction_of(dataset: Any) -> tuple[float, ...] | None:
    """The diffusion gradient's direction, or None."""
    for key in ("DiffusionGradientOrientation", *_DIRECTIONS):
        found = numbers(dataset, key)
        if len(found) == 3:
            return tuple(round(one, 3) for one in found)
    return None


def tags_of(dataset: Any) -> Tags:
    """What the rules of index.sequence read, and the acquisition columns, from one data set."""
    found: dict[str, Any] = {
        "words_from": "tag",
        "series_description": text(dataset, "SeriesDescription"),
        "protocol_name": text(dataset, "ProtocolName"),
        "sequence_name": text(dataset, "SequenceName") or text(dataset, "PulseSequenceName"),
        "image_type": tuple(word.upper() for word in words(dataset, "ImageType")),
        "scanning_sequence": _scanning_sequence(dataset),
        "sequence_variant": tuple(word.upper() for word in words(dataset, "SequenceVariant")),
        "scan_options": tuple(word.upper() for word in words(dataset, "ScanOptions")),
        "acquisition_type": text(dataset, "MRAcquisitionType"),
        "acquisition_contrast": text(dataset, "AcquisitionContrast"),
        "angio": text(dataset, "AngioFlag") == "Y",
        "cardiac_images": number(dataset, "CardiacNumberOfImages"),
        "repetition_time_ms": _positive(number(dataset, "RepetitionTime")),
        "echo_time_ms": _positive(number(dataset, "EchoTime")),
        "inversion_time_ms": _positive(number(dataset, "InversionTime")),
        "flip_angle_deg": _positive(number(dataset, "FlipAngle")),
        "echo_train_length": number(dataset, "EchoTrainLength"),
        "b_value": b_value_of(dataset),
        "field_strength_t": _tesla(number(dataset, "MagneticFieldStrength")),
        "contrast_agent": text(dataset, "ContrastBolusAgent"),
        "body_part": text(dataset, "BodyPartExamined"),
        "vendor": vendor_of(text(dataset, "Manufacturer")),
        "model_name": text(dataset, "ManufacturerModelName"),
    }
    return interned(
        tuple((name, one) for name, one in found.items() if one is not None and one != () and one is not False)
    )


@lru_cache(maxsize=4096)
def interned(items: tuple[tuple[str, Any], ...]) -> Tags:
    """One mapping for all images that have the same tags: an archive's frames share a few thousand of them."""
    return Tags(**dict(items))  # type: ignore[typeddict-item]


def _scanning_sequence(dataset: Any) -> tuple[str, ...]:
    """SE, GR, EP, IR as a classic header has them, or worked out of an enhanced one's own elements."""
    classic = tuple(word.upper() for word in words(dataset, "ScanningSequence"))
    echo = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(
        text(dataset, "EchoPulseSequence") or "", ()
    )
    planar = ("EP",) if text(dataset, "EchoPlanarPulseSequence") == "YES" else ()
    inverted = ("IR",) if text(dataset, "InversionRecovery") == "YES" else ()
    return classic or (*echo, *planar, *inverted)


def _positive(found: float | None) -> float | None:
    return found if found is not None and 0 < found < 1e6 else None


def _tesla(found: float | None) -> float | None:
    """Field strength in tesla; some scanners write gauss."""
    if found is None or found <= 0:
        return None
    return found / 10_000 if found > 100 else found
