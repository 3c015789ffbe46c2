"""What `decipher search` does with its hits but show them: a line on who they are, a cohort, a file, a split.

Decisions
- The report of a split is talk, hence on stderr; programs find it beside the file, as FILE.split.json.
- A CSV is for people: files, affines and fingerprints stay out. A Parquet file is a catalogue too, hence `decipher encode`
  takes it. `archive` is the folder that `path` starts from. Reports are free text that may name people: in neither.
- A file is overwritten only where an earlier export made it: rank and score first, and no column that no export has.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from decipher_cli.output import many, progress, say, table, talk
from index import cohort
from index.record import SCHEMA
from index.segment import replace_file
from models.errors import DecipherError

if TYPE_CHECKING:
    from rich.table import Table

    from decipher_cli.query import Question
    from index.search import Hit
    from index.store import Index
    from training.leakage import LeakageReport, Pair

WIDTH, LEAST_SHOWN = 80, 3
RANKED = ("rank", "score")
EXPORTED = {*RANKED, "standing", "split", "archive", *SCHEMA}
WHO = ("series_id", "study_id", "patient_id")
FOR_PROGRAMS = ("files", "affine_mm", "fingerprint")
SPLIT_KIND = "decipher split"
SHOWN_PAIRS = 5
OUT_OF = {"sequence": "series", "sex": "patients"}


def summary(records: Sequence[Mapping[str, Any]], total: int) -> str:
    """Who was found, in a line: series, patients, sexes, ages, sequences; the rarer of these give way on a narrow terminal."""
    people = {one.get("patient_id") or one.get("study_id") or one["series_id"]: one for one in records}
    known = [one for one in people.values() if one.get("patient_id")]
    sexes = Counter(sorted(one["sex"] for one in known if one.get("sex")))
    ages = sorted(one["age_years"] for one in people.values() if one.get("age_years") is not None)
    said = f"{len(records)} of {total} series"
    if known:
        said += f", {many(len(known), 'patient' if len(known) == len(people) else 'known patient')}"
    if sexes:
        said += f" ({', '.join(f'{count} {sex}' for sex, count in sexes.items())})"
    if ages:
        said += (
            f", ages {ages[0]:.0f} to {ages[-1]:.0f}, median {median(ages):.0f}" if ages[1:] else f", age {ages[0]:.0f}"
        )
    counts = Counter(sorted(one.get("sequence") or "unknown" for one in records))
    return said + _most(counts, max(WIDTH, talk().width) - len(said))


def _most(counts: Counter[str], room: int) -> str:
    """The most frequent values, as many as there is room for and LEAST_SHOWN at least, and how many series have others."""
    pairs = counts.most_common()
    shown = len(pairs)
    while shown > LEAST_SHOWN and len(_listed(pairs, shown)) > room:
        shown -= 1
    return _listed(pairs, shown)


def _listed(pairs: Sequence[tuple[str, int]], shown: int) -> str:
    words = [f"{value} {count}" for value, count in pairs[:shown]]
    rest = sum(count for _, count in pairs[shown:])
    return ("; " if pairs else "") + ", ".join([*words, *([f"{rest} more"] if rest else [])])


def chosen(index: "Index", expression: str) -> list[str]:
    """--cohort: the series_id it names, in order; says what there is to know of them."""
    found = cohort.choose(index, expression)
    for note in found.notes:
        say(note)
    return found.ids


def keep(index: "Index", name: str, question: "Question", hits: "Sequence[Hit]", k: int | None = None) -> None:
    """--save: the hits as a cohort, with what was asked as it may be kept; k: how many were asked for."""
    q = question
    query = cohort.asked(q.query, q.like, q.unlike, q.where, evidence=q.evidence, by=q.by, k=k, cohort=q.cohort)
    cohort.save(index, name, query, [hit.record["series_id"] for hit in hits], [hit.score for hit in hits])
    say(f"{len(hits)} series kept: decipher search --cohort {name}")


def check_export(path: Path | None, split: str | None, index: "Index") -> None:
    """What can be told before the search: DecipherError for a split that can't be read, or a file that can't be written."""
    if split is not None:
        from training.split import shares

        shares(split)
    if path is None:
        if split is not None:
            raise DecipherError("--split has nowhere to go.", "Name a file for it: --export cohort.csv")
        return
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise DecipherError(f"{path} is neither a CSV nor a Parquet file.", "Let its name end in .csv or .parquet.")
    if not path.parent.is_dir():
        raise DecipherError(f"There is no folder {path.parent}.", "Make it first, or name another file: --export FILE")
    columns = _columns_of(path)
    _check_ours(path, tuple(columns[:2]) == RANKED and {*index.schema, *EXPORTED}.issuperset(columns))
    if split is not None:
        _check_ours(_beside(path), _is_report(_beside(path)))


def export_hits(
    path: Path, index: "Index", hits: "Sequence[Hit]", split: str | None = None, seed: int = 0
) -> "LeakageReport | None":
    """--export: the hits with what the index knows of them, split where shares are given; tells the split's report.

    Errors: DecipherError as `check_export`, for fewer patients than parts, and for a disk that does not take it.
    """
    check_export(path, split, index)
    rows, records = _records(index, hits)
    report = None
    if split is not None:
        from training.leakage import leakage_report
        from training.split import shares
        from training.split import split as dealt

        records = records.drop("split", strict=False)
        records.insert_column(records.columns.index("series_id"), dealt(records, shares(split), seed))
        with progress() as bar:
            report = leakage_report(records, index.gather(rows), lambda done, of: bar("compare", done, of))
    _write(path, records)
    say(f"{many(records.height, 'row')} written: {path}")
    if report:
        _tell(path, report, {"split": split, "seed": seed, "series": records.height})
    return report


def _records(index: "Index", hits: "Sequence[Hit]") -> tuple[np.ndarray, pl.DataFrame]:
    """Rows of the hits that are still in the index, and all columns of them after rank, score and standing."""
    row_of = index.row_of([hit.record["series_id"] for hit in hits])
    here = [hit for hit in hits if hit.record["series_id"] in row_of]
    rows = np.array([row_of[hit.record["series_id"]] for hit in here], dtype=np.int64)
    records = index.rows(rows)
    ranked = pl.DataFrame(
        {
            "rank": pl.Series([hit.rank for hit in here], dtype=pl.Int64),
            "score": pl.Series([hit.score for hit in here], dtype=pl.Float64),
            "standing": pl.Series([hit.standing for hit in here], dtype=pl.Float64),
        }
    )
    if ranked["standing"].null_count() == ranked.height:
        ranked = ranked.drop("standing")
    roots = {name: str(archive.root) for name, archive in index.archives.items()}
    archive = pl.col("archive").replace_strict(roots, default=pl.col("archive"), return_dtype=pl.String)
    told = records.select(*WHO, archive, pl.exclude(*WHO, "archive", *RANKED, "standing"))
    return rows, pl.concat([ranked, told], how="horizontal")


def _write(path: Path, records: pl.DataFrame) -> None:
    out = BytesIO()
    kept = records.drop("report", strict=False)
    if path.suffix.lower() == ".csv":
        _without_lists(kept.drop(FOR_PROGRAMS, strict=False)).write_csv(out)
    else:
        kept.write_parquet(out, compression="zstd")
    _put(path, out.getvalue())


def _put(path: Path, data: bytes) -> None:
    try:
        replace_file(path, data)
    except OSError as error:
        raise DecipherError(f"{path} cannot be written: {error.strerror}.", "Check the disk and the folder.") from error


def _without_lists(records: pl.DataFrame) -> pl.DataFrame:
    """Lists as words: 0.9 0.9 5.5."""
    words = []
    for name, kind in records.schema.items():
        if isinstance(kind, pl.List):
            item = pl.element().round_sig_figs(6) if kind == pl.List(pl.Float64) else pl.element()
            words.append(pl.col(name).list.eval(item.cast(pl.String)).list.join(" "))
    return records.with_columns(words)


def _check_ours(path: Path, ours: bool) -> None:
    if path.exists() and not ours:
        raise DecipherError(
            f"{path} exists, and no export of a cohort made it.",
            "Name another file: --export FILE, or remove this one.",
        )


def _columns_of(path: Path) -> list[str]:
    """The columns of the table at `path`; none where there is none."""
    try:
        if path.suffix.lower() == ".parquet":
            return list(pl.read_parquet_schema(path))
        with path.open(encoding="utf-8", newline="") as stream:
            return next(csv.reader(stream), [])
    except (OSError, ValueError, csv.Error, pl.exceptions.PolarsError):
        return []


def _beside(path: Path) -> Path:
    """Where the report on the split of the export at `path` stands."""
    return path.with_name(f"{path.name}.split.json")


def _is_report(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("kind") == SPLIT_KIND
    except (OSError, ValueError, AttributeError):
        return False


def _tell(path: Path, report: "LeakageReport", head: Mapping[str, Any]) -> None:
    """The report on stderr, and whole beside the export."""
    sys.stdout.flush()
    talk().print(_balance(report.balance))
    for line in report_lines(report):
        say(line)
    _put(_beside(path), json.dumps({"kind": SPLIT_KIND, **head, **report.to_json()}, indent=1).encode() + b"\n")
    say(f"The whole report: {_beside(path)}")


def _balance(rows: "Sequence[Mapping[str, Any]]") -> "Table":
    """Counts, and which share they are of the part's series or patients."""
    parts = [name for name in rows[0] if name not in ("what", "value")]
    shown = table("", *parts, right=tuple(parts))
    total = {row["what"]: row for row in rows if not row["value"]}
    for row in rows:
        of = total[OUT_OF[row["what"]]] if row["what"] in OUT_OF else {}
        name = f"sex {row['value']}" if row["what"] == "sex" else row["value"] or row["what"]
        shown.add_row(name, *(_cell(row[part], of.get(part)) for part in parts))
    return shown


