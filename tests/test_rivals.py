"""Baselines of the pixels: right numbers, read once, and either of all series or not at all."""

import errno
import json
from pathlib import Path

import nibabel
import numpy as np
import polars as pl
import pytest
import torch

from index import kept, removal
from index.contents import Contents
from index.encode import EncodeOptions, encode_archive
from index.store import Index
from models.config import ModelConfig, PrepareConfig
from models.decipher import load
from models.prepare import prepare
from models.volume import Volume
from training import rivals
from training.rivals import BINS, intensity_histogram, pixel_features, random_encoder, random_vectors


def silent(what: str, done: int, of: int) -> None:
    pass


def write_volume(path: Path, rng: np.random.Generator) -> None:
    """A bright ball of random texture."""
    far = np.linalg.norm(np.indices((20, 20, 20)) - 9.5, axis=0)
    data = np.where(far < 8, rng.uniform(50, 100, far.shape), rng.uniform(0, 2, far.shape))
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)


@pytest.fixture
def small(tmp_path: Path, tiny_model: Path, rng: np.random.Generator) -> Index:
    """Four series of an archive of their own."""
    for number in range(4):
        write_volume(tmp_path / "archive" / f"sub-{number}_T1w.nii.gz", rng)
    return encoded(tmp_path, tiny_model)


