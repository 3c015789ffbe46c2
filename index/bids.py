"""NIfTI files to catalogue records, by their header, their BIDS name and what stands around them.

Design: what is cheapest is looked at first: the name, the header, the voxels, and only for an image what stands around it.
The subject's and session's labels are no words: they may say anything. A sidecar says seconds, the catalogue milliseconds;
of its text only what the catalogue holds is taken, cut to a sane length. What follows from tags is worked out once for all
images that have the same.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from index import nifti
from index.contradictions import contradictions
from index.finding import File, Opened, opened, path_of, text_of
from index.geometry import geometry_columns
from index.ledger import Rejection
from index.nifti import NiftiHeader
from index.options import ScanOptions
from index.patient import age_of_string, sex_of
from index.record import fingerprint, hash_of, patient_hash
from index.sequence import Tags, is_localizer
from index.series import evenly, inferred_columns
from index.surroundings import Surroundings, entities, stem_of
from index.tags import vendor_of
from index.voxels import check_voxels

LONGEST_TEXT, MOST_WORDS = 256, 32
Stamp = tuple[str, int, int]
_MASK = re.compile(
    r"(^|[^a-z])(\w*mask|seg|dseg|probseg|labels?|parcellation|\w*aparc|aseg)\d*([^a-z]|$)", re.IGNORECASE
)
_LABEL_SUFFIXES = {"mask", "dseg", "probseg", "roi"}
_LABELS = re.compile(r"(mask|seg|parc|parcellation|labels?|atlas|roi)\d*$", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\\_]")


def describe(
    root: Path, file: File, found: Opened, around: Surroundings, options: ScanOptions, key: bytes
) -> list[dict[str, Any]]:
    """The records of one NIfTI file, one a chosen volume. Raises Rejection.

    `found` is the file as finding.opened gives it; `key` makes patient_id.
    """
    name = _name(file.path)
    refused = _refused_name(name, _is_named_label(file.path))
    if refused and refused not in options.include:
        raise Rejection(refused, "by its name")
    header = nifti.parse_header(found.start, file.path, min(options.min_slices, 2))
    stamps: list[Stamp] = [file]
    if header.pair:
        data = nifti.pixel_path(path_of(root, file.path))
        status = data.stat()
        stamps.append((str(Path(file.path).with_name(text_of(data.name))), status.st_size, status.st_mtime_ns))
        found = opened(str(data), status.st_size)
    check_voxels(header, found, "mask" in options.include)
    return _records(file.path, stamps, header, around, options, key)


@lru_cache(maxsize=4096)
def _refused_name(name: str, is_label: bool) -> str | None:
    """The code of what a file's name calls a mask or a localiser."""
    if is_label or _MASK.search(name):
        return "mask"
    return "localizer" if is_localizer(name) else None


def _is_named_label(path: str) -> bool:
    named = entities(path)
    derived = "derivatives" in path.split("/") and "suffix" in named
    return named.get("suffix") in _LABEL_SUFFIXES or (derived and bool(_LABELS.search(named.get("desc", ""))))


def _name(path: str) -> str:
    """The file's own name; of a BIDS name what is left without subject and session."""
    stem = stem_of(path)
    if "suffix" not in entities(path):
        return stem
    return "_".join(word for word in stem.split("_") if not word.startswith(("sub-", "ses-")))


def _records(
    file: str, stamps: list[Stamp], header: NiftiHeader, around: Surroundings, options: ScanOptions, key: bytes
) -> list[dict[str, Any]]:
    beside = around.sidecar(file)
    tags = tags_of(file, _name(file), beside)
    b_values = around.b_values(file) if header.volumes > 1 else ()
    common = {**_identity(file, around.dataset(file), stamps, key), **_person(file, beside, around)}
    common |= geometry_columns(header.shape, header.affine_mm)
    records = []
    for volume in evenly(header.volumes, options.parts):
        part = f"t={volume}" if header.volumes > 1 else None
        own = _weighted(tags, b_values[volume]) if len(b_values) == header.volumes else tags
        record = {"series_id": hash_of(file, part), "part": part, **common, **_inferred(tuple(own.items()))}
        record["contradictions"] = _contradictions(own, record, header.disagreement_mm)
        records.append(record)
    return records


def _contradictions(tags: Tags, record: dict[str, Any], apart_mm: float) -> str | None:
    others = contradictions(tags, record)
    if not apart_mm:
        return others
    forms = f"sform and qform differ by up to {apart_mm:.{1 if apart_mm >= 1 else 2}f} mm (sform used)"
    return f"{forms}; {others}" if others else forms


def _identity(file: str, dataset: str, stamps: list[Stamp], key: bytes) -> dict[str, Any]:
    """Whose image it is: subjects of two datasets are two people, though both are called sub-01."""
    named = entities(file)
    subject = f"sub-{named['sub']}" if "sub" in named else None
    if subject and dataset:
        subject = f"{dataset}/{subject}"
    study = (subject, named.get("ses")) if subject else (file.rpartition("/")[0] or ".", None)
    return {
        "study_id": hash_of(*study),
        "patient_id": patient_hash(subject, key),
        "path": file,
        "format": "nifti",
        "files": [path for path, _, _ in stamps],
        "fingerprint": fingerprint(stamps),
    }


