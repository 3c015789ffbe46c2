"""Several archives in one index: nothing collides, nothing is lost, and each is looked after by itself."""

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_dicom import write_stack
from test_encode import run
from test_nifti import save
from test_store import DIM, PASSPORT, records_of, unit

from index.archive import Archive, archive_at, free_name, salted
from index.encode import EncodeSummary
from index.reading import read_volume
from index.record import hash_of, patient_hash
from index.store import Index
from index.verify import verify
from models.errors import DecipherError

SUBJECTS = ("sub-01", "sub-02", "sub-03")


def site(root: Path, seed: int) -> Path:
    """A BIDS-like archive of three subjects, with the same names at every site, and one DICOM series that all sites have."""
    rng = np.random.default_rng(seed)
    for name in SUBJECTS:
        save(root / name / "anat" / f"{name}_T1w.nii.gz", rng.integers(0, 900, (12, 11, 10)).astype("<i2"))
    write_stack(root / f"dicom-{seed}")
    (root / "notes.txt").write_text(f"site {seed}")
    return root


def counts(done: EncodeSummary) -> tuple[int, int, int, int, int]:
    return done.encoded, done.unchanged, done.missing, done.removed, done.elsewhere


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Path, Path]:
    """Two sites and the index of both. Not to be changed."""
    here = tmp_path_factory.mktemp("sites")
    first, second, folder = site(here / "a" / "mri", 1), site(here / "b" / "mri", 2), here / "index"
    assert counts(run(first, folder, tiny_model)) == (4, 0, 0, 0, 0)
    assert counts(run(second, folder, None)) == (3, 0, 0, 0, 1)
    return first, second, folder


@pytest.fixture
def mine(both: tuple[Path, Path, Path], tmp_path: Path) -> tuple[Path, Path, Path]:
    """The same, to be changed: archives that were copied with their times, and the index that knows them there."""
    first, second, folder = (tmp_path / path.relative_to(both[2].parent) for path in both)
    shutil.copytree(both[2].parent, tmp_path, dirs_exist_ok=True)
    index = Index.open(folder)
    moved = [
        Archive(one.name, root, one.salts) for one, root in zip(index.archives.values(), (first, second), strict=True)
    ]
    index.update_card(archives=[one.to_json() for one in moved])
    return first, second, folder


def test_archives_with_the_same_paths_do_not_collide(both: tuple[Path, Path, Path]) -> None:
    first, second, folder = both
    index = Index.open(folder)
    records = index.records
    assert {name: one.root for name, one in index.archives.items()} == {"mri": first, "mri-2": second}
    assert records["archive"].to_list() == ["mri"] * 4 + ["mri-2"] * 3
    nifti = records.filter(pl.col("format") == "nifti")
    assert nifti.group_by("path").len()["len"].to_list() == [2, 2, 2]
    for column in ("series_id", "study_id", "patient_id"):
        assert nifti[column].n_unique() == 6, column
    assert records.filter(pl.col("format") == "dicom")["patient_id"].to_list() == [patient_hash("P1", index.key)]
    assert verify(index) == []


def test_each_record_is_read_from_its_own_archive(both: tuple[Path, Path, Path], tiny_model: Path) -> None:
    from models.decipher import load

    index, model = Index.open(both[2]), load(str(tiny_model))
    for row, record in enumerate(index.records.to_dicts()):
        alone = model.encode_volumes([read_volume(index.root_of(record), record)])[0].numpy()
        assert np.abs(alone - index.vectors[row]).max() < 1e-5, record["path"]
        assert (index.folder / "thumbnails" / f"{record['series_id']}.png").is_file()
    same = index.gather(np.array([index.records["path"].to_list().index(p) for p in index.records["path"]]))
    assert np.abs(same - index.vectors).max() > 0, "two archives have different images under one path"


def test_encoding_each_again_does_nothing(both: tuple[Path, Path, Path]) -> None:
    first, second, folder = both
    before = Index.open(folder).commit
    assert counts(run(first, folder, None)) == (0, 4, 0, 0, 0)
    assert counts(run(second, folder, None)) == (0, 3, 0, 0, 1)
    assert Index.open(folder).commit == before


