"""Series leave an index: the right ones, with their pictures, and in the end with every byte."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import PASSPORT, records_of, unit

from index.archive import Archive
from index.catalog import Catalogue, scan
from index.changes import SEEN
from index.ledger import rejects_frame
from index.nearest import refresh
from index.options import ScanOptions
from index.record import hash_of, patient_hash, records_frame
from index.removal import chosen, compact, remove
from index.scanned import load
from index.scanned import save as save_scan
from index.store import Index
from index.verify import verify
from models.errors import DecipherError

KEY = b"k" * 32
PEOPLE = ("PAT-1", "PAT-2", "PAT-1", None, "PAT-3")
OLD, NEW = Archive("old", Path("/old")), Archive("new", Path("/new"), ("new",))


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator) -> Index:
    """Series a to e of the archive "old", f of "new"; PAT-1 has a and c, and f by the salted hash of the other archive."""
    made = Index.create(tmp_path / "index", PASSPORT, [OLD, NEW], key=KEY)
    people = [patient_hash(raw, KEY) for raw in PEOPLE]
    rows = records_of(list("abcde"), patient_id=people, sex=list("FMFMF"), archive=["old"] * 5)
    made.append(rows, unit(rng, 5), unit(rng, 5))
    other = records_of(["f"], patient_id=[hash_of("new", people[0])], sex=["F"], archive=["new"])
    made.append(other, unit(rng, 1), unit(rng, 1))
    (made.folder / "thumbnails").mkdir()
    for one in "abcdef":
        (made.folder / "thumbnails" / f"{one}.png").write_bytes(f"picture of {one}".encode())
    return made


def pictures(index: Index) -> str:
    return "".join(sorted(path.stem for path in (index.folder / "thumbnails").iterdir()))


@pytest.mark.parametrize(
    ("ids", "where", "patients", "expected"),
    [
        ("d", [], [], "d"),
        ("eaa", [], [], "ae"),
        ("", ["sex = 'F'"], [], "acef"),
        ("", ["sex = 'F'", "series_id > 'b'"], [], "cef"),
        ("", [], ["PAT-1"], "acf"),
        ("", [], [patient_hash("PAT-1", KEY)], "ac"),
        ("", [], ["PAT-2", "PAT-3"], "be"),
        ("d", ["series_id = 'b'"], ["PAT-3"], "bde"),
        ("", ["sex = 'O'"], [], ""),
    ],
)
def test_series_are_chosen_by_id_condition_and_patient(
    index: Index, ids: str, where: list[str], patients: list[str], expected: str
) -> None:
    assert "".join(chosen(index, list(ids), where, patients)) == expected


@pytest.mark.parametrize(
    ("ids", "where", "patients", "told"),
    [
        (["a", "zz"], [], [], "There is no series zz"),
        ([], [], ["PAT-1", "PAT-9"], "There is no patient PAT-9"),
        ([], [], [""], "There is no patient  in"),
        ([], [], [" "], "There is no patient"),
        ([], ["sexx = 'F'"], [], "does not have: sexx"),
        ([], ["sex ="], [], "cannot be read"),
    ],
)
def test_what_is_not_here_is_told_and_removes_nothing(
    index: Index, ids: list[str], where: list[str], patients: list[str], told: str
) -> None:
    with pytest.raises(DecipherError, match=told) as error:
        chosen(index, ids, where, patients)
    assert error.value.hint
    assert len(Index.open(index.folder)) == 6


def test_an_empty_index_has_no_series_to_choose(tmp_path: Path) -> None:
    empty = Index.create(tmp_path / "i", PASSPORT)
    assert chosen(empty, [], [], []) == []
    with pytest.raises(DecipherError, match="There is no series a"):
        chosen(empty, ["a"], [], [])
    assert remove(empty, ["a"]) == 0
    compact(empty)
    assert len(Index.open(empty.folder)) == 0


def test_pictures_go_with_their_rows(index: Index) -> None:
    assert remove(index, ["a", "f", "nobody"]) == 2
    assert pictures(index) == "bcde"
    assert Index.open(index.folder).records["series_id"].to_list() == list("bcde")
    assert verify(Index.open(index.folder)) == []


def test_a_removal_that_is_killed_shows_nobody_who_is_gone(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "unlink", killed)
        remove(index, ["a", "b"])
    assert pictures(index) == "abcdef"
    found = Index.open(index.folder)
    assert found.records["series_id"].to_list() == list("cdef")
    assert verify(found) == [], "the next writer clears the pictures away"
    found.remove(["c"])
    assert pictures(index) == "cdef", "all but c, whose picture only the removal proper takes"


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def texts_below(folder: Path) -> set[str]:
    """Every text in every table below a folder, whatever packs it there."""
    found: set[str] = set()
    for path in folder.rglob("*.parquet"):
        for column in pl.read_parquet(path).iter_columns():
            flat = column.explode() if column.dtype == pl.List else column
            found |= {one for one in flat.to_list() if isinstance(one, str)}
    return found


def test_after_compacting_no_byte_of_what_was_removed_is_left(index: Index) -> None:
    refresh(index)
    vector, caption = index.vectors[1].tobytes(), index.gather(np.array([1]), "captions")[0].tobytes()
    study, bystander = index.records["study_id"][1], index.vectors[2].tobytes()
    remove(index, ["b"])
    assert any(vector in data for data in bytes_below(index.folder).values()), "a tombstone deletes nothing"
    compact(index)
    refresh(index, forget=True)
    left = bytes_below(index.folder)
    assert not [name for name, data in left.items() if vector in data or caption in data or study.encode() in data]
    assert [name for name, data in left.items() if bystander in data]
    assert not texts_below(index.folder) & {study, "b"}
    assert Index.open(index.folder).records["series_id"].to_list() == list("acdef")
    assert len(list((index.folder / "segments").iterdir())) == 1


def test_when_all_is_removed_nothing_of_it_is_left(index: Index) -> None:
    refresh(index)
    vectors = [vector.tobytes() for vector in index.vectors]
    remove(index, list("abcdef"))
    compact(index)
    refresh(index, forget=True)
    left = bytes_below(index.folder)
    assert not [name for name, data in left.items() if any(vector in data for vector in vectors)]
    assert pictures(index) == ""


def test_a_reader_of_the_old_rows_keeps_them_until_it_ends(index: Index) -> None:
    reader = Index.open(index.folder)
    vectors = index.vectors.copy()
    remove(index, ["b"])
    compact(index)
    assert len(list((index.folder / "segments").iterdir())) == 3
    assert reader.records["series_id"].to_list() == list("abcdef")
    np.testing.assert_array_equal(reader.vectors, vectors)
    del reader
    with index.writing():
        assert [path.name for path in (index.folder / "segments").iterdir()] == ["000003"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 7), min_size=1, max_size=5)), max_size=6))
def test_captions_that_no_row_has_are_not_kept(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[bool, set[int]]]
) -> None:
    rng = np.random.default_rng(3)
    texts = unit(rng, 3)
    made = Index.create(tmp_path_factory.mktemp("captions") / "i", PASSPORT)
    living: dict[str, int] = {}
    for adds, numbers in changes:
        ids = [f"s{one}" for one in sorted(numbers)]
        if adds:
            kinds = rng.integers(0, 3, len(ids))
            made.replace(records_of(ids), unit(rng, len(ids)), texts[kinds])
            living = {k: v for k, v in living.items() if k not in ids} | dict(zip(ids, kinds.tolist(), strict=True))
        else:
            made.remove(ids)
            living = {k: v for k, v in living.items() if k not in ids}
    compact(made)
    assert sum(len(segment.captions) for segment in made.segments) == len(set(living.values()))
    np.testing.assert_array_equal(made.gather(np.arange(len(made)), "captions"), texts[list(living.values())])


def test_the_last_scan_forgets_what_was_removed_and_looks_at_it_again(tmp_path: Path) -> None:
    from test_nifti import noise, save

    root = tmp_path / "archive"
    for name in ("sub-01", "sub-02", "sub-03"):
        save(root / name / f"{name}_T1w.nii.gz", noise())
    home = Archive("archive", root, ("salt",))
    made = Index.create(tmp_path / "i", PASSPORT, [home], key=KEY)
    found = scan(root, key=KEY)
    memory = made.folder / "scan" / "archive.parquet"
    save_scan(memory, found, root, ScanOptions())
    records = home.own(found.records)
    made.append(records, unit(np.random.default_rng(0), 3))
    compact(made)
    whole = load(memory, root, ScanOptions())
    assert whole is not None and whole.records.equals(found.records)
    remove(made, [records["series_id"][1]])
    compact(made)
    left = load(memory, root, ScanOptions())
    assert left is not None and left.records.equals(found.records[[0, 2]])
    assert not [text for text in texts_below(made.folder) if "sub-02" in text]
    again = scan(root, key=KEY, known=left)
    assert again.records.equals(found.records)
    assert again.rejects.equals(found.rejects)


def test_a_catalogue_that_was_never_scanned_is_left_alone(tmp_path: Path) -> None:
    nothing = Catalogue(records_frame([]), rejects_frame([]), pl.DataFrame(schema=SEEN), 0)
    made = Index.create(tmp_path / "i", PASSPORT, [Archive("a", tmp_path)])
    save_scan(made.folder / "scan" / "a.parquet", nothing, tmp_path, ScanOptions())
    compact(made)
    assert (made.folder / "scan" / "a.parquet").is_file()
