"""Nearest neighbours: what NumPy finds by sorting everything is what is found, by every path."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import nearest as module
from index.nearest import build, inner_products, load, nearest, refresh
from index.store import Index
from models.errors import DecipherError

DIM = 16


def unit(rng: np.random.Generator, count: int, dim: int = DIM) -> np.ndarray:
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def oracle(vectors: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[list, list]:
    """Sort everything by (score down, row up), in float64."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    rows = [row for row in range(len(vectors)) if allowed is None or allowed[row]]
    rows = sorted(rows, key=lambda row: (-round(scores[row], 12), row))[:k]
    return [scores[row] for row in rows], rows


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 300),
    k=st.integers(1, 320),
    share=st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]),
    distinct=st.sampled_from([2, 1000]),
    seed=st.integers(0, 9),
)
def test_equals_sorting_everything(count, k, share, distinct, seed):
    rng = np.random.default_rng(seed)
    vectors = unit(rng, min(count, distinct))[rng.integers(0, min(count, distinct), count)]
    queries = unit(rng, 3)
    allowed = None if share is None else rng.random(count) < share
    scores, rows = nearest(vectors, queries, k, allowed)
    for query, found_scores, found_rows in zip(queries, scores, rows, strict=True):
        true_scores, true_rows = oracle(vectors, query, k, allowed)
        assert found_rows.tolist() == true_rows
        np.testing.assert_allclose(found_scores, true_scores, atol=1e-12)


@pytest.mark.parametrize("count", [1, 50, 400])
def test_faiss_flat_gives_the_same_rows_and_scores_as_numpy(rng, count):
    vectors = unit(rng, count)
    vectors[count // 2 :] = vectors[: count - count // 2]
    queries = np.concatenate([unit(rng, 4), vectors[:1]])
    for k in (1, 7, count):
        plain, through_faiss = nearest(vectors, queries, k), nearest(vectors, queries, k, faiss_index=build(vectors))
        np.testing.assert_array_equal(plain[1], through_faiss[1])
        np.testing.assert_array_equal(plain[0], through_faiss[0])


def test_a_hundred_equal_vectors_answer_in_row_order_through_faiss(rng):
    vectors = np.repeat(unit(rng, 2), 100, axis=0)
    _, rows = nearest(vectors, vectors[:1], 5, faiss_index=build(vectors))
    assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_a_filter_is_exact_also_where_faiss_only_proposes(rng):
    vectors = unit(rng, 500)
    allowed = np.zeros(500, dtype=bool)
    allowed[rng.choice(500, 7, replace=False)] = True
    query = unit(rng, 1)
    _, rows = nearest(vectors, query, 5, allowed, faiss_index=build(vectors, "HNSW8"))
    assert rows[0].tolist() == oracle(vectors, query[0], 5, allowed)[1]


def test_equal_vectors_score_equally_wherever_they_lie(rng):
    one = unit(rng, 1, 384)
    vectors = np.repeat(one, 1001, axis=0)
    scores = inner_products(vectors, np.arange(1001), unit(rng, 1, 384)[0])
    assert len(set(scores.tolist())) == 1
    blocks = inner_products(vectors.__getitem__, np.arange(1001), one[0])
    np.testing.assert_allclose(blocks, 1, atol=1e-6)


def test_an_approximate_factory_finds_nearly_all(rng):
    vectors, queries = unit(rng, 2000), unit(rng, 20)
    _, exact = nearest(vectors, queries, 10)
    _, rough = nearest(vectors, queries, 10, faiss_index=build(vectors, "HNSW32"))
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), rough.tolist(), strict=True)])
    assert recall > 0.9


def test_a_wrong_factory_string_is_told(rng):
    with pytest.raises(DecipherError, match="no_such_factory"):
        build(unit(rng, 5), "no_such_factory")


@pytest.fixture
def index(tmp_path: Path, rng: np.random.Generator) -> Index:
    made = Index.create(tmp_path / "index", {"name": "small", "hash": "h", "dim": DIM})
    made.append(pl.DataFrame({"series_id": [f"s{i}" for i in range(40)]}), unit(rng, 40))
    return made


def test_the_file_is_that_of_the_live_rows_and_of_this_commit(index):
    assert load(index) is None
    refresh(index)
    index.remove(["s3"])
    assert load(index) is None, "built for a former commit"
    refresh(index)
    loaded = load(Index.open(index.folder))
    assert loaded.ntotal == 39
    queries = np.asarray(index.vectors[[2, 3]])
    _, rows = nearest(index.vectors, queries, 1, faiss_index=loaded)
    assert rows.tolist() == [[2], [3]]
    assert index.records["series_id"][3] == "s4"


def test_it_is_not_built_twice_but_for_another_factory(index, monkeypatch):
    built = []
    monkeypatch.setattr(module, "build", lambda *args: built.append(args[1]) or build(*args))
    for factory in ("Flat", "Flat", "HNSW8", "HNSW8"):
        refresh(index, factory)
    assert built == ["Flat", "HNSW8"]


def test_a_damaged_or_missing_file_is_passed_over_and_built_again(index):
    refresh(index)
    path = index.folder / "nearest.faiss"
    for damage in (path.read_bytes()[:-9], b"", b"\0" * path.stat().st_size, None):
        path.write_bytes(damage) if damage is not None else path.unlink()
        assert load(index) is None
        (index.folder / "nearest.json").unlink(missing_ok=True)
        refresh(index)
        assert load(index).ntotal == 40
    (index.folder / "nearest.json").write_text("{")
    assert load(index) is None


def test_nothing_is_found_where_nothing_is(tmp_path, rng):
    empty = Index.create(tmp_path / "empty", {"name": "small", "hash": "h", "dim": DIM})
    refresh(empty)
    assert load(empty) is None
    scores, rows = nearest(empty.vectors, unit(rng, 2), 3)
    assert scores.shape == rows.shape == (2, 0)
