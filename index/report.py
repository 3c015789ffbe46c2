"""Reports beside a study: DICOM Structured Reports and text files, read as plain text and put with the series they speak of.

Design: persons leave the text (index.deidentify) before anything else sees it. A Structured Report belongs to its study; a
text file to the folder it lies in, and only where all series there and below are of one study. Text is bounded in depth,
items and length; joining works on columns, never row by row.
"""

import codecs
import io
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from index.deidentify import without_person
from index.dicom import REPORT_PREFIX, named_errors
from index.finding import named_damage, open_unpacked
from index.ledger import Rejection, row
from index.record import hash_of
from index.vocabulary import listed, words_of

MOST_BYTES, MOST_DEFLATED_BYTES, MOST_TEXT_BYTES = 4_000_000, 100_000, 100_000
MOST_CHARACTERS, MOST_ITEMS, MOST_DEPTH = 100_000, 10_000, 32
_DEFLATED = b"1.2.840.10008.1.2.1.99"
# DCM codes of who observes, who is observed (121005-121039) and in which language and country (121045-121049).
_CONTEXT = re.compile(r"1210(?:0[5-9]|[123]\d|4[5-9])")
_REPORT = listed(
    "report reports radreport radiologyreport mrreport mrireport radiology findings impression befund befunde befundbericht "
    "bericht arztbrief rapport referto informe verslag laudo"
)
_OTHER_REPORT = listed(
    "readme qc qa quality error errors log recon reconstruction processing mriqc fmriprep freesurfer fastsurfer bids "
    "validator validation conversion dcm2niix licence license changes template"
)


@dataclass(frozen=True)
class Report:
    """A report's text. `study_uid` is a Structured Report's StudyInstanceUID; None: it speaks for its folder."""

    file: str
    study_uid: str | None
    text: str


def read_sr(path: Path, file: str) -> Report:
    """A Structured Report, of any class and transfer syntax, as text in reading order, without its patient's identity.

    Raises Rejection: not_mr for other objects and for a report without text, bad_header for damage.
    """
    import pydicom

    with named_errors("bad_header"), named_damage(), open_unpacked(path) as stream:
        raw = stream.read(MOST_BYTES + 1)
        if len(raw) > (MOST_DEFLATED_BYTES if _DEFLATED in raw else MOST_BYTES):
            raise Rejection("bad_header", "a report of too many bytes")
        dataset = pydicom.dcmread(io.BytesIO(raw), force=True)
        if not str(dataset.get("SOPClassUID", "")).startswith(REPORT_PREFIX):
            raise Rejection("not_mr", "not a structured report")
        text = without_person(_flat(dataset), dataset)[:MOST_CHARACTERS].strip()
        study_uid = str(dataset.get("StudyInstanceUID") or "").strip() or None
    if not text:
        raise Rejection("not_mr", "a structured report without text")
    return Report(file, study_uid, text)


def _flat(dataset: Any) -> str:
    lines, length = [], 0
    for line in _lines(dataset, 0, iter(range(MOST_ITEMS)), []):
        lines.append(line)
        length += len(line)
        if length > MOST_CHARACTERS:
            break
    return "\n".join(lines)


def _lines(item: Any, depth: int, budget: Iterator[int], headings: list[str]) -> Iterator[str]:
    """Lines of a content item and those below it. `headings` wait until something stands below them."""
    waiting = len(headings)
    for is_heading, line in _own_lines(item):
        headings.append(line)
        if not is_heading:
            yield from headings
            headings.clear()
    for child in item.get("ContentSequence") or () if depth < MOST_DEPTH else ():
        if next(budget, None) is None:
            return
        if str(child.get("ValueType", "")) in ("CONTAINER", "TEXT", "CODE", "NUM") and not _is_context(child):
            yield from _lines(child, depth + 1, budget, headings)
    del headings[waiting:]


def _own_lines(item: Any) -> Iterator[tuple[bool, str]]:
    """(whether it is a heading, line) of one content item."""
    kind, name = str(item.get("ValueType", "")), _meaning(item, "ConceptNameCodeSequence")
    if kind == "TEXT":
        text = str(item.get("TextValue") or "")
        whole_words = text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS].rpartition(" ")[0]
        yield from ((False, line) for line in _tidy(whole_words))
    elif kind in ("CODE", "NUM"):
        value = _meaning(item, "ConceptCodeSequence") if kind == "CODE" else _measured(item)
        if value:
            yield False, f"{name}: {value}" if name else value
    elif name:
        yield True, name


def _is_context(item: Any) -> bool:
    """True for who observed whom, when and in which language."""
    codes = item.get("ConceptNameCodeSequence")
    code = str(codes[0].get("CodeValue", "")) if codes else ""
    return str(item.get("RelationshipType", "")) == "HAS OBS CONTEXT" or bool(_CONTEXT.fullmatch(code))


def _meaning(item: Any, sequence: str) -> str:
    codes = item.get(sequence)
    return " ".join(_tidy(str(codes[0].get("CodeMeaning") or ""))) if codes else ""


def _measured(item: Any) -> str:
    measured = item.get("MeasuredValueSequence")
    value = measured[0].get("NumericValue") if measured else None
    if value is None:
        return ""
    units = measured[0].get("MeasurementUnitsCodeSequence")
    code = str(units[0].get("CodeValue", "")) if units else ""
    unit = code if re.fullmatch(r"[A-Za-z%/]+\d?", code) else _meaning(measured[0], "MeasurementUnitsCodeSequence")
    return f"{value} {'' if code == '1' else unit}".strip()


