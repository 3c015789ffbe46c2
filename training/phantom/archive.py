"""A small archive of digital patients: DICOM and NIfTI side by side, labels, reports, and one broken file.

- Half of the brains, knees, abdomens, spines and pelves are DICOM, half NIfTI, so that format tells nothing.
- A hidden list names every file before it is written: a later run replaces its own files and refuses any other.
- The same arguments give the same bytes.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from models.errors import DecipherError
from training.phantom.archive_dicom import describe, dicom_slices
from training.phantom.archive_nifti import bids_name, nifti_bytes, sidecar_text
from training.phantom.series import PhantomSeries, make_patient

REGIONS = ("brain", "brain", "knee", "abdomen", "brain", "brain", "spine", "pelvis")
VISITS = {
    "brain": (
        ("T1", "T2", "FLAIR"),
        ("T1", "T1C", "FLAIR"),
        ("T2", "FLAIR", "DWI", "ADC"),
        ("T1", "T2", "PD"),
        ("T1C", "T2", "T2STAR"),
        ("T1", "FLAIR", "T2"),
    ),
    "knee": (("T1", "PD", "STIR"), ("PD", "T2", "T1")),
    "abdomen": (("T1", "T2", "T1C"), ("T2", "T1", "DWI")),
    "spine": (("T1", "T2", "STIR"), ("T2", "T1")),
    "pelvis": (("T2", "T1", "ADC"), ("T1", "T2", "STIR")),
}
LIST_NAME = ".phantom.json"
LABEL_COLUMNS = (
    "path",
    "subject_id",
    "study_id",
    "body_region",
    "sequence",
    "plane",
    "contrast",
    "age_years",
    "sex",
    "diagnosis",
    "lesion",
)
FORMATS = ("dicom", "nifti")
File = tuple[str, bytes]


def make_archive(
    folder: Path,
    *,
    patients: int = 16,
    seed: int = 0,
    formats: Sequence[str] = FORMATS,
    broken: bool = True,
    voxel_mm: float | None = None,
    max_voxels: int = 96,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write an archive into `folder`, new, empty or made by this function before; returns what was written.

    voxel_mm, max_voxels: as in make_patient. progress: called with (patients done, patients in all).
    Result: patients, series, files, bytes, and counts of series by format, body_region and sequence.
    DecipherError when the folder holds other files or a format is unknown.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats or patients < 1:
        raise DecipherError(
            f"The phantom archive cannot be made of {patients} patients in {', '.join(formats) or 'no format'}.",
            f"Give one patient or more and formats out of {', '.join(FORMATS)}.",
        )
    writer = _Writer(folder)
    seen: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    reports: list[dict[str, Any]] = []
    for index in range(patients):
        file_format = formats[(index + index // len(REGIONS)) % len(formats)]
        region = REGIONS[index % len(REGIONS)]
        stripped = False if file_format == "dicom" else None
        sequences = VISITS[region][seen[region] % len(VISITS[region])]
        seen[region] += 1
        visit = make_patient(
            10_000 * seed + index,
            region,
            sequences,
            skull_stripped=stripped,
            voxel_mm=voxel_mm,
            max_voxels=max_voxels,
        )
        write = _dicom_visit if file_format == "dicom" else _nifti_visit
        for path, study_id, series, files in write(visit, index):
            writer.write(files)
            rows.append(_label_row(path, _subject(index, file_format), study_id, series) | {"format": file_format})
            reports.append({"path": path, "report": series.report})
        if progress:
            progress(index + 1, patients)
    writer.write([("labels.csv", _csv(LABEL_COLUMNS, rows)), ("reports.csv", _csv(("path", "report"), reports))])
    if broken:
        writer.write([("broken.dcm", _broken_file(seed))])
    return _summary(writer, rows, patients)


class _Writer:
    """Writes files under a folder and keeps the list that says they are its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []
        self.bytes = 0
        _clear(folder)
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, files: Iterable[File]) -> None:
        found = list(files)
        self.names += [name for name, _ in found]
        (self.folder / LIST_NAME).write_text(json.dumps({"files": self.names}, indent=0) + "\n")
        for name, content in found:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            self.bytes += len(content)


