"""One look at one file of an archive: what it is, and what the catalogue needs of it.

Design: a look is all that a worker process does, so it takes and gives plain values. No damaged file raises out of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from index import bids, dicom
from index.changes import NIFTI, REPORT
from index.dicom import DicomHeader
from index.finding import File, Opened, is_image, kind_of, opened, place_of
from index.ledger import Rejection
from index.options import ScanOptions
from index.record import hash_of
from index.report import Report, is_text_report, read_sr, read_text
from index.surroundings import Surroundings


class Seen(NamedTuple):
    """What a look at a file found: a DICOM header, the records of a NIfTI file, a report, or the code and detail of a refusal.

    `group` (see index.changes) names what has to be described together.
    """

    group: str | None = None
    header: DicomHeader | None = None
    records: tuple[dict[str, Any], ...] = ()
    report: Report | None = None
    refused: tuple[str, str] | None = None


CRASHED = Seen(refused=("undecodable", "reading it crashed"))


@dataclass(frozen=True)
class Look:
    """How to look at the files of one archive."""

    root: Path
    around: Surroundings
    options: ScanOptions
    key: bytes

    def __call__(self, file: File) -> Seen:
        group = None
        try:
            found = opened(place_of(self.root, file.path), file.size_bytes)
            if is_text_report(file.path) and not is_image(found.start):
                group = REPORT
                return Seen(group, report=read_text(Path(found.place), file.path))
            if kind_of(found.start, file.path) == "dicom":
                return self._dicom(file, found)
            group = NIFTI
            records = bids.describe(self.root, file, found, self.around, self.options, self.key)
            return Seen(group, records=tuple(records))
        except Rejection as rejection:
            return Seen(group, refused=(rejection.code, rejection.detail))
        except (OSError, MemoryError) as error:
            return Seen(group, refused=("unreadable", type(error).__name__))

    def _dicom(self, file: File, found: Opened) -> Seen:
        try:
            header = dicom.read_header(found, file.path, self.options.include)
        except Rejection as rejection:
            if rejection.code != "report":
                raise
            return Seen(REPORT, report=read_sr(Path(found.place), file.path))
        return Seen(hash_of(header.series_uid), header)
