"""The DICOM tags that are read, and their values as plain Python.

Design: an allow-list: a tag that is not named here is never read, so it cannot reach the catalogue. Values are read one by
one and a value that cannot be read is as good as absent: one bad element does not spoil a file. Private tags stand in for
public ones where a vendor left those out.
"""

import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, TypeVar

from index.plain import Plain, values_of
from index.sequence import Tags

T = TypeVar("T")
_DESCRIBING = (
    "SeriesDescription",
    "ProtocolName",
    "SequenceName",
    "PulseSequenceName",
    "ImageType",
    "ScanningSequence",
    "EchoPulseSequence",
    "EchoPlanarPulseSequence",
    "InversionRecovery",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "AcquisitionContrast",
    "AngioFlag",
    "CardiacNumberOfImages",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "EchoTrainLength",
    "DiffusionBValue",
    "MagneticFieldStrength",
    "ContrastBolusAgent",
    "BodyPartExamined",
    "Manufacturer",
    "ManufacturerModelName",
)
_KEYWORDS = (
    *_DESCRIBING,
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "BurnedInAnnotation",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyDate",
    "TriggerTime",
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
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
SIEMENS_MOSAIC_COUNT = 0x0019100A
SIEMENS_CSA = 0x00291010
UIH_GRID = 0x00651051
_GE_B_VALUE = 0x00431039
PRIVATE_B_VALUES = (0x0019100C, 0x20011003, _GE_B_VALUE, 0x00651009)
_DIRECTIONS = (0x0019100E, 0x00651037)
_PRIVATE = {
    SIEMENS_MOSAIC_COUNT: b"US",
    SIEMENS_CSA: b"OB",
    UIH_GRID: b"SQ",
    0x0019100C: b"IS",
    0x20011003: b"FL",
    _GE_B_VALUE: b"IS",
    0x00651009: b"FD",
    0x0019100E: b"FD",
    0x00651037: b"FD",
}
_CREATORS = (0x00190010, 0x00290010, 0x00290011, 0x20010010, 0x00430010, 0x00650010)


@cache
def tag_of(key: str | int) -> int:
    """The tag of a keyword; a tag itself."""
    from pydicom.datadict import tag_for_keyword

    return (tag_for_keyword(key) or 0) if isinstance(key, str) else key


@cache
def _pydicom_tag(tag: int) -> Any:
    from pydicom.tag import BaseTag

    return BaseTag(tag)


@cache
def wanted() -> dict[int, bytes]:
    """Every tag that is read, with its value representation."""
    from pydicom.datadict import dictionary_VR

    public = {tag_of(key): dictionary_VR(tag_of(key)).encode() for key in _KEYWORDS}
    return {**public, **_PRIVATE, **dict.fromkeys(_CREATORS, b"LO")}


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


def value(dataset: Any, key: str | int) -> Any:
    """The value of an element by keyword or tag; None where it is absent, empty or unreadable."""
    tag = tag_of(key)
    if isinstance(dataset, Plain):
        return next(iter(values_of(*dataset[tag])), None) if tag in dataset else None
    try:
        found = dataset[_pydicom_tag(tag)].value if _pydicom_tag(tag) in dataset else None
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
    """All values of an element, as pydicom gives them; empty where there is none."""
    tag = tag_of(key)
    if isinstance(dataset, Plain):
        return values_of(*dataset[tag]) if tag in dataset else []
    found = value(dataset, key)
    if isinstance(found, bytes):
        return _of_bytes(found, tag)
    if found is None:
        return []
    is_many = not isinstance(found, str) and hasattr(found, "__iter__") and not hasattr(found, "components")
    return list(found) if is_many else [found]


def _of_bytes(raw: bytes, tag: int) -> list[Any]:
    """The values of a private element that its file leaves uninterpreted."""
    try:
        return values_of(wanted().get(tag, b"UN"), raw)
    except UnicodeDecodeError:
        return []


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
    for key in ("DiffusionBValue", *PRIVATE_B_VALUES):
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


def remembered(*keys: str | int) -> Callable[[Callable[[Any], T]], Callable[[Any], T]]:
    """Decorate a function of a data set that reads only the elements `keys`: plain files that agree in these share one result.

    The function is shown nothing but these elements, so that what it gives can depend on nothing else.
    """

    def decorated(function: Callable[[Any], T]) -> Callable[[Any], T]:
        @lru_cache(maxsize=4096)
        def of_elements(*elements: tuple[bytes, bytes] | None) -> T:
            return function(Plain({tag: one for tag, one in zip(tags(), elements, strict=True) if one}))

        @cache
        def tags() -> tuple[int, ...]:
            return tuple(tag_of(key) for key in keys)

        return lambda dataset: (
            of_elements(*map(dataset.get, tags())) if isinstance(dataset, Plain) else function(dataset)
        )

    return decorated


@remembered(*_DESCRIBING, *PRIVATE_B_VALUES)
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