def _cell(value: float | None, of: int | None) -> str:
    if value is None:
        return "-"
    return f"{value} ({100 * value / of:2.0f} %)" if of else str(value)


def report_lines(report: "LeakageReport") -> list[str]:
    """What may leak, in sentences that say no more than was looked at."""
    folders = " (of several patients, as a folder may be)" if report.studies_parted else ""
    said = [f"Parted patients: {report.patients_parted}. Parted studies: {report.studies_parted}{folders}."]
    if report.patients_unknown:
        said.append(f"{report.patients_unknown} series are of no known patient: their independence is not known.")
    if report.usual is None:
        return said
    sample = f", an even sample of {report.comparable}," if report.compared < report.comparable else ""
    usual = f"The nearest pair has {report.nearest[0].cosine:.4f}, a usual one {report.usual:.4f}."
    return [
        *said,
        f"{report.near} of {report.compared} series{sample} have a near copy in another part, by a cosine",
        f"above {report.threshold:.4f}. {usual}",
        *(_pair(pair) for pair in report.nearest[: min(report.near, SHOWN_PAIRS)]),
        "Near copies are of one image, renamed, rescaled or a little noisy. Cropped and",
        "resampled ones are not found, nor other scans of a person under two names.",
    ]


def _pair(pair: "Pair") -> str:
    return f"  {pair.cosine:.5f}  {pair.parts[0]} {pair.series[0]}  {pair.parts[1]} {pair.series[1]}"
