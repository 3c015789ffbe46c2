"""Handing a cohort on: a line on who it is, a name, a table, a split with its report; stdout stays empty."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from decipher_cli import cohorts
from decipher_cli.cohorts import check_export, chosen, export_hits, keep, report_lines, summary
from decipher_cli.query import Question
from index.archive import Archive
from index.record import records_frame
from index.scanned import is_catalogue, read_catalogue
from index.store import Index
from models.errors import DecipherError
from training.split import split

COUNT = 40
DIM = 24


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Forty series of twenty patients, two each; series 38 is a copy of series 0 with a little noise."""
    root = tmp_path_factory.mktemp("archive")
    records = records_frame(
        {
            "series_id": f"{n:016x}",
            "study_id": f"study{n // 2}",
            "patient_id": f"patient{n // 2}",
            "path": f"sub-{n // 2:02d}/series {n:02d}.nii.gz",
            "format": "nifti",
            "files": [f"sub-{n // 2:02d}/series {n:02d}.nii.gz"],
            "fingerprint": f"{n:x}",
            "sequence": ["T1", "T2", "FLAIR", None][n % 4],
            "spacing_mm": [0.9, 0.8999999761581421, 5.5],
            "shape": [256, 256, 30],
            "affine_mm": np.eye(4).ravel().tolist(),
            "age_years": None if n < 2 else float(n // 2 * 4),
            "sex": "FM"[n // 2 % 2],
            "report": "Jane Doe has a lesion.",
        }
        for n in range(COUNT)
    )
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((COUNT, DIM)).astype(np.float32)
    vectors[38] = vectors[0] + 0.01 * vectors[1]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made = Index.create(
        tmp_path_factory.mktemp("index") / "i", {"name": "small", "hash": "h", "dim": DIM}, [Archive("here", root)]
    )
    made.append(records.with_columns(archive=pl.lit("here"), site=pl.lit("a,b")), vectors)
    return made


def hits_of(index: Index, rows: list[int]) -> list:
    found = index.rows(np.array(rows), ["series_id", "path"]).rows(named=True)
    return [SimpleNamespace(rank=n + 1, score=1 - n / 8, standing=0.5, record=one) for n, one in enumerate(found)]


def record(patient: str | None, sequence: str | None, sex: str | None = None, age: float | None = None) -> dict:
    record.count = getattr(record, "count", 0) + 1
    return {
        "series_id": f"s{record.count}", "study_id": f"study{record.count}", "patient_id": patient, "sequence": sequence,
        "sex": sex, "age_years": age,
    }  # fmt: skip


def test_a_line_says_who_was_found(monkeypatch):
    monkeypatch.setattr(cohorts, "talk", lambda: SimpleNamespace(width=80))
    a, b = [record("a", "T2", "F", 20.0), record("a", "FLAIR", "F", 20.0)], [record("b", "T2", "M", 61.0)]
    c = [record("c", "T2", "M", 82.0), record("c", None, "M", 82.0), record("c", "T2", "M", 82.0)]
    assert summary([*a, *b, *c], 91) == (
        "6 of 91 series, 3 patients (1 F, 2 M), ages 20 to 82, median 61; T2 4, FLAIR 1, unknown 1"
    )
    assert summary(a, 91) == "2 of 91 series, 1 patient (1 F), age 20; FLAIR 1, T2 1"
    unknown = [record(None, "T1", "F", 30.0), record(None, None, "F", 30.0)]
    assert summary([*b, *unknown], 4) == (
        "3 of 4 series, 1 known patient (1 M), ages 30 to 61, median 30; T1 1, T2 1, unknown 1"
    )
    assert summary([record(None, "T1"), record(None, None)], 4) == "2 of 4 series; T1 1, unknown 1"
    assert summary([], 91) == "0 of 91 series"


def test_the_line_is_as_long_as_the_terminal_allows(monkeypatch):
    many = [record(f"p{n}", f"SEQ{n % 12:02d}xxx", "F", float(n)) for n in range(60)]
    head = "60 of 1000 series, 60 patients (60 F), ages 0 to 59, median 30; "
    for width, shown in ((40, 3), (80, 3), (len(head) + 6 * 12 + 7, 6), (len(head) + 6 * 12 + 6, 5), (300, 12)):
        monkeypatch.setattr(cohorts, "talk", lambda width=width: SimpleNamespace(width=width))
        rest = [f"{60 - 5 * shown} more"] if shown < 12 else []
        names = sorted({one["sequence"] for one in many})[:shown]
        assert summary(many, 1000) == head + ", ".join([*(f"{name} 5" for name in names), *rest])


def test_a_cohort_is_kept_and_chosen(index, capfd):
    hits = hits_of(index, [7, 3, 5])
    keep(index, "ms", Question("lesion", where=["age_years > 3"], cohort="few"), hits, 3)
    assert capfd.readouterr() == ("", "3 series kept: decipher search --cohort ms\n")
    kept = json.loads((index.folder / "cohorts" / "ms.json").read_text())
    assert kept["query"] == {
        "words": "lesion", "where": ["age_years > 3"], "evidence": "both", "by": "series", "k": 3, "cohort": "few",
    }  # fmt: skip
    assert kept["scores"] == [1, 0.875, 0.75]
    assert chosen(index, "ms") == [f"{n:016x}" for n in (7, 3, 5)]
    assert capfd.readouterr() == ("", "")
    keep(index, "gone", Question("lesion"), [SimpleNamespace(score=None, record={"series_id": "nobody"})])
    capfd.readouterr()
    assert chosen(index, "ms | gone") == [f"{n:016x}" for n in (7, 3, 5)]
    assert capfd.readouterr() == ("", "1 of 4 series are no longer in the index.\n")


def test_a_csv_is_for_people(index, tmp_path, capfd):
    path = tmp_path / "cohort.csv"
    assert export_hits(path, index, hits_of(index, [7, 0])) is None
    assert capfd.readouterr() == ("", f"2 rows written: {path}\n")
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = list(rows[0])
    assert names[:8] == ["rank", "score", "standing", "series_id", "study_id", "patient_id", "archive", "path"]
    assert not {"files", "affine_mm", "fingerprint", "report"} & set(names)
    assert "Jane" not in path.read_text()
    first, second = rows
    assert (first["rank"], first["score"], first["series_id"]) == ("1", "1.0", f"{7:016x}")
    assert (second["rank"], second["score"], second["age_years"]) == ("2", "0.875", "")
    assert first["archive"] == str(index.archives["here"].root)
    assert first["path"] == "sub-03/series 07.nii.gz"
    assert (first["spacing_mm"], first["shape"], first["site"]) == ("0.9 0.9 5.5", "256 256 30", "a,b")
    assert (first["sequence"], first["age_years"], first["sex"]) == ("", "12.0", "M")


def test_a_parquet_file_is_a_catalogue(index, tmp_path):
    path = tmp_path / "cohort.parquet"
    hits = hits_of(index, [9, 2, 4])
    for hit in hits:
        hit.standing = None
    export_hits(path, index, hits)
    table = pl.read_parquet(path)
    assert table["rank"].to_list() == [1, 2, 3]
    assert "standing" not in table.columns and "report" not in table.columns
    assert is_catalogue(path)
    found, root = read_catalogue(path)
    assert root == index.archives["here"].root
    assert found.records["files"].to_list() == [[f"sub-{n // 2:02d}/series {n:02d}.nii.gz"] for n in (9, 2, 4)]
    assert found.records["spacing_mm"][0].to_list() == [0.9, 0.8999999761581421, 5.5]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_export_replaces_an_export_and_nothing_else(index, tmp_path, ending):
    path = tmp_path / f"cohort.{ending}"
    export_hits(path, index, hits_of(index, [1, 2, 3]), "0.5/0.5")
    before = path.read_bytes()
    export_hits(path, index, hits_of(index, [1]))
    assert path.read_bytes() != before
    table = pl.read_csv(path) if ending == "csv" else pl.read_parquet(path)
    others = [table.with_columns(reader=pl.lit("sick")), table.drop("rank"), pl.DataFrame({"a": [1]})]
    for other in others:
        other.write_csv(path) if ending == "csv" else other.write_parquet(path)
        before = path.read_bytes()
        for use in (lambda: check_export(path, None, index), lambda: export_hits(path, index, hits_of(index, [1]))):
            with pytest.raises(DecipherError, match="no export of a cohort made it"):
                use()
        assert path.read_bytes() == before
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DecipherError, match="no export of a cohort made it"):
        check_export(path, None, index)


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [
        ("cohort.xlsx", None, "neither a CSV nor a Parquet file"),
        ("cohort", None, "neither a CSV nor a Parquet file"),
        ("nowhere/cohort.csv", None, "no folder"),
        (None, "0.7/0.3", "nowhere to go"),
        ("cohort.csv", "0.7/0.2", "add up to 0.9"),
        (None, "seven", "cannot be read"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_search(index, tmp_path, name, split, said):
    with pytest.raises(DecipherError, match=said) as error:
        check_export(name and tmp_path / name, split, index)
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_or_a_full_disk_is_told(index, tmp_path, monkeypatch):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DecipherError, match="exists"):
        check_export(tmp_path / "folder.csv", None, index)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cohorts, "replace_file", full)
    with pytest.raises(DecipherError, match="No space left on device"):
        export_hits(tmp_path / "cohort.csv", index, hits_of(index, [1]))


def test_a_split_tells_its_balance_and_what_may_leak(index, tmp_path, capfd):
    path = tmp_path / "cohort.csv"
    hits = hits_of(index, list(range(COUNT)))
    seed = next(n for n in range(99) if _apart(index, n))
    report = export_hits(path, index, hits, "0.6/0.2/0.2", seed)
    out, err = capfd.readouterr()
    assert out == ""
    rows = pl.read_csv(path)
    assert rows.columns[:4] == ["rank", "score", "standing", "split"]
    parts = split(index.records, (0.6, 0.2, 0.2), seed)
    assert rows["split"].to_list() == parts.to_list()
    assert rows.group_by("patient_id").agg(pl.col("split").n_unique())["split"].max() == 1
    lines = [line.split() for line in err.splitlines()]
    assert ["patients", "12", "4", "4"] in lines
    assert ["series", "24", "8", "8"] in lines
    flair = Counts(rows.filter(sequence="FLAIR")["split"].to_list())
    assert ["FLAIR", *flair.cells(24, 8, 8)] in lines
    assert report.near == 1
    pair = {f"{0:016x}", f"{38:016x}"}
    assert set(report.nearest[0].series) == pair
    assert any(pair <= set(line) for line in lines)
    assert "Parted patients: 0. Parted studies: 0.\n" in err
    assert all(len(line) <= 80 for line in report_lines(report))
    told = json.loads((tmp_path / "cohort.csv.split.json").read_text())
    assert (told["split"], told["seed"], told["series"], told["near"]) == ("0.6/0.2/0.2", seed, COUNT, 1)
    assert set(told["nearest"][0]["series"]) == pair
    before = path.read_bytes(), (tmp_path / "cohort.csv.split.json").read_bytes()
    export_hits(path, index, hits, "0.6/0.2/0.2", seed)
    assert (path.read_bytes(), (tmp_path / "cohort.csv.split.json").read_bytes()) == before


class Counts(list):
    def cells(self, *of: int) -> list[str]:
        counts = [self.count(part) for part in ("train", "validation", "test")]
        return " ".join(f"{n} ({100 * n / all_:2.0f} %)" for n, all_ in zip(counts, of, strict=True)).split()


def _apart(index: Index, seed: int) -> bool:
    parts = split(index.records, (0.6, 0.2, 0.2), seed)
    return parts[0] != parts[38]


def test_another_file_beside_the_export_stays(index, tmp_path):
    other = tmp_path / "cohort.csv.split.json"
    other.write_text("{}")
    with pytest.raises(DecipherError, match=r"split\.json exists"):
        check_export(tmp_path / "cohort.csv", "0.5/0.5", index)
    check_export(tmp_path / "cohort.csv", None, index)
    assert other.read_text() == "{}"


def test_more_parts_than_patients_are_told_and_nothing_is_written(index, tmp_path):
    with pytest.raises(DecipherError, match="the cohort has 2"):
        export_hits(tmp_path / "cohort.csv", index, hits_of(index, [0, 1, 2]), "0.4/0.3/0.3")
    assert list(tmp_path.iterdir()) == []


def test_what_an_export_added_is_not_added_twice(index, tmp_path):
    """An index that was made of an export has rank, score and split of its own."""
    export_hits(tmp_path / "first.parquet", index, hits_of(index, list(range(10))), "0.5/0.5")
    records = pl.read_parquet(tmp_path / "first.parquet").with_columns(archive=pl.lit("here"))
    made = Index.create(tmp_path / "i", index.passport, index.archives.values())
    made.append(records, index.vectors[:10])
    export_hits(tmp_path / "again.csv", made, hits_of(made, [4, 2]))
    again = pl.read_csv(tmp_path / "again.csv")
    assert again["rank"].to_list() == [1, 2]
    assert again["split"].to_list() == [records["split"][4], records["split"][2]]
    export_hits(tmp_path / "again.csv", made, hits_of(made, [4, 2]), "0.5/0.5")
    assert sorted(pl.read_csv(tmp_path / "again.csv")["split"]) == ["test", "train"]


def test_an_empty_cohort_is_a_table_without_rows(index, tmp_path):
    export_hits(tmp_path / "none.csv", index, [])
    assert (tmp_path / "none.csv").read_text().startswith("rank,score,series_id,")
    export_hits(tmp_path / "none.csv", index, hits_of(index, [1]))
    assert len((tmp_path / "none.csv").read_text().splitlines()) == 2
