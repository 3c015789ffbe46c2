"""The attentive head: finds what one patch of many holds, whatever order things come in, and never looks at padding."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from training import attentive
from training.attentive import AttentiveProbe
from training.folds import grouped_folds
from training.heads import HEADS, Folds
from training.metrics import auroc, pearson

TOKENS, WIDTH = 64, 16


def planted(rows: int, seed: int, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Patches float16 (rows, 64, 16) and codes: one patch of each volume is marked, and it alone holds the class."""
    chance = np.random.default_rng(seed)
    patches, codes = chance.standard_normal((rows, TOKENS, WIDTH)), chance.integers(classes, size=rows)
    place = np.arange(rows), chance.integers(TOKENS, size=rows)
    patches[(*place, 0)] += 7
    patches[(*place, 1)] += 3 * (2 * codes / (classes - 1) - 1)
    return patches.astype(np.float16), codes


fit_attentive = partial(attentive.fit_attentive, read_out=HEADS["linear"])


def folds_of(rows: int) -> Folds:
    return grouped_folds([str(row) for row in range(rows)], 3, 0)


@pytest.fixture(scope="module")
def fitted() -> Callable[[np.ndarray], np.ndarray]:
    patches, codes = planted(240, 0)
    return fit_attentive(patches, codes, folds_of(240), n_classes=2, seed=0)


def on_the_mean(patches: np.ndarray, target: np.ndarray, queries: np.ndarray, n_classes: int) -> np.ndarray:
    """What the linear head makes of the mean of the patches."""
    plain, asked = (one.astype(np.float64).mean(axis=1) for one in (patches, queries))
    mean, scale = plain.mean(0), plain.std(0)
    fit = HEADS["linear"]((plain - mean) / scale, target, folds_of(len(target)), n_classes=n_classes, seed=0)
    return fit((asked - mean) / scale)


def test_one_patch_of_64_is_found_where_the_mean_says_little() -> None:
    (patches, codes), (unseen, truth) = planted(240, 0), planted(1000, 1)
    said = fit_attentive(patches, codes, folds_of(240), n_classes=2, seed=0)(unseen)
    assert said.shape == (1000, 2)
    np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-6)
    assert auroc(truth, said[:, 1]) > 0.9
    assert auroc(truth, on_the_mean(patches, codes, unseen, 2)[:, 1]) < 0.75


def test_numbers_are_found_in_one_patch_too() -> None:
    def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        patches, codes = planted(rows, seed, classes=9)
        return patches, 50 + 10.0 * codes

    (patches, ages), (unseen, truth) = drawn(300, 0), drawn(600, 1)
    said = fit_attentive(patches, ages, folds_of(300), n_classes=0, seed=0)(unseen)
    assert said.shape == (600, 1)
    assert pearson(truth, said[:, 0]) > 0.7 > 0.5 > pearson(truth, on_the_mean(patches, ages, unseen, 0)[:, 0])
    assert abs(said.mean() - truth.mean()) < 4


def test_three_classes_and_a_rare_one_weigh_the_same() -> None:
    patches, codes = planted(900, 0, classes=3)
    kept = np.flatnonzero((codes < 2) | (np.cumsum(codes == 2) <= 30))
    predict = fit_attentive(patches[kept], codes[kept], folds_of(len(kept)), n_classes=3, seed=0)
    unseen, truth = planted(900, 1, classes=3)
    said = predict(unseen)
    assert said.shape == (900, 3)
    recall = [(said.argmax(1) == truth)[truth == one].mean() for one in range(3)]
    assert min(recall) > 0.6, "though one row in twenty was of the last class"


def test_order_of_patches_and_padding_change_nothing(fitted: Callable[[np.ndarray], np.ndarray]) -> None:
    unseen = planted(50, 2)[0]
    order = np.argsort(np.random.default_rng(3).random((50, TOKENS)), axis=1)
    turned = np.take_along_axis(unseen, order[..., None], axis=1)
    padded = np.concatenate([unseen, np.zeros((50, 20, WIDTH), np.float16)], axis=1)
    for other in (turned, padded, padded[:, np.random.default_rng(4).permutation(TOKENS + 20)]):
        np.testing.assert_allclose(fitted(other), fitted(unseen), atol=1e-5)
    assert np.abs(fitted(unseen * np.float16(1.5)) - fitted(unseen)).max() > 0.01, "as it can tell patches apart"


