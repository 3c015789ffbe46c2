"""Saved columns: read like the records' own, true of the files they were worked out on, and gone with their series."""

import errno
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_merge import made as site
from test_store import PASSPORT, records_of, unit

from index import removal, saving
from index.archive import Archive
from index.filter import matching
from index.merge import merge
from index.saved_columns import about
from index.store import Index
from index.verify import verify
from models.errors import DecipherError

ORIGIN = {"by": "classify", "date": "2026-01-01T00:00:00+00:00", "prompts": {"T1": ["T1w"]}}


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator) -> Index:
    """Series a to f in two segments."""
    made = Index.create(tmp_path / "index", PASSPORT, [Archive("archive", tmp_path)])
    for ids in ("abcd", "ef"):
        stamps = [f"files of {one}" for one in ids]
        made.append(records_of(list(ids), fingerprint=stamps, archive=["archive"] * len(ids)), unit(rng, len(ids)))
    return made


def saved(index: Index, rows: str = "abcdef", name: str = "guess", labels: str = "") -> Path:
    """Save for each series its letter in upper case, or `labels`, and tenths."""
    at = index.row_of(rows)
    numbers = np.array([at[one] for one in rows])
    return saving.save(index, name, numbers, list(labels or rows.upper()), numbers / 10, ORIGIN)


def values(index: Index, name: str = "guess") -> dict[str, str | None]:
    frame = index.columns(["series_id", name])
    return dict(zip(frame["series_id"], frame[name], strict=True))


def test_a_saved_column_is_read_in_every_way(index):
    saved(index, "fca")
    for now in (index, Index.open(index.folder)):
        assert values(now) == {"a": "A", "b": None, "c": "C", "d": None, "e": None, "f": "F"}
        assert now.columns(["guess_probability"])["guess_probability"].to_list() == [0, None, 0.2, None, None, 0.5]
        assert now.columns(["guess_probability"]).columns == ["guess_probability"]
        assert now.rows(np.array([5, 0]), ["guess", "series_id"]).rows() == [("F", "f"), ("A", "a")]
        assert now.rows(np.array([2]))["guess"].to_list() == now.records["guess"][2:3].to_list() == ["C"]
        assert now.rows(np.array([], dtype=int), ["guess"]).schema == {"guess": pl.String}
        assert now.schema["guess"] == pl.String and now.schema["guess_probability"] == pl.Float64
        assert list(now.records.schema.items()) == list(now.schema.items())
        assert matching(now, ["guess = 'C' or guess_probability > 0.4"]).tolist() == [
            False,
            False,
            True,
            False,
            False,
            True,
        ]
        assert verify(now) == []
    assert "guess" not in index.stored and index.rows(np.array([0]), index.stored).columns == [*index.stored]
    assert saving.origins(index) == {"guess": ORIGIN}


def test_numbers_are_saved_as_numbers_with_their_interval(index, rng):
    rows = np.array([0, 2, 5])
    saving.save_numbers(index, "age_guess", rows, np.array([61.5, 40.0, 70.0]), 10.0, ORIGIN)
    for now in (index, Index.open(index.folder)):
        assert {name: now.schema[name] for name in now.saved} == dict.fromkeys(
            ["age_guess", "age_guess_low", "age_guess_high"], pl.Float64
        )
        assert values(now, "age_guess") == {"a": 61.5, "b": None, "c": 40.0, "d": None, "e": None, "f": 70.0}
        assert matching(now, ["age_guess > 60"]).tolist() == [True, False, False, False, False, True]
        assert matching(now, ["age_guess_low > 55", "age_guess_high < 90"]).tolist() == [False] * 5 + [True]
        assert verify(now) == []
    removal.remove(index, ["f"])
    removal.compact(index)
    assert values(index, "age_guess") == {"a": 61.5, "b": None, "c": 40.0, "d": None, "e": None} and verify(index) == []
    saving.save_numbers(index, "age_guess", rows[:1], np.array([3.0]), None, ORIGIN)
    assert list(index.saved) == ["age_guess"], "an interval that is not known is not there"
    saved(index, "ab", name="age_guess")
    assert list(index.saved) == ["age_guess", "age_guess_probability"] and index.schema["age_guess"] == pl.String
    for name in ("age_guess_low", "AGE_guess_high"):
        saving.save_numbers(index, "age_guess", rows[:2], np.ones(2), 1.0, ORIGIN)
        with pytest.raises(DecipherError, match="already"):
            saving.save_numbers(index, name, rows[:2], np.ones(2), 1.0, ORIGIN)


