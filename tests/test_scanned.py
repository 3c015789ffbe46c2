"""A second scan: it opens nothing where nothing changed, and else gives what a scan from nothing gives."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from test_dicom import image, write, write_stack
from test_nifti import noise, save

from index.catalog import Catalogue, scan
from index.options import ScanOptions
from index.scanned import beside, check_free, is_catalogue, key_of, load, own_key, read_catalogue, save_key
from index.scanned import save as save_scan
from models.errors import DecipherError

OPTIONS = ScanOptions(min_slices=3)
_watched: list[tuple[str, list[str]]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], str | Path):
        root, opened = _watched[-1]
        opened.extend([str(arguments[0])] if str(arguments[0]).startswith(root) else [])


sys.addaudithook(_note)


@contextmanager
def opened_below(root: Path) -> Iterator[list[str]]:
    """The files below `root` that this process opens meanwhile."""
    _watched.append((str(root), []))
    try:
        yield _watched[-1][1]
    finally:
        _watched.pop()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    write_stack(root / "a")
    write_stack(root / "b", series="1.2.77")
    save(root / "nifti/sub-01_T1w.nii.gz", noise())
    save(root / "nifti/sub-02_T1w.nii.gz", noise())
    save(root / "nifti/sub-02_T1w_mask.nii.gz", noise())
    (root / "notes.txt").write_text("hello")
    (root / "empty.dcm").touch()
    return root


def same(one: Catalogue, other: Catalogue) -> None:
    assert_frame_equal(one.records, other.records)
    assert_frame_equal(one.rejects, other.rejects)
    assert_frame_equal(one.seen, other.seen)
    assert one.files == other.files


def test_an_unchanged_archive_is_not_read_again(archive: Path) -> None:
    with opened_below(archive) as opened:
        first = scan(archive, OPTIONS)
    assert any(name.endswith("sub-01_T1w.nii.gz") for name in opened)
    with opened_below(archive) as opened:
        assert scan(archive, OPTIONS, known=first) is first
    assert opened == []


def grow(root: Path) -> None:
    write_stack(root / "c", series="1.2.78")


def lose_a_slice(root: Path) -> None:
    sorted((root / "a").iterdir())[1].unlink()


def add_a_slice(root: Path) -> None:
    count = len(list((root / "a").iterdir()))
    write(root / "late.dcm", image(_series(root / "a"), count, np.arange(12).reshape(3, 4) * 9))


def _series(folder: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(next(folder.iterdir())).SeriesInstanceUID)


def tell_a_sidecar(root: Path) -> None:
    (root / "nifti/sub-01_T1w.json").write_text('{"EchoTime": 0.09, "RepetitionTime": 4.0}')


def lose_a_volume(root: Path) -> None:
    (root / "nifti/sub-02_T1w.nii.gz").unlink()


def change_a_volume(root: Path) -> None:
    save(root / "nifti/sub-02_T1w.nii.gz", noise((9, 9, 9)))


def fill_the_empty_file(root: Path) -> None:
    (root / "empty.dcm").write_text("no longer empty")


def empty_another(root: Path) -> None:
    (root / "hollow.dcm").touch()


@pytest.mark.parametrize(
    "change",
    [
        grow,
        lose_a_slice,
        add_a_slice,
        tell_a_sidecar,
        lose_a_volume,
        change_a_volume,
        fill_the_empty_file,
        empty_another,
    ],
)
def test_a_change_gives_what_a_scan_from_nothing_gives(archive: Path, change: Callable[[Path], None]) -> None:
    first = scan(archive, OPTIONS)
    change(archive)
    with opened_below(archive) as opened:
        second = scan(archive, OPTIONS, known=first)
    same(second, scan(archive, OPTIONS))
    assert not first.seen.equals(second.seen) or first.files != second.files
    assert not any("/b/" in name for name in opened)


def test_one_changed_volume_is_looked_at_alone(archive: Path) -> None:
    first = scan(archive, OPTIONS)
    change_a_volume(archive)
    with opened_below(archive) as opened:
        scan(archive, OPTIONS, known=first)
    assert opened and all(Path(name).name.startswith("sub-02_T1w.") for name in opened)


def test_half_of_a_pair_that_stays_is_not_lost(archive: Path) -> None:
    import nibabel as nib

    nib.save(nib.Nifti1Pair(noise(), np.eye(4)), archive / "pair.img")
    first = scan(archive, OPTIONS)
    (archive / "pair.hdr").unlink()
    second = scan(archive, OPTIONS, known=first)
    assert "pair.img" in second.rejects["path"].to_list()
    same(second, scan(archive, OPTIONS))


def test_what_is_saved_is_loaded_for_the_same_archive_options_and_rules(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalogue.parquet"
    found = scan(archive, OPTIONS)
    save_scan(path, found, archive, OPTIONS)
    loaded = load(path, archive, OPTIONS)
    assert loaded is not None
    same(loaded, found)
    assert load(path, archive, ScanOptions()) is None and load(path, tmp_path, OPTIONS) is None
    assert load(tmp_path / "other.parquet", archive, OPTIONS) is None
    monkeypatch.setattr("index.scanned._rules", lambda: "others")
    assert load(path, archive, OPTIONS) is None


def test_a_selection_of_a_catalogue_knows_its_archive(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.parquet"
    found = scan(archive, OPTIONS)
    save_scan(path, found, archive, OPTIONS)
    chosen = tmp_path / "nifti.parquet"
    pl.read_parquet(path).filter(pl.col("format") == "nifti").write_parquet(chosen)
    assert is_catalogue(path) and is_catalogue(chosen) and not is_catalogue(beside(path, ".rejects.parquet"))
    selected, root = read_catalogue(chosen)
    assert root == archive and selected.records.height == 2
    moved = pl.read_parquet(path).with_columns(archive=pl.lit("/nowhere/at all"))
    moved.write_parquet(chosen)
    with pytest.raises(DecipherError, match="not there"):
        read_catalogue(chosen)


def test_keys_belong_to_their_catalogue_and_to_selections_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.parquet"
    assert own_key(path) is None and key_of(path) is None
    save_key(path, b"k" * 32)
    assert own_key(path) == key_of(tmp_path / "selection.parquet") == b"k" * 32
    assert beside(path, ".key").stat().st_mode & 0o777 == 0o600
    save_key(tmp_path / "other.parquet", b"o" * 32)
    assert key_of(tmp_path / "selection.parquet") is None


def test_what_is_not_ours_is_not_overwritten(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "mine.parquet")
    for name in ("mine.parquet", "catalogue.csv", "nowhere/catalogue.parquet"):
        with pytest.raises(DecipherError):
            check_free(tmp_path / name)
    check_free(tmp_path / "new.parquet")
