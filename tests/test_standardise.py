"""What is measured after training: the centre against a plain mean, the certainty against labels drawn with a known scale."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from test_watch import CONFIG, KINDS, TINY, data_of, table, vectors

from models.decipher import BY_BRIGHTNESS, Decipher, load
from models.folder import passport
from models.prepare import collate
from training.calibration import fit_scale
from training.data import TrainingSet
from training.standardise import (
    UNSEEN,
    set_centre,
    set_certainty,
    set_contrast,
    set_shares,
    settle,
    unseen_patients,
)
from training.watch import check_rows
from training.wordings import WORDS


@pytest.fixture
def model() -> Decipher:
    """Of a seed by which its cosines happen to say a little, so that the certainty found lies within its bounds."""
    torch.manual_seed(1)
    return Decipher(TINY).eval()


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    """Fifty-four series of 27 patients, three kinds in turn, each in two variants."""
    return data_of(table(KINDS * 18))


def test_the_centre_is_half_the_mean_of_what_training_draws(model: Decipher, data: TrainingSet) -> None:
    stored = np.flatnonzero((data.rows["variant"] == 0).to_numpy())
    plain = vectors(model, data, stored).astype(np.float64)
    set_centre(model, data, CONFIG)
    weights = data.weights[stored]
    wanted = 0.5 * np.average(plain, axis=0, weights=weights)
    spread = np.sqrt(np.average((plain - 2 * wanted) ** 2, axis=0, weights=weights) / 1024)
    assert (np.abs(model.centre.numpy() - wanted) <= 0.5 * 5 * spread + 1e-3).all(), "of 1,024 drawn"
    moved = plain - model.centre.numpy()
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(model, data, stored), moved, atol=1e-6)
    assert np.linalg.norm(moved.mean(0)) < np.linalg.norm(plain.mean(0))


def test_measuring_again_changes_nothing(model: Decipher, data: TrainingSet) -> None:
    set_centre(model, data, CONFIG)
    first = model.centre.clone()
    assert first.any()
    set_centre(model, data, CONFIG)
    assert torch.equal(model.centre, first), "the mean is that of the vectors as they are without it"


@pytest.mark.parametrize("scale", [4.0, 15.0, 60.0])
def test_the_scale_that_made_the_labels_is_found_again(scale: float, rng: np.random.Generator) -> None:
    def drawn(series: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
        cosines = rng.uniform(-0.3, 0.3, (series, prompts))
        power = np.exp(scale * cosines)
        shares = power / power.sum(axis=1, keepdims=True)
        return cosines, np.array([rng.choice(prompts, p=row) for row in shares])

    assert fit_scale([drawn(4000, 4), drawn(4000, 8)]) == pytest.approx(scale, rel=0.1)


def test_questions_count_alike_however_many_series_they_have() -> None:
    sure, unsure = np.tile([0.2, 0.0], (10, 1)), np.tile([0.2, 0.0], (1000, 1))
    right, half = np.zeros(10, dtype=int), np.arange(1000) % 2
    both = fit_scale([(sure, right), (unsure, half)])
    share = 1 / (1 + np.exp(-both * 0.2))
    assert share == pytest.approx(0.75, abs=0.01), "right in three of four, each question by half"
    assert fit_scale([(sure, right)]) == pytest.approx(100, rel=0.01), "it stays finite"


def test_certainty_is_of_the_series_that_are_checked(model: Decipher, data: TrainingSet) -> None:
    before = model.scale.item()
    assert model.certain_scale == before
    set_certainty(model, data, CONFIG)
    rows, _ = check_rows(data, CONFIG)
    seen, asked = vectors(model, data, rows), []
    for column, prompts in (
        ("sequence", {"T1": "T1-weighted MRI", "T2": "T2-weighted MRI"}),
        ("body_region", {"brain": "MRI of the brain", "knee": "MRI of the knee"}),
    ):
        texts = model.encode_texts(list(prompts.values())).numpy()
        asked.append((seen @ texts.T, np.array([list(prompts).index(v) for v in data.rows[rows][column]])))
    assert model.certain_scale == pytest.approx(fit_scale(asked), rel=2e-3)
    assert model.scale.item() == before, "the scale of training is another"


def test_digital_patients_are_no_real_series(model: Decipher) -> None:
    """Rows of digital patients beside real ones change nothing; where there are no others, they are what is asked."""
    rows = table(KINDS * 8)
    origin = ["archive" if n < 24 else ("phantom", "head")[n % 2] for n in range(rows.height)]
    mixed = data_of(rows.with_columns(origin=pl.Series(origin)))
    set_certainty(model, mixed, CONFIG)
    found = model.certain_scale
    set_certainty(model, replace(mixed, weights=mixed.weights * [one == "archive" for one in origin]), CONFIG)
    assert model.certain_scale == found
    digital = data_of(rows.with_columns(origin=pl.lit("head")))
    set_certainty(model, digital, CONFIG)
    assert 1 < model.certain_scale != found


def test_unseen_patients_are_no_patients_of_training(model: Decipher) -> None:
    shard = unseen_patients(model, 2)
    assert set(shard.rows["patient_id"]) == {f"phantom-{UNSEEN}", f"phantom-{UNSEEN + 1}"}
    assert shard.sample(0).pixels.shape == (1, 32, 32, 32) and set(shard.rows["origin"]) == {"phantom"}
    assert not any((UNSEEN + n - seed) % 7919 == 0 for n in range(40) for seed in range(1000)), "seeds of training"


def test_what_was_measured_is_saved_loaded_and_part_of_the_passport(
    model: Decipher, data: TrainingSet, tmp_path: Path
) -> None:
    model.save(tmp_path / "plain")
    told: list[dict] = []
    settle(model, data, replace(CONFIG, stages=("align",)), tmp_path, told.append)
    assert told[0]["check"] and told[0]["stage"] == "align" and told[0]["certain_scale"] == model.certain_scale
    model.save(tmp_path / "settled")
    again, plain = load(str(tmp_path / "settled")), load(str(tmp_path / "plain"))
    assert torch.equal(again.centre, model.centre) and again.certain_scale == model.certain_scale != plain.certain_scale
    assert not plain.centre.any() and plain.certain_scale == pytest.approx(plain.scale.item())
    assert passport(str(tmp_path / "settled"))["hash"] != passport(str(tmp_path / "plain"))["hash"]
    batch = collate([data.sample(0), data.sample(2)])
    unit, moved = (one.encode_prepared(batch).volume for one in (plain, again))
    assert torch.allclose(moved.norm(dim=1), torch.ones(2), atol=1e-6)
    assert torch.allclose(torch.nn.functional.normalize(unit - again.centre, dim=1), moved, atol=1e-6)
    again.save(tmp_path / "third")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "third" / name).read_bytes() == (tmp_path / "settled" / name).read_bytes()


def test_the_histogram_counts_what_it_is_given(model: Decipher, data: TrainingSet) -> None:
    batch = collate([data.sample(0), data.sample(2)])
    summed = model.encode_prepared(batch)
    unit = [part / part.norm(dim=1, keepdim=True) for part in summed.parts.unbind(dim=1)]
    set_shares(model, 0.5)
    found = model.encode_prepared(batch).volume
    wanted = 0.25 * unit[0] + 0.25 * unit[1] + 0.5 * unit[2]
    assert torch.allclose(found, wanted / wanted.norm(dim=1, keepdim=True), atol=1e-6)
    set_shares(model, 1.0)
    assert torch.allclose(model.encode_prepared(batch).volume, unit[2], atol=1e-6)
    set_shares(model, 0.0)
    assert torch.equal(model.encode_prepared(batch).volume, summed.volume), "the sum, as it was trained"


def test_between_t1_t2_flair_and_pd_the_histogram_is_asked_alone(model: Decipher, data: TrainingSet) -> None:
    """Against projections by least squares: along the differences of the four texts the volume vector is the histogram's part,
    across them what the shares make of all parts."""
    batch = collate([data.sample(0), data.sample(2)])
    set_contrast(model)
    assert not model.contrast.any(), "a sum of parts, as trained, has no directions of its own"
    set_shares(model, 0.4)
    found = [part / part.norm(dim=1, keepdim=True) for part in model.encode_prepared(batch).parts.unbind(dim=1)]
    mixed = (0.3 * found[0] + 0.3 * found[1] + 0.4 * found[2]).numpy()
    set_contrast(model)
    texts = [model.encode_texts([f"{word} MRI" for word in WORDS["sequence"][name]]).numpy() for name in BY_BRIGHTNESS]
    apart = np.stack([t.mean(axis=0) - texts[-1].mean(axis=0) for t in texts[:-1]]).T

    def along(vectors: np.ndarray) -> np.ndarray:
        return (apart @ np.linalg.lstsq(apart, vectors.T, rcond=None)[0]).T

    wanted = along(found[2].numpy()) + mixed - along(mixed)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode_prepared(batch).volume, wanted, atol=2e-3)
    assert np.abs(wanted - mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).max() > 1e-2


def test_shares_are_part_of_the_model(model: Decipher, data: TrainingSet, tmp_path: Path) -> None:
    """As settling leaves them they are saved, read and in the passport; the centre is of vectors that were weighed by them."""
    model.save(tmp_path / "plain")
    settle(model, data, replace(CONFIG, stages=("align",), histogram_share=0.7), tmp_path, [].append)
    model.save(tmp_path / "weighed")
    again = load(str(tmp_path / "weighed"))
    assert torch.equal(again.shares, model.shares) and torch.equal(again.contrast, model.contrast)
    assert again.contrast.any()
    assert again.shares.tolist() == pytest.approx([0.15, 0.15, 0.7], abs=1e-3)
    assert passport(str(tmp_path / "weighed"))["hash"] != passport(str(tmp_path / "plain"))["hash"]
    centre = model.centre.clone()
    set_centre(model, data, CONFIG)
    assert torch.equal(model.centre, centre)
    set_shares(model, 0.0)
    set_centre(model, data, CONFIG)
    assert not torch.allclose(model.centre, centre, atol=1e-3)
