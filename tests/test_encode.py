"""An archive becomes an index, and stays in step with it."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_nifti import save

from index.caption import caption
from index.encode import EncodeOptions, EncodeSummary, encode_archive
from index.labelled import read_archive
from index.store import Index
from index.verify import verify
from models.decipher import Decipher, load
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
    from index import embed, encode

    monkeypatch.setattr(encode, "BLOCK", 4)
    monkeypatch.setattr(embed, "TEXTS", 2)

    def stop(what: str, done: int, of: int) -> None:
        if what == "encode" and done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_archive(archive, tmp_path / "index", EncodeOptions(model=str(tiny_model)), stop)
    assert len(Index.open(tmp_path / "index")) == 8
    rest = run(archive, tmp_path / "index", None)
    assert rest.unchanged == 8 and rest.encoded == read_archive(archive).records.height - 8
    assert verify(Index.open(tmp_path / "index")) == []


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """An archive of 24 small NIfTI files, quickly encoded."""
    chance = np.random.default_rng(0)
    for number in range(24):
        save(tmp_path / "plain" / f"sub-{number:02d}_T1w.nii.gz", chance.integers(0, 900, (12, 11, 10)).astype("<i2"))
    return tmp_path / "plain"


def test_an_index_that_is_empty_is_filled_under_its_own_key(plain: Path, tiny_model: Path, tmp_path: Path) -> None:
    from index.removal import remove
    from models.folder import passport

    made = Index.create(tmp_path / "index", passport(str(tiny_model)), key=b"k" * 32)
    first = run(plain, made.folder, tiny_model)
    index = Index.open(made.folder)
    assert index.key == made.key and len(index) == first.encoded == 24
    records, vectors = index.records, index.vectors.copy()
    assert remove(index, records["series_id"].to_list()) == first.encoded
    again = run(plain, made.folder, None)
    assert (again.encoded, again.unchanged) == (first.encoded, 0)
    index = Index.open(made.folder)
    assert index.records.equals(records) and index.vectors.tobytes() == vectors.tobytes()


def test_another_writer_is_told_before_a_long_scan(
    archive: Path, encoded: tuple[Path, EncodeSummary], tmp_path: Path
) -> None:
    folder, said = Path(shutil.copytree(encoded[0], tmp_path / "index")), []
    with Index.open(folder).writing(), pytest.raises(DecipherError, match="Another process"):
        encode_archive(archive, folder, EncodeOptions(), lambda *words: said.append(words))
    assert said == []


def test_an_empty_index_is_one_encoder_s_too(archive: Path, tiny_model: Path, tmp_path: Path) -> None:
    Index.create(tmp_path / "index", {"name": "large", "hash": "ff" * 16, "dim": 384})
    with pytest.raises(DecipherError, match="another encoder"):
        run(archive, tmp_path / "index", tiny_model)


def test_many_new_labels_are_taken_in_blocks(
    archive: Path,
    tiny_model: Path,
    tmp_path: Path,
    encoded: tuple[Path, EncodeSummary],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from index import encode

    monkeypatch.setattr(encode, "RELABELLED", 5)
    folder = tmp_path / "index"
    shutil.copytree(encoded[0], folder)
    before = Index.open(folder)
    labels = tmp_path / "site.csv"
    labels.write_text("\n".join(["path,site", *(f"{path},north" for path in before.records["path"][3:20])]))
    done = run(archive, folder, None, labels=labels)
    after = Index.open(folder)
    assert done.unchanged == len(before) == len(after)
    assert after.commit - before.commit == -(-len(after) // 5), "the labels of this table are all there are now"
    old = dict(zip(before.records["series_id"], before.vectors, strict=True))
    assert all(np.array_equal(old[one], v) for one, v in zip(after.records["series_id"], after.vectors, strict=True))
    assert after.records.filter(pl.col("site") == "north")["path"].to_list() == before.records["path"][3:20].to_list()


def test_a_full_disk_while_encoding_is_told_and_what_was_committed_stays(
    plain: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from index import embed, encode, scanned

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encode, "BLOCK", 4)
    real, left = embed.save_thumbnail, [14]

    def until_full(*words: object) -> None:
        left[0] -= 1
        real(*words) if left[0] else full()  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(embed, "save_thumbnail", until_full)
        with pytest.raises(DecipherError, match="cannot be written to: No space left") as told:
            run(plain, tmp_path / "index", tiny_model)
    assert "disk's space" in told.value.hint
    committed = len(Index.open(tmp_path / "index"))
    assert committed in (4, 8, 12) and verify(Index.open(tmp_path / "index")) == []
    with monkeypatch.context() as patch:
        patch.setattr(scanned, "_write", full)
        (plain / "new.txt").write_text("so that the archive is scanned anew")
        with pytest.raises(DecipherError, match="cannot be written to: No space left"):
            run(plain, tmp_path / "index", None)
    assert run(plain, tmp_path / "index", None).unchanged == committed
    (plain / "new.txt").unlink()


def test_small_blocks_do_not_leave_many_segments(
    plain: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from index import embed, encode
    from index.store import MOST_SEGMENTS

    monkeypatch.setattr(encode, "BLOCK", 1)
    monkeypatch.setattr(embed, "TEXTS", 1)
    done = run(plain, tmp_path / "index", tiny_model)
    index = Index.open(tmp_path / "index")
    assert len(index) == done.encoded > MOST_SEGMENTS + 5 > len(index.segments)
    assert index.records["path"].to_list() == sorted(index.records["path"])
