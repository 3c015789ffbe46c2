"""What stands around a NIfTI file: the entities of its BIDS name, and the JSON sidecar beside it.

Design: a name counts only where it is built as BIDS says (key-value pairs joined by underscores, then a suffix); other
names give words, not facts. A sidecar that cannot be parsed is as good as none.
"""

import json
import re
from pathlib import Path
from typing import Any

from index import nifti
from index.finding import path_of, text_of
from index.geometry import geometry_columns
from index.ledger import Rejection
from index.patient import age_of_string, sex_of
from index.record import fingerprint, hash_of, patient_hash
from index.sequence import Tags, is_localizer
from index.series import MAX_PARTS, evenly, inferred_columns
from index.tags import vendor_of
from index.voxels import check_voxels

_ENDINGS = re.compile(r"\.(nii|hdr|img)(\.gz)?$", re.IGNORECASE)
_MASK = re.compile(
    r"(^|[^a-z])(\w*mask|seg|dseg|probseg|labels?|parcellation|\w*aparc|aseg)\d*([^a-z]|$)", re.IGNORECASE
)
_LABEL_SUFFIXES = {"mask", "dseg", "probseg", "roi"}
_ENTITY = re.compile(r"^([a-zA-Z]+)-([a-zA-Z0-9+]+)$")


def stem_of(path: Path) -> str:
    """The file name without its NIfTI endings."""
    return _ENDINGS.sub("", path.name)


def entities(path: Path) -> dict[str, str]:
    """The BIDS entities of a path: {'sub': '01', 'ses': '2', 'suffix': 'T1w'}; empty where the name is not BIDS.

    `sub` and `ses` may also come from the folders sub-XX/ and ses-XX/ above the file.
    """
    words = stem_of(path).split("_")
    found = {match[1]: match[2] for word in words[:-1] if (match := _ENTITY.match(word))}
    if "sub" in found and not _ENTITY.match(words[-1]):
        found["suffix"] = words[-1]
    for folder in path.parts[:-1]:
        match = _ENTITY.match(folder)
        if match and match[1] in ("sub", "ses"):
            found.setdefault(match[1], match[2])
    return found


def sidecar(path: Path) -> dict[str, Any]:
    """The JSON object beside the file with the same stem; empty where there is none or it cannot be read."""
    beside = path.with_name(stem_of(path) + ".json")
    try:
        if not beside.is_file() or beside.stat().st_size > 4_000_000:
            return {}
        content = json.loads(beside.read_text("utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def describe(root: Path, relative: Path, file: str, key: bytes) -> list[dict[str, Any]]:
    """The records of one NIfTI file, one a chosen volume; `file` is its name in the catalogue. Raises Rejection."""
    path = root / relative
    if _MASK.search(stem_of(relative)) or entities(relative).get("suffix", "") in _LABEL_SUFFIXES:
        raise Rejection("mask", "by its name")
    if is_localizer(stem_of(relative)):
        raise Rejection("localizer", "by its name")
    header = nifti.read_header(path)
    nifti.check_size(header)
    check_voxels(header)
    files = [file]
    if header.data_path != path:
        files.append(text_of(relative.with_name(header.data_path.name)))
    around = _surroundings(root, relative, file, files, key)
    records = []
    for volume in evenly(header.volumes, MAX_PARTS):
        part = f"t={volume}" if header.volumes > 1 else None
        record = {"series_id": hash_of(file, part), "part": part, **around}
        records.append({**record, **geometry_columns(header.shape, header.affine_mm)})
    return records


def _surroundings(root: Path, relative: Path, file: str, files: list[str], key: bytes) -> dict[str, Any]:
    """All columns of a NIfTI file that do not depend on its header."""
    named, beside = entities(relative), sidecar(root / relative)
    subject = f"sub-{named['sub']}" if "sub" in named else None
    study = [subject, named.get("ses")] if subject else [text_of(relative.parent), None]
    stamps = [(one, path_of(root, one).stat()) for one in files]
    age, sex = age_of_string(str(beside.get("PatientAge", ""))), sex_of(beside.get("PatientSex"))
    return {
        "study_id": hash_of(*study),
        "patient_id": patient_hash(subject, key),
        "path": file,
        "format": "nifti",
        "files": files,
        "fingerprint": fingerprint((one, status.st_size, status.st_mtime_ns) for one, status in stamps),
        **inferred_columns(tags_of(relative, named, beside)),
        "age_years": age,
        "age_years_from": "sidecar" if age is not None else None,
        "sex": sex,
        "sex_from": "sidecar" if sex else None,
    }


def tags_of(relative: Path, named: dict[str, str], beside: dict[str, Any]) -> Tags:
    """What the rules of index.sequence read: times are in seconds in a sidecar, in milliseconds here."""
    found: dict[str, Any] = {
        "words_from": "sidecar",
        "name": stem_of(relative),
        "folder": relative.parent.name,
        "bids_suffix": named.get("suffix"),
        "series_description": _text(beside, "SeriesDescription"),
        "protocol_name": _text(beside, "ProtocolName"),
        "sequence_name": _text(beside, "SequenceName") or _text(beside, "PulseSequenceName"),
        "image_type": _words(beside, "ImageType"),
        "scanning_sequence": _words(beside, "ScanningSequence"),
        "sequence_variant": _words(beside, "SequenceVariant"),
        "acquisition_type": _text(beside, "MRAcquisitionType"),
        "repetition_time_ms": _number(beside, "RepetitionTime", 1000),
        "echo_time_ms": _number(beside, "EchoTime", 1000),
        "inversion_time_ms": _number(beside, "InversionTime", 1000),
        "flip_angle_deg": _number(beside, "FlipAngle"),
        "echo_train_length": _number(beside, "EchoTrainLength"),
        "field_strength_t": _number(beside, "MagneticFieldStrength"),
        "contrast_agent": _text(beside, "ContrastBolusIngredient"),
        "body_part": _text(beside, "BodyPartExamined") or _text(beside, "BodyPart"),
        "vendor": vendor_of(_text(beside, "Manufacturer")),
        "model_name": _text(beside, "ManufacturersModelName"),
    }
    return Tags(**{name: one for name, one in found.items() if one is not None and one != ()})  # type: ignore[typeddict-item]


def _text(beside: dict[str, Any], key: str) -> str | None:
    found = beside.get(key)
    return found.strip() or None if isinstance(found, str) else None


def _words(beside: dict[str, Any], key: str) -> tuple[str, ...]:
    found = beside.get(key)
    if isinstance(found, str):
        found = re.split(r"[\\_]", found)
    return tuple(str(one).upper() for one in found) if isinstance(found, list) else ()


def _number(beside: dict[str, Any], key: str, scale: float = 1) -> float | None:
    found = beside.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 1e6:
        return None
    return round(found * scale, 6)
