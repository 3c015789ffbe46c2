"""The best rows: what NumPy finds by sorting everything in float64 is what is found, by every path."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import ranking as module
from index.ranking import Side, contenders, exact, inner_products, ranking
from index.store import Index

DIM, COUNT = 16, 400


def unit(rng: np.random.Generator, count: int, dim: int = DIM) -> np.ndarray:
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make(folder: Path, vectors: np.ndarray, captions: np.ndarray, cuts: tuple[int, ...], removed: list[int]) -> Index:
    """An index of several segments, with tombstones; its live rows are in order."""
    made = Index.create(folder, {"name": "small", "hash": "h", "dim": vectors.shape[1]})
    for start, stop in zip((0, *cuts), (*cuts, len(vectors)), strict=True):
        ids = pl.DataFrame({"series_id": [f"s{row:05d}" for row in range(start, stop)]})
        made.append(ids, vectors[start:stop], captions[start:stop])
    made.remove([f"s{row:05d}" for row in removed])
    return made


def oracle(index: Index, sides: list[Side], k: int, allowed: np.ndarray | None = None) -> tuple[list[float], list[int]]:
    """Sort everything by (score down, row up), in float64."""
    every = np.arange(len(index))
    scores = sum(
        (index.gather(every, one.kind).astype(np.float64) @ one.query.astype(np.float64) - one.mean) * one.factor
        for one in sides
    )
    rows = [row for row in every.tolist() if allowed is None or allowed[row]]
    rows = sorted(rows, key=lambda row: (-round(scores[row], 11), row))[:k]
    return [scores[row] for row in rows], rows


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """400 rows in three segments, 37 of them removed; a third of the vectors stand there twice; 12 captions."""
    rng = np.random.default_rng(1)
    vectors = unit(rng, COUNT)
    vectors[-COUNT // 3 :] = vectors[: COUNT // 3 + 1]
    captions = unit(rng, 12)[rng.integers(0, 12, COUNT)]
    removed = rng.choice(COUNT, 37, replace=False).tolist()
    return make(tmp_path_factory.mktemp("ranking") / "index", vectors, captions, (150, 310), removed)


def sides_of(kind: str, rng: np.random.Generator) -> list[Side]:
    pixels, tags = (one.copy() for one in unit(rng, 2))
    return {
        "pixels": [Side("vectors", pixels)],
        "tags": [Side("captions", tags)],
        "both": [Side("vectors", pixels, 0.1, 2.5), Side("captions", tags, -0.2, 1.5)],
        "flat": [Side("vectors", pixels, 0.1, 2.5), Side("captions", tags, 0.4, 0.0)],
    }[kind]


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(["pixels", "tags", "both", "flat"]),
    k=st.integers(0, COUNT + 20),
    share=st.sampled_from([None, 0.0, 0.01, 0.04, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_equals_sorting_everything(index, kind, k, share, seed):
    rng = np.random.default_rng(seed)
    sides = sides_of(kind, rng)
    allowed = None if share is None else rng.random(len(index)) < share
    scores, rows = ranking(index, sides, allowed)(k)
    true_scores, true_rows = oracle(index, sides, k, allowed)
    assert rows.tolist() == true_rows
    np.testing.assert_allclose(scores, true_scores, atol=1e-12)


def test_few_allowed_rows_are_fetched_and_many_are_not(index, monkeypatch):
    seen = []
    similarity = Index.similarity
    monkeypatch.setattr(Index, "similarity", lambda *args: seen.append("all") or similarity(*args))
    allowed = np.zeros(len(index), dtype=bool)
    allowed[:5] = True
    side = [Side("vectors", unit(np.random.default_rng(0), 1)[0])]
    assert len(ranking(index, side, allowed)(10)[1]) == 5
    assert not seen
    allowed[:100] = True
    ranking(index, side, allowed)(10)
    assert seen == ["all"]


def test_cosines_that_are_known_are_not_computed_again(index, monkeypatch):
    query = unit(np.random.default_rng(5), 1)[0]
    side = Side("vectors", query, cosines=index.similarity(query))
    wanted = oracle(index, [side], 7)[1]
    monkeypatch.setattr(Index, "similarity", None)
    assert ranking(index, [side])(7)[1].tolist() == wanted


def test_equal_vectors_score_equally_wherever_they_lie(rng):
    one = unit(rng, 1, 384)
    vectors = np.repeat(one, 2101, axis=0)
    query = unit(rng, 1, 384)[0]
    scores = inner_products(vectors, np.arange(2101), query)
    assert len(set(scores.tolist())) == 1
    assert scores[0] == pytest.approx(float(one[0].astype(np.float64) @ query.astype(np.float64)), abs=1e-14)
    np.testing.assert_array_equal(inner_products(vectors.__getitem__, np.arange(3), query), scores[:3])


def test_contenders_are_all_within_rounding_of_the_last_place():
    scores = np.array([0.5, 0.9, 0.899999, 0.2, 0.9], dtype=np.float32)
    assert contenders(scores, 1).tolist() == [1, 2, 4]
    assert contenders(scores, 0).tolist() == []
    assert contenders(scores, 99).tolist() == [0, 1, 2, 3, 4]


class Perfect:
    """Proposes exactly the `count` nearest, and remembers being asked."""

    def __init__(self, index: Index) -> None:
        self.index, self.asked = index, 0

    def candidates(self, query: np.ndarray, count: int) -> np.ndarray | None:
        self.asked += 1
        return np.sort(np.argsort(-self.index.similarity(query), kind="stable")[:count])


@pytest.mark.parametrize("agreement", [-0.8, 0.0, 0.8])
def test_what_is_proposed_and_tagged_best_stands_only_where_nothing_else_can_be_better(
    tmp_path, rng, monkeypatch, agreement
):
    monkeypatch.setattr(module, "PROPOSED", 40)
    monkeypatch.setattr(module, "BEST_TAGGED", 100)
    kinds = unit(rng, 60)
    which = rng.integers(0, 60, 2000)
    vectors = agreement * kinds[which] + 0.5 * unit(rng, 2000)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = make(tmp_path / "index", vectors, kinds[which], (700,), [3, 1400])
    nearest, stood = Perfect(index), 0
    for seed in range(16):
        query = unit(np.random.default_rng(seed), 1)[0]
        if seed % 2:
            query = kinds[seed].copy()
        sides = [Side("captions", query, 0.0, 2.0), Side("vectors", query, 0.05, 3.0)]
        for k in (0, 1, 5, 30, 50):
            found = module._proposed(index, [sides[1], sides[0]], nearest, k)
            stood += found is not None
            scores, rows = ranking(index, sides, None, nearest)(k)
            true_scores, true_rows = oracle(index, sides, k)
            assert rows.tolist() == true_rows
            np.testing.assert_allclose(scores, true_scores, atol=1e-12)
    assert nearest.asked
    assert stood >= 15 if agreement >= 0 else stood < 48


def test_a_filter_never_goes_through_what_is_proposed(index, rng):
    nearest = Perfect(index)
    allowed = rng.random(len(index)) < 0.5
    side = [Side("vectors", unit(rng, 1)[0])]
    assert ranking(index, side, allowed, nearest)(9)[1].tolist() == oracle(index, side, 9, allowed)[1]
    assert ranking(index, [Side("captions", side[0].query)], None, nearest)(9)[1].shape == (9,)
    assert nearest.asked == 0
    ranking(index, side, None, nearest)(9)
    assert nearest.asked == 1


def test_where_nothing_is_proposed_everything_is_scored(index, rng):
    class Silent:
        def candidates(self, query: np.ndarray, count: int) -> None:
            return None

    for kind in ("pixels", "both"):
        sides = sides_of(kind, rng)
        assert ranking(index, sides, None, Silent())(11)[1].tolist() == oracle(index, sides, 11)[1]


def test_nothing_is_found_where_nothing_is(tmp_path, rng):
    empty = Index.create(tmp_path / "empty", {"name": "small", "hash": "h", "dim": DIM})
    scores, rows = exact(empty, [Side("vectors", unit(rng, 1)[0])])(3)
    assert scores.shape == rows.shape == (0,)
