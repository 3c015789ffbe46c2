"""The quality of an index: figures against closed forms, planted faults, and a plain computation."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index import approximate, building
from index.nearest import refresh
from index.quality import effective_rank, mean_cosine, measure, occurrences, share, skewness
from index.store import Index
from models.errors import DecipherError


def unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make(folder: Path, vectors: np.ndarray, captions: np.ndarray | None = None) -> Index:
    made = Index.create(folder, {"name": "small", "hash": "h", "dim": vectors.shape[1]})
    made.append(pl.DataFrame({"series_id": [f"s{row:05d}" for row in range(len(vectors))]}), vectors, captions)
    return made


def test_the_effective_rank_of_equal_singular_values_is_their_number(rng):
    basis = np.linalg.qr(rng.standard_normal((32, 32)))[0].astype(np.float32)
    for rank in (1, 5, 32):
        assert effective_rank(np.tile(basis[:rank], (40, 1))) == pytest.approx(rank, rel=1e-4)
        assert effective_rank(basis[:rank]) == pytest.approx(rank, rel=1e-4), "fewer rows than columns"
    assert effective_rank(unit(rng, 20_000, 32)) == pytest.approx(32, rel=0.01), "isotropic"


def test_the_effective_rank_is_the_exponential_of_the_entropy(rng):
    values = np.array([8.0, 4, 2, 1, 1])
    left, right = (np.linalg.qr(rng.standard_normal((n, 5)))[0] for n in (60, 12))
    p = values / values.sum()
    wanted = np.prod(p**-p)
    assert effective_rank((left * values @ right.T).astype(np.float32)) == pytest.approx(wanted, rel=1e-4)


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
    monkeypatch.setattr("index.quality.BLOCK_ROWS", 64)
    vectors = unit(rng, 300, 6)
    scores = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(scores, -9)
    wanted = np.bincount(np.argsort(-scores, axis=1)[:, :7].ravel(), minlength=300)
    np.testing.assert_array_equal(occurrences(vectors, 7), wanted)


def test_skewness_of_known_distributions(rng):
    assert skewness(np.array([3, 3, 3])) == 0
    assert skewness(np.array([0, 0, 0, 4])) == pytest.approx(2 / np.sqrt(3))
    assert skewness(rng.exponential(size=200_000)) == pytest.approx(2, abs=0.1)


def test_the_interval_is_wilsons():
    found = share(np.r_[np.ones(81), np.zeros(182)])
    assert (round(found["low"], 4), round(found["high"], 4)) == (0.2553, 0.3662), "Newcombe (1998), table I, 81 of 263"
    assert share(np.ones(10), known=True) == {"value": 1, "low": 1, "high": 1}
    assert 0.7 < share(np.ones(10))["low"] < 0.73
    assert share(np.ones(10))["high"] == pytest.approx(1)


def test_a_small_index_is_exact_and_its_twins_are_counted(tmp_path, rng):
    vectors = unit(rng, 400, 16)
    vectors[300:340] = vectors[:40]
    index = make(tmp_path / "index", vectors, unit(rng, 5, 16)[rng.integers(0, 5, 400)])
    said: list[tuple[int, int]] = []
    found = measure(index, queries=400, progress=lambda done, of: said.append((done, of)))
    assert found["recall@10"] == {"value": 1, "low": 1, "high": 1}
    assert set(found["recall@10_by_query"]) == {"volumes", "pairs", "texts"}
    assert found["duplicates"]["value"] == pytest.approx(80 / 400)
    assert found["duplicates"]["low"] == found["duplicates"]["high"]
    assert (found["series"], found["dim"], found["sample"]) == (400, 16, 400)
    assert found["effective_rank"] == pytest.approx(effective_rank(vectors), rel=1e-6)
    assert found["nearest"] == {"factory": "exact"}
    assert 0 < found["latency_ms"]["exact"]["median"] <= found["latency_ms"]["exact"]["p95"]
    assert found["latency_ms"]["automatic"] == found["latency_ms"]["exact"]
    assert said[-1] == (1200, 1200)
    json.dumps(found)


def test_a_shallow_approximate_index_is_caught(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(approximate, "FROM_ROWS", 1000)
    monkeypatch.setattr(approximate, "SMALLEST_SAMPLE", 1024)
    monkeypatch.setattr(building, "QUESTIONS", 60)
    index = make(tmp_path / "index", unit(rng, 3000, 24))
    refresh(index)
    good = measure(index, queries=60, seed=5)
    assert good["recall@10"]["value"] >= 0.98
    assert good["nearest"]["factory"] == "IVF128,SQ8"
    assert good["recall@10"]["low"] < good["recall@10"]["value"] <= good["recall@10"]["high"]
    assert set(good["recall@10_by_query"]) == {"volumes", "pairs"}, "there are no captions"
    monkeypatch.setattr(approximate, "STEPS", (2,))
    refresh(index, "IVF128,SQ4")
    poor = measure(index, queries=60, seed=5)
    assert poor["recall@10"]["value"] < 0.8


def test_too_few_series_are_told(tmp_path, rng):
    with pytest.raises(DecipherError, match="too few"):
        measure(make(tmp_path / "index", unit(rng, 11, 8)))
    assert measure(make(tmp_path / "more", unit(rng, 12, 8)))["recall@10"]["value"] == 1
