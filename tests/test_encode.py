"""An archive becomes an index, and stays in step with it."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index.labelled import read_archive
from index.caption import caption
from index.encode import EncodeOptions, EncodeSummary, encode_archive
from index.store import Index
from models.decipher import Decipher, load
from index.verify import verify
from models.errors import DecipherError


def silent(what: str, done: int, of: int) -> None:
    pass


def run(archive: Path, folder: Path, model: Path | None, **options: object) -> EncodeSummary:
    return encode_archive(archive, folder, EncodeOptions(model=model and str(model), **options), silent)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def archive(phantom_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("copy") / "archive"
    shutil.copytree(phantom_archive, copy)
    return copy


@pytest.fixture(scope="module")
def encoded(archive: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EncodeSummary]:
    folder = tmp_path_factory.mktemp("index") / "decipher-index"
    return folder, run(archive, folder, tiny_model)


def test_every_labelled_series_is_there_and_vectors_are_the_model_s(
    archive: Path, encoded: tuple[Path, EncodeSummary], tiny_model: Path
) -> None:
    from index.reading import read_volume

    folder, summary = encoded
    labels = pl.read_csv(archive / "labels.csv")
    index = Index.open(folder)
    assert summary.encoded == len(index) == labels.height
    assert verify(index) == []
    model: Decipher = load(str(tiny_model))
    for row in (0, len(index) - 1):
        record = index.rows(np.array([row])).to_dicts()[0]
        alone = model.encode_volumes([read_volume(archive, record)])[0].numpy()
        assert np.abs(alone - index.vectors[row]).max() < 1e-5
        words = model.encode_texts([caption(record)])[0].numpy()
        assert np.abs(words - index.gather(np.array([row]), "captions")[0]).max() < 1e-5


def test_labels_and_reports_are_in_the_records(archive: Path, encoded: tuple[Path, EncodeSummary]) -> None:
    records = Index.open(encoded[0]).records
    assert records["report"].null_count() == 0
    assert set(records["sequence_from"].unique()) == {"labels"}
    labels = pl.read_csv(archive / "labels.csv")
    assert records["age_years"].n_unique() == labels["age_years"].n_unique()
    assert records["patient_id"].n_unique() == labels["subject_id"].n_unique()
    raw = set(labels["subject_id"].to_list())
    assert not raw & set(records["patient_id"].to_list())


def test_a_broken_file_is_counted_and_named(encoded: tuple[Path, EncodeSummary]) -> None:
    rejects = Index.open(encoded[0]).rejects
    assert rejects is not None and encoded[1].rejected == rejects.height
    broken = rejects.filter(pl.col("path").str.contains("broken"))
    assert broken.height == 1 and broken["code"][0] != "not_an_image"


def test_again_does_nothing(archive: Path, encoded: tuple[Path, EncodeSummary]) -> None:
    before = Index.open(encoded[0]).commit
    again = run(archive, encoded[0], None)
    assert (again.encoded, again.unchanged) == (0, encoded[1].encoded)
    assert Index.open(encoded[0]).commit == before


def test_new_changed_and_vanished_series(archive: Path, tiny_model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "archive"
    shutil.copytree(archive, mine)
    folder = tmp_path / "index"
    first = run(mine, folder, tiny_model)
    volumes = sorted(mine.rglob("*.nii.gz"))
    shutil.copy(volumes[0], mine / "another.nii.gz")
    volumes[1].write_bytes(volumes[2].read_bytes())
    volumes[3].unlink()
    second = run(mine, folder, None)
    assert (second.encoded, second.missing, second.removed) == (2, 1, 0)
    assert second.unchanged == first.encoded - 2
    assert len(Index.open(folder)) == first.encoded + 1
    assert verify(Index.open(folder)) == []


def test_new_labels_change_rows_and_not_vectors(archive: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    first = run(archive, folder, tiny_model)
    before = Index.open(folder)
    old = dict(zip(before.records["series_id"], before.vectors.copy(), strict=True))
    labels = tmp_path / "site.csv"
    path = before.records["path"][0]
    labels.write_text(f"path,site\n{path},north\n")
    second = run(archive, folder, None, labels=labels)
    assert second.unchanged == first.encoded
    after = Index.open(folder)
    assert after.records.filter(pl.col("path") == path)["site"].to_list()[0] == "north"
    assert all(np.array_equal(old[i], v) for i, v in zip(after.records["series_id"], after.vectors, strict=True))


def test_another_encoder_is_refused(
    archive: Path, encoded: tuple[Path, EncodeSummary], tmp_path: Path, tiny_model: Path
) -> None:
    model = load(str(tiny_model))
    model.log_scale.data += 0.5
    model.save(tmp_path / "other")
    with pytest.raises(DecipherError, match="another encoder"):
        run(archive, encoded[0], tmp_path / "other")


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_an_archive_without_mri_makes_no_folder(tmp_path: Path, tiny_model: Path, content: str | None) -> None:
    (tmp_path / "archive").mkdir()
    if content:
        (tmp_path / "archive" / content).write_text("not an image")
    with pytest.raises(DecipherError, match="No MRI"):
        run(tmp_path / "archive", tmp_path / "index", tiny_model)
    assert not (tmp_path / "index").exists()


def test_one_file_is_an_archive(archive: Path, tiny_model: Path, tmp_path: Path) -> None:
    volume = sorted(archive.rglob("*.nii.gz"))[0]
    assert run(volume, tmp_path / "index", tiny_model).encoded == 1


def test_interrupted_blocks_are_kept(
    archive: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from index import encode

    monkeypatch.setattr(encode, "BLOCK", 4)

    def stop(what: str, done: int, of: int) -> None:
        if what == "encode" and done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_archive(archive, tmp_path / "index", EncodeOptions(model=str(tiny_model)), stop)
    assert len(Index.open(tmp_path / "index")) == 8
    rest = run(archive, tmp_path / "index", None)
    assert rest.unchanged == 8 and rest.encoded == read_archive(archive).records.height - 8
    assert verify(Index.open(tmp_path / "index")) == []
