"""Cohorts: what is kept is what was found, names are never taken over, and sets combine as on paper."""

import errno
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index import cohort
from index.cohort import EXAMPLE, asked, choose, load_cohort, names, save
from index.store import Index
from models.errors import DecipherError

COUNT = 12
PASSPORT = {"name": "small", "hash": "a1" * 16, "dim": 3, "prepare": "p1"}
IDS = [f"s{number:02d}" for number in range(COUNT)]
OPERATORS = {
    "&": lambda a, b: [one for one in a if one in b],
    "|": lambda a, b: a + [one for one in b if one not in a],
    "-": lambda a, b: [one for one in a if one not in b],
}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Twelve series; not to be changed but for its cohorts."""
    made = Index.create(tmp_path_factory.mktemp("cohorts") / "index", PASSPORT)
    made.append(pl.DataFrame({"series_id": IDS}), np.eye(3, dtype=np.float32)[[n % 3 for n in range(COUNT)]])
    return made


@pytest.fixture
def index(standing: Index) -> Index:
    for path in (standing.folder / "cohorts").glob("*"):
        path.unlink()
    return standing


def test_what_is_kept_is_what_was_asked_and_found(index):
    query = asked("T2 lesion", ["s01"], where=["age_years > 60"], evidence="tags", k=3, cohort="")
    path = save(index, "ms-elderly_2.b", query, ["s03", "s01", "s02"], [0.9, 0.5, 0.25])
    assert path == index.folder / "cohorts" / "ms-elderly_2.b.json"
    kept = json.loads(path.read_text())
    assert datetime.fromisoformat(kept.pop("created")).utcoffset().total_seconds() == 0
    assert kept == {
        "name": "ms-elderly_2.b",
        "query": {"words": "T2 lesion", "like": ["s01"], "where": ["age_years > 60"], "evidence": "tags", "k": 3},
        "ids": ["s03", "s01", "s02"],
        "scores": [0.9, 0.5, 0.25],
        "passport": {"name": "small", "hash": "a1" * 16},
        "commit": 1,
    }
    again = load_cohort(Index.open(index.folder), "ms-elderly_2.b")
    assert (again.ids, again.scores, again.query, again.commit) == (kept["ids"], kept["scores"], kept["query"], 1)
    save(index, "a", {}, ["s05"], [None])
    assert load_cohort(index, "a").scores is None
    assert names(index) == ["a", "ms-elderly_2.b"]


def test_a_path_on_this_disk_is_not_kept(tmp_path, monkeypatch):
    volume = tmp_path / "Jane Doe.nii.gz"
    volume.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    query = asked(str(volume), [str(tmp_path), "s01"], ["contrast agent", "~/Jane Doe.nii.gz"], ["path LIKE 'sub-01%'"])
    assert query == {
        "words": EXAMPLE,
        "like": [EXAMPLE, "s01"],
        "unlike": ["contrast agent", EXAMPLE],
        "where": ["path LIKE 'sub-01%'"],
    }
    for words in ("lesion " * 1500, "x" * 300, "a\0b", "~nobody-of-this-name lesions"):
        assert asked(words) == {"words": words}
    assert asked() == asked("", k=None, by="") == {}


def test_a_name_is_not_taken_over(index):
    path = save(index, "ms", asked("ms"), ["s01", "s02"])
    before = path.read_bytes()
    assert save(index, "ms", asked("ms"), ["s01", "s02"]) == path
    for query, ids in ((asked("ms"), ["s02", "s01"]), (asked("sclerosis"), ["s01", "s02"])):
        with pytest.raises(DecipherError, match="another cohort 'ms'") as error:
            save(index, "ms", query, ids)
        assert str(path) in error.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", ".", "..", "../key", ".hidden", "-a", "a b", "a/b", "a" * 101, "a\n", "ä", "a&b"])
def test_what_is_no_name_is_told(index, name):
    for use in (lambda: save(index, name, {}, []), lambda: load_cohort(index, name)):
        with pytest.raises(DecipherError, match="no name for a cohort"):
            use()
    assert names(index) == []


def test_a_cohort_that_is_not_there_is_told_with_the_nearest(index):
    with pytest.raises(DecipherError, match="no cohort 'elderly'") as error:
        choose(index, "elderly")
    assert "--save NAME" in error.value.hint
    for name in ("knees", "elderly-ms"):
        save(index, name, {}, [])
    with pytest.raises(DecipherError, match="no cohort 'elderly'") as error:
        choose(index, "knees & elderly")
    assert "elderly-ms" in error.value.hint and f"decipher info {index.folder}" in error.value.hint


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff", b"\0" * 50],
)
def test_a_damaged_file_is_told(index, content):
    path = save(index, "ms", {}, ["s01"])
    path.write_bytes(content)
    with pytest.raises(DecipherError, match="'ms' cannot be read") as error:
        choose(index, "ms")
    assert str(path) in error.value.hint


@pytest.mark.parametrize("change", [{"ids": "s01"}, {"ids": [1]}, {"ids": None}, {"passport": "small"}, {"query": []}])
def test_a_file_of_other_content_is_told(index, change):
    path = save(index, "ms", {}, ["s01"])
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DecipherError, match="'ms' cannot be read"):
        load_cohort(index, "ms")


lists = st.lists(st.sampled_from(IDS), unique=True)
terms = st.recursive(
    st.sampled_from("abc"),
    lambda inner: st.lists(st.tuples(st.sampled_from("&|-"), inner), min_size=1, max_size=4).map(tuple),
    max_leaves=8,
)


def written(term: str | tuple) -> str:
    if isinstance(term, str):
        return term
    return "(" + " ".join(f"{operator} {written(one)}" for operator, one in term)[2:] + ")"


def computed(term: str | tuple, cohorts: dict[str, list[str]]) -> list[str]:
    if isinstance(term, str):
        return cohorts[term]
    result = computed(term[0][1], cohorts)
    for operator, one in term[1:]:
        result = OPERATORS[operator](result, computed(one, cohorts))
    return result


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a=lists, b=lists, c=lists, term=terms)
def test_sets_combine_from_left_to_right_in_the_left_ones_order(standing, a, b, c, term):
    for path in (standing.folder / "cohorts").glob("*"):
        path.unlink()
    for name, ids in (("a", a), ("b", b), ("c", c)):
        save(standing, name, {}, ids)
    text = written(term)
    wanted = computed(term, {"a": a, "b": b, "c": c})
    for expression in (text, text[1:-1] if text.startswith("(") else text, text.replace(" & ", "&")):
        found = choose(standing, expression)
        assert found.ids == wanted
        assert found.notes == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a=lists, b=lists)
def test_the_algebra_of_sets_holds(standing, a, b):
    for path in (standing.folder / "cohorts").glob("*"):
        path.unlink()
    save(standing, "a", {}, a)
    save(standing, "b", {}, b)
    both, either, without = (set(choose(standing, text).ids) for text in ("a & b", "a | b", "a - b"))
    assert (both, either, without) == (set(a) & set(b), set(a) | set(b), set(a) - set(b))
    assert choose(standing, "(a - b) | (a & b) - b").ids == choose(standing, "a - b").ids


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "a b",
        "a &",
        "& a",
        "a & | b",
        "(a",
        "a)",
        "()",
        "a (b)",
        "a -b",
        "(a & b",
        "-",
        "(" * 5000 + "a" + ")" * 5000,
    ],
)
def test_an_expression_that_cannot_be_read_is_told(index, expression):
    save(index, "a", {}, ["s01"])
    save(index, "b", {}, ["s01"])
    with pytest.raises(DecipherError, match="--cohort cannot be read") as error:
        choose(index, expression)
    assert "ms & elderly" in error.value.hint


def test_series_that_are_gone_are_left_out_and_counted(index, tmp_path):
    other = Index.create(tmp_path / "index", PASSPORT)
    other.append(pl.DataFrame({"series_id": IDS}), np.eye(3, dtype=np.float32)[[0] * COUNT])
    save(other, "all", {}, IDS[::-1])
    save(other, "few", {}, ["s00", "s07"])
    other.remove(["s07", "s03"])
    found = choose(Index.open(other.folder), "all")
    assert found.ids == [one for one in IDS[::-1] if one not in ("s03", "s07")]
    assert found.notes == ["2 of 12 series are no longer in the index."]
    assert choose(other, "all & few").notes == ["1 of 2 series are no longer in the index."]
    assert choose(other, "all - few").notes == ["1 of 10 series are no longer in the index."]


def test_a_cohort_of_another_encoder_stands_with_a_note(index):
    path = save(index, "old", {}, ["s01"])
    save(index, "new", {}, ["s02"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"passport": {"name": "former", "hash": "0"}}))
    found = choose(index, "old | new | old")
    assert found.ids == ["s01", "s02"]
    assert len(found.notes) == 1 and "'old'" in found.notes[0] and "former" in found.notes[0]


def test_a_second_writer_is_refused(index):
    other = Index.open(index.folder)
    with other.writing(), pytest.raises(DecipherError, match="is writing to"):
        save(index, "ms", {}, ["s01"])
    assert names(index) == []
    save(index, "ms", {}, ["s01"])
    assert names(other) == ["ms"]


def test_a_full_disk_is_told_and_what_a_killed_writer_left_is_swept(index, monkeypatch):
    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cohort, "write_json", full)
        with pytest.raises(DecipherError, match="No space left on device"):
            save(index, "ms", {}, ["s01"])
    left = index.folder / "cohorts" / "killed.json.partial"
    left.write_bytes(b"{")
    assert names(index) == []
    save(index, "ms", {}, ["s01"])
    assert [path.name for path in left.parent.iterdir()] == ["ms.json"]
