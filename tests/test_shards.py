"""Prepared volumes on disk: the same from the same data, the first version as encode would prepare it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from index.labelled import read_archive
from index.reading import read_volume
from models.config import PrepareConfig
from models.prepare import prepare
from training.shards import Shard, archive_shard, open_shard, phantom_shard

CONFIG = PrepareConfig(box=32)


def silent(done: int, of: int) -> None:
    pass


@pytest.fixture(scope="module")
def made(phantom_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, Path, Shard]:
    records = read_archive(phantom_archive).records.head(3)
    cache = tmp_path_factory.mktemp("cache")
    return records, cache, archive_shard(phantom_archive, records, CONFIG, cache, variants=2, seed=0, progress=silent)


def test_rows_and_volumes_belong_together(made: tuple[pl.DataFrame, Path, Shard], phantom_archive: Path) -> None:
    records, _, shard = made
    assert shard.rows["series_id"].to_list() == [i for i in records["series_id"] for _ in range(2)]
    assert shard.rows["variant"].to_list() == [0, 1] * 3
    for row, record in enumerate(records.iter_rows(named=True)):
        plain = prepare(read_volume(phantom_archive, record), CONFIG)
        taken = shard.take(np.array([2 * row]))
        assert torch.allclose(taken.pixels[0], plain.pixels, atol=0.5 / 255 + 1e-6)
        assert torch.equal(taken.content[0], plain.content)
        assert torch.allclose(taken.geometry[0], plain.geometry)


def test_a_shard_is_made_once_and_another_for_other_settings(
    made: tuple[pl.DataFrame, Path, Shard], phantom_archive: Path
) -> None:
    records, cache, shard = made
    (folder,) = cache.iterdir()
    stamp = (folder / "pixels.npy").stat().st_mtime_ns
    again = archive_shard(phantom_archive, records, CONFIG, cache, variants=2, seed=0, progress=silent)
    assert (folder / "pixels.npy").stat().st_mtime_ns == stamp
    assert np.array_equal(again.pixels, shard.pixels)
    archive_shard(phantom_archive, records, CONFIG, cache, variants=1, seed=0, progress=silent)
    assert len(list(cache.iterdir())) == 2


def test_phantom_patients_carry_labels_and_reports(tmp_path: Path) -> None:
    shard = phantom_shard(2, CONFIG, tmp_path, seed=0, progress=silent)
    (folder,) = tmp_path.iterdir()
    rows = open_shard(folder).rows
    assert rows["patient_id"].n_unique() == 2 and rows["sequence"].null_count() == rows["report"].null_count() == 0
    assert set(rows["origin"]) == {"phantom"}
    assert (np.diff(shard.content[:, :, :], axis=2) > 0).all()
