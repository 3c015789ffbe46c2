"""Contrasts made from a T1-weighted brain order the tissues as the real sequences do."""

import numpy as np
import pytest

from training.recontrast import CONTRASTS, recontrast

T1 = {"fluid": 0.33, "grey": 0.73, "white": 1.0}


def head() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Prepared intensities of a ball of white matter in shells of grey matter and fluid, and where each lies."""
    grid = np.stack(np.meshgrid(*[np.arange(48) - 23.5] * 3, indexing="ij"), axis=-1)
    radius = np.linalg.norm(grid, axis=-1)
    where = {"white": radius < 16, "grey": (radius >= 16) & (radius < 19), "fluid": (radius >= 19) & (radius < 21)}
    value = sum(T1[name] * mask for name, mask in where.items())
    return (value / (value + 0.9)).astype(np.float32), where


def levels(sequence: str, seed: int) -> dict[str, float]:
    pixels, where = head()
    made = recontrast(pixels, sequence, np.random.default_rng(seed))
    assert made.shape == pixels.shape and made.dtype == np.float32
    assert made.min() >= 0 and made.max() < 1 and np.abs(made[pixels == 0]).max() == 0
    return {name: float(made[mask].mean()) for name, mask in where.items()}


@pytest.mark.parametrize("seed", range(5))
def test_tissues_are_ordered_as_in_the_real_sequence(seed: int) -> None:
    t1, t2, flair = (levels(name, seed) for name in ("T1", "T2", "FLAIR"))
    assert t1["white"] > t1["grey"] > t1["fluid"]
    assert t2["fluid"] > t2["grey"] and t2["fluid"] > t2["white"]
    assert flair["fluid"] < 0.7 * min(flair["grey"], flair["white"])


def test_on_average_grey_matter_is_brighter_than_white_but_on_t1() -> None:
    differences = {}
    for name in CONTRASTS:
        found = [levels(name, seed) for seed in range(8)]
        differences[name] = np.mean([one["grey"] - one["white"] for one in found])
    assert differences["T1"] < 0 < min(differences[name] for name in ("T2", "FLAIR", "PD"))


def test_an_empty_head_does_no_harm() -> None:
    made = recontrast(np.full((8, 8, 8), 0.26, np.float32), "PD", np.random.default_rng(0))
    assert np.isfinite(made).all()
