"""Labels and reports beside an archive: which row they reach, what they replace, what they must not let in."""

import hashlib
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.labels import archive_labels, archive_reports, join_labels, join_reports, load_labels, load_reports
from index.record import SCHEMA, hash_of
from models.errors import DecipherError

KEY = b"k" * 32


def hashed(raw: str) -> str:
    return hashlib.blake2b(raw.encode(), key=KEY, digest_size=8).hexdigest()


def catalogue(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame([{name: row.get(name) for name in SCHEMA} for row in rows], schema=SCHEMA)


def table(tmp_path: Path, text: str, name: str = "labels.csv") -> pl.DataFrame:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_labels(path)


RECORDS = catalogue(
    {
        "series_id": "1",
        "path": "a/one.nii.gz",
        "patient_id": hashed("sub-01"),
        "sequence": "T1",
        "sequence_from": "name",
    },
    {
        "series_id": "2",
        "path": "a/b/two.nii.gz",
        "patient_id": hashed("sub-02"),
        "age_years": 5.0,
        "age_years_from": "tag",
    },
    {"series_id": "3", "path": "dicom/x", "patient_id": hashed("P3"), "study_id": hash_of("1.2.3"), "contrast": "yes"},
    {"series_id": "4", "path": "dicom/x", "part": "t=1", "study_id": hash_of("1.2.3"), "sex": "F", "sex_from": "tag"},
    {"series_id": "5", "path": "dicom/xx/5", "patient_id": None},
)


def test_the_catalogue_is_replaced_where_a_label_has_a_value(tmp_path):
    labels = table(
        tmp_path,
        "path,sequence,age,sex,contrast,site,grade\n"
        "./a/one.nii.gz,T2w,044,male,unknown,north,2\n"
        "a/b/two.nii.gz,unknown,n/a,,no,,\n"
        "dicom/x/,,61.5 years,Unknown,n/a,south,4\n",
    )
    joined = join_labels(RECORDS, labels, KEY)
    found = joined.records
    assert (joined.by, joined.matched, joined.unmatched) == ("path", 3, 0)
    assert found["series_id"].to_list() == list("12345")
    assert found["sequence"].to_list() == ["T2", None, None, None, None]
    assert found["sequence_from"].to_list() == ["labels", None, None, None, None]
    assert found["age_years"].to_list() == [44.0, 5.0, 61.5, 61.5, None]
    assert found["age_years_from"].to_list() == ["labels", "tag", "labels", "labels", None]
    assert found["sex"].to_list() == ["M", None, None, "F", None]
    assert found["sex_from"].to_list() == ["labels", None, None, "tag", None]
    assert found["contrast"].to_list() == [None, "no", "yes", None, None]
    assert found["site"].to_list() == ["north", None, "south", "south", None]
    assert found["grade"].to_list() == [2, None, 4, 4, None]
    assert found.schema["grade"] == pl.Int64
    assert {name: kind for name, kind in found.schema.items() if name in SCHEMA} == SCHEMA
    assert found.select(["path", "study_id", "series_id", "patient_id"]).equals(
        RECORDS.select(["path", "study_id", "series_id", "patient_id"])
    )


@pytest.mark.parametrize(
    ("path", "reached"),
    [
        ("a/one.nii.gz", "1"),
        ("a/", "12"),
        ("./a", "12"),
        ("dicom/x", "34"),
        ("dicom", "345"),
        ("dicom\\xx", "5"),
        (".", "12345"),
        ("one.nii.gz", ""),
        ("dicom/x/5", ""),
        ("A", ""),
    ],
)
def test_a_path_reaches_itself_and_what_lies_below(path, reached):
    labels = pl.DataFrame({"path": [path], "site": ["north"]})
    found = join_labels(RECORDS, labels).records
    if not reached:
        assert found.equals(RECORDS)
    else:
        assert "".join(found.filter(pl.col("site") == "north")["series_id"]) == reached


def test_the_deepest_folder_wins():
    labels = pl.DataFrame({"path": ["a", "a/b/two.nii.gz", ".", "nowhere"], "site": ["a", "two", "root", "none"]})
    joined = join_labels(RECORDS, labels)
    assert joined.records["site"].to_list() == ["a", "two", "root", "root", "root"]
    assert (joined.matched, joined.unmatched) == (3, 1)


@pytest.mark.parametrize("by", ["patient_id", "subject_id", "participant_id"])
def test_patients_are_found_by_the_keyed_hash_with_or_without_sub(tmp_path, by):
    labels = table(tmp_path, f"{by}\tgroup\n01\tcase\nsub-02\tcontrol\nP3\tcase\n99\tcase\n", "participants.tsv")
    joined = join_labels(RECORDS, labels, KEY)
    assert joined.records["group"].to_list() == ["case", "control", "case", None, None]
    assert (joined.by, joined.matched, joined.unmatched) == (by, 3, 1)
    assert joined.records["patient_id"].equals(RECORDS["patient_id"])
    assert set(joined.records.columns) == {*RECORDS.columns, "group"}, "raw identities are not kept"
    assert join_labels(RECORDS, labels, b"x" * 32).matched == 0
    own = pl.DataFrame({by: [hashed("sub-01")], "group": ["case"]})
    assert join_labels(RECORDS, own, KEY).records["group"].to_list()[0] == "case"


def test_study_and_series_are_found_by_their_hash_and_by_their_uid():
    for value in ("1.2.3", hash_of("1.2.3")):
        found = join_labels(RECORDS, pl.DataFrame({"study_id": [value], "site": ["x"]})).records
        assert found["site"].to_list() == [None, None, "x", "x", None]
    uid = "1.2.840.9"
    records = catalogue({"series_id": hash_of(uid, None)}, {"series_id": hash_of(uid, "t=1"), "part": "t=1"})
    assert join_labels(records, pl.DataFrame({"series_id": [uid], "site": ["x"]})).records["site"].to_list() == [
        "x",
        "x",
    ]


def test_a_label_by_path_tells_the_patient(tmp_path):
    labels = table(tmp_path, "path,subject_id\ndicom/xx,Mary\na/one.nii.gz,\n")
    found = join_labels(RECORDS, labels, KEY).records
    assert found["patient_id"].to_list() == [*RECORDS["patient_id"].to_list()[:4], hashed("Mary")]
    assert "Mary" not in str(found.to_dicts())


def test_the_most_particular_key_that_finds_anything_is_used():
    labels = pl.DataFrame(
        {
            "study_id": ["s", "s"],
            "path": ["a/one.nii.gz", "a/b/two.nii.gz"],
            "subject_id": ["p", "p"],
            "site": ["x", "y"],
        }
    )
    joined = join_labels(RECORDS, labels, KEY)
    assert joined.by == "path"
    assert joined.records["site"].to_list()[:2] == ["x", "y"]
    assert joined.records["patient_id"].to_list()[:2] == [hashed("p")] * 2
    elsewhere = labels.with_columns(path=pl.Series(["/mnt/1", "/mnt/2"]), subject_id=pl.Series(["01", "P3"]))
    assert join_labels(RECORDS, elsewhere, KEY).by == "subject_id"


@pytest.mark.parametrize(
    ("column", "values"),
    [("path", ["a/", "./a"]), ("participant_id", ["01", "sub-01"]), ("series_id", ["1", "1"])],
)
def test_two_rows_about_the_same_are_told(column, values):
    with pytest.raises(DecipherError, match=f"about {column}"):
        join_labels(RECORDS, pl.DataFrame({column: values, "site": ["x", "y"]}), KEY)


def test_labels_that_reach_nothing_change_nothing():
    joined = join_labels(RECORDS, pl.DataFrame({"path": ["q", "r"], "sex": ["F", "M"]}))
    assert joined.records.equals(RECORDS)
    assert (joined.by, joined.matched, joined.unmatched) == (None, 0, 2)
    empty = join_labels(RECORDS.clear(), pl.DataFrame({"path": ["a"], "site": ["x"]}))
    assert (empty.records.height, empty.matched) == (0, 0)


def test_labels_joined_again_replace_what_was_added_before():
    once = join_labels(RECORDS, pl.DataFrame({"path": ["a", "dicom"], "site": ["x", "y"]})).records
    twice = join_labels(once, pl.DataFrame({"path": ["a/b", "a/one.nii.gz"], "site": ["z", None]})).records
    assert twice["site"].to_list() == ["x", "z", "y", "y", "y"]
    assert twice.columns == once.columns


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("abc/")), max_size=6).map(
        lambda w: ["/".join(x) for x in w]
    )
)
def test_paths_match_as_a_walk_over_parents_does(raw):
    paths = sorted({"/".join(p for p in one.split("/") if p) for one in raw})
    records = catalogue(
        *({"series_id": str(i), "path": f"{p}/v.nii"} for i, p in enumerate(["a", "a/b", "b", "b/c/a"]))
    )
    found = join_labels(
        records, pl.DataFrame({"path": paths, "site": paths}, schema={"path": pl.String, "site": pl.String})
    )
    for record in found.records.to_dicts():
        above = [record["path"], *(str(p) for p in Path(record["path"]).parents)]
        assert record.get("site") == next((one for one in above if one in paths), None)


