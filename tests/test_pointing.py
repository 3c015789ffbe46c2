"""Where lesions lie in a batch: masks kept in shards, the tokens that they touch, and names for them."""

import numpy as np
import polars as pl
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.prepare import prepare
from training.compute import Compute
from training.config import TrainConfig
from training.data import TrainingSet, training_set
from training.pairs import PairBatches
from training.phantom.series import make_patient
from training.place import packed_mask, touched, unpacked_mask
from training.pointing import ANY, Pointing
from training.preparing import patient_series
from training.shards import COLUMNS, Shard
from training.wordings import WORDS

BOX = PrepareConfig(box=(32, 32, 32))
TINY = ModelConfig(prepare=BOX, vision=VisionConfig(width=24, depth=1, heads=2, registers=1))
CONFIG = TrainConfig(batch_size=8, captions=60, texts_per_step=6, holdout=0.0, image_weight=0.0, pointing_weight=1.0)


@pytest.fixture(scope="module")
def patients() -> TrainingSet:
    kinds = [
        {"region": "brain", "diagnosis": "brain tumour", "voxel_mm": 3.0},
        {"region": "brain", "diagnosis": "healthy", "voxel_mm": 3.0},
    ]
    made = [one for seed, kind in enumerate(kinds) for one in patient_series((BOX, seed, kind))]
    pixels, content, geometry, rows = zip(*made, strict=True)
    frame = pl.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], schema=COLUMNS)
    return training_set([Shard(np.stack(pixels), np.stack(content), np.stack(geometry), frame)], CONFIG)


def test_a_packed_mask_comes_back(rng: np.random.Generator) -> None:
    mask = rng.random((5, 6, 7)) > 0.7
    packed = packed_mask(mask)
    assert packed is not None and np.array_equal(unpacked_mask(packed, (5, 6, 7)), mask)
    assert packed_mask(np.zeros((5, 6, 7), bool)) is None


def test_the_patches_that_a_mask_touches(rng: np.random.Generator) -> None:
    mask = rng.random((8, 8, 12)) > 0.99
    expected = [
        mask[i : i + 4, j : j + 2, k : k + 6].any()
        for i in range(0, 8, 4) for j in range(0, 8, 2) for k in range(0, 12, 6)
    ]  # fmt: skip
    assert touched(mask, (4, 2, 6)).tolist() == expected


def test_a_digital_lesion_lies_in_the_box_where_it_was_put(patients: TrainingSet) -> None:
    """Millimetres of the mask on the series' own grid, and of the kept one on the box."""
    scanned = make_patient(0, region="brain", diagnosis="brain tumour", voxel_mm=3.0)
    for row, series in enumerate(scanned):
        kept = patients.lesion(row)
        assert kept is not None and series.lesion_mask.any()
        box_mm = prepare(series.volume, BOX).affine_mm.numpy()
        centres = [
            affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]
            for affine, mask in ((series.volume.affine_mm, series.lesion_mask[0]), (box_mm, kept))
        ]
        assert np.linalg.norm(centres[0] - centres[1]) < np.linalg.norm(box_mm[:3, 0])
    healthy = range(len(scanned), patients.rows.height)
    assert len(healthy) and all(patients.lesion(row) is None for row in healthy)


def test_a_batch_says_where_its_lesions_are_and_what_they_are_called(patients: TrainingSet) -> None:
    torch.manual_seed(0)
    batches = PairBatches(patients, Decipher(TINY), CONFIG)
    batch = batches.batch(0, Compute())
    assert batch.lesions.shape == (8, 64) and isinstance(batch.lesion_names, torch.Tensor)
    assert batch.lesion_names.shape == (8, 384)
    for name, lesions in zip(batch.names, batch.lesions.numpy(), strict=True):
        mask = patients.lesion(patients.rows["series_id"].to_list().index(name))
        assert np.array_equal(lesions, touched(np.zeros(BOX.box, bool) if mask is None else mask, (8, 8, 8)))
    assert batch.lesions.any()


def test_a_lesion_is_called_by_its_finding_or_a_word_for_any(patients: TrainingSet) -> None:
    pointing = Pointing(patients, TINY)
    ill = np.flatnonzero(patients.rows["diagnosis"] == "brain tumour")[[0] * 60]
    called = set(pointing.called(ill, np.random.default_rng(0)))
    assert called <= {*ANY, *WORDS["finding"]["brain tumour"]} and called & set(ANY) and called - set(ANY)


def test_volumes_with_a_known_lesion_are_not_mirrored(patients: TrainingSet) -> None:
    """Mirrored pixels would leave their mask behind."""
    batches = PairBatches(patients, Decipher(TINY), CONFIG)
    patients.may_flip[:] = True
    seen = 0
    for number in range(3):
        batch = batches.batch(number, Compute())
        for place, name in enumerate(batch.names):
            row = patients.rows["series_id"].to_list().index(name)
            if patients.lesion(row) is not None:
                near = np.corrcoef(batch.views[0].pixels[place].ravel(), patients.sample(row).pixels.ravel())[0, 1]
                mirrored = patients.sample(row).pixels.flip(1).ravel()
                assert near > np.corrcoef(batch.views[0].pixels[place].ravel(), mirrored)[0, 1]
                seen += 1
    assert seen > 3
