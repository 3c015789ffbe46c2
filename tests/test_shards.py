"""Prepared volumes on disk: the same from the same data, the first version as encode would prepare it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from index.labelled import read_archive
from index.reading import read_volume
from models.config import PrepareConfig
from models.errors import DecipherError
from models.prepare import prepare
from training.shards import Making, Shard, archive_shard, open_shard, phantom_shard

CONFIG = PrepareConfig(box=(32, 32, 32))


SAID: list[str] = []


def making(cache: Path) -> Making:
    return Making(cache, CONFIG, 0, lambda *said: None, SAID.append)


@pytest.fixture(scope="module")
def made(phantom_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, Path, Shard]:
    records = read_archive(phantom_archive).records.head(3)
    cache = tmp_path_factory.mktemp("cache")
    return records, cache, open_shard(archive_shard(phantom_archive, records, 2, making(cache)))


def test_rows_and_volumes_belong_together(made: tuple[pl.DataFrame, Path, Shard], phantom_archive: Path) -> None:
    records, _, shard = made
    assert shard.rows["series_id"].to_list() == [i for i in records["series_id"] for _ in range(2)]
    assert shard.rows["variant"].to_list() == [0, 1] * 3
    for row, record in enumerate(records.iter_rows(named=True)):
        plain = prepare(read_volume(phantom_archive, record), CONFIG)
        taken = shard.sample(2 * row)
        assert torch.allclose(taken.pixels, plain.pixels, atol=0.5 / 255 + 1e-6)
        assert torch.equal(taken.content, plain.content)
        assert torch.allclose(taken.geometry, plain.geometry)


def test_a_shard_is_made_once_and_another_for_other_settings(
    made: tuple[pl.DataFrame, Path, Shard], phantom_archive: Path
) -> None:
    records, cache, shard = made
    (folder,) = cache.iterdir()
    stamp = (folder / "pixels.npy").stat().st_mtime_ns
    again = open_shard(archive_shard(phantom_archive, records, 2, making(cache)))
    assert (folder / "pixels.npy").stat().st_mtime_ns == stamp
    assert np.array_equal(again.pixels, shard.pixels)
    archive_shard(phantom_archive, records, 1, making(cache))
    assert len(list(cache.iterdir())) == 2


def test_the_size_is_told_before_and_what_is_left_out_after(phantom_archive: Path, tmp_path: Path) -> None:
    records = read_archive(phantom_archive).records.head(2)
    gone = records[0].with_columns(pl.lit("gone.nii.gz").alias("path"), pl.lit("0" * 16).alias("series_id"),
                                   pl.Series("files", [["gone.nii.gz"]]))  # fmt: skip
    SAID.clear()
    shard = open_shard(archive_shard(phantom_archive, pl.concat([records, gone]), 3, making(tmp_path)))
    assert "up to 9 volumes of 32 x 32 x 32, 0.00 GB" in SAID[0]
    assert shard.rows["series_id"].n_unique() == 2
    assert "1 of 3 series could not be prepared" in SAID[1] and "gone.nii.gz" in SAID[1]


def test_a_disk_that_is_too_small_is_told(
    phantom_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = read_archive(phantom_archive).records.head(2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DecipherError, match=r"has 0\.00 GB free"):
        archive_shard(phantom_archive, records, 2, making(tmp_path))
    assert not list(tmp_path.glob("archive-*"))


def test_phantom_patients_carry_labels_and_reports(tmp_path: Path) -> None:
    shard = open_shard(phantom_shard(2, making(tmp_path)))
    rows = shard.rows
    assert rows["patient_id"].n_unique() == 2 and rows["sequence"].null_count() == rows["report"].null_count() == 0
    assert set(rows["origin"]) == {"phantom"}
    assert (np.diff(shard.content[:, :, :], axis=2) > 0).all()