def test_what_is_fitted_does_not_change_with_padding_either() -> None:
    patches, codes = planted(120, 0)
    unseen = planted(50, 2)[0]
    padded = np.concatenate([np.zeros((120, 9, WIDTH), np.float16), patches], axis=1)
    one, other = (fit_attentive(x, codes, folds_of(120), n_classes=2, seed=0) for x in (patches, padded))
    np.testing.assert_allclose(other(unseen), one(unseen), atol=1e-3)


def test_a_volume_of_padding_alone_is_answered(fitted: Callable[[np.ndarray], np.ndarray]) -> None:
    assert np.isfinite(fitted(np.zeros((3, TOKENS, WIDTH), np.float16))).all()


def test_the_same_seed_gives_the_same_and_another_something_else(fitted: Callable[[np.ndarray], np.ndarray]) -> None:
    (patches, codes), unseen = planted(240, 0), planted(50, 2)[0]
    again, other = (fit_attentive(patches, codes, folds_of(240), n_classes=2, seed=seed)(unseen) for seed in (0, 1))
    first = fitted(unseen)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


@pytest.mark.parametrize("batch", [1000, 32])
def test_the_order_of_rows_changes_nothing(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attentive, "BATCH", batch)
    monkeypatch.setattr(attentive, "MOST_EPOCHS", 20)
    patches, codes = planted(120, 0)
    unseen, folds = planted(50, 2)[0], folds_of(120)
    order = np.random.default_rng(5).permutation(120)
    place = np.argsort(order)
    moved = [(np.sort(place[train]), np.sort(place[stop])) for train, stop in folds]
    one = fit_attentive(patches, codes, folds, n_classes=2, seed=0)(unseen)
    other = fit_attentive(patches[order], codes[order], moved, n_classes=2, seed=0)(unseen)
    np.testing.assert_allclose(other, one, atol=1e-5)


def test_pools_are_those_of_a_plain_computation() -> None:
    import torch

    chance = np.random.default_rng(6)
    patches = chance.standard_normal((3, 5, 4)).astype(np.float32)
    patches[0, 3:] = patches[2, 1] = 0
    mean, scale = chance.standard_normal(4), chance.uniform(1, 2, 4)
    probe = AttentiveProbe(torch.tensor(mean).float(), torch.tensor(scale).float(), 2, seed=0)
    found = probe.pools(torch.tensor(patches)).detach().numpy().reshape(3, -1, 4)
    queries = np.vstack([np.zeros(4), probe.queries.detach().numpy()])
    assert found.shape == (3, 1 + attentive.QUERIES, 4)
    for row, volume in enumerate(patches):
        standard = (volume[volume.any(axis=1)] - mean) / scale
        weights = np.exp(standard @ queries.T)
        np.testing.assert_allclose(found[row], (weights / weights.sum(0)).T @ standard, atol=1e-5)
    np.testing.assert_allclose(found[1, 0], ((patches[1] - mean) / scale).mean(axis=0), atol=1e-5)


def test_patches_on_disk_are_read_a_batch_at_a_time(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, codes = planted(150, 0)
    np.save(tmp_path / "patches.npy", patches)
    mapped = np.load(tmp_path / "patches.npy", mmap_mode="r")
    most: list[int] = []

    class Watched:
        shape = mapped.shape

        def __len__(self) -> int:
            return len(mapped)

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            most.append(len(rows))
            return mapped[rows]

    monkeypatch.setattr(attentive, "BATCH", 40)
    monkeypatch.setattr(attentive, "MOST_EPOCHS", 5)
    folds, unseen = folds_of(150), planted(50, 2)[0]
    from_disk = fit_attentive(Watched(), codes, folds, n_classes=2, seed=0)(unseen)
    np.testing.assert_array_equal(from_disk, fit_attentive(patches, codes, folds, n_classes=2, seed=0)(unseen))
    assert max(most) == 40


def test_without_folds_it_fits_all_rows() -> None:
    patches, codes = planted(60, 0)
    said = fit_attentive(patches, codes, [], n_classes=2, seed=0)(patches)
    assert auroc(codes, said[:, 1]) > 0.99
