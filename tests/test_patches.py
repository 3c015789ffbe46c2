"""Patch vectors of an index: those of the encoder, row by row, through every change, in bounded memory."""

import os
import resource
import shutil
import signal
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import test_crash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_crash import quick  # noqa: F401
from test_nifti import save
from test_store import DIM, PASSPORT, Killed, kill_at, records_of

from index import array_files
from index.array_files import write_npy
from index.encode import EncodeOptions, encode_archive
from index.merge import merge
from index.store import Index
from index.verify import verify
from models.errors import DecipherError

SHAPE = (3, 7)


def numbers(series_id: str, version: int = 0) -> np.ndarray:
    """What stands for a series: float64 (n,), the same for the same words."""
    seed = int.from_bytes(f"{series_id}/{version}".encode(), "big")
    return np.random.default_rng(seed).standard_normal(DIM + SHAPE[0] * SHAPE[1])


def rows_of(ids: list[str], version: int = 0) -> tuple[pl.DataFrame, np.ndarray, None, list[np.ndarray]]:
    """Words for Index.append: the patch vectors come in two blocks."""
    drawn = np.array([numbers(one, version) for one in ids]).reshape(len(ids), DIM + SHAPE[0] * SHAPE[1])
    vectors = (drawn[:, :DIM] / np.linalg.norm(drawn[:, :DIM], axis=1, keepdims=True)).astype(np.float32)
    patches = drawn[:, DIM:].reshape(-1, *SHAPE).astype(np.float16)
    own = [version] * len(ids)
    more = {
        "version": own,
        "fingerprint": ids,
        "patient_id": ids,
        "format": ["dicom"] * len(ids),
        "archive": ["a"] * len(ids),
    }
    return records_of(ids, **more), vectors, None, [patches[: len(ids) // 2], patches[len(ids) // 2 :]]


def made(folder: Path, ids: str = "", patches: bool = True) -> Index:
    from index.archive import Archive

    index = Index.create(folder, PASSPORT, [Archive("a", folder)], key=b"k" * 32, patches=SHAPE if patches else None)
    if ids:
        index.append(*(rows_of(list(ids)) if patches else rows_of(list(ids))[:3]))
    return index


def check(index: Index) -> None:
    """Row i has the vector and the patch vectors of record i."""
    found = index.gather_patches(np.arange(len(index)))
    assert found.shape == index.patches.shape == (len(index), *SHAPE) and found.dtype == np.float16
    for row, (one, version) in enumerate(index.columns(["series_id", "version"]).iter_rows()):
        _, vectors, _, patches = rows_of([one], version)
        np.testing.assert_array_equal(index.vectors[row], vectors[0])
        np.testing.assert_array_equal(found[row], np.concatenate(patches)[0])
    assert verify(index) == []


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small NIfTI files, flat, so that part of the encoder's box is padding."""
    root, chance = tmp_path_factory.mktemp("flat") / "archive", np.random.default_rng(0)
    for one in range(10):
        save(root / f"sub-{one:02d}_T1w.nii.gz", chance.integers(0, 900, (12, 11, 5)).astype("<i2"))
    return root


def run(archive: Path, folder: Path, model: Path | None, patches: bool = True) -> list[str]:
    """What was told."""
    said: list[str] = []
    options = EncodeOptions(model=model and str(model), patches=patches)
    encode_archive(archive, folder, options, lambda *done: None, said.append)
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where commands run: no archive is needed there."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def encoded(archive: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "index"
    told = run(archive, folder, tiny_model)
    assert [one.partition(";")[0] for one in told] == ["patch vectors: 0.05 MB a series, 0.5 MB"]
    return folder


def test_they_are_those_of_the_encoder_and_padding_is_zero(archive: Path, tiny_model: Path, encoded: Path) -> None:
    from index.reading import read_volume
    from models.decipher import load
    from models.prepare import collate, prepare

    index, model = Index.open(encoded), load(str(tiny_model))
    assert index.patches.shape == (10, 64, 384) and index.patches.ndim == 3
    for row in (0, 4, 9):
        record = index.rows(np.array([row])).to_dicts()[0]
        batch = collate([prepare(read_volume(archive, record), model.config.prepare)])
        wanted, found = model.encode_prepared(batch), index.gather_patches(np.array([row]))[0]
        valid = wanted.valid[0].numpy()
        assert 0 < valid.sum() < 64
        assert not found[~valid].any() and found[valid].any(axis=1).all()
        assert np.abs(wanted.patches[0].numpy() - found)[valid].max() < 2e-3


def test_vectors_are_the_same_to_the_bit_with_and_without(
    archive: Path, tiny_model: Path, encoded: Path, tmp_path: Path
) -> None:
    assert run(archive, tmp_path / "index", tiny_model, patches=False) == []
    without, index = Index.open(tmp_path / "index"), Index.open(encoded)
    assert without.vectors.tobytes() == index.vectors.tobytes()
    assert not without.has_patches and index.has_patches and "patches" not in without.card
    assert not list(without.folder.rglob("patches.npy"))
    for ask in (lambda: without.patches, lambda: without.gather_patches(np.array([0]))):
        with pytest.raises(DecipherError, match="keeps no patch vectors") as told:
            ask()
        assert "encode ARCHIVE --patches -i" in told.value.hint


def test_an_index_goes_on_as_it_began(archive: Path, tiny_model: Path, encoded: Path, tmp_path: Path) -> None:
    copy, folder = Path(shutil.copytree(archive, tmp_path / "archive")), tmp_path / "index"
    run(copy, folder, tiny_model)
    before = Index.open(folder)
    old = dict(zip(before.records["path"], np.asarray(before.patches), strict=True))
    save(copy / "sub-77_T1w.nii.gz", np.random.default_rng(7).integers(0, 900, (12, 11, 5)).astype("<i2"))
    (copy / "labels.csv").write_text("path,site\n" + "".join(f"sub-0{one}_T1w.nii.gz,north\n" for one in range(6)))
    assert [one.partition(";")[0] for one in run(copy, folder, None, patches=False)] == [
        "patch vectors: 0.05 MB a series, 0.0 MB"
    ]
    after = Index.open(folder)
    assert len(after) == 11 and "north" in after.records["site"].to_list()
    for path, patches in zip(after.records["path"], np.asarray(after.patches), strict=True):
        assert patches.any() if path == "sub-77_T1w.nii.gz" else patches.tobytes() == old[path].tobytes()
    assert verify(after) == []


def test_they_cannot_be_added_later(archive: Path, tiny_model: Path, tmp_path: Path) -> None:
    run(archive, tmp_path / "index", tiny_model, patches=False)
    commit = Index.open(tmp_path / "index").commit
    with pytest.raises(DecipherError, match="made without patch vectors") as told:
        run(archive, tmp_path / "index", None)
    assert told.value.hint.endswith(f"decipher encode {archive} --patches -i {tmp_path / 'index'}-patches")
    assert Index.open(tmp_path / "index").commit == commit


def test_the_command_tells_what_they_take(decipher: Callable, archive: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = decipher("encode", archive, "--patches", "-m", tiny_model, "-i", tmp_path / "index")
    assert done.code == 0 and "patch vectors: 0.05 MB a series, 0.5 MB; " in done.err
    told = decipher("info", tmp_path / "index", "--json").json_lines()[0]
    assert told["patches"] == {"tokens": 64, "dim": 384, "megabytes": 0.49}
    assert "tokens 64, dim 384, megabytes 0.49" in decipher("info", tmp_path / "index").out


def test_a_commit_holds_fewer_series_where_they_are_large(
    archive: Path, tiny_model: Path, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from index import encode

    monkeypatch.setattr(encode, "PATCH_BYTES", 3 * 64 * 384 * 2)
    run(archive, tmp_path / "index", tiny_model)
    found, whole = Index.open(tmp_path / "index"), Index.open(encoded)
    assert [segment.rows for segment in found.segments] == [3, 3, 3, 1]
    assert np.asarray(found.patches).tobytes() == np.asarray(whole.patches).tobytes()


changes = st.tuples(
    st.sampled_from(["replace", "remove", "compact", "open", "tidy", "merge"]), st.sets(st.integers(0, 9), max_size=5)
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(changes, max_size=9), st.sampled_from([1, 100, 2**24]))
def test_rows_and_patches_stay_together_through_any_changes(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, set[int]]], block: int
) -> None:
    home = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_files, "BLOCK_BYTES", block)
        patch.setattr(os, "fsync", lambda handle: None)
        index = made(home / "i", "uv")
        for number, (change, chosen) in enumerate(changes, start=1):
            ids = [f"s{one}" for one in sorted(chosen)]
            if change == "replace":
                index.replace(*rows_of(ids, number))
            elif change == "remove":
                index.remove(ids)
            elif change == "merge":
                other = made(home / f"o{number}", "vwx")
                merge([index.folder, other.folder], home / f"m{number}")
                index = Index.open(home / f"m{number}")
            elif change == "open":
                index = Index.open(index.folder)
            else:
                getattr(index, change)()
        check(index)


def test_small_segments_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    index = made(tmp_path / "i")
    for block in range(40):
        index.append(*rows_of([f"{block:02d}-{row}" for row in range(1 + block % 3)]))
        index.tidy()
    assert len(index.segments) < 25 < index.commit
    check(Index.open(index.folder))


def test_a_choice_of_rows_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    index = made(tmp_path / "i", "abc")
    index.append(*rows_of(list("defg")))
    index.remove(["b"])
    whole = index.gather_patches(np.arange(6))
    chosen = index.patches[np.array([5, 0, 3, 0])]
    np.testing.assert_array_equal(np.asarray(chosen), whole[[5, 0, 3, 0]])
    np.testing.assert_array_equal(np.asarray(chosen[np.array([2, 0])], dtype=np.float32), whole[[3, 5]])
    np.testing.assert_array_equal(np.concatenate([*chosen[1:].blocks()]), whole[[0, 3, 0]])
    assert index.gather_patches(np.array([], dtype=int)).shape == (0, *SHAPE)
    with pytest.raises(IndexError):
        index.gather_patches(np.array([6]))


def test_an_index_has_them_of_all_or_of_none(tmp_path: Path) -> None:
    index, without = made(tmp_path / "i", "a"), made(tmp_path / "w", "a", patches=False)
    with pytest.raises(DecipherError, match="keeps patch vectors of all its series"):
        index.append(*rows_of(["b"])[:3])
    with pytest.raises(DecipherError, match="keeps no patch vectors"):
        without.append(*rows_of(["b"]))
    records, vectors, _, patches = rows_of(["b", "c"])
    for wrong in (patches[:1], [*patches, patches[0]], [block[:, :2] for block in patches]):
        with pytest.raises(ValueError, match="block"):
            index.append(records, vectors, None, wrong)
    for number in (np.nan, 1e6):
        with pytest.raises(DecipherError, match="half precision"):
            index.append(records, vectors, None, [np.full((2, *SHAPE), number, np.float32)])
    assert [path.name for path in (index.folder / "segments").iterdir()] == ["000001"]
    check(Index.open(index.folder))


def test_merged_with_an_index_that_has_none_they_are_left_behind_and_that_is_told(tmp_path: Path) -> None:
    index, without = made(tmp_path / "i", "ab"), made(tmp_path / "w", "bc", patches=False)
    told: list[str] = []
    merge([without.folder, index.folder], tmp_path / "all", tell=told.append)
    assert told == [
        f"patch vectors are left behind, since {without.folder} has none; the indexes that have them stay as they are"
    ]
    whole = Index.open(tmp_path / "all")
    assert len(whole) == 3 and not whole.has_patches and verify(whole) == []
    check(Index.open(index.folder))
    other = made(tmp_path / "o", "bd")
    merge([index.folder, other.folder], tmp_path / "both", tell=told.append)
    assert len(told) == 1
    check(Index.open(tmp_path / "both"))


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    index = made(tmp_path / "i", "abc")
    path = index.folder / "segments" / "000001" / "patches.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert verify(Index.open(index.folder)) == ["segments/000001/patches.npy differs from its checksum."]
    index.append(*rows_of(["d"]))
    with pytest.raises(DecipherError, match=r"patches\.npy differs from its checksum"):
        index.compact()
    path.write_bytes(whole[:-2])
    with pytest.raises(DecipherError, match=r"patches\.npy is cut short or changed"):
        Index.open(index.folder)
    path.unlink()
    with pytest.raises(DecipherError, match=r"patches\.npy is missing"):
        Index.open(index.folder)


def test_a_card_that_says_another_shape_is_told(tmp_path: Path) -> None:
    index = made(tmp_path / "i", "abc")
    for shape, told in (([4, 7], "does not hold the patch vectors of 3 series"), ("many", "lacks what an index says")):
        index.update_card(patches=shape)
        with pytest.raises(DecipherError, match=told):
            Index.open(index.folder)


@pytest.mark.parametrize("change", ["replace", "compact"])
def test_killed_at_any_write_the_index_opens_at_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    states = set()
    for step in range(30):
        index = made(tmp_path / f"{step}", "abc")
        index.append(*rows_of(list("de")))
        with monkeypatch.context() as patch:
            done = kill_at(step, patch)
            with suppress(Killed):
                index.replace(*rows_of(["b", "y"], 1)) if change == "replace" else index.compact()
        if len(done) <= step:
            break
        found = Index.open(index.folder)
        states.add(found.commit)
        check(found)
        found.replace(*rows_of(["b", "y"], 1))
        check(Index.open(index.folder))
    assert states == {2, 3}, "before and after the commit point"


def work(folder: Path) -> None:
    """Rows that come, change, are joined and compacted, for as long as it takes."""
    index = Index.open(folder)
    for number in range(1, 10_000):
        index.replace(*rows_of([f"{(number * 7 + one) % 90:02d}" for one in range(9)], number))
        index.tidy()
        if not number % 11:
            index.compact()


def test_killed_by_the_system_at_any_moment_it_opens_at_a_commit(
    quick: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(test_crash, "__file__", __file__)
    index, commits = made(quick / "patched", "a"), []
    with test_crash.writers("patches") as writer:
        for kill in range(12):
            ended = (
                writer(index.folder, "after", 0.05 + 0.02 * kill) if kill % 2 else writer(index.folder, "at", 9 * kill)
            )
            assert ended == -signal.SIGKILL
            found = Index.open(index.folder)
            check(found)
            commits.append(found.commit)
    assert commits == sorted(commits) and commits[-1] > 6


def test_a_full_disk_is_told_and_the_index_is_as_before(tmp_path: Path) -> None:
    index = made(tmp_path / "i", "abc")
    ids = [f"s{one}" for one in range(400)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limits[1]))
        assert 400 * 4 * DIM < 12_000 < 400 * 2 * SHAPE[0] * SHAPE[1]
        records, vectors, _, patches = rows_of(ids)
        with pytest.raises(DecipherError, match="cannot be written to: File too large"):
            index.append(records.select("series_id"), vectors, None, patches)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in (index.folder / "segments").iterdir()] == ["000001"]
    check(Index.open(index.folder))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 MB are written and compacted with a few at a time in memory, and four rows are read without the rest."""
    monkeypatch.setattr(array_files, "BLOCK_BYTES", 2**20)
    rows, shape = 800, (64, 384)
    index = Index.create(tmp_path / "i", PASSPORT, patches=shape)
    vectors = np.tile(np.eye(1, DIM, dtype=np.float32), (rows, 1))
    blocks = (np.full((20, *shape), start, np.float16) for start in range(0, rows, 20))
    tracemalloc.start()
    index.append(records_of([f"s{one}" for one in range(rows)]), vectors, None, blocks)
    index.remove(["s5"])
    index.compact()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index.patches.shape == (rows - 1, *shape) and peak < 12e6
    index = Index.open(index.folder)
    before = resident_bytes()
    found = index.gather_patches(np.array([4, 500, 3, 797]))
    assert resident_bytes() - before < 8e6
    np.testing.assert_array_equal(found[:, 0, 0], [0, 500, 0, 780])


def test_an_array_file_is_what_its_blocks_are(tmp_path: Path) -> None:
    whole = np.arange(35, dtype=np.float16).reshape(7, 5)
    write_npy(tmp_path / "a.npy", whole.dtype, whole.shape, [whole[:3], whole[3:3], whole[3:]])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), whole)
    keep = np.array([1, 0, 1, 1, 0, 0, 1], dtype=bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_files, "BLOCK_BYTES", 25)
        parts = [*array_files.blocks_of(whole, keep)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[keep])
        assert [len(part) for part in parts] == [1, 2, 0, 1]


if __name__ == "__main__":
    test_crash.made_ready = lambda kind: work
    test_crash.nursery(sys.argv[1])