def test_saving_again_replaces_all_of_it(index):
    saved(index)
    saved(index, "ab", labels="xy")
    assert values(index) == {"a": "x", "b": "y", "c": None, "d": None, "e": None, "f": None}
    assert [path.name for path in (index.folder / "columns").iterdir()] == ["guess.parquet"]


def test_a_series_whose_files_changed_loses_what_was_said_of_it(index, rng):
    saved(index)
    fresh = records_of(["b", "c"], fingerprint=["files of b", "other files of c"], archive=["archive"] * 2)
    index.replace(fresh, unit(rng, 2))
    assert values(index) == {"a": "A", "d": "D", "e": "E", "f": "F", "b": "B", "c": None}
    removal.compact(index)
    assert pl.read_parquet(index.folder / "columns" / "guess.parquet")["series_id"].to_list() == list("abdef")
    assert verify(index) == []


def test_removed_series_leave_when_the_index_is_compacted(index):
    path = saved(index)
    removal.remove(index, ["a", "f"])
    assert values(index) == dict(zip("bcde", "BCDE", strict=True)) and verify(index) == []
    removal.compact(index)
    assert pl.read_parquet(path)["series_id"].to_list() == list("bcde")
    assert values(index) == dict(zip("bcde", "BCDE", strict=True)) and verify(index) == []
    assert saving.origins(Index.open(index.folder)) == {"guess": ORIGIN}
    removal.remove(index, list("bcde"))
    removal.compact(index)
    assert not path.exists() and index.saved == {}


@pytest.mark.parametrize(
    "name",
    ["", "1st", "a b", "a-b", "select", "null", "../x", "_row", "é", "sequence", "SEQUENCE", "study_id", "spacing_mm", "age",
     "rank", "split", "participant_id", "about", "x" * 64],
)  # fmt: skip
def test_a_name_that_cannot_be_a_column_is_refused(index, name):
    with pytest.raises(DecipherError) as error:
        saved(index, name=name)
    assert error.value.hint and not (index.folder / "columns").exists()


def test_names_that_would_hide_another_are_refused(index, rng):
    saved(index)
    for name in ("guess_probability", "Guess", "GUESS_probability"):
        with pytest.raises(DecipherError, match="already"):
            saved(index, name=name)
    saved(index, name="other")
    assert list(index.saved) == ["guess", "guess_probability", "other", "other_probability"]
    index.append(records_of(["g"], guess=[7], fingerprint=["files of g"]), unit(rng, 1))
    assert values(index) == {**dict.fromkeys("abcdef"), "g": 7}, "the records' own column is read, not the saved one"
    assert list(index.saved) == ["other", "other_probability"]
    with pytest.raises(DecipherError, match="already"):
        saved(index, "a")


