"""nearest.faiss beside an index that grows and shrinks: it proposes what exact search finds, and where it cannot, says so."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index import approximate, building
from index import nearest as module
from index.covered import read_stamp
from index.nearest import described, load, rebuild, refresh
from index.ranking import Side, exact, ranking
from index.store import Index
from models.errors import DecipherError

DIM, COUNT = 16, 3000


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = unit(np.random.default_rng(7), 40)[rng.integers(0, 40, count)] + 0.5 * unit(rng, count)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def add(index: Index, rng: np.random.Generator, count: int) -> None:
    first = index.commit * 100_000
    ids = pl.DataFrame({"series_id": [f"s{row:09d}" for row in range(first, first + count)]})
    index.append(ids, clustered(rng, count), unit(rng, 20)[rng.integers(0, 20, count)])


def drop(index: Index, rows: np.ndarray) -> None:
    index.remove(index.columns(["series_id"])["series_id"].gather(rows))


def recall(index: Index, rng: np.random.Generator, count: int = 60) -> float:
    """How many of the ten best of new queries are found through nearest.faiss."""
    nearest = load(index)
    assert nearest is not None
    found = []
    for query in clustered(rng, count):
        side = [Side("vectors", query)]
        rows = ranking(index, side, None, nearest)(10)[1]
        assert len(rows) == 10
        found.append(np.isin(exact(index, side)(10)[1], rows).mean())
    return float(np.mean(found))


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approximate, "FROM_ROWS", 1000)
    monkeypatch.setattr(approximate, "SMALLEST_SAMPLE", 1024)
    monkeypatch.setattr(building, "QUESTIONS", 40)
    monkeypatch.setattr(module, "FLAT_ROWS", 500)


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator, small_limits: None) -> Index:
    """3,000 rows in two segments, a few removed, with nearest.faiss."""
    made = Index.create(tmp_path / "index", {"name": "small", "hash": "h", "dim": DIM})
    add(made, rng, 2000)
    add(made, rng, COUNT - 2000 + 9)
    drop(made, np.arange(5, 3000, 350))
    assert load(made) is None
    refresh(made)
    return made


def test_a_large_index_gets_cells_that_find_what_exact_search_finds(index, rng):
    stamp = read_stamp(index.folder)
    assert (stamp["factory"], stamp["rows"], len(index)) == ("IVF128,SQ8", COUNT, COUNT)
    assert set(stamp["depths"]) == {"10", "100", "1000"}
    assert min(stamp["depths"]["10"]["recall"].values()) >= 0.99
    assert recall(index, rng) >= 0.98
    told = described(index)
    assert told["bytes"] == (index.folder / "nearest.faiss").stat().st_size
    assert told["recall@10"] >= 0.99
    assert 1 <= told["depth@10"] <= 128


def test_scores_are_those_of_exact_search_to_the_last_bit(index, rng):
    side = [Side("vectors", clustered(rng, 1)[0])]
    found, all_of_it = ranking(index, side, None, load(index))(5), exact(index, side)(5)
    np.testing.assert_array_equal(found[1], all_of_it[1])
    np.testing.assert_array_equal(found[0], all_of_it[0])


def test_rows_added_since_are_found_and_nothing_is_built(index, rng):
    before = (index.folder / "nearest.json").stat().st_mtime_ns
    add(index, rng, 50)
    refresh(index)
    assert (index.folder / "nearest.json").stat().st_mtime_ns == before
    for row in range(COUNT, COUNT + 50, 7):
        assert row in load(index).candidates(index.gather([row])[0], 1)
    assert recall(index, rng) >= 0.98


def test_rows_removed_since_are_found_no_more(index, rng):
    query = index.gather([1234])[0]
    near = exact(index, [Side("vectors", query)])(40)[1]
    assert near[0] == 1234
    left = exact(index, [Side("vectors", query)])(60)[1][40:]
    names = index.columns(["series_id"])["series_id"]
    wanted = names.gather(left[:10]).to_list()
    index.remove(names.gather(near))
    found = ranking(index, [Side("vectors", query)], None, load(index))(10)[1]
    assert index.columns(["series_id"])["series_id"].gather(found).to_list() == wanted


def test_what_cannot_be_found_is_not_made_up(index):
    nearest = load(index)
    query = index.gather([0])[0]
    assert len(nearest.candidates(query, 1000)) >= 1000
    assert nearest.candidates(query, 1001) is None, "recall was measured up to 1000"
    drop(index, np.arange(600))
    assert load(index).candidates(query, 1000) is not None
    drop(index, np.arange(len(index) - 900))
    assert load(index) is None, "most of what it covers is gone"
    assert len(ranking(index, [Side("vectors", query)], None, load(index))(1000)[1]) == 900


def test_a_fiftieth_is_added_and_taken_out_in_place(index, rng):
    import faiss

    before = faiss.read_index(str(index.folder / "nearest.faiss"))
    add(index, rng, 80)
    drop(index, np.arange(0, 600, 10))
    refresh(index)
    stamp = read_stamp(index.folder)
    assert (stamp["rows"], stamp["learnt_from"]) == (len(index), COUNT) == (COUNT + 20, COUNT)
    changed = faiss.read_index(str(index.folder / "nearest.faiss"))
    np.testing.assert_array_equal(changed.quantizer.reconstruct_n(0, 128), before.quantizer.reconstruct_n(0, 128))
    assert recall(index, rng) >= 0.98


def test_joined_segments_stay_searched_and_come_back_in_place(index, rng):
    for _ in range(3):
        add(index, rng, 10)
    index.compact()
    assert len(index.segments) == 1
    assert load(index) is None
    refresh(index)
    stamp = read_stamp(index.folder)
    assert [one["first"] for one in stamp["segments"]] == [0]
    assert (stamp["rows"], stamp["learnt_from"]) == (COUNT + 30, COUNT)
    assert recall(index, rng) >= 0.98


def test_an_index_of_twice_the_size_is_learnt_anew(index, rng):
    add(index, rng, COUNT + 100)
    refresh(index)
    assert read_stamp(index.folder)["learnt_from"] == len(index)
    assert recall(index, rng) >= 0.98


def test_on_demand_no_trace_of_a_removed_row_stays(index):
    drop(index, np.array([17]))
    refresh(index)
    assert read_stamp(index.folder)["rows"] == COUNT
    refresh(index, forget=True)
    assert read_stamp(index.folder)["rows"] == COUNT - 1
    before = (index.folder / "nearest.json").stat().st_mtime_ns
    refresh(index, forget=True)
    assert (index.folder / "nearest.json").stat().st_mtime_ns == before


def test_what_was_asked_for_is_remembered(index, rng):
    refresh(index, "exact")
    assert not (index.folder / "nearest.faiss").exists()
    add(index, rng, 10)
    refresh(index)
    assert load(index) is None
    assert described(index) == {"factory": "exact"}
    refresh(index, "HNSW16")
    assert recall(index, rng) >= 0.95
    add(index, rng, 100)
    refresh(index)
    assert described(index)["rows"] == COUNT + 10, "a graph is built again only after a fifth has changed"
    add(index, rng, 800)
    refresh(index)
    assert (described(index)["factory"], described(index)["rows"]) == ("HNSW16", len(index))
    told = rebuild(index)
    assert told["factory"] == approximate.automatic(len(index))
    assert told["seconds"] > 0
    assert json.loads((index.folder / "nearest.json").read_text())["asked"] == "auto"


def test_a_small_index_gets_its_vectors_as_they_are(tmp_path, rng, small_limits):
    import faiss

    index = Index.create(tmp_path / "index", {"name": "small", "hash": "h", "dim": DIM})
    refresh(index)
    assert not (index.folder / "nearest.faiss").exists()
    add(index, rng, 40)
    add(index, rng, 30)
    for _ in range(2):
        drop(index, np.array([3, 50]))
        refresh(index)
        plain = faiss.read_index(str(index.folder / "nearest.faiss"))
        np.testing.assert_array_equal(plain.reconstruct_n(0, plain.ntotal), index.vectors)
        assert load(index) is None, "exact search is as quick"
    before = (index.folder / "nearest.faiss").stat().st_mtime_ns
    refresh(index)
    assert (index.folder / "nearest.faiss").stat().st_mtime_ns == before
    add(index, rng, 600)
    refresh(index)
    assert not (index.folder / "nearest.faiss").exists()


def test_a_damaged_file_is_passed_over(index):
    path, stamp = index.folder / "nearest.faiss", index.folder / "nearest.json"
    whole, said = path.read_bytes(), stamp.read_bytes()
    assert load(index) is not None
    for damage in (whole[:-9], b"", bytes(len(whole)), bytes([whole[0] ^ 1]) + whole[1:], None):
        path.write_bytes(damage) if damage is not None else path.unlink()
        stamp.write_bytes(said)
        assert load(Index.open(index.folder)) is None
    path.write_bytes(whole)
    for lie in (
        b"{",
        b"[]",
        b"{}",
        said.replace(b'"first": 0', b'"first": 1'),
        said.replace(b"3000", b"3001"),
        said[:-3],
    ):
        assert lie != said
        stamp.write_bytes(lie)
        assert load(Index.open(index.folder)) is None
    refresh(index)
    assert load(index) is not None


def test_any_flipped_byte_costs_at_most_the_shortcut(index, rng):
    path = index.folder / "nearest.faiss"
    whole = path.read_bytes()
    head = read_stamp(index.folder)["head"]
    side = [Side("vectors", index.gather([77])[0])]
    wanted = exact(index, side)(10)[1]
    places = [*rng.integers(0, head, 40), *rng.integers(head, len(whole), 160)]
    passed_over = 0
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :])
        fresh = Index.open(index.folder)
        nearest = load(fresh)
        passed_over += nearest is None
        rows = ranking(fresh, side, None, nearest)(10)[1]
        assert len(set(rows.tolist())) == 10
        assert np.isin(rows, wanted).sum() >= 8
    assert passed_over == 40, "all of the head, none of the codes"


def test_a_reader_keeps_what_it_opened_while_a_writer_builds_anew(index, rng):
    reader = Index.open(index.folder)
    nearest, query = load(reader), clustered(rng, 1)[0]
    before = nearest.candidates(query, 10)
    add(index, rng, 500)
    rebuild(index, "HNSW8")
    np.testing.assert_array_equal(nearest.candidates(query, 10), before)
    assert load(reader) is not None, "what the new one covers is more than this reader sees"
    assert load(reader).candidates(query, 10).max() < len(reader)


def test_what_was_loaded_is_loaded_once_a_commit(index, rng):
    first = load(index)
    assert load(index) is first
    add(index, rng, 1)
    assert load(index) is not first


def test_a_file_that_changes_under_the_eyes_of_a_reader_is_passed_over(index, monkeypatch):
    reader, mapped = Index.open(index.folder), approximate.mapped

    def late(path):
        rebuild(index, "HNSW8")
        return mapped(path)

    monkeypatch.setattr(approximate, "mapped", late)
    assert load(reader) is None
    monkeypatch.undo()
    assert load(reader) is not None


def test_a_folder_of_another_index_is_not_believed(index, tmp_path, rng):
    other = Index.create(tmp_path / "other", {"name": "small", "hash": "h", "dim": DIM})
    add(other, np.random.default_rng(99), 2000)
    add(other, np.random.default_rng(98), 1000)
    for name in ("nearest.faiss", "nearest.json"):
        shutil.copy(index.folder / name, other.folder / name)
    assert load(other) is None


@pytest.mark.parametrize("factory", ["no_such_factory", "IVF999999,SQ8"])
def test_what_faiss_cannot_build_is_told_and_nothing_changes(index, factory):
    before = (index.folder / "nearest.faiss").read_bytes()
    for act in (refresh, rebuild):
        with pytest.raises(DecipherError, match="cannot build"):
            act(index, factory)
    assert (index.folder / "nearest.faiss").read_bytes() == before
    assert load(index) is not None


def test_a_full_disk_is_told_and_leaves_exact_search(index, monkeypatch):
    import faiss

    def full(made, name):
        Path(name).write_bytes(b"half of it")
        raise RuntimeError("write error in nearest.faiss.partial: No space left on device")

    monkeypatch.setattr(faiss, "write_index", full)
    with pytest.raises(DecipherError, match="cannot be written") as told:
        refresh(index, "Flat")
    assert "disk" in told.value.hint
    assert not list(index.folder.glob("*.partial"))
    assert load(Index.open(index.folder)) is not None
    with pytest.raises(DecipherError):
        rebuild(index)
    assert load(Index.open(index.folder)) is not None
    assert len(ranking(index, [Side("vectors", index.gather([0])[0])], None, load(index))(10)[1]) == 10


def test_progress_counts_the_rows_that_are_added(index):
    said: list[tuple[int, int]] = []
    rebuild(index, progress=lambda done, of: said.append((done, of)))
    assert said[-1] == (COUNT, COUNT)
    assert [done for done, _ in said] == sorted(done for done, _ in said)