def _tidy(text: str) -> list[str]:
    """Lines without control characters, blanks at their ends and empty lines."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    kept = "".join(one if one in "\n\t" or unicodedata.category(one)[0] != "C" else " " for one in text)
    return [line for line in (" ".join(one.split()) for one in kept.split("\n")) if line]


def is_text_report(path: str) -> bool:
    """True for a text file that its name calls a radiology report: report.txt, sub-01_report.txt, befund.md."""
    if not path.lower().endswith((".txt", ".md")):
        return False
    words = {word.rstrip("0123456789") for word in words_of(path.rpartition("/")[2].rpartition(".")[0])}
    return not _REPORT.isdisjoint(words) and _OTHER_REPORT.isdisjoint(words)


def read_text(path: Path, file: str) -> Report:
    """A text file of UTF-8, UTF-16 or Latin-1, its first 100 kB. Raises Rejection companion where it is empty or binary."""
    with path.open("rb") as stream:
        raw = stream.read(MOST_TEXT_BYTES)
    text = _decoded(raw)
    controls = sum(unicodedata.category(one) == "Cc" and one not in "\r\n\t\f" for one in text)
    if "\0" in text or controls > 2 + len(text) / 50:
        raise Rejection("companion", "its name is that of a report, but it holds no text")
    lines = _tidy(text)
    if not lines:
        raise Rejection("companion", "an empty report")
    return Report(file, None, "\n".join(lines))


def _decoded(raw: bytes) -> str:
    """Text of bytes that may end within a letter."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", "replace")
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(raw, final=len(raw) < MOST_TEXT_BYTES)
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def attach(records: pl.DataFrame, reports: list[Report]) -> tuple[pl.DataFrame, list[dict[str, str]]]:
    """The records with column `report` filled where it is null, and a ledger row for each report.

    Several reports of one series stand one after another in order of their files, a blank line between.
    """
    if not reports:
        return records, []
    told = pl.DataFrame(
        {
            "number": range(len(reports)),
            "study_id": [hash_of(one.study_uid) if one.study_uid else None for one in reports],
            "at": [None if one.study_uid else one.file.rpartition("/")[0] for one in reports],
        },
        schema={"number": pl.Int64, "study_id": pl.String, "at": pl.String},
    )
    rows = records.select("study_id", "path", empty=pl.col("report").is_null()).with_row_index("row")
    by_study = rows.select("row", "study_id").join(told.drop_nulls("study_id"), on="study_id").select("row", "number")
    studies, by_folder = _by_folder(rows, told.select("number", "at").drop_nulls())
    found = pl.concat([by_study, by_folder]).join(rows.select("row", "empty"), on="row")
    kept = found.group_by("number").agg(pl.len(), pl.col("empty").sum()).rows_by_key("number", unique=True)
    ledger = [_told(one, kept.get(number), studies.get(number, 0)) for number, one in enumerate(reports)]
    return _filled(records, found.filter("empty").select("row", "number"), reports), ledger


def _by_folder(rows: pl.DataFrame, told: pl.DataFrame) -> tuple[dict[int, int], pl.DataFrame]:
    """How many studies lie in or below each report's folder, by its number; (row, number) where it is one."""
    places = rows.select("study_id", "path").unique().with_columns(at=pl.col("path").replace({".": ""}))
    hits = []
    while told.height and places.height:
        hits.append(places.join(told, on="at"))
        places = places.filter(pl.col("at") != "").with_columns(at=pl.col("at").str.replace(r"/?[^/]*$", ""))
    if not hits:
        return {}, pl.DataFrame(schema={"row": rows.schema["row"], "number": pl.Int64})
    found = pl.concat(hits)
    studies = found.group_by("number").agg(pl.col("study_id").n_unique().alias("studies"))
    single = found.join(studies.filter(pl.col("studies") == 1), on="number").select("study_id", "path", "number")
    joined = rows.select("row", "study_id", "path").join(single, on=["study_id", "path"]).select("row", "number")
    return dict(studies.iter_rows()), joined


def _told(report: Report, kept: tuple[int, int] | None, studies: int) -> dict[str, str]:
    if kept is None and report.study_uid:
        return row(report.file, "report", "no series of its study")
    if kept is None:
        why = f"it stands above {studies} studies" if studies else "no series lies in its folder or below"
        return row(report.file, "companion", f"a report, but {why}")
    series, empty = kept
    return row(report.file, "report", f"kept with {empty} series" if empty else f"{series} series have one already")


def _filled(records: pl.DataFrame, found: pl.DataFrame, reports: list[Report]) -> pl.DataFrame:
    """Each distinct set of reports is joined once, however many series share it."""
    place = {number: rank for rank, number in enumerate(sorted(range(len(reports)), key=lambda n: reports[n].file))}
    ranked = [reports[number] for number in sorted(place, key=place.__getitem__)]
    sets = (
        found.unique()
        .with_columns(pl.col("number").replace_strict(place, return_dtype=pl.Int64))
        .group_by("row")
        .agg(pl.col("number").sort().cast(pl.String))
        .with_columns(pl.col("number").list.join(","))
    )
    texts = [(one, "\n\n".join(ranked[int(rank)].text for rank in one.split(","))) for one in sets["number"].unique()]
    told = sets.join(pl.DataFrame(texts, schema={"number": pl.String, "told": pl.String}, orient="row"), on="number")
    rows = records.with_row_index("row").join(told.select("row", "told"), on="row", how="left", maintain_order="left")
    return rows.with_columns(report=pl.coalesce("report", "told")).select(records.columns)