def encoded(folder: Path, model: Path) -> Index:
    encode_archive(folder / "archive", folder / "index", EncodeOptions(model=str(model)), lambda *said: None)
    return Index.open(folder / "index")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the series that are read."""
    seen, read = [], Contents.prepared

    def counted(self, record, config):
        seen.append(record["path"])
        return read(self, record, config)

    monkeypatch.setattr(Contents, "prepared", counted)
    return seen


def test_the_histogram_is_of_the_prepared_volume_within_its_body(rng) -> None:
    config = ModelConfig(prepare=PrepareConfig(box=(32, 32, 32)))
    data = np.zeros((1, 24, 24, 24), np.float32)
    data[0, 4:20, 4:20, 4:20] = rng.gamma(4.0, 25.0, (16, 16, 16))
    prepared = prepare(Volume(data, np.eye(4)), config.prepare)
    found = intensity_histogram(prepared, config)
    voxels = prepared.pixels.numpy().ravel()
    edges = np.linspace(config.prepare.body, 1, BINS + 1)
    wanted = np.histogram(voxels[voxels > config.prepare.body], edges)[0]
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=1e-6)
    assert found.sum() == pytest.approx(1, abs=1e-5) and np.count_nonzero(found) > BINS / 4


def test_the_random_encoder_is_the_same_each_time_and_not_the_trained_one(small, tiny_model) -> None:
    trained = load(str(tiny_model))
    torch.manual_seed(1)
    encoders = random_encoder(trained.config), random_encoder(trained.config)
    contents = Contents(small.records, small.root_of, [])
    prepared = [contents.prepared(record, trained.config.prepare) for record in small.records.iter_rows(named=True)]
    one, two = (random_vectors(encoder, prepared) for encoder in encoders)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(one[:1], random_vectors(encoders[0], prepared[:1]))
    for name, weight in trained.vision.state_dict().items():
        assert weight.shape == encoders[0].state_dict()[name].shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wanted = type(trained)(trained.config).vision.state_dict()
    assert all(torch.equal(wanted[name], weight) for name, weight in encoders[0].state_dict().items())


def test_the_trained_encoder_tells_other_things(shared, tmp_path) -> None:
    for name in ("T1w", "T2w"):
        source = next((shared / "mri" / "nifti").rglob(f"*{name[:2]}*.nii.gz"))
        (tmp_path / "archive").mkdir(exist_ok=True)
        (tmp_path / "archive" / f"{name}.nii.gz").symlink_to(source)
    encode_archive(tmp_path / "archive", tmp_path / "index", EncodeOptions(), lambda *said: None)
    index = Index.open(tmp_path / "index")
    found, notes = pixel_features(index, index.records, silent)
    assert notes == [] and found["random_encoder"].shape == index.vectors.shape
    assert np.abs(np.sum(found["random_encoder"] * index.vectors, axis=1)).max() < 0.5


def test_rows_are_those_of_the_records_and_the_archive_is_read_once(small, reads) -> None:
    progress = []
    first, notes = pixel_features(small, small.records, lambda *said: progress.append(said))
    assert notes == [] and sorted(reads) == sorted(small.records["path"]) and progress[-1] == ("pixels", 4, 4)
    assert first["histogram"].shape == (4, BINS) and first["random_encoder"].shape == (4, small.dim)
    reads.clear()
    order = [2, 0, 3]
    again, notes = pixel_features(Index.open(small.folder), small.records[order], silent)
    assert notes == [] and reads == []
    for name, features in first.items():
        np.testing.assert_array_equal(again[name], features[order])
    assert len(np.unique(first["histogram"], axis=0)) == 4


def test_a_changed_series_is_read_anew_and_no_other(small, tiny_model, reads, rng) -> None:
    before = dict(zip(small.records["path"], pixel_features(small, small.records, silent)[0]["histogram"], strict=True))
    write_volume(small.folder.parent / "archive" / "sub-2_T1w.nii.gz", rng)
    index = encoded(small.folder.parent, tiny_model)
    reads.clear()
    after = dict(zip(index.records["path"], pixel_features(index, index.records, silent)[0]["histogram"], strict=True))
    assert reads == ["sub-2_T1w.nii.gz"]
    changed = [path for path in before if not np.array_equal(before[path], after[path])]
    assert changed == ["sub-2_T1w.nii.gz"]
    assert pl.read_parquet(index.folder / kept.FILE)["fingerprint"].n_unique() == 4


def test_another_encoder_or_method_finds_nothing_of_an_earlier_one(small, reads, monkeypatch) -> None:
    pixel_features(small, small.records, silent)
    reads.clear()
    monkeypatch.setattr(rivals, "METHOD", "otherwise")
    pixel_features(small, small.records, silent)
    assert len(reads) == 4
    card = json.loads((small.folder / "card.json").read_text())
    card["passport"]["hash"] = "0" * 32
    (small.folder / "card.json").write_text(json.dumps(card))
    reads.clear()
    found, notes = pixel_features(Index.open(small.folder), small.records, silent)
    assert found == {} and reads == [] and "another encoder" in notes[0]


def test_a_gone_archive_leaves_what_is_kept_and_else_a_note(small, reads) -> None:
    known = small.records[:3]
    wanted, _ = pixel_features(small, known, silent)
    (small.folder.parent / "archive").rename(small.folder.parent / "elsewhere")
    reads.clear()
    found, notes = pixel_features(small, known, silent)
    assert notes == [] and np.array_equal(found["histogram"], wanted["histogram"])
    found, notes = pixel_features(small, small.records, silent)
    assert found == {} and reads == [] and "the archive of 1 series is not there" in notes[0]


def test_a_series_that_cannot_be_read_leaves_out_the_baselines(small, reads) -> None:
    (small.folder.parent / "archive" / "sub-1_T1w.nii.gz").write_bytes(b"nothing")
    found, notes = pixel_features(small, small.records, silent)
    assert found == {} and len(notes) == 1 and "1 of 4 series cannot be read" in notes[0]
    reads.clear()
    pixel_features(small, small.records, silent)
    assert reads == ["sub-1_T1w.nii.gz"], "the others are kept"


def test_many_series_are_read_only_for_one_who_asks(small, reads, monkeypatch) -> None:
    monkeypatch.setattr(rivals, "MOST_UNREAD", 3)
    found, notes = pixel_features(small, small.records, silent)
    assert found == {} and reads == [] and "4 series" in notes[0] and "--pixels" in notes[0]
    found, notes = pixel_features(small, small.records, silent, force=True)
    assert set(found) == {"histogram", "random_encoder"} and notes == []
    assert set(pixel_features(small, small.records, silent)[0]) == set(found)


def test_an_interrupted_reading_keeps_what_it_has(small, reads, monkeypatch) -> None:
    monkeypatch.setattr(rivals, "BATCH", 2)

    def stop(what: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pixel_features(small, small.records, stop)
    reads.clear()
    assert set(pixel_features(small, small.records, silent)[0]) == {"histogram", "random_encoder"}
    assert len(reads) == 2


def test_an_index_that_cannot_be_written_to(small, monkeypatch) -> None:
    def refused(*said, **more):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", refused)
    found, notes = pixel_features(small, small.records, silent)
    assert set(found) == {"histogram", "random_encoder"}
    assert len(notes) == 1 and "reads the pixels again" in notes[0] and "Read-only file system" in notes[0]
    assert not (small.folder / kept.FILE).exists()


def test_while_another_writes_the_figures_are_the_same(small, monkeypatch) -> None:
    wanted, _ = pixel_features(small, small.records, silent)
    (small.folder / kept.FILE).unlink()
    with Index.open(small.folder).writing():
        found, notes = pixel_features(small, small.records, silent)
    assert not (small.folder / kept.FILE).exists() and "reads the pixels again" in notes[0]
    np.testing.assert_array_equal(found["histogram"], wanted["histogram"])


def test_a_damaged_file_is_made_again(small, reads) -> None:
    wanted, _ = pixel_features(small, small.records, silent)
    (small.folder / kept.FILE).write_bytes(b"PAR1")
    found, notes = pixel_features(small, small.records, silent)
    assert notes == [] and len(reads) == 8
    np.testing.assert_array_equal(found["random_encoder"], wanted["random_encoder"])


def test_what_left_the_index_is_forgotten(small) -> None:
    pixel_features(small, small.records, silent)
    removal.remove(small, small.records["series_id"][:1].to_list())
    kept.forget(small)
    left = pl.read_parquet(small.folder / kept.FILE)
    assert sorted(left["series_id"]) == sorted(small.records["series_id"])
    assert len(left) == 3
