"""Reports: structured ones as text without identities, text files by their name, and both with the right series."""

import time
import zlib
from pathlib import Path
from typing import Any

import polars as pl
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from index.ledger import CODES, Rejection
from index.record import hash_of, records_frame
from index.report import Report, attach, is_text_report, read_sr, read_text

ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"


def code(meaning: str, value: str = "T-1", scheme: str = "99TEST") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def content(kind: str, name: str | None, below: list[Dataset] | None = None, **values: Any) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = values.pop("relation", "CONTAINS"), kind
    if name is not None:
        item.ConceptNameCodeSequence = [code(name, values.pop("code", "T-1"))]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    if below:
        item.ContentSequence = below
    return item


def number(name: str, value: str, unit: Dataset) -> Dataset:
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = value, [unit]
    return content("NUM", name, MeasuredValueSequence=[measured])


def sr(*items: Dataset, title: str = "MRI Report", **header: Any) -> Dataset:
    root = content("CONTAINER", title, list(items))
    del root.RelationshipType
    root.SOPClassUID, root.SOPInstanceUID, root.Modality = ENHANCED_SR, generate_uid(), "SR"
    root.StudyInstanceUID = "1.2.3.4"
    root.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in header.items():
        setattr(root, keyword, value)
    return root


def saved(folder: Path, dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "")
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    path = folder / "report.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def text_of(folder: Path, *items: Dataset, **header: Any) -> str:
    return read_sr(saved(folder, sr(*items, **header)), "r.dcm").text


FULL = (
    content("CODE", "Language", code="121049", relation="HAS CONCEPT MOD", ConceptCodeSequence=[code("English")]),
    content("PNAME", "Person Observer Name", relation="HAS OBS CONTEXT", PersonName="House^Gregory"),
    content("TEXT", "Subject ID", code="121030", TextValue="subject line"),
    content("UIDREF", "Study", UID="1.2.3.4"),
    content("DATE", "Date", Date="20240102"),
    content("DATETIME", "Moment", DateTime="20240102101112"),
    content("TIME", "Time", Time="101112"),
    content("CONTAINER", "History", [content("TEXT", "History", TextValue="Headache for\r\nthree weeks.\x07")]),
    content(
        "CONTAINER",
        "Findings",
        [
            content("TEXT", "Finding", TextValue="A ring-enhancing lesion."),
            content("CODE", "Laterality", ConceptCodeSequence=[code("Left")]),
            number("Diameter", "12.5", code("millimeter", "mm", "UCUM")),
            number("Count", "2", code("no units", "1", "UCUM")),
            number("Signal", "3", code("arbitrary unit", "[arb'U]", "UCUM")),
            content("IMAGE", "Reference", [content("TEXT", "Note", TextValue="below an image")]),
        ],
    ),
    content("CONTAINER", "Empty", [content("CONTAINER", "Also empty")]),
    content("CONTAINER", "Conclusion", [content("TEXT", "Conclusion", TextValue="Glioma, likely.")]),
)
READ = """MRI Report
History
Headache for
three weeks.
Findings
A ring-enhancing lesion.
Laterality: Left
Diameter: 12.5 mm
Count: 2
Signal: 3 arbitrary unit
Conclusion
Glioma, likely."""


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_reading_order_in_every_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    found = read_sr(saved(tmp_path, sr(*FULL), syntax), "a/r.dcm")
    assert found == Report("a/r.dcm", "1.2.3.4", READ)


def test_public_samples() -> None:
    basic = get_testdata_file("reportsi.dcm")
    assert read_sr(Path(str(basic)), "r").text == "Document Title\nSection Heading\nEnter text"
    comprehensive = read_sr(Path(str(get_testdata_file("test-SR.dcm"))), "r").text
    assert comprehensive.splitlines()[:5] == [
        "Diagnosis",
        "A mass of",
        "Code: Sample Code 1",
        "Code: Sample Code 2",
        "Diameter: 3 cm",
    ]
    assert "Riesmeier" not in comprehensive


