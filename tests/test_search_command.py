"""A search as a conversation: narrow, exclude, keep, combine, hand on; and what is told on the way."""

import io
import json
import sys
from pathlib import Path

import polars as pl
import pytest
from conftest import Run

from decipher_cli.query import Question


def told(run: Run, code: int = 1) -> bool:
    return run.code == code and not run.out and "Traceback" not in run.err and bool(run.err.strip())


@pytest.fixture(scope="module")
def ids(index: Path) -> list[str]:
    from index.store import Index

    return Index.open(index).columns(["series_id"])["series_id"].to_list()


def test_a_cohort_is_kept_combined_and_searched_within(decipher, index) -> None:
    kept = decipher("search", "MRI of the brain", "-k", "12", "--save", "brains", "--ids").out.split()
    knees = decipher("search", "--where", "body_region = 'knee'", "-k", "99", "--save", "knees", "--ids").out.split()
    assert decipher("search", "--cohort", "brains", "--ids").out.split() == kept
    both = decipher("search", "--cohort", "brains | knees", "--ids").out.split()
    assert both == list(dict.fromkeys([*kept, *knees]))
    left = decipher("search", "--cohort", "(brains | knees) - knees", "--ids").out.split()
    assert left == [one for one in kept if one not in knees]
    within = decipher("search", "T2-weighted MRI", "--cohort", "brains", "-k", "5", "--json").json_lines()
    assert len(within) == 5 and {hit["series_id"] for hit in within} <= set(kept)
    assert "brains, knees" in decipher("info", index).out
    assert told(decipher("search", "--cohort", "brain"))
    assert told(decipher("search", "knee", "--save", "brains"))


def test_a_split_export_parts_no_patient_and_reports(decipher, index, tmp_path) -> None:
    out = tmp_path / "cohort.csv"
    run = decipher("search", "MRI", "-k", "500", "--export", out, "--split", "0.6/0.4", "--seed", "3", "-q")
    assert run.code == 0 and run.out == "" and run.err == ""
    rows = pl.read_csv(out)
    assert set(rows["split"]) == {"train", "test"}
    assert rows.group_by("patient_id").agg(pl.col("split").n_unique())["split"].max() == 1
    report = json.loads(Path(f"{out}.split.json").read_text())
    assert report["patients_parted"] == 0 and report["seed"] == 3
    assert told(decipher("search", "MRI", "--split", "0.6/0.4")), "a split has nowhere to go without a file"
    assert told(decipher("search", "MRI", "--export", tmp_path / "x.doc"))


def test_conflicts_name_what_the_pixels_suggest(decipher, index) -> None:
    run = decipher("search", "--conflicts", "-k", "5", "--json")
    for row in run.json_lines():
        assert row[row["field"]] == row["tagged"] != row["suggested"]
        assert 0 < row["score"] <= 1 and row["votes"] <= row["of"]
    assert run.code == 0 and ("held against" in run.err or "enough patients" in run.err)
    assert told(decipher("search", "knee", "--conflicts"), 2)


def test_standings_fall_with_the_scores(decipher, index) -> None:
    hits = decipher("search", "FLAIR MRI of the brain", "-k", "30", "--json").json_lines()
    standings = [hit["standing"] for hit in hits]
    assert standings == sorted(standings, reverse=True) and 0 <= standings[-1] <= standings[0] <= 1


def test_a_query_about_nothing_here_is_told(decipher, index, ids) -> None:
    run = decipher("search", "recipe for apple pie", "-k", "2")
    assert run.code == 0 and "does not read like a question about MRI" in run.err
    decipher("search", "--where", "body_region = 'brain'", "-k", "99", "--save", "heads", "-q")
    elsewhere = decipher("search", "MRI of the knee", "--cohort", "heads").err
    assert "about MRI" not in elsewhere and "No hit is of the knee" in elsewhere and "most look like" in elsewhere
    assert "No hit is of" not in decipher("search", "MRI of the knee", "-k", "3").err
    assert "No hit is of the wrist" in decipher("search", "triquetral fracture, wrist").err
    assert "Nothing stands out" not in decipher("search", ids[0], "-k", "2").err


def test_organs_that_are_not_there_are_told_of_and_those_that_are_there_are_not(decipher, index) -> None:
    """With each region taken out in turn."""
    regions = sorted({hit["body_region"] for hit in decipher("search", "MRI", "-k", "500", "--json").json_lines()})
    assert len(regions) >= 4
    for region in regions:
        asked = ("search", f"MRI of the {region}", "-k", "5", "--ids")
        assert "No hit is of" not in decipher(*asked).err
        assert f"No hit is of the {region}" in decipher(*asked, "--where", f"body_region != '{region}'").err


@pytest.mark.parametrize("query", ["0123456789abcdef", "./no/such/file.nii.gz", "scan.nii"])
def test_what_reads_like_an_id_or_a_file_and_is_not_there_is_told(decipher, index, query) -> None:
    assert told(decipher("search", query))
    assert told(decipher("search", "--like", query))


def test_words_are_no_example(decipher, index) -> None:
    assert told(decipher("search", "--like", "a brain"))


def test_ten_thousand_words_are_cut_and_said(decipher, index, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("lesion " * 10_000))
    run = decipher("search", "-", "-k", "2", "--ids")
    assert run.code == 0 and len(run.out.split()) == 2 and "its beginning counts" in run.err


def test_many_examples_and_exclusions(decipher, index, ids) -> None:
    run = decipher("search", "MRI", "--like", ids[0], "--like", ids[1], "--not", ids[2], "--not", "knee", "--json")
    assert run.code == 0 and len(run.json_lines()) == 10


def test_all_series_stream_in_order(decipher, index, ids) -> None:
    hits = decipher("search", "MRI", "-k", "100000", "--json").json_lines()
    assert len(hits) == len(ids) and [hit["rank"] for hit in hits] == list(range(1, len(ids) + 1))


def test_a_page_with_volumes_carries_them_and_no_path(decipher, index, tmp_path) -> None:
    page = tmp_path / "cohort.html"
    run = decipher("search", "MRI of the brain", "-k", "3", "--html", page, "--volumes", "1", "--not", "knee")
    text = page.read_text()
    assert run.code == 0 and "niivue" in text.lower() and ".nii.gz" not in text
    shown = decipher("search", "MRI of the brain", "-k", "3", "--html", page, "--paths")
    assert shown.code == 0 and any(one in page.read_text() for one in (".nii.gz", "dicom/"))


def test_eval_index_tells_recall_and_spread(decipher, index) -> None:
    (found,) = decipher("eval", "index", "--json", "--queries", "10").json_lines()
    assert found["recall@10"]["value"] == 1 and 1 <= found["effective_rank"] <= found["dim"]
    assert "recall@10" in decipher("eval", "index", "--queries", "10").out


def test_a_question_knows_whether_it_ranks() -> None:
    assert Question(query="").ranks and Question(unlike=("x",)).ranks and not Question(where=("1=1",)).ranks
    assert Question().is_empty and not Question(cohort="a").is_empty
