"""Two writers and five readers side by side: whoever reads sees one commit, whole, for as long as it likes.

Each process is forked from this file run as a program. Rows come and go in pairs, in one commit, and a row's vectors follow
from its number, so that a reader can tell half a commit, or a vector beside another's record.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index.archive import Archive
from index.store import Index
from index.verify import verify
from models.errors import DecipherError

DIM, WRITERS, READERS = 16, 2, 5
PASSPORT = {"name": "small", "hash": "a1" * 16, "dim": DIM, "prepare": "p1"}
WAVES = np.arange(1, DIM + 1) * 0.7310585


def vectors_of(numbers: np.ndarray) -> np.ndarray:
    """float32 (n, DIM) of length 1, each decided by its number."""
    waves = np.sin(np.outer(numbers + 1.0, WAVES))
    return (waves / np.linalg.norm(waves, axis=1, keepdims=True)).astype(np.float32)


def rows_of(numbers: np.ndarray) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Two rows a number, 2n and 2n + 1, with captions that are those of number // 10."""
    both = np.stack([2 * numbers, 2 * numbers + 1], axis=1).ravel()
    records = pl.DataFrame({"series_id": [f"{one:09d}" for one in both], "archive": ["a"] * len(both), "number": both})
    return records, vectors_of(both), vectors_of(both // 10)


def check(index: Index, count: int) -> None:
    """AssertionError unless this is one commit: as many rows as it had, vectors beside their records, pairs together."""
    records = index.columns(["series_id", "number"])
    numbers = records["number"].to_numpy()
    assert records.height == len(index) == len(index.vectors) == count
    assert records["series_id"].to_list() == [f"{one:09d}" for one in numbers]
    np.testing.assert_allclose(index.vectors, vectors_of(numbers), atol=1e-6)
    np.testing.assert_allclose(index.gather(np.arange(count), "captions"), vectors_of(numbers // 10), atol=1e-6)
    assert set(numbers ^ 1) == set(numbers), "pairs come and go together"
    if count:
        some = np.random.default_rng(count).integers(0, count, 5)
        assert index.rows(some)["number"].to_list() == numbers[some].tolist()


def patiently(change: Callable[..., object], *words: object) -> int:
    """Do it as soon as no other process writes; how often one did."""
    refused = 0
    while True:
        try:
            change(*words)
            return refused
        except DecipherError as error:
            if "Another process" not in error.message:
                raise
            refused += 1
            time.sleep(0.002)


def write(folder: Path, name: int, until: float) -> dict:
    """Add, remove, tidy and compact until the time is up; tells which numbers are there by this writer."""
    from index import removal

    chance, living, fresh, refused, changes = random.Random(name), [], name * 10_000_000, 0, 0
    index = Index.open(folder)
    while time.monotonic() < until:
        kind = chance.random()
        if kind < 0.7 or not living:
            numbers = np.arange(fresh, fresh + chance.randrange(1, 30))
            refused += patiently(index.append, *rows_of(numbers))
            fresh, living = fresh + len(numbers), living + numbers.tolist()
        elif kind < 0.9:
            gone = set(chance.sample(living, max(1, len(living) // 5)))
            ids = [f"{2 * one + two:09d}" for one in gone for two in (0, 1)]
            refused += patiently(removal.remove, index, ids)
            living = [one for one in living if one not in gone]
        else:
            refused += patiently(chance.choice([Index.tidy, removal.compact]), index)
        if chance.random() < 0.2:
            index = Index.open(folder)
        changes += 1
    return {"writer": name, "living": living, "refused": refused, "changes": changes}


def read(folder: Path, name: int, until: float) -> dict:
    """Open and check again and again; keep some commits open while others pass, and check those late."""
    held: list[tuple[Index, int]] = []
    opened, late, commits = 0, 0, set()
    while time.monotonic() < until:
        index = Index.open(folder)
        opened += 1
        commits.add(index.commit)
        if opened % 3 == 0:
            held.append((index, len(index)))
        else:
            check(index, len(index))
        if name == 0:
            assert verify(index) == []
        if len(held) > 4:
            check(*held.pop(0))
            late += 1
    for one in held:
        check(*one)
    return {"reader": name, "opened": opened, "late": late, "commits": len(commits)}


def all_of_them(folder: Path, seconds: float) -> None:
    """Fork writers and readers, which print what they did, one JSON object a line; ends with 1 if one of them failed."""
    from index import removal  # noqa: F401

    until = time.monotonic() + seconds
    children = []
    for work, number in ((write, WRITERS), (read, READERS)):
        for name in range(number):
            child = os.fork()
            if child:
                children.append(child)
                continue
            code = 1
            try:
                os.write(1, (json.dumps(work(folder, name, until)) + "\n").encode())
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
        yield Index.create(Path(place) / "index", PASSPORT, [Archive("a", Path("/a"))]).folder


def side_by_side(folder: Path, seconds: float) -> None:
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, __file__, str(folder), str(seconds)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=surroundings, capture_output=True, text=True, timeout=seconds + 60)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    writers = {one["writer"]: one for one in reports if "writer" in one}
    readers = [one for one in reports if "reader" in one]
    assert (len(writers), len(readers)) == (WRITERS, READERS)
    index = Index.open(folder)
    check(index, len(index))
    there = index.records["number"].to_numpy() // 2
    for name, writer in writers.items():
        assert there[there // 10_000_000 == name][::2].tolist() == writer["living"], (
            "in the order in which they were added"
        )
    assert len(there) == 2 * sum(len(writer["living"]) for writer in writers.values())
    assert min(writer["changes"] for writer in writers.values()) >= 3, "both had their turns"
    assert min(reader["commits"] for reader in readers) >= 3, "all saw the index change"
    assert sum(reader["late"] for reader in readers) >= 3
    with index.writing():
        pass
    assert {path.name for path in (folder / "segments").iterdir()} == {one.name for one in index.segments}
    assert verify(index) == []


def test_two_writers_and_five_readers_side_by_side(folder: Path) -> None:
    side_by_side(folder, 4)


@pytest.mark.slow
def test_two_writers_and_five_readers_for_a_minute(folder: Path) -> None:
    side_by_side(folder, 60)


def test_a_reader_that_met_an_old_manifest_opens_the_new_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from index import manifest, removal, store

    index = Index.open(folder)
    for start in (0, 5):
        index.append(*rows_of(np.arange(start, start + 5)))
    old = manifest.read(folder)
    removal.compact(index)
    assert len(list((folder / "segments").iterdir())) == 1
    answers = [old]
    real = manifest.read
    monkeypatch.setattr(store.manifest, "read", lambda folder: answers.pop() if answers else real(folder))
    found = Index.open(folder)
    assert not answers and found.commit == index.commit
    check(found, 20)


def test_a_segment_that_is_being_deleted_is_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader comes just while the sweep goes on: it must not hold what is half gone."""
    from index import leftovers, manifest, removal
    from index.segment import open_segment

    index = Index.open(folder)
    for start in (0, 5):
        index.append(*rows_of(np.arange(start, start + 5)))
    entries = {one["name"]: one for one in manifest.read(folder)["segments"]}
    rmtree, seen = leftovers.shutil.rmtree, []

    def slowly(path: Path, **more: bool) -> None:
        if path.name in entries:
            with pytest.raises(DecipherError, match="cannot be read"):
                open_segment(path, entries[path.name], 0, DIM)
            seen.append(path.name)
        rmtree(path, **more)

    monkeypatch.setattr(leftovers.shutil, "rmtree", slowly)
    removal.compact(index)
    assert sorted(seen) == ["000001", "000002"]


def test_readers_in_threads_of_the_writer_s_own_process_keep_their_commit(folder: Path) -> None:
    index = Index.open(folder)
    index.append(*rows_of(np.arange(50)))
    wrong: list[BaseException] = []
    stop = threading.Event()

    def reader() -> None:
        try:
            while not stop.is_set():
                now = Index.open(folder)
                check(now, len(now))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    for start in range(100, 700, 50):
        index.append(*rows_of(np.arange(start, start + 50)))
        if start % 200 == 0:
            index.compact()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


if __name__ == "__main__":
    all_of_them(Path(sys.argv[1]), float(sys.argv[2]))