def test_the_ledger_keeps_what_each_archive_rejected(mine: tuple[Path, Path, Path]) -> None:
    first, _, folder = mine
    named = [("mri", "notes.txt"), ("mri-2", "notes.txt")]
    assert Index.open(folder).rejects.select("archive", "path").rows() == named
    (first / "more.txt").write_text("of site 1")
    run(first, folder, None)
    assert set(Index.open(folder).rejects.select("archive", "path").rows()) == {*named, ("mri", "more.txt")}


def test_what_one_archive_misses_is_told_and_pruned_for_it_alone(mine: tuple[Path, Path, Path]) -> None:
    first, second, folder = mine
    shutil.rmtree(first / "sub-01")
    shutil.rmtree(second / "sub-02")
    assert counts(run(first, folder, None)) == (0, 3, 1, 0, 0)
    assert counts(run(second, folder, None, prune=True)) == (0, 2, 0, 1, 1)
    left = Index.open(folder).records.filter(pl.col("format") == "nifti").select("archive", "path").rows()
    assert [(archive, path[:6]) for archive, path in left] == [
        *(("mri", name) for name in SUBJECTS),
        ("mri-2", "sub-01"),
        ("mri-2", "sub-03"),
    ]
    assert verify(Index.open(folder)) == [], "its picture is gone too"


def test_what_another_archive_has_stays_when_one_is_pruned_of_it(mine: tuple[Path, Path, Path]) -> None:
    first, second, folder = mine
    shutil.rmtree(first / "dicom-1")
    assert counts(run(first, folder, None, prune=True)) == (0, 3, 0, 1, 0)
    assert counts(run(second, folder, None)) == (1, 3, 0, 0, 0)
    dicom = Index.open(folder).records.filter(pl.col("format") == "dicom")
    assert dicom.select("archive", "path").rows() == [("mri-2", "dicom-2")]