PERSON = {
    "PatientName": "Müller-Lüdenscheidt^Änne Sophie^^Dr.",
    "PatientID": "PAT-00123",
    "PatientBirthDate": "19610307",
    "AccessionNumber": "ACC778899",
    "ReferringPhysicianName": "House^Gregory",
    "OtherPatientIDs": ["X9911", "Y8822"],
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Mrs Müller-Lüdenscheidt complains.", "Mrs [removed]-[removed] complains."),
        ("MUELLER, Aenne; SOPHIE.", "[removed], [removed]; [removed]."),
        ("muller_luedenscheidt", "[removed]_[removed]"),
        ("The millers stay.", "The millers stay."),
        ("Sophies and Sophie's", "Sophies and [removed]'s"),
        ("id pat-00123, not PAT-001234", "id [removed], not PAT-001234"),
        ("order ACC778899/X9911 Y8822", "order [removed]/[removed] [removed]"),
        ("referred by Gregory House", "referred by [removed] [removed]"),
        ("born 19610307, 1961-03-07, 07.03.1961", "born [removed], [removed], [removed]"),
        ("born 7.3.61 or 3/7/1961 or 7 March 1961", "born [removed] or [removed] or [removed]"),
        ("born March 7th, 1961 or 7. M\u00e4rz 1961", "born [removed] or [removed]"),
        ("seen 08.03.1961", "seen 08.03.1961"),
        ("Lesion of 7 mm", "Lesion of 7 mm"),
    ],
)
def test_identities_are_removed(tmp_path: Path, before: str, after: str) -> None:
    assert text_of(tmp_path, content("TEXT", "Finding", TextValue=before), **PERSON).splitlines()[1:] == [after]


def test_headings_and_codes_are_searched_for_identities_too(tmp_path: Path) -> None:
    item = content("CONTAINER", "Knee of Sophie", [content("CODE", "Seen by", ConceptCodeSequence=[code("House")])])
    assert text_of(tmp_path, item, **PERSON) == "MRI Report\nKnee of [removed]\nSeen by: [removed]"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("Li^Wu", "Li Wu has Wu, Li and Linux", "[removed] has [removed] and Linux"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "患者山田太郎さん yamada", "患者[removed]さん [removed]"),
        ("", "nobody", "nobody"),
    ],
)
def test_names_of_other_scripts_and_lengths(tmp_path: Path, name: str, before: str, after: str) -> None:
    found = text_of(tmp_path, content("TEXT", "Finding", TextValue=before), PatientName=name)
    assert found.splitlines()[1:] == [after]


@settings(max_examples=25, deadline=None)
@given(
    family=st.text("abcdefghijäöü", min_size=3, max_size=8),
    given_name=st.text("klmnopqrsté", min_size=3, max_size=8),
    number_of_patient=st.from_regex(r"[A-Z]{2}[0-9]{4}", fullmatch=True),
    frame=st.lists(
        st.sampled_from(["lesion", "NAME", "GIVEN", "ID", "of", "7", "mm", ",", "\n", "(", ")"]), max_size=12
    ),
)
def test_no_identity_survives(
    tmp_path_factory: pytest.TempPathFactory, family: str, given_name: str, number_of_patient: str, frame: list[str]
) -> None:
    real = {"NAME": family.upper(), "GIVEN": given_name, "ID": number_of_patient}
    text = " ".join(real.get(word, word) for word in ["x", *frame])
    found = text_of(
        tmp_path_factory.mktemp("sr"),
        content("TEXT", None, TextValue=text),
        PatientName=f"{family}^{given_name}",
        PatientID=number_of_patient,
        title="T",
    )
    words = found.lower().replace("(", " ").replace(")", " ").split()
    assert not {family.lower(), given_name.lower(), number_of_patient.lower()} & set(words)
    assert found.count("[removed]") == sum(word in real for word in frame)