def _person(file: str, beside: dict[str, Any], around: Surroundings) -> dict[str, Any]:
    """Age and sex by the sidecar, else by the dataset's tables."""
    told = around.person(file)
    age = age_of_string(str(beside["PatientAge"])) if "PatientAge" in beside else None
    sex = sex_of(_text(beside["PatientSex"])) if "PatientSex" in beside else None
    return {
        "age_years": told.age_years if age is None else age,
        "age_years_from": told.age_from if age is None else "sidecar",
        "sex": sex or told.sex,
        "sex_from": "sidecar" if sex else told.sex_from,
    }


@lru_cache(maxsize=4096)
def _inferred(tags: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return inferred_columns(Tags(**dict(tags)))  # type: ignore[typeddict-item]


def _weighted(tags: Tags, b_value: float) -> Tags:
    return Tags(**{**tags, "b_value": b_value}) if 0 <= b_value < 1e6 else tags


def tags_of(path: str, name: str, beside: dict[str, Any]) -> Tags:
    """What the rules of index.sequence read: times are in seconds in a sidecar, in milliseconds here."""
    folder = path.rpartition("/")[0].rpartition("/")[2]
    told = tuple([_hashable(beside[key]) if key in beside else None for key, _, _ in _FIELDS])
    folder = "" if folder.startswith(("sub-", "ses-")) else folder
    return _tags(name, folder, entities(path).get("suffix"), "DiffusionScheme" in beside, told)


def _hashable(found: object) -> object:
    """A value of a sidecar as something to know it again by; None for what no tag is."""
    if isinstance(found, list):
        return tuple([str(one) for one in found[:MOST_WORDS]])
    return found if isinstance(found, (str, int, float)) and not isinstance(found, bool) else None


@lru_cache(maxsize=4096)
def _tags(name: str, folder: str, suffix: str | None, diffusion: bool, told: tuple[object, ...]) -> Tags:
    found: dict[str, Any] = {"words_from": "sidecar", "name": name, "folder": folder}
    if suffix:
        found["bids_suffix"] = suffix
    for (_, read, tag), one in zip(_FIELDS, told, strict=True):
        if one is not None and tag not in found and (value := read(one)) not in (None, ()):
            found[tag] = value
    if diffusion:
        found["image_type"] = (*found.get("image_type", ()), "DIFFUSION")
    return cast(Tags, found)


def _text(found: object) -> str | None:
    """Text that any file format can hold."""
    if not isinstance(found, str):
        return None
    plain = found if found.isascii() else found.encode("utf-8", "replace").decode("utf-8")
    return plain.strip()[:LONGEST_TEXT] or None


def _words(found: object) -> tuple[str, ...]:
    if isinstance(found, str):
        found = tuple(_BETWEEN_WORDS.split(found)[:MOST_WORDS])
    return tuple([one.upper() for one in found]) if isinstance(found, tuple) else ()


def _number(found: object, least: float = 1e-9) -> float | None:
    if not isinstance(found, (int, float)) or isinstance(found, bool) or not least <= found < 1e6:
        return None
    return round(found, 6)


def _milliseconds(seconds: object) -> float | None:
    found = _number(seconds)
    return None if found is None else round(found * 1000, 6)


def _b_value(found: object) -> float | None:
    return _number(found, 0)


def _vendor(found: object) -> str | None:
    return vendor_of(_text(found))


# A sidecar's key, how its value is read, and the tag that it is; of keys for the same tag the first that says something.
_FIELDS: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("SeriesDescription", _text, "series_description"),
    ("ProtocolName", _text, "protocol_name"),
    ("SequenceName", _text, "sequence_name"),
    ("PulseSequenceName", _text, "sequence_name"),
    ("ImageType", _words, "image_type"),
    ("ScanningSequence", _words, "scanning_sequence"),
    ("SequenceVariant", _words, "sequence_variant"),
    ("ScanOptions", _words, "scan_options"),
    ("MRAcquisitionType", _text, "acquisition_type"),
    ("RepetitionTime", _milliseconds, "repetition_time_ms"),
    ("EchoTime", _milliseconds, "echo_time_ms"),
    ("InversionTime", _milliseconds, "inversion_time_ms"),
    ("FlipAngle", _number, "flip_angle_deg"),
    ("EchoTrainLength", _number, "echo_train_length"),
    ("DiffusionBValue", _b_value, "b_value"),
    ("BValue", _b_value, "b_value"),
    ("b_value", _b_value, "b_value"),
    ("MagneticFieldStrength", _number, "field_strength_t"),
    ("ContrastBolusIngredient", _text, "contrast_agent"),
    ("BodyPartExamined", _text, "body_part"),
    ("BodyPart", _text, "body_part"),
    ("Manufacturer", _vendor, "vendor"),
    ("ManufacturersModelName", _text, "model_name"),
)
