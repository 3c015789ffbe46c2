"""Indexes of several sites become one: the concatenation of their rows, and no series or patient taken for another's."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_archive import both, counts, site  # noqa: F401
from test_encode import run
from test_store import PASSPORT, records_of, unit

from index import merge as module
from index.archive import Archive
from index.ledger import rejects_frame, row
from index.lock import writer_lock
from index.merge import Merged, merge
from index.record import hash_of
from index.store import Index
from index.verify import verify
from models.errors import DecipherError

Sites = tuple[Path, Path, Path]


def made(
    folder: Path,
    ids: str,
    *,
    seed: int = 0,
    kind: str = "dicom",
    key: bytes = b"k" * 32,
    archive: Archive | None = None,
) -> Index:
    """An index of one archive at /NAME with these series, a picture of each, and one rejected file."""
    rng = np.random.default_rng(seed)
    home = archive or Archive(folder.name, Path("/") / folder.name)
    index = Index.create(folder, PASSPORT, [home], key=key)
    more = {name: [f"{name} {one} {seed}" for one in ids] for name in ("fingerprint", "patient_id")}
    rows = records_of(list(ids), archive=[home.name] * len(ids), format=[kind] * len(ids), **more)
    index.append(rows, unit(rng, len(ids)), unit(rng, len(ids)))
    index.write_rejects(rejects_frame([row(f"{seed}.txt", "not_an_image")]).with_columns(archive=pl.lit(home.name)))
    (folder / "thumbnails").mkdir()
    for one in ids:
        (folder / "thumbnails" / f"{one}.png").write_bytes(f"{one} of {seed}".encode())
    return index


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / "thumbnails").iterdir()}


def test_a_merge_is_the_concatenation(tmp_path: Path) -> None:
    a, b, c = (
        made(tmp_path / name, ids, seed=seed)
        for seed, (name, ids) in enumerate(zip("abc", ("xyz", "uv", "w"), strict=True))
    )
    b.remove(["v"])
    parts = [Index.open(one.folder) for one in (a, b, c)]
    assert merge([one.folder for one in parts], tmp_path / "all") == Merged(5, 0, True)
    whole = Index.open(tmp_path / "all")
    assert whole.records.equals(pl.concat([one.records for one in parts]))
    np.testing.assert_array_equal(whole.vectors, np.concatenate([one.vectors for one in parts]))
    captions = np.concatenate([one.gather(np.arange(len(one)), "captions") for one in parts])
    np.testing.assert_array_equal(whole.gather(np.arange(5), "captions"), captions)
    assert whole.passport == PASSPORT and whole.key == a.key
    assert {name: one.root for name, one in whole.archives.items()} == {x: Path("/") / x for x in "abc"}
    assert whole.rejects.select("archive", "path").rows() == [("a", "0.txt"), ("b", "1.txt"), ("c", "2.txt")]
    assert pictures(whole.folder) == {"x": b"x of 0", "y": b"y of 0", "z": b"z of 0", "u": b"u of 1", "w": b"w of 2"}
    assert verify(whole) == []
    assert not list(tmp_path.glob("*merging*")) and not (whole.folder / "merging").exists()
    for one in parts:
        assert Index.open(one.folder).commit == one.commit, "the parts stay as they are"


def test_pictures_of_a_part_and_of_the_whole_do_not_hang_together(tmp_path: Path) -> None:
    from index.removal import remove
    from index.segment import replace_file

    a, b = made(tmp_path / "a", "xy"), made(tmp_path / "b", "u", seed=1)
    merge([a.folder, b.folder], tmp_path / "all")
    replace_file(tmp_path / "all" / "thumbnails" / "x.png", b"new")
    remove(Index.open(tmp_path / "all"), ["y"])
    assert pictures(a.folder) == {"x": b"x of 0", "y": b"y of 0"}


def test_a_series_that_two_have_is_kept_once_from_the_first(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", "xyz"), made(tmp_path / "b", "yu", seed=1)
    assert merge([a.folder, b.folder], tmp_path / "all") == Merged(4, 1, True)
    whole = Index.open(tmp_path / "all")
    assert whole.records.select("series_id", "archive").rows() == [("x", "a"), ("y", "a"), ("z", "a"), ("u", "b")]
    np.testing.assert_array_equal(whole.vectors, np.concatenate([a.vectors, b.vectors[1:]]))
    assert pictures(whole.folder)["y"] == b"y of 0"


def test_the_same_index_twice_is_the_index(tmp_path: Path) -> None:
    a = made(tmp_path / "a", "xyz", kind="nifti")
    shutil.copytree(a.folder, tmp_path / "copy")
    assert merge([a.folder, a.folder, tmp_path / "copy"], tmp_path / "all") == Merged(3, 6, True)
    whole = Index.open(tmp_path / "all")
    assert whole.records.equals(a.records)
    assert list(whole.archives) == ["a"]
    assert whole.rejects.equals(a.rejects)


def test_nifti_series_of_two_archives_are_kept_apart(tmp_path: Path) -> None:
    a = made(tmp_path / "1" / "mri", "xy", kind="nifti", archive=Archive("mri", Path("/site-1/mri")))
    b = made(tmp_path / "2" / "mri", "xz", kind="nifti", archive=Archive("mri", Path("/site-2/mri")), seed=1)
    assert merge([a.folder, b.folder], tmp_path / "all") == Merged(4, 0, True)
    whole = Index.open(tmp_path / "all")
    assert whole.records["series_id"].to_list() == ["x", "y", hash_of("mri-2", "x"), hash_of("mri-2", "z")]
    assert whole.records["patient_id"].to_list()[2:] == [hash_of("mri-2", f"patient_id {one} 1") for one in "xz"]
    assert whole.records["archive"].to_list() == ["mri", "mri", "mri-2", "mri-2"]
    assert whole.archives["mri-2"] == Archive("mri-2", Path("/site-2/mri"), ("mri-2",))
    assert pictures(whole.folder)[hash_of("mri-2", "x")] == b"x of 1"


@pytest.mark.parametrize(("ids", "one_archive"), [("xz", False), ("uv", False), ("x", False)])
def test_two_sites_may_keep_their_archives_at_the_same_root(tmp_path: Path, ids: str, one_archive: bool) -> None:
    home = Archive("data", Path("/data"))
    a = made(tmp_path / "a", "xy", kind="nifti", archive=home)
    b = made(tmp_path / "b", ids, kind="nifti", archive=home, seed=1, key=b"other" * 6 + b"xx")
    done = merge([a.folder, b.folder], tmp_path / "all")
    assert (done.series, done.twice, done.one_key) == (2 + len(ids), 0, False)
    whole = Index.open(tmp_path / "all")
    assert list(whole.archives) == ["data", "data-2"]
    assert whole.records["archive"].to_list() == ["data"] * 2 + ["data-2"] * len(ids)
    assert whole.key not in (a.key, b.key) and len(whole.key) == 32


def test_two_halves_of_one_archive_are_one_again(tmp_path: Path) -> None:
    home = Archive("data", Path("/data"))
    a, b = (made(tmp_path / name, ids, kind="nifti", archive=home) for name, ids in (("a", "xy"), ("b", "uv")))
    assert merge([a.folder, b.folder], tmp_path / "all") == Merged(4, 0, True)
    whole = Index.open(tmp_path / "all")
    assert list(whole.archives) == ["data"]
    assert whole.records["series_id"].to_list() == list("xyuv")


def test_merged_indexes_are_merged_again_and_nothing_collides(tmp_path: Path) -> None:
    parts = []
    for seed in range(4):
        home = Archive("mri", Path(f"/site-{seed}/mri"))
        parts.append(made(tmp_path / str(seed), "xy", kind="nifti", archive=home, seed=seed))
    merge([one.folder for one in parts[:2]], tmp_path / "left")
    merge([one.folder for one in parts[2:]], tmp_path / "right")
    assert merge([tmp_path / "left", tmp_path / "right"], tmp_path / "all") == Merged(8, 0, True)
    whole = Index.open(tmp_path / "all")
    assert whole.records["series_id"].n_unique() == 8
    assert len({one.salts for one in whole.archives.values()}) == 4
    np.testing.assert_array_equal(whole.vectors, np.concatenate([one.vectors for one in parts]))
    assert [one.root for one in whole.archives.values()] == [Path(f"/site-{seed}/mri") for seed in range(4)]


def test_large_indexes_are_copied_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    rng = np.random.default_rng(0)
    ids = [f"{one:04d}" for one in range(300)]
    folders = []
    for name, own in (("a", ids[:200]), ("b", ids[180:])):
        index = Index.create(tmp_path / name, PASSPORT, [Archive(name, Path("/") / name)], key=b"k" * 32)
        more = {"fingerprint": own, "patient_id": own, "format": ["dicom"] * len(own), "archive": [name] * len(own)}
        index.append(records_of(own, **more), unit(rng, len(own)), unit(rng, len(own)))
        index.remove(own[3:60:2])
        folders.append(index.folder)
    seen: list[tuple[int, int]] = []
    done = merge(folders, tmp_path / "all", lambda done, of: seen.append((done, of)))
    a, b, whole = (Index.open(folder) for folder in (*folders, tmp_path / "all"))
    fresh = ~b.records["series_id"].is_in(a.records["series_id"].implode())
    assert whole.records.equals(pl.concat([a.records, b.records.filter(fresh)]))
    np.testing.assert_array_equal(whole.vectors, np.concatenate([a.vectors, b.vectors[fresh.to_numpy()]]))
    assert done == Merged(len(whole), int((~fresh).sum()), True)
    assert seen[-1] == (len(whole), len(a) + len(b))
    assert verify(whole) == []


def test_another_encoder_and_a_single_index_are_refused(tmp_path: Path) -> None:
    a = made(tmp_path / "a", "x")
    other = Index.create(tmp_path / "b", {**PASSPORT, "name": "large", "hash": "ff" * 16})
    for folders in ([a.folder, other.folder], [other.folder, a.folder]):
        with pytest.raises(DecipherError, match=r"another encoder \((large|small)\)"):
            merge(folders, tmp_path / "all")
    with pytest.raises(DecipherError, match="two indexes or more"):
        merge([a.folder], tmp_path / "all")
    with pytest.raises(DecipherError, match="No index in"):
        merge([a.folder, tmp_path / "none"], tmp_path / "all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_damaged_index_is_not_copied(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", "xy"), made(tmp_path / "b", "u", seed=1)
    path = b.folder / "segments" / "000001" / "vectors.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DecipherError, match=r"b: segments/000001/vectors.npy differs from its checksum"):
        merge([a.folder, b.folder], tmp_path / "all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_stands_in_the_way_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = made(tmp_path / "a", "x"), made(tmp_path / "b", "u", seed=1)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    for target, told in (("a", "an index in"), ("thesis", "holds other files"), ("thesis/chapter.txt", "is a file")):
        with pytest.raises(DecipherError, match=told):
            merge([a.folder, b.folder], tmp_path / target)
    own = made(tmp_path / "all.merging", "z")
    with pytest.raises(DecipherError, match=r"an index in .*all\.merging"):
        merge([a.folder, b.folder], tmp_path / "all")
    assert verify(Index.open(own.folder)) == [] and (tmp_path / "thesis" / "chapter.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert merge([a.folder, b.folder], Path()).series == 2
    assert len(Index.open(tmp_path / "empty")) == 2


def test_two_merges_into_one_place_do_not_undo_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = made(tmp_path / "a", "x"), made(tmp_path / "b", "u", seed=1)
    told = []

    def meanwhile(done: int, of: int) -> None:
        with pytest.raises(DecipherError, match="Another process") as error:
            merge([a.folder, b.folder], tmp_path / "all")
        told.append(error.value.message)

    assert merge([a.folder, b.folder], tmp_path / "all", meanwhile).series == 2
    assert len(told) == 2
    assert verify(Index.open(tmp_path / "all")) == []


class Killed(BaseException):
    """Stands for a kill: no handler of errors sees it."""


def test_killed_at_any_step_there_is_no_target_and_the_same_merge_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_store import Killed as Dead
    from test_store import kill_at

    a, b = made(tmp_path / "a", "xy"), made(tmp_path / "b", "u", seed=1)
    merge([a.folder, b.folder], tmp_path / "whole")
    whole = Index.open(tmp_path / "whole")
    killed = 0
    for step in range(0, 200, 5):
        target = tmp_path / f"all-{step}"
        with monkeypatch.context() as patch:
            done = kill_at(step, patch)
            try:
                merge([a.folder, b.folder], target)
            except Dead:
                killed += 1
        if target.exists():
            assert verify(Index.open(target)) == []
        else:
            merge([a.folder, b.folder], target)
        assert Index.open(target).records.equals(whole.records)
        assert Index.open(target).vectors.tobytes() == whole.vectors.tobytes()
        assert pictures(target) == pictures(whole.folder)
        assert not list(tmp_path.glob("*.merging"))
        if len(done) <= step:
            break
    assert killed > 5


MERGE = """
import sys
from pathlib import Path
from index.merge import merge
import index.merge
index.merge.BLOCK_ROWS = 3
folders = [Path(word) for word in sys.argv[1:]]
print("begun", flush=True)
merge(folders[:-1], folders[-1])
"""


def test_killed_by_the_system_it_runs_again(tmp_path: Path) -> None:
    ids = [f"{one:03d}" for one in range(120)]
    for name, own in (("a", ids[:60]), ("b", ids[60:])):
        index = Index.create(tmp_path / name, PASSPORT, [Archive(name, Path("/") / name)], key=b"k" * 32)
        more = {"fingerprint": own, "patient_id": own, "format": ["dicom"] * 60, "archive": [name] * 60}
        index.append(records_of(own, **more), unit(np.random.default_rng(0), 60))
    root = Path(__file__).resolve().parents[1]
    words = [sys.executable, "-c", MERGE, *(str(tmp_path / name) for name in ("a", "b", "all"))]
    child = subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    while not (tmp_path / "all.merging" / "segments" / "000006").exists():
        assert child.poll() is None
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "all").exists()
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all") == Merged(120, 0, True)
    assert Index.open(tmp_path / "all").records["series_id"].to_list() == ids
    with writer_lock(tmp_path / "all"):
        pass


def test_archives_are_found_again_in_the_merged_index(both: Sites, tiny_model: Path, tmp_path: Path) -> None:  # noqa: F811
    first, second, _ = both
    for name, root in (("i1", first), ("i2", second)):
        assert counts(run(root, tmp_path / name, tiny_model)) == (4, 0, 0, 0, 0)
    done = merge([tmp_path / "i1", tmp_path / "i2"], tmp_path / "all")
    assert done == Merged(7, 1, False)
    before = Index.open(tmp_path / "all")
    vectors = dict(zip(before.records["series_id"], before.vectors.copy(), strict=True))
    assert counts(run(first, tmp_path / "all", None)) == (0, 4, 0, 0, 0)
    assert counts(run(second, tmp_path / "all", None)) == (0, 3, 0, 0, 1)
    after = Index.open(tmp_path / "all")
    assert {one: v.tobytes() for one, v in vectors.items()} == {
        one: v.tobytes() for one, v in zip(after.records["series_id"], after.vectors, strict=True)
    }
    assert after.records["patient_id"].n_unique() == 7, "hashed anew, all with the merged index's key"
    assert not set(after.records["patient_id"]) & set(before.records["patient_id"])
    commit = after.commit
    assert counts(run(first, tmp_path / "all", None)) == (0, 4, 0, 0, 0)
    assert Index.open(tmp_path / "all").commit == commit
    assert verify(after) == []