def test_an_index_that_cannot_be_written_is_told(index, monkeypatch):
    real = os.open

    def read_only(path, flags, *mode, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(index.folder)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(DecipherError, match="cannot be written to: Read-only"):
        saving.check_name(index, "guess")


def test_damage_is_told_and_spoils_its_own_column_alone(index):
    path = saved(index)
    saved(index, name="other")
    path.write_bytes(path.read_bytes()[:-100])
    again = Index.open(index.folder)
    assert values(again, "other")["a"] == "A" and again.rows(np.array([0]), ["study_id"]).height == 1
    for read in (lambda: values(again), lambda: again.records):
        with pytest.raises(DecipherError, match="saved column guess cannot be read") as error:
            read()
        assert "--save guess" in error.value.hint
    assert [sentence.split(".")[0] for sentence in verify(again)] == ["The saved column guess cannot be read"]
    assert saving.origins(again)["guess"] == {"error": "The saved column guess cannot be read."}
    saved(again)
    assert verify(again) == [] and values(again)["a"] == "A"


def test_a_value_that_was_changed_is_found(index):
    path = saved(index)
    frame = pl.read_parquet(path)
    frame.with_columns(guess=pl.lit("T1")).write_parquet(path)
    assert len(found := verify(Index.open(index.folder))) == 1 and "differs from its checksum" in found[0]


def test_what_a_killed_writer_left_is_swept(index):
    (index.folder / "guess.parquet.partial").write_bytes(b"half")
    saved(index)
    assert not list(index.folder.rglob("*.partial"))


def test_a_merged_index_has_the_columns_of_its_sources(tmp_path):
    a, b = site(tmp_path / "a", "abc"), site(tmp_path / "b", "cde", seed=1)
    saved(a, "ac")
    saved(b, "cd")
    saved(b, "e", "other")
    merge([a.folder, b.folder], tmp_path / "c")
    both = Index.open(tmp_path / "c")
    assert values(both) == {"a": "A", "b": None, "c": "C", "d": "D", "e": None}
    assert values(both, "other") == {**dict.fromkeys("abcd"), "e": "E"}
    probability = both.columns(["series_id", "guess_probability"]).drop_nulls().rows()
    assert dict(probability) == {"a": 0.0, "c": 0.2, "d": 0.1}, "c is the first one's"
    assert saving.origins(both) == {"guess": ORIGIN, "other": ORIGIN} and verify(both) == []


def test_a_merge_renames_series_in_columns_too(tmp_path):
    """NIfTI series of two archives of one name and root are told apart by salted ids."""
    a = site(tmp_path / "a", "ab", kind="nifti")
    b = site(tmp_path / "b", "ab", seed=1, kind="nifti", key=b"q" * 32, archive=Archive("a", Path("/") / "a"))
    saved(a, "a", labels="x")
    origin = {**ORIGIN, "date": "2026-02-02T00:00:00+00:00"}
    saving.save(b, "guess", np.array([0, 1]), ["y", "z"], np.ones(2), origin)
    merge([a.folder, b.folder], tmp_path / "c")
    both = Index.open(tmp_path / "c")
    assert len(both) == 4 and both.columns(["guess"])["guess"].to_list() == ["x", None, "y", "z"]
    assert saving.origins(both)["guess"] == {"by": "merge", "from": [ORIGIN, origin]}
    assert about(both.saved["guess"])["by"] == "merge"


def test_numbers_are_merged_with_numbers_alone(tmp_path):
    a, b = site(tmp_path / "a", "abc"), site(tmp_path / "b", "cde", seed=1)
    saving.save_numbers(a, "age_guess", np.array([0, 2]), np.array([1.0, 2.0]), 5.0, ORIGIN)
    saving.save_numbers(b, "age_guess", np.array([0, 1]), np.array([3.0, 4.0]), None, ORIGIN)
    merge([a.folder, b.folder], tmp_path / "c")
    both = Index.open(tmp_path / "c")
    assert values(both, "age_guess") == {"a": 1.0, "b": None, "c": 2.0, "d": 4.0, "e": None}
    assert values(both, "age_guess_high") == {"a": 6.0, "b": None, "c": 7.0, "d": None, "e": None}
    assert verify(both) == []
    saved(b, "cd", "age_guess")
    with pytest.raises(DecipherError, match="text in one index and a number in another") as error:
        merge([a.folder, b.folder], tmp_path / "d")
    assert error.value.hint and not (tmp_path / "d").exists()