def _clear(folder: Path) -> None:
    """Remove an earlier phantom archive; DecipherError when anything else lies in `folder`."""
    if folder.exists() and not folder.is_dir():
        raise DecipherError(f"{folder} is a file, not a folder.", "Name a new folder.")
    there = {path for path in folder.rglob("*") if not path.is_dir()} if folder.exists() else set()
    own = _listed(folder) | {folder / LIST_NAME}
    if there - own:
        other = min(there - own).relative_to(folder)
        raise DecipherError(
            f"{folder} holds files that the phantom did not make, such as {other}.", "Name a new or empty folder."
        )
    for path in there:
        path.unlink()
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        path.rmdir()


def _listed(folder: Path) -> set[Path]:
    """The files that an earlier run says it made."""
    try:
        names = json.loads((folder / LIST_NAME).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {folder / str(name) for name in names}


def _subject(index: int, file_format: str) -> str:
    return f"PHANTOM-{index + 1:04d}" if file_format == "dicom" else f"sub-{index + 1:02d}"


def _dicom_visit(visit: list[PhantomSeries], index: int) -> Iterable[tuple[str, str, PhantomSeries, list[File]]]:
    """Path, StudyInstanceUID, series and files of each series of a visit, as DICOM folders."""
    subject, date = _subject(index, "dicom"), f"2024{1 + index % 12:02d}{1 + index % 28:02d}"
    for number, series in enumerate(visit, start=1):
        name = describe(series).replace("*", "star").replace(" ", "_")
        path = f"dicom/{subject}/{date}/S{number:02d}_{name}/"
        slices = dicom_slices(series, subject, date, number)
        files = [(f"{path}IM{place:04d}.dcm", content) for place, content in enumerate(slices, start=1)]
        yield path, _study_uid(files[0][1]), series, files


def _study_uid(content: bytes) -> str:
    from io import BytesIO

    import pydicom

    return str(pydicom.dcmread(BytesIO(content), specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def _nifti_visit(visit: list[PhantomSeries], index: int) -> Iterable[tuple[str, str, PhantomSeries, list[File]]]:
    """Path, subject, series and files of each series of a visit, as NIfTI with sidecars."""
    subject = _subject(index, "nifti")
    for run, series in enumerate(visit, start=1):
        name = f"nifti/{bids_name(series, subject, run)}"
        files = [(f"{name}.nii.gz", nifti_bytes(series)), (f"{name}.json", sidecar_text(series).encode())]
        yield f"{name}.nii.gz", subject, series, files


def _broken_file(seed: int) -> bytes:
    """A DICOM slice of a study of its own whose transfer stopped half way."""
    series = make_patient(10_000 * seed + 9_999, "knee", ["PD"], diagnosis="healthy", voxel_mm=4.0, max_voxels=48)[0]
    content = next(iter(dicom_slices(series, "PHANTOM-9999", "20240101", 1)))
    return content[: len(content) // 2]


def _label_row(path: str, subject: str, study_id: str, series: PhantomSeries) -> dict[str, Any]:
    found = {name: series.labels[name] for name in LABEL_COLUMNS if name in series.labels}
    return {"path": path, "subject_id": subject, "study_id": study_id} | found


def _csv(columns: Sequence[str], rows: list[dict[str, Any]]) -> bytes:
    stream = StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def _summary(writer: _Writer, rows: list[dict[str, Any]], patients: int) -> dict[str, Any]:
    counts = {
        name: dict(sorted(Counter(row[name] for row in rows).items())) for name in ("format", "body_region", "sequence")
    }
    return {"patients": patients, "series": len(rows), "files": len(writer.names), "bytes": writer.bytes} | counts
