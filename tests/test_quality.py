"""The quality of an index: figures against closed forms, planted faults, and a plain computation."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index import approximate, building
from index.nearest import refresh
from index.quality import measure, share
from index.spread import effective_rank
from index.store import Index
from models.errors import DecipherError


def unit(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make(folder: Path, vectors: np.ndarray, captions: np.ndarray | None = None) -> Index:
    made = Index.create(folder, {"name": "small", "hash": "h", "dim": vectors.shape[1]})
    made.append(pl.DataFrame({"series_id": [f"s{row:05d}" for row in range(len(vectors))]}), vectors, captions)
    return made


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