@pytest.mark.parametrize(
    ("dataset", "code_told"),
    [
        (sr(), "not_mr"),
        (sr(content("CONTAINER", "Findings")), "not_mr"),
        (sr(content("TEXT", "Finding", TextValue="  ")), "not_mr"),
        (sr(content("IMAGE", "Reference")), "not_mr"),
        (sr(content("TEXT", "Finding", TextValue="x"), SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), "not_mr"),
    ],
)
def test_objects_without_a_report(tmp_path: Path, dataset: Dataset, code_told: str) -> None:
    with pytest.raises(Rejection) as told:
        read_sr(saved(tmp_path, dataset), "r.dcm")
    assert told.value.code == code_told


def test_bounds(tmp_path: Path) -> None:
    long = text_of(tmp_path, content("TEXT", "Finding", TextValue="word " * 60_000))
    assert 99_000 < len(long) <= 100_000
    many = text_of(tmp_path, *[content("TEXT", None, TextValue=f"line{n}") for n in range(12_000)])
    assert len(many.splitlines()) == 1 + 10_000
    deep = content("TEXT", None, TextValue="too deep")
    for _ in range(60):
        deep = content("CONTAINER", "Level", [deep])
    assert "too deep" not in text_of(tmp_path, content("TEXT", None, TextValue="seen"), deep)


def test_damage_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, sr(*FULL))
    whole = path.read_bytes()
    for length in range(200, len(whole), 97):
        path.write_bytes(whole[:length])
        try:
            read_sr(path, "r.dcm")
        except Rejection as told:
            assert told.code in CODES
    path.write_bytes(b"\0" * 5_000_000)
    with pytest.raises(Rejection, match="too many bytes"):
        read_sr(path, "r.dcm")


def test_deflated_data_cannot_swell_without_bound(tmp_path: Path) -> None:
    path = saved(tmp_path, sr(*FULL), DeflatedExplicitVRLittleEndian)
    meta = path.read_bytes()[: 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength]
    packer = zlib.compressobj(wbits=-15)
    path.write_bytes(meta + packer.compress(b"\0" * 200_000_000) + packer.flush())
    assert path.stat().st_size > 100_000
    with pytest.raises(Rejection, match="too many bytes"):
        read_sr(path, "r.dcm")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/report.txt", True),
        ("sub-01/sub-01_report.txt", True),
        ("study1-report.md", True),
        ("Befund.TXT", True),
        ("MR_Radiology_2.txt", True),
        ("RadiologyReport1.txt", True),
        ("findings.txt", True),
        ("README.md", False),
        ("README_report.txt", False),
        ("qc_report.txt", False),
        ("error-report.txt", False),
        ("reporting_guidelines.txt", False),
        ("report.rtf", False),
        ("report.json", False),
        ("report/notes.txt", False),
        ("reports.csv", False),
    ],
)
def test_text_reports_by_name(path: str, expected: bool) -> None:
    assert is_text_report(path) is expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"Findings:\r\n\r\n  No  lesion.\x07\n", "Findings:\nNo lesion."),
        ("Größe 3 mm".encode(), "Größe 3 mm"),
        ("Größe 3 mm".encode("utf-8-sig"), "Größe 3 mm"),
        ("Größe 3 mm".encode("latin-1"), "Größe 3 mm"),
        ("Größe 3 mm".encode("utf-16"), "Größe 3 mm"),
    ],
)
def test_text_files(tmp_path: Path, raw: bytes, expected: str) -> None:
    (tmp_path / "report.txt").write_bytes(raw)
    assert read_text(tmp_path / "report.txt", "a/report.txt") == Report("a/report.txt", None, expected)


