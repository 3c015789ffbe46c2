"""The index folder: what goes in comes out, in order, and a killed writer loses nothing that was committed."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index import manifest, segment, store
from index.archive import Archive
from index.lock import is_at_rest, writer_lock
from index.store import Index, is_index
from index.verify import verify
from models.errors import DecipherError

DIM = 5
PASSPORT = {"name": "small", "hash": "a1" * 16, "dim": DIM, "prepare": "p1"}


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def records_of(ids: list[str], **more: list) -> pl.DataFrame:
    plain = {"series_id": ids, "study_id": [f"study-{one}" for one in ids], "spacing_mm": [[1.0, 2.0, 3.0]] * len(ids)}
    return pl.DataFrame({**plain, **more})


@pytest.fixture
def filled(tmp_path: Path, rng: np.random.Generator) -> tuple[Index, np.ndarray, np.ndarray]:
    """Series a to f in two segments; their vectors and captions."""
    index = Index.create(tmp_path / "index", PASSPORT, [Archive("archive", tmp_path)])
    vectors, captions = unit(rng, 6), unit(rng, 6)
    index.append(records_of(list("abcd")), vectors[:4], captions[:4])
    index.append(records_of(list("ef")), vectors[4:], captions[4:])
    return index, vectors, captions


def test_what_goes_in_comes_out_in_order(filled):
    index, vectors, captions = filled
    again = Index.open(index.folder)
    assert len(again) == 6
    assert again.records.equals(records_of(list("abcdef")))
    np.testing.assert_array_equal(again.vectors, vectors)
    np.testing.assert_array_equal(again.gather(np.arange(6), "captions"), captions)
    assert again.commit == 2
    assert again.row_of(["e", "nobody", "a"]) == {"e": 4, "a": 0}
    assert verify(again) == []


def test_card_says_what_this_is(filled, tmp_path):
    card = json.loads((filled[0].folder / "card.json").read_text())
    assert card["passport"] == PASSPORT
    assert card["series"] == 6
    assert card["archives"] == [{"name": "archive", "root": str(tmp_path), "salts": []}]
    assert datetime.fromisoformat(card["created"]).utcoffset().total_seconds() == 0
    filled[0].update_card(model="other")
    assert Index.open(filled[0].folder).card == {**card, "model": "other"}


def test_key_is_secret_and_stays(filled):
    path = filled[0].folder / "key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(filled[0].key) == 32
    assert Index.open(filled[0].folder).key == filled[0].key
    assert Index.create(filled[0].folder.with_name("b"), PASSPORT).key != filled[0].key
    assert Index.create(filled[0].folder.with_name("c"), PASSPORT, key=b"k" * 32).key == b"k" * 32


def test_removed_series_are_gone_and_the_rest_keeps_its_order(filled):
    index, vectors, captions = filled
    assert index.remove(["b", "e", "nobody"]) == 2
    for now in (index, Index.open(index.folder)):
        assert now.records["series_id"].to_list() == list("acdf")
        np.testing.assert_array_equal(now.vectors, vectors[[0, 2, 3, 5]])
        np.testing.assert_array_equal(now.gather(np.array([3, 1]), "captions"), captions[[5, 2]])
        np.testing.assert_allclose(now.similarity(vectors[2]), vectors[[0, 2, 3, 5]] @ vectors[2], atol=1e-6)
    assert index.remove(["b"]) == 0
    assert index.commit == 3, "removing nothing is no commit"
    assert index.remove(list("acdf")) == 4
    assert (len(index), len(index.segments), index.vectors.shape) == (0, 0, (0, DIM))
    assert index.row_of(["a"]) == {}


def test_replace_is_one_commit(filled, rng):
    index, vectors, _ = filled
    fresh = unit(rng, 2)
    index.replace(records_of(["b", "g"]), fresh)
    assert index.commit == 3
    assert index.records["series_id"].to_list() == list("acdefbg")
    np.testing.assert_array_equal(index.vectors, np.concatenate([vectors[[0, 2, 3, 4, 5]], fresh]))
    np.testing.assert_array_equal(index.gather(np.array([5, 6]), "captions"), np.zeros((2, DIM)))


def test_vectors_are_mapped_from_disk_where_one_segment_holds_them(filled):
    index, vectors, captions = filled
    assert not isinstance(index.vectors, np.memmap)
    index.compact()
    assert isinstance(index.vectors, np.memmap)
    np.testing.assert_array_equal(index.vectors, vectors)
    np.testing.assert_array_equal(index.gather(np.arange(len(index)), "captions"), captions)
    assert len(index.segments) == 1
    assert verify(Index.open(index.folder)) == []


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["replace", "remove", "compact", "open"]), st.sets(st.integers(0, 9), max_size=4)),
        max_size=8,
    )
)
def test_any_order_of_changes_equals_an_ordered_table(tmp_path_factory, changes):
    rng = np.random.default_rng(1)
    index, table = Index.create(tmp_path_factory.mktemp("index") / "i", PASSPORT), {}
    for change, numbers in changes:
        ids = [f"s{number}" for number in sorted(numbers)]
        if change == "replace":
            vectors = unit(rng, len(ids))
            index.replace(records_of(ids), vectors)
            table = {one: v for one, v in table.items() if one not in ids} | dict(zip(ids, vectors, strict=True))
        elif change == "remove":
            assert index.remove(ids) == len(set(ids) & set(table))
            table = {one: v for one, v in table.items() if one not in ids}
        elif change == "compact":
            index.compact()
        else:
            index = Index.open(index.folder)
    assert index.columns(["series_id"])["series_id"].to_list() == list(table)
    np.testing.assert_array_equal(index.vectors, np.array(list(table.values())).reshape(-1, DIM))
    assert verify(index) == []


def test_rows_equal_the_same_rows_of_the_whole_table(tmp_path, rng):
    index = Index.create(tmp_path / "i", PASSPORT)
    for start in (0, 9000):
        index.append(records_of([f"{i:05d}" for i in range(start, start + 9000)]), unit(rng, 9000))
    index.remove([f"{i:05d}" for i in range(0, 18000, 7)])
    for count in (3, 70, 500):
        rows = rng.integers(0, len(index), count)
        found = Index.open(index.folder).rows(rows)
        assert found.equals(index.columns(None)[rows])
    nothing = index.rows(np.array([], dtype=np.int64))
    assert nothing.is_empty()
    assert nothing.schema == index.columns(None).schema
    with pytest.raises(IndexError):
        Index.open(index.folder).rows(np.array([len(index)]))


def test_segments_may_differ_in_columns(filled, rng):
    index = filled[0]
    index.append(records_of(["g"], grade=[3]), unit(rng, 1))
    assert index.columns(["grade", "series_id", "no_such"]).columns == ["grade", "series_id"]
    assert index.columns(["grade"])["grade"].to_list() == [None] * 6 + [3]
    assert index.schema["grade"] == pl.Int64
    assert Index.open(index.folder).rows(np.array([6, 0]))["grade"].to_list() == [3, None]
    index.remove(["g"])
    assert index.columns(["grade"]).columns == []


def test_another_encoder_is_refused_by_name(filled):
    filled[0].check_passport({**PASSPORT, "name": "renamed"})
    with pytest.raises(DecipherError) as told:
        filled[0].check_passport({**PASSPORT, "name": "large", "hash": "ff" * 16})
    assert "another encoder" in told.value.message
    assert "small" in told.value.message
    assert "large" in told.value.message
    assert "-m" in told.value.hint


def test_missing_and_foreign_folders_are_told(tmp_path):
    with pytest.raises(DecipherError, match="No index in") as told:
        Index.open(tmp_path / "nothing")
    assert "decipher encode ARCHIVE" in told.value.hint
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    with pytest.raises(DecipherError, match="is not an index"):
        Index.open(tmp_path / "thesis")
    with pytest.raises(DecipherError, match="holds other files"):
        Index.create(tmp_path / "thesis", PASSPORT)
    with pytest.raises(DecipherError, match="is a file"):
        Index.create(tmp_path / "thesis" / "chapter.txt", PASSPORT)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]
    Index.create(tmp_path / "twice", PASSPORT)
    with pytest.raises(DecipherError, match="already"):
        Index.create(tmp_path / "twice", PASSPORT)


@pytest.mark.parametrize("name", ["series.parquet", "vectors.npy", "captions.npy"])
def test_a_truncated_or_missing_file_is_told(filled, name):
    path = filled[0].folder / "segments" / "000002" / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DecipherError, match=f"{name} is cut short"):
        Index.open(filled[0].folder)
    path.unlink()
    with pytest.raises(DecipherError, match=f"{name} is missing"):
        Index.open(filled[0].folder)


def test_a_flipped_byte_is_found_by_verify(filled):
    path = filled[0].folder / "segments" / "000001" / "vectors.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x40
    path.write_bytes(data)
    wrong = verify(Index.open(filled[0].folder))
    assert "segments/000001/vectors.npy differs from its checksum." in wrong
    assert not any("000002" in one for one in wrong)


def test_vectors_of_another_count_than_records_are_told(filled):
    folder = filled[0].folder
    commit = manifest.read(folder)
    commit["segments"][1]["rows"] = 3
    manifest.write(folder, commit)
    with pytest.raises(DecipherError, match="same number of rows"):
        Index.open(folder)


def test_a_manifest_that_is_damaged_or_of_another_version_is_told(filled):
    path = filled[0].folder / "manifest.json"
    filled[0].remove(["b"])
    whole = path.read_text()
    for text, told in [
        ("{", "cannot be read"),
        ("[1]", "is not a JSON object"),
        (whole.replace('"removed": "1"', '"removed": "2"'), "differs from its checksum"),
        (whole.replace('"format": 2', '"format": 99'), "another version"),
    ]:
        assert text != whole
        path.write_text(text)
        with pytest.raises(DecipherError, match=told):
            Index.open(filled[0].folder)
    path.write_text(whole)
    assert len(Index.open(filled[0].folder)) == 5


def test_a_card_that_does_not_say_what_it_must_is_told(filled):
    path = filled[0].folder / "card.json"
    whole = json.loads(path.read_text())
    for damaged in (
        {**whole, "passport": {}},
        {**whole, "passport": {"dim": "wide"}},
        {**whole, "archives": [{}]},
        {**whole, "archives": None},
    ):
        path.write_text(json.dumps(damaged))
        with pytest.raises(DecipherError, match="lacks what an index says of itself"):
            Index.open(filled[0].folder)


def test_what_must_not_be_stored_is_refused_and_nothing_changes(filled, rng):
    index = filled[0]
    one = unit(rng, 1)
    for records, vectors in [
        (records_of(["a"]), one),
        (records_of(["x"]), one * 2),
        (records_of(["x"]), one * np.nan),
        (records_of(["x"]), one[:, :3]),
        (records_of(["x", "y"]), one),
        (records_of(["x", "x"]), unit(rng, 2)),
    ]:
        with pytest.raises(DecipherError):
            index.append(records, vectors)
    assert Index.open(index.folder).commit == 2
    assert sorted(path.name for path in (index.folder / "segments").iterdir()) == ["000001", "000002"]


def test_rejects_are_kept_beside(filled):
    index = filled[0]
    assert index.rejects is None
    ledger = pl.DataFrame({"path": ["x.txt"], "code": ["not_an_image"], "reason": ["?"], "detail": [""]})
    index.write_rejects(ledger)
    assert Index.open(index.folder).rejects.equals(ledger)


def test_a_full_disk_is_told_and_the_index_is_as_before(filled, rng, monkeypatch):
    index, vectors, _ = filled

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store, "write_segment", full)
    with pytest.raises(DecipherError, match="No space left"):
        index.replace(records_of(["a"]), unit(rng, 1))
    monkeypatch.undo()
    for now in (index, Index.open(index.folder)):
        np.testing.assert_array_equal(now.vectors, vectors)
    assert index.remove(["a"]) == 1


def test_every_write_on_a_full_disk_is_told_in_a_sentence_and_harms_nothing(filled):
    """The system refuses to let any file grow beyond so many bytes, as a full disk would; at last the writer has enough."""
    index = filled[0]
    index.write_rejects(pl.DataFrame({"path": ["x.txt"]}))
    whole = {path: path.read_bytes() for path in sorted(index.folder.rglob("*")) if path.is_file()}
    said = set()
    for most_bytes in (0, 100, 1500, 10**9):
        root = Path(__file__).resolve().parents[1]
        command = [sys.executable, "-c", FULL_DISK, str(index.folder), str(most_bytes)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said |= set(done.stdout.splitlines())
        found = Index.open(index.folder)
        assert verify(found) == []
        if most_bytes < 1000:
            assert {path: path.read_bytes() for path in whole if path.name != "lock"} == {
                path: data for path, data in whole.items() if path.name != "lock"
            }
        if not done.stdout:
            break
    assert {line.split(":")[0] for line in said} == {"append", "remove", "compact", "update_card", "write_rejects"}
    assert {line.partition(": ")[2] for line in said} == {f"{index.folder} cannot be written to: File too large."}
    assert len(found) == 1500 - 1 + 6


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np, polars as pl
from index.store import Index
from models.errors import DecipherError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ids = [f"x{one}" for one in range(1500)]
vectors = np.tile(np.eye(1, 5, dtype=np.float32), (1500, 1))
rows = pl.DataFrame({"series_id": ids, "more": np.random.default_rng(0).integers(0, 2**60, 1500)})
changes = {
    "append": lambda index: index.replace(rows, vectors),
    "remove": lambda index: index.remove(ids[:1]),
    "compact": lambda index: index.compact(),
    "update_card": lambda index: index.update_card(more="words " * 100),
    "write_rejects": lambda index: index.write_rejects(rows),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
for name, change in changes.items():
    try:
        change(Index.open(Path(sys.argv[1])))
    except DecipherError as error:
        print(f"{name}: {error.message}")
        assert "disk's space" in error.hint
"""