def test_a_part_of_an_archive_is_not_the_whole(mine: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from index.catalog import scan
    from index.options import ScanOptions
    from index.scanned import save as save_scan
    from index.scanned import save_key

    first, _, folder = mine
    index, chosen = Index.open(folder), tmp_path / "chosen.parquet"
    found = scan(first, key=index.key)
    save_scan(chosen, found, first, ScanOptions())
    save_key(chosen, index.key)
    pl.read_parquet(chosen).head(1).write_parquet(chosen)
    one_file = first / "dicom-1"
    for part in (chosen, next(one_file.iterdir())):
        with pytest.raises(DecipherError, match="may be a part of its archive") as told:
            run(part, folder, None, prune=True)
        assert "--prune" in told.value.hint
    assert counts(run(chosen, folder, None)) == (0, 1, 0, 0, 0)
    assert len(Index.open(folder)) == 7
    assert set(Index.open(folder).rejects.select("archive", "path").rows()) >= {("mri-2", "notes.txt")}


def test_a_moved_archive_is_known_and_nothing_is_encoded_again(mine: tuple[Path, Path, Path], tmp_path: Path) -> None:
    first, second, folder = mine
    before = Index.open(folder)
    for root, name in ((first, "mri"), (second, "mri-2")):
        moved = tmp_path / "elsewhere" / name
        moved.parent.mkdir(exist_ok=True)
        root.rename(moved)
        shutil.rmtree(moved / "sub-03")
        done = run(moved, folder, None)
        assert (done.encoded, done.missing, done.archive) == (0, 1, name)
        assert Index.open(folder).archives[name].root == moved
    assert Index.open(folder).commit == before.commit
    assert Index.open(folder).records.equals(before.records)


def test_a_copy_without_its_times_is_another_archive(mine: tuple[Path, Path, Path], tmp_path: Path) -> None:
    first, _, folder = mine
    shutil.copytree(first, tmp_path / "copy", copy_function=shutil.copy)
    assert counts(run(tmp_path / "copy", folder, None)) == (3, 0, 0, 0, 1)
    index = Index.open(folder)
    assert list(index.archives) == ["mri", "mri-2", "copy"]
    assert index.archives["mri"].root == first
    copies = index.records.filter(pl.col("archive") == "copy")
    original = index.records.filter(pl.col("archive") == "mri")
    assert not set(copies["series_id"]) & set(original["series_id"])


def test_a_small_part_of_an_archive_elsewhere_does_not_take_its_place(
    mine: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    first, _, folder = mine
    shutil.copytree(first / "sub-01", tmp_path / "part" / "sub-01")
    assert counts(run(tmp_path / "part", folder, None)) == (1, 0, 0, 0, 0)
    assert Index.open(folder).archives["mri"].root == first
    assert counts(run(first, folder, None)) == (0, 4, 0, 0, 0)


def test_writers_that_met_an_older_card_keep_each_others_archives(tmp_path: Path) -> None:
    early = Index.create(tmp_path / "i", PASSPORT, [Archive("a", tmp_path / "a")])
    late = Index.open(tmp_path / "i")
    late.update_card(archives=[*early.card["archives"], Archive("b", tmp_path / "b", ("b",)).to_json()])
    early.append(records_of(["x"], archive=["a"]), unit(np.random.default_rng(0), 1))
    early.update_card(model="m")
    for index in (early, Index.open(tmp_path / "i")):
        assert list(index.archives) == ["a", "b"]
        assert (index.card["model"], index.card["series"], index.dim) == ("m", 1, DIM)
        assert index.root_of({"archive": "b"}) == tmp_path / "b"


def frame(*rows: tuple[str, str, str | None]) -> pl.DataFrame:
    names = ("series_id", "format", "patient_id")
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(study_id="series_id", fingerprint=pl.lit("f"))


def test_salts_reach_nifti_ids_alone_and_leave_unknown_people_unknown() -> None:
    records = frame(("s1", "nifti", "p1"), ("s2", "dicom", "p2"), ("s3", "nifti", None))
    own = Archive("b", Path("/b"), ("x", "y")).own(records)
    assert own["series_id"].to_list() == [
        hash_of("y", hash_of("x", "s1")),
        "s2",
        hash_of("y", hash_of("x", "s3")),
    ]
    assert own["patient_id"].to_list() == [hash_of("y", hash_of("x", "p1")), "p2", None]
    assert own["archive"].unique().to_list() == ["b"]
    assert salted(records.clear(), "x").schema == records.schema


def test_an_archive_without_rows_is_found_by_its_root_alone() -> None:
    known = {"a": Archive("a", Path("/a"))}
    nothing = pl.DataFrame(schema={"series_id": pl.String, "fingerprint": pl.String, "archive": pl.String})
    found = frame(("s1", "nifti", "p1"))
    assert archive_at(known, Path("/a"), found, nothing) == known["a"]
    assert archive_at(known, Path("/b"), found, nothing) == Archive("b", Path("/b"), ("b",))
    assert archive_at({}, Path("/b"), found, nothing) == Archive("b", Path("/b"))


def test_another_way_to_the_same_folder_is_the_same_archive(
    mine: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_scanned import opened_below

    first, _, folder = mine
    run(first, folder, None)
    (tmp_path / "link").symlink_to(first)
    monkeypatch.chdir(first / "sub-01")
    for root in (tmp_path / "link", Path("../../mri"), Path(os.path.relpath(first))):
        with opened_below(first) as opened:
            assert counts(run(root, folder, None)) == (0, 4, 0, 0, 0)
        assert opened == [], "the last scan is remembered"
        assert Index.open(folder).archives["mri"].root == first


@pytest.mark.parametrize(
    ("wanted", "taken", "name"),
    [
        ("mri", [], "mri"),
        ("mri", ["mri", "mri-2"], "mri-3"),
        ("a/b c", [], "a-b-c"),
        ("../..", [], "archive"),
        ("", [], "archive"),
        ("Ärzte 1", [], "Ärzte-1"),
    ],
)
def test_names_of_archives_do_in_file_names(wanted: str, taken: list[str], name: str) -> None:
    assert free_name(wanted, taken) == name
