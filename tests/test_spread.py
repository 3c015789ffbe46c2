"""How vectors use their space: figures against known spectra, direct loops, planted hubs and SciPy."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group, skew

from index.spread import effective_rank, hubness, mean_cosine, occurrences, skewness

seeds = st.integers(0, 2**32 - 1)


def of_spectrum(values: list[float], rng: np.random.Generator) -> np.ndarray:
    """Vectors (40, 12) whose centred singular values are `values`, around an offset far from zero."""
    basis = np.linalg.qr(np.column_stack([np.ones(40), rng.normal(size=(40, len(values)))]))[0][:, 1:]
    return basis @ np.diag(values) @ ortho_group.rvs(12, random_state=1)[: len(values)] + 5 * rng.normal(size=12)


def unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_hub_is_seen_and_a_ring_has_none() -> None:
    star = np.concatenate([np.eye(40), np.ones((1, 40))])
    assert hubness(star, k=1) == pytest.approx(skew([0] * 39 + [1, 40]), rel=1e-6), "its nearest is the first"
    angle = 2 * np.pi * np.arange(64) / 64
    assert hubness(np.column_stack([np.cos(angle), np.sin(angle)]), k=2) == 0
    assert np.isnan(hubness(np.ones((11, 4)))) and np.isnan(hubness(np.full((30, 4), np.nan)))


def test_hubness_is_the_skewness_of_how_often_each_is_a_neighbour(rng: np.random.Generator) -> None:
    vectors = rng.normal(0.3, 1, size=(60, 5))
    points, often = vectors / np.linalg.norm(vectors, axis=1, keepdims=True), Counter()
    for row, one in enumerate(points):
        others = sorted((o for o in range(60) if o != row), key=lambda o: -float(one @ points[o]))
        often.update(others[:10])
    assert hubness(7 * vectors) == pytest.approx(skew([often[row] for row in range(60)]), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(3, 20), st.integers(2, 12))
def test_effective_rank_is_bounded_and_knows_no_frame(seed: int, count: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, width))
    rank = effective_rank(vectors)
    assert 1 <= rank <= min(count - 1, width) + 1e-9
    moved = 3 * vectors @ ortho_group.rvs(width, random_state=seed) + rng.normal(size=width)
    assert effective_rank(moved) == pytest.approx(rank, rel=1e-6)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [4.0, 2.0, 1.0, 1.0], [1.0, 1e-3]], ids=str)
def test_effective_rank_of_a_known_spectrum(values: list[float], rng: np.random.Generator) -> None:
    share = np.array(values) / sum(values)
    expected = np.prod(share**-share)
    assert effective_rank(of_spectrum(values, rng)) == pytest.approx(expected, rel=1e-9)


def test_the_mean_cosine_is_that_of_all_pairs(rng):
    vectors = unit(rng, 300, 8) + 0.7
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert mean_cosine(vectors) == pytest.approx((vectors @ vectors.T)[np.triu_indices(300, 1)].mean(), abs=1e-6)
    assert mean_cosine(np.repeat(vectors[:1], 50, axis=0)) == pytest.approx(1, abs=1e-6), "collapsed"
    assert mean_cosine(unit(rng, 4000, 64)) == pytest.approx(0, abs=2e-3), "isotropic"


def test_a_planted_hub_is_near_to_all(rng):
    around = np.zeros(64, dtype=np.float32)
    around[0] = 1
    vectors = 0.7 * around + np.sqrt(0.51, dtype=np.float32) * np.pad(unit(rng, 3000, 63), ((0, 0), (1, 0)))
    vectors[0] = around
    counts = occurrences(vectors, 10)
    assert counts[0] == 2999
    assert counts.mean() == 10
    assert skewness(counts) > 10
    assert skewness(np.delete(counts, 0)) < 4


def test_occurrences_are_those_of_sorting_everything(rng, monkeypatch):
    monkeypatch.setattr("index.spread.BLOCK_ROWS", 64)
    vectors = unit(rng, 300, 6)
    scores = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(scores, -9)
    wanted = np.bincount(np.argsort(-scores, axis=1)[:, :7].ravel(), minlength=300)
    np.testing.assert_array_equal(occurrences(vectors, 7), wanted)


def test_skewness_of_known_distributions(rng):
    assert skewness(np.array([3, 3, 3])) == 0
    assert skewness(np.array([0, 0, 0, 4])) == pytest.approx(2 / np.sqrt(3))
    assert skewness(rng.exponential(size=200_000)) == pytest.approx(2, abs=0.1)
