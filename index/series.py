"""DICOM headers to catalogue records: series by series, part by part.

Design: a series is one SeriesInstanceUID of one patient, wherever its files lie. An instance counts once. A series with
several contrasts or time points gives one record a part: a few, spread evenly over the contrasts first and over time
second; the files of the others stand in the ledger.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.agent import body_part_of, contrast_agent_of
from index.contradictions import age_contradiction, contradictions
from index.dicom import DicomHeader
from index.finding import File
from index.frames import CONTRASTS, Refused, Stack, volumes
from index.geometry import geometry_columns
from index.ledger import Rejection, row
from index.options import ScanOptions
from index.patient import age_between, age_of_string, sex_of
from index.record import ACQUISITION, common_folder, fingerprint, hash_of, patient_hash
from index.sequence import Tags, infer_contrast, infer_region, infer_sequence

Found = tuple[list[dict[str, Any]], list[dict[str, str]]]


@dataclass(frozen=True)
class Series:
    """The headers of one series, each instance once; the stacks chosen to stand for it; what was refused; ledger rows."""

    headers: list[DicomHeader]
    chosen: list[Stack]
    refused: list[Refused]
    rows: list[dict[str, str]]


def series_of(headers: Iterable[DicomHeader], options: ScanOptions) -> list[Series]:
    """The headers of an archive, series by series."""
    groups: dict[tuple[str, str | None], list[DicomHeader]] = defaultdict(list)
    for header in headers:
        groups[header.series_uid, header.patient].append(header)
    return [_series(group, options) for group in groups.values()]


def _series(headers: list[DicomHeader], options: ScanOptions) -> Series:
    unique, rows = _once(headers)
    stacks, refused = volumes([frame for header in unique for frame in header.frames], options.min_slices)
    chosen = chosen_parts(stacks, options.parts)
    refused += [Refused(one.frames, "part_not_chosen", one.part or "") for one in stacks if one not in chosen]
    return Series(unique, chosen, refused, rows)


def describe(found: list[Series], bad: Mapping[int, Rejection], stamps: Mapping[str, File], key: bytes) -> Found:
    """Records and ledger rows of all series.

    `bad` names by id the chosen stacks whose pixels are no good, `stamps` the files by path; `key` makes patient_id.
    """
    records: list[dict[str, Any]] = []
    rejects: list[dict[str, str]] = []
    for one in found:
        by_file = {header.file: header for header in one.headers}
        good = [stack for stack in one.chosen if id(stack) not in bad]
        several, echoes = _files_of_several_parts(one), _echoes(one)
        for stack in good:
            files = stack.files if several.isdisjoint(stack.files) else list(by_file)
            records.append(_record(stack, files, by_file[stack.frames[0].file], echoes, stamps, key))
        lost = [stack for stack in one.chosen if id(stack) in bad]
        refused = one.refused + [Refused(s.frames, bad[id(s)].code, bad[id(s)].detail) for s in lost]
        rejects += one.rows + _ledger(refused, {file for stack in good for file in stack.files})
    return _told_apart(records), rejects


def _echoes(one: Series) -> int:
    """How many echo times the series has."""
    place = CONTRASTS.index("echo")
    return len({frame.contrast[place] for header in one.headers for frame in header.frames} - {None})


def _files_of_several_parts(one: Series) -> set[str]:
    groups = [stack.frames for stack in one.chosen] + [refused.frames for refused in one.refused]
    counts = Counter(file for frames in groups for file in {frame.file for frame in frames})
    return {file for file, count in counts.items() if count > 1}


def _once(headers: list[DicomHeader]) -> tuple[list[DicomHeader], list[dict[str, str]]]:
    seen: dict[str, str] = {}
    unique, rejects = [], []
    for header in headers:
        first = seen.setdefault(header.instance_uid, header.file) if header.instance_uid else header.file
        if first == header.file:
            unique.append(header)
        else:
            rejects.append(row(header.file, "duplicate", f"of {first}"))
    return unique, rejects


def _ledger(refused: list[Refused], used: set[str]) -> list[dict[str, str]]:
    """One row for every file that is in no record: its first reason."""
    rows: dict[str, dict[str, str]] = {}
    for one in refused:
        for frame in one.frames:
            if frame.file not in used and frame.file not in rows:
                rows[frame.file] = row(frame.file, one.code, one.detail)
    return list(rows.values())


def chosen_parts(stacks: list[Stack], most: int) -> list[Stack]:
    """At most `most` of the stacks: evenly over contrasts (and geometries), then evenly over each one's time points."""
    contrasts: dict[str, list[Stack]] = defaultdict(list)
    for stack in stacks:
        contrasts[",".join(word for word in (stack.part or "").split(",") if not word.startswith("t="))].append(stack)
    picked = [list(contrasts.values())[place] for place in evenly(len(contrasts), most)]
    share = max(1, most // max(1, len(picked)))
    return [times[place] for times in picked for place in evenly(len(times), share)]


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 to count - 1, first and last among them where there are two or more."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _record(
    stack: Stack, files: list[str], header: DicomHeader, echoes: int, stamps: Mapping[str, File], key: bytes
) -> dict[str, Any]:
    """The row of one stack. `files` are its own, or all of the series where single files hold several parts: parts are
    told apart by comparing, so reading one back needs all of them."""
    path = common_folder(files)
    name = Path(path)
    folder = name.parent.name if len(files) == 1 else ""
    tags = Tags(**stack.frames[0].tags, name=name.stem, folder=folder, echoes=echoes)
    patient = patient_hash(header.patient, key)
    age, age_from = _age(header)
    sex = sex_of(header.sex)
    record = {
        "series_id": hash_of(header.series_uid, stack.part),
        "study_id": hash_of(header.study_uid) if header.study_uid else hash_of(patient, path),
        "patient_id": patient,
        "path": path,
        "format": "dicom",
        "files": files,
        "part": stack.part,
        "fingerprint": fingerprint(stamps[file] for file in files),
        **geometry_columns(stack.shape, stack.affine_mm, 2 if tags.get("acquisition_type") == "2D" else None),
        **inferred_columns(tags),
        "age_years": age,
        "age_years_from": age_from,
        "sex": sex,
        "sex_from": "tag" if sex else None,
    }
    told = [one for one in (contradictions(tags, record), age_contradiction(*header.age)) if one]
    return {**record, "contradictions": "; ".join(told) or None}


def _age(header: DicomHeader) -> tuple[float | None, str | None]:
    told, birth, study = header.age
    age = age_of_string(told)
    age = age_between(birth, study) if age is None else age
    return age, None if age is None else "tag"


def inferred_columns(tags: Tags) -> dict[str, Any]:
    """The acquisition columns, and those inferred from them with where they come from."""
    columns: dict[str, Any] = {name: tags.get(name) for name in ACQUISITION}
    columns["contrast_agent"] = contrast_agent_of(tags.get("contrast_agent"))
    columns["body_part"] = body_part_of(tags.get("body_part"))
    for name, infer in (("contrast", infer_contrast), ("sequence", infer_sequence), ("body_region", infer_region)):
        columns[name], columns[f"{name}_from"] = infer(tags)
    return columns


def _told_apart(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same records, those that would share a series_id with the path worked into it."""
    count: dict[str, int] = defaultdict(int)
    for record in records:
        count[record["series_id"]] += 1
    for record in records:
        if count[record["series_id"]] > 1:
            record["series_id"] = hash_of(record["series_id"], record["path"])
    return records