def test_long_text_ends_within_a_letter(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_bytes(b"x" + "ä".encode() * 80_000)
    found = read_text(tmp_path / "report.txt", "report.txt").text
    assert found == "x" + "ä" * 49_999


@pytest.mark.parametrize("raw", [b"", b" \n\t", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", bytes(range(256)) * 4])
def test_files_that_only_are_named_report(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "report.txt").write_bytes(raw)
    with pytest.raises(Rejection) as told:
        read_text(tmp_path / "report.txt", "report.txt")
    assert told.value.code == "companion"


def catalogue(*rows: tuple[str, str, str | None]) -> pl.DataFrame:
    """(path, study, report) as records."""
    return records_frame(
        {"series_id": f"{place:016d}", "path": path, "study_id": hash_of(study), "report": report}
        for place, (path, study, report) in enumerate(rows)
    )


def told(ledger: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    return [(one["path"], one["code"], one["detail"]) for one in ledger]


def test_structured_reports_go_with_their_study() -> None:
    records = catalogue(
        ("a/1", "s1", None), ("a/2", "s1", "kept as it is"), ("b/1", "s2", None), ("b/2.nii", "s3", None)
    )
    reports = [Report("z.dcm", "s1", "second"), Report("y.dcm", "s1", "first"), Report("x.dcm", "s9", "astray")]
    found, ledger = attach(records, reports)
    assert found["report"].to_list() == ["first\n\nsecond", "kept as it is", None, None]
    assert found.drop("report").equals(records.drop("report")) and found.schema == records.schema
    assert told(ledger) == [
        ("z.dcm", "report", "kept with 1 series"),
        ("y.dcm", "report", "kept with 1 series"),
        ("x.dcm", "report", "no series of its study"),
    ]


def test_text_files_go_with_the_series_of_their_folder() -> None:
    records = catalogue(
        ("p1/t1", "s1", None),
        ("p1/deep/er/flair.nii.gz", "s1", None),
        ("p10/t1", "s2", None),
        ("p2/day1/t1", "s3", None),
        ("p2/day2/t1", "s4", None),
        ("p3/t1", "s5", "there"),
    )
    files = [
        "p1/report.txt",
        "p1/t1/report.txt",
        "p2/report.txt",
        "p2/day2/befund.txt",
        "nowhere/report.txt",
        "report.txt",
    ]
    found, ledger = attach(records, [Report(file, None, file) for file in [*files, "p3/report.txt"]])
    by_path = dict(found.select("path", "report").iter_rows())
    assert by_path == {
        "p1/t1": "p1/report.txt\n\np1/t1/report.txt",
        "p1/deep/er/flair.nii.gz": "p1/report.txt",
        "p10/t1": None,
        "p2/day1/t1": None,
        "p2/day2/t1": "p2/day2/befund.txt",
        "p3/t1": "there",
    }
    assert told(ledger) == [
        ("p1/report.txt", "report", "kept with 2 series"),
        ("p1/t1/report.txt", "report", "kept with 1 series"),
        ("p2/report.txt", "companion", "a report, but it stands above 2 studies"),
        ("p2/day2/befund.txt", "report", "kept with 1 series"),
        ("nowhere/report.txt", "companion", "a report, but no series lies in its folder or below"),
        ("report.txt", "companion", "a report, but it stands above 5 studies"),
        ("p3/report.txt", "report", "1 series have one already"),
    ]


def test_report_at_the_root_of_one_study() -> None:
    records = catalogue((".", "s1", None), ("t1.nii", "s1", None))
    found, ledger = attach(records, [Report("report.txt", None, "words"), Report("sr.dcm", "s1", "more")])
    assert found["report"].to_list() == ["words\n\nmore"] * 2
    assert {one["detail"] for one in ledger} == {"kept with 2 series"}


def test_nothing_to_attach() -> None:
    records = catalogue(("a", "s1", None))
    assert attach(records, []) == (records, [])
    empty = records_frame([])
    found, ledger = attach(empty, [Report("report.txt", None, "x"), Report("r.dcm", "s", "y")])
    assert found.equals(empty) and [one["code"] for one in ledger] == ["companion", "report"]


def test_attaching_is_quick() -> None:
    count = 100_000
    studies = [hash_of(str(n // 4)) for n in range(count)]
    records = pl.DataFrame(
        {"study_id": studies, "path": [f"site/p{n // 4}/s{n}/x" for n in range(count)], "report": [None] * count},
        schema={"study_id": pl.String, "path": pl.String, "report": pl.String},
    )
    reports = [Report(f"site/p{n}/report.txt", None, f"text {n}") for n in range(count // 4)]
    start = time.perf_counter()
    found, ledger = attach(records, reports)
    assert time.perf_counter() - start < 5
    assert found["report"][401] == "text 100" and found["report"].null_count() == 0 and len(ledger) == count // 4