def test_tables_are_read_in_their_usual_forms(tmp_path):
    wanted = [("a/one.nii.gz", "x,y", 1.5), ("b", None, None)]
    table(tmp_path, '\ufeffpath,note,size\na/one.nii.gz,"x,y",1.5\nb,N/A,\n')
    table(tmp_path, "path\tnote\tsize\r\na/one.nii.gz\tx,y\t1.5\r\nb\t \tnan\r\n", "t.tsv")
    table(tmp_path, "path;note;size\na/one.nii.gz;x,y;1.5\nb;n/a;\n", "semicolon.csv")
    load_labels(tmp_path / "t.tsv").write_parquet(tmp_path / "p.parquet")
    for name in ("labels.csv", "t.tsv", "semicolon.csv", "p.parquet"):
        assert load_labels(tmp_path / name).rows() == wanted, name


def test_numbers_are_numbers_and_codes_stay_codes(tmp_path):
    labels = table(tmp_path, "participant_id,score,stage,mixed\n007,1,1.5,1\n008,2,,two\n")
    assert labels.to_dict(as_series=False) == {
        "participant_id": ["007", "008"], "score": [1, 2], "stage": [1.5, None], "mixed": ["1", "two"],
    }  # fmt: skip


def test_a_table_that_is_none_is_told(tmp_path):
    with pytest.raises(DecipherError, match="No such file"):
        load_labels(tmp_path / "none.csv")
    with pytest.raises(DecipherError, match="no column that says"):
        table(tmp_path, "name,age\nx,3\n")
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(DecipherError, match="cannot be read as a table"):
        load_labels(tmp_path / "x.parquet")
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(DecipherError, match="cannot be read as a table"):
        load_labels(tmp_path / "empty.csv")


