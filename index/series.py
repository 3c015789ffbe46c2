"""DICOM headers to catalogue records: series by series, part by part.

Design: a series is one SeriesInstanceUID of one patient, wherever its files lie. An instance counts once. A series with
several contrasts or time points gives one record a part: at most four, spread evenly over the contrasts first and over
time second; the files of the others stand in the ledger.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from index.dicom import DicomHeader
from index.frames import Refused, Stack, volumes
from index.geometry import geometry_columns
from index.ledger import Rejection, row
from index.patient import age_between, age_of_string, sex_of
from index.record import ACQUISITION, common_folder, fingerprint, hash_of, patient_hash
from index.sequence import Tags, infer_contrast, infer_region, infer_sequence

MAX_PARTS = 4
Found = tuple[list[dict[str, Any]], list[dict[str, str]]]


def describe(
    headers: Iterable[DicomHeader],
    stamps: dict[str, tuple[int, int]],
    min_slices: int,
    key: bytes,
    check: Callable[[Stack], None],
) -> Found:
    """Records and ledger rows of all headers.

    `stamps` gives (size in bytes, mtime in ns) of every file; `check` raises Rejection for a stack that has no good pixels.
    """
    groups: dict[tuple[str, str | None], list[DicomHeader]] = defaultdict(list)
    for header in headers:
        groups[header.series_uid, header.patient].append(header)
    records: list[dict[str, Any]] = []
    rejects: list[dict[str, str]] = []
    for group in groups.values():
        found, refused = _series(group, stamps, min_slices, key, check)
        records += found
        rejects += refused
    return _told_apart(records), rejects


def _series(
    headers: list[DicomHeader],
    stamps: dict[str, tuple[int, int]],
    min_slices: int,
    key: bytes,
    check: Callable[[Stack], None],
) -> Found:
    unique, rejects = _once(headers)
    stacks, refused = volumes([frame for header in unique for frame in header.frames], min_slices)
    by_file = {header.file: header for header in unique}
    chosen = chosen_parts(stacks)
    groups = [one.frames for one in stacks] + [one.frames for one in refused]
    parts_of = Counter(file for frames in groups for file in {frame.file for frame in frames})
    refused += [Refused(one.frames, "part_not_chosen", one.part or "") for one in stacks if one not in chosen]
    records, used = [], set()
    for stack in chosen:
        try:
            check(stack)
        except Rejection as rejection:
            refused.append(Refused(stack.frames, rejection.code, rejection.detail))
            continue
        whole = all(parts_of[file] == 1 for file in stack.files)
        files = stack.files if whole else [header.file for header in unique]
        records.append(_record(stack, files, by_file, stamps, key))
        used.update(files)
    return records, rejects + _ledger(refused, used)


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


def chosen_parts(stacks: list[Stack], most: int = MAX_PARTS) -> list[Stack]:
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
    stack: Stack, files: list[str], by_file: dict[str, DicomHeader], stamps: dict[str, tuple[int, int]], key: bytes
) -> dict[str, Any]:
    """The row of one stack. `files` are its own, or all of the series where single files hold several parts: parts are
    told apart by comparing, so reading one back needs all of them."""
    frame = stack.frames[0]
    header = by_file[frame.file]
    path = common_folder(files)
    name = Path(path)
    tags = Tags(**frame.tags, name=name.stem, folder=name.parent.name if len(files) == 1 else "")
    age, age_from = _age(header)
    sex = sex_of(header.sex)
    return {
        "series_id": hash_of(header.series_uid, stack.part),
        "study_id": hash_of(header.study_uid or f"{header.patient}|{path}"),
        "patient_id": patient_hash(header.patient, key),
        "path": path,
        "format": "dicom",
        "files": files,
        "part": stack.part,
        "fingerprint": fingerprint((file, *stamps[file]) for file in files),
        **geometry_columns(stack.shape, stack.affine_mm, 2 if tags.get("acquisition_type") == "2D" else None),
        **inferred_columns(tags),
        "age_years": age,
        "age_years_from": age_from,
        "sex": sex,
        "sex_from": "tag" if sex else None,
    }


def _age(header: DicomHeader) -> tuple[float | None, str | None]:
    told, birth, study = header.age
    age = age_of_string(told)
    age = age_between(birth, study) if age is None else age
    return age, None if age is None else "tag"


def inferred_columns(tags: Tags) -> dict[str, Any]:
    """The acquisition columns, and those inferred from them with where they come from."""
    columns: dict[str, Any] = {name: tags.get(name) for name in ACQUISITION}
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