def test_a_failed_write_may_be_tried_again_under_the_same_lock(filled, rng, monkeypatch):
    index, fresh = filled[0], unit(rng, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with index.writing():
        for place, name in ((store.manifest, "write_json"), (segment, "sync")):
            with monkeypatch.context() as patch:
                patch.setattr(place, name, full)
                with pytest.raises(DecipherError, match="No space left"):
                    index.append(records_of(["x"]), fresh)
            assert len(index) == 6 and not list((index.folder / "segments").glob("*.partial"))
        index.append(records_of(["x"]), fresh)
    assert Index.open(index.folder).records["series_id"].to_list() == list("abcdefx")


def test_a_read_only_folder_is_read_and_writing_is_told(filled, monkeypatch):
    index = filled[0]
    real = os.open

    def read_only(path, flags, *mode, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", read_only)
    found = Index.open(index.folder)
    assert len(found) == 6 and verify(found) == []
    for change in (lambda: found.remove(["a"]), found.compact, lambda: found.update_card(model="m")):
        with pytest.raises(DecipherError, match="cannot be written to: Read-only file system"):
            change()
    with pytest.raises(DecipherError, match="cannot be written to: Read-only file system"):
        Index.create(index.folder.with_name("new"), PASSPORT)


@pytest.mark.parametrize("name", ["series.parquet", "vectors.npy", "captions.npy"])
def test_what_is_damaged_is_not_joined_with_what_is_whole(filled, name):
    index = filled[0]
    path = index.folder / "segments" / "000002" / name
    data = bytearray(path.read_bytes())
    data[-1 if name != "series.parquet" else 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(DecipherError, match=f"000002/{name} differs from its checksum"):
        Index.open(index.folder).compact()
    assert Index.open(index.folder).commit == 2


@given(st.lists(st.integers(1, 300), min_size=1, max_size=400))
def test_segments_stay_few_and_rows_are_written_again_a_few_times(sizes):
    segments: list[list[int]] = []
    written = dict.fromkeys(range(len(sizes)), 0)
    for number in range(len(sizes)):
        segments.append([number])
        lengths = [sum(sizes[one] for one in segment) for segment in segments]
        first = store.first_young(lengths)
        assert all(lengths[at] > sum(lengths[at + 1 :]) for at in range(first))
        if len(segments) - first > store.MOST_SEGMENTS:
            joined = [one for segment in segments[first:] for one in segment]
            segments[first:] = [joined]
            for one in joined:
                written[one] += 1
        doublings = math.log2(sum(sizes[: number + 1])) + 1
        assert len(segments) <= store.MOST_SEGMENTS + doublings
        assert max(written.values()) <= doublings
    assert [one for segment in segments for one in segment] == list(range(len(sizes))), (
        "in the order in which they came"
    )


def test_many_small_appends_are_tidied_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    index = Index.create(tmp_path / "i", PASSPORT)
    rng, expected, ids = np.random.default_rng(0), [], []
    for block in range(60):
        fresh, names = unit(rng, 1 + block % 3), [f"{block:02d}-{row}" for row in range(1 + block % 3)]
        index.append(records_of(names), fresh, fresh[::-1])
        index.tidy()
        assert len(index.segments) <= store.MOST_SEGMENTS + 8
        expected.append(fresh)
        ids += names
    assert len(index.segments) < 25 < index.commit - 30
    for found in (index, Index.open(index.folder)):
        assert found.columns(["series_id"])["series_id"].to_list() == ids
        np.testing.assert_array_equal(found.vectors, np.concatenate(expected))
        captions = np.concatenate([one[::-1] for one in expected])
        np.testing.assert_array_equal(found.gather(np.arange(len(ids)), "captions"), captions)
    assert verify(index) == []


class Killed(BaseException):
    """Stands for a kill: no handler of errors sees it."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on, the step-th write to disk or rename does not happen, and nothing after it."""
    done: list[str] = []

    def counted(real):
        def call(*args):
            done.append(str(args[0]))
            if len(done) > step:
                raise Killed
            return real(*args)

        return call

    monkeypatch.setattr(segment, "sync", counted(segment.sync))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    return done


@pytest.mark.parametrize("change", ["append", "replace", "remove", "compact"])
def test_killed_at_any_step_the_index_opens_at_a_commit_and_the_same_change_goes_on(tmp_path, monkeypatch, change):
    def start(name: str) -> Index:
        rng = np.random.default_rng(0)
        index = Index.create(tmp_path / name, PASSPORT)
        index.append(records_of(list("abc")), unit(rng, 3))
        index.append(records_of(list("de")), unit(rng, 2))
        return index

    def go(index: Index) -> None:
        fresh = unit(np.random.default_rng(9), 2)
        if change == "append":
            index.replace(records_of(["x", "y"]), fresh)
        elif change == "replace":
            index.replace(records_of(["b", "y"]), fresh)
        elif change == "remove":
            index.remove(["a", "d"])
        else:
            index.compact()

    before = start("before")
    whole = start("whole")
    go(whole)
    states = []
    for step in range(30):
        folder = start(f"killed-{step}").folder
        with monkeypatch.context() as patch:
            done = kill_at(step, patch)
            with suppress(Killed):
                go(Index.open(folder))
        if len(done) <= step:
            break
        found = Index.open(folder)
        expected = before if found.commit == before.commit else whole
        assert found.commit in (before.commit, whole.commit)
        assert found.records.equals(expected.records)
        assert found.vectors.tobytes() == expected.vectors.tobytes()
        states.append(found.commit)
        go(found)
        assert found.records["series_id"].sort().equals(whole.records["series_id"].sort())
        assert verify(found) == []
        live = {one.name for one in found.segments}
        if change != "compact":
            with found.writing():
                assert {path.name for path in (folder / "segments").iterdir()} == live
            assert not list(folder.rglob("*.partial"))
    assert states == sorted(states)
    assert {before.commit, whole.commit} <= set(states), "killed before and after the commit point"


def test_killed_while_being_made_the_folder_may_be_finished(tmp_path, monkeypatch):
    for step in range(30):
        with monkeypatch.context() as patch:
            done = kill_at(step, patch)
            with suppress(Killed):
                Index.create(tmp_path / f"i{step}", PASSPORT)
        if len(done) <= step:
            assert step > 4
            return
        if not is_index(tmp_path / f"i{step}"):
            Index.create(tmp_path / f"i{step}", PASSPORT)
        assert len(Index.open(tmp_path / f"i{step}")) == 0


WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np, polars as pl
from index import segment
from index.store import Index
real, left = segment.sync, [int(sys.argv[2])]
def sync(path):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(path)
segment.sync = sync
Index.open(Path(sys.argv[1])).append(pl.DataFrame({"series_id": ["x"]}), np.eye(1, 5, dtype=np.float32))
"""


@pytest.mark.parametrize(("step", "survives"), [(0, False), (5, False), (6, True)])
def test_a_writer_killed_by_the_system_leaves_the_last_commit_and_no_lock(filled, step, survives):
    index = filled[0]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", WRITER, str(index.folder), str(step)], cwd=root, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    found = Index.open(index.folder)
    assert found.records["series_id"].to_list() == list("abcdef") + ["x"] * survives
    found.remove(["x"])
    found.append(records_of(["x"]), np.eye(1, DIM, dtype=np.float32))
    assert found.records["series_id"].to_list() == list("abcdefx")
    assert verify(found) == []


def test_readers_keep_their_commit_while_a_writer_goes_on(filled, rng):
    index, vectors, _ = filled
    reader = Index.open(index.folder)
    index.append(records_of(["g"]), unit(rng, 1))
    index.remove(["a"])
    index.compact()
    np.testing.assert_array_equal(reader.vectors, vectors)
    assert reader.records["series_id"].to_list() == list("abcdef")
    assert Index.open(index.folder).records["series_id"].to_list() == list("bcdefg")


def test_a_writer_starts_from_the_last_commit(filled, rng):
    one, two = filled[0], Index.open(filled[0].folder)
    one.append(records_of(["g"]), unit(rng, 1))
    two.append(records_of(["h"]), unit(rng, 1))
    assert two.records["series_id"].to_list() == list("abcdefgh")


def test_a_second_writer_is_told_and_a_reader_is_not_kept_out(filled):
    index = filled[0]
    with index.writing():
        other = Index.open(index.folder)
        assert len(other) == 6
        with pytest.raises(DecipherError, match=f"Another process \\({os.getpid()}\\) is writing"):
            other.remove(["a"])
        assert index.remove(["a"]) == 1, "the holder itself may write"
    assert other.remove(["b"]) == 1


def test_a_writer_sweeps_what_a_killed_one_left_and_nothing_else(filled):
    index = filled[0]
    for name in ("000003.partial", "000009"):
        (index.folder / "segments" / name).mkdir()
    (index.folder / "manifest.json.partial").write_text("{")
    (index.folder / "segments" / "note.txt").write_text("mine")
    assert len(Index.open(index.folder)) == 6
    index.remove(["a"])
    assert sorted(path.name for path in (index.folder / "segments").iterdir()) == ["000001", "000002", "note.txt"]
    assert not (index.folder / "manifest.json.partial").exists()


def test_errors_inside_the_lock_pass_through_and_the_next_writer_knows(tmp_path):
    assert is_at_rest(tmp_path)
    with writer_lock(tmp_path) as orderly:
        assert orderly and not is_at_rest(tmp_path)
    assert is_at_rest(tmp_path)
    with pytest.raises(BlockingIOError), writer_lock(tmp_path):
        raise BlockingIOError
    assert not is_at_rest(tmp_path)
    with writer_lock(tmp_path) as orderly:
        assert not orderly
    with writer_lock(tmp_path) as orderly:
        assert orderly


def test_the_writer_after_a_stopped_one_clears_away_all_that_is_of_nobody(filled):
    folder = filled[0].folder
    for name in ("thumbnails", "scan"):
        (folder / name).mkdir()
    mine = ["thumbnails/a.png", "thumbnails/note.txt", "scan/archive.parquet", "lock"]
    left = ["thumbnails/zz.png", "thumbnails/a.png.partial", "scan/.archive.parquet.4711", "card.json.partial"]
    for name in (*mine, *left):
        (folder / name).write_bytes(b"")
    with filled[0].writing():
        assert [name for name in left if (folder / name).exists()] == left[:3], "after an orderly end, a quick look"
    with suppress(KeyboardInterrupt), filled[0].writing():
        raise KeyboardInterrupt
    with filled[0].writing():
        assert not [name for name in left if (folder / name).exists()]
    assert not [name for name in mine if not (folder / name).exists()]
    assert verify(filled[0]) == []