def test_reports_are_joined_as_text(tmp_path):
    (tmp_path / "reports.csv").write_text('path,report,reader\na,"Normal brain.\nNo lesion.",RH\ndicom/xx/5,12,RH\n')
    reports = load_reports(tmp_path / "reports.csv")
    assert reports.columns == ["path", "report"]
    joined = join_reports(RECORDS, reports)
    assert joined.records["report"].to_list() == ["Normal brain.\nNo lesion."] * 2 + [None, None, "12"]
    assert joined.records.columns == RECORDS.columns
    table(tmp_path, "path,text\na,b\n")
    with pytest.raises(DecipherError, match="no column named report"):
        load_reports(tmp_path / "labels.csv")


def test_files_at_the_archives_root_are_found(tmp_path):
    assert archive_labels(tmp_path) is None
    assert archive_reports(tmp_path) is None
    for name in ("participants.tsv", "labels.csv", "reports.csv"):
        (tmp_path / name).write_text("path\n")
        if name == "participants.tsv":
            assert archive_labels(tmp_path) == tmp_path / name
    assert archive_labels(tmp_path) == tmp_path / "labels.csv"
    assert archive_reports(tmp_path) == tmp_path / "reports.csv"


def test_real_labels_reach_every_volume_they_name(shared):
    labels = load_labels(archive_labels(shared / "mri"))
    paths = [path.rstrip("/") for path in labels["path"]]
    records = catalogue(*({"series_id": str(i), "path": path} for i, path in enumerate(paths)))
    joined = join_labels(records, labels, KEY)
    assert (joined.by, joined.matched, joined.unmatched) == ("path", labels.height, 0)
    brain = joined.records.filter(pl.col("path").str.contains("brain_t2_siemens")).to_dicts()[0]
    assert (brain["sequence"], brain["age_years"], brain["plane"], brain["contrast"]) == ("T2", 26.0, "axial", "no")
    assert brain["patient_id"] == hashed("fnndsc-adi")
