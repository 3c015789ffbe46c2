"""FAISS indexes: cells found by k-means, looked through as deep as recall demands; nothing of it needs a GPU."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from index import approximate
from index.approximate import automatic, cells_of, centres, depth_name, depths, empty, filled
from index.oracle import answers, questions, recalls
from index.rows import Rows
from models.errors import DecipherError

DIM = 16


def unit(rng: np.random.Generator, count: int, dim: int = DIM) -> np.ndarray:
    vectors = rng.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = unit(rng, 40)[rng.integers(0, 40, count)] + 0.5 * unit(rng, count)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def made_of(vectors: np.ndarray, factory: str, ids: np.ndarray | None = None):
    ids = np.arange(len(vectors)) if ids is None else ids
    blocks = [(ids[start : start + 300], vectors[start : start + 300]) for start in range(0, len(vectors), 300)]
    return filled(empty(factory, vectors.shape[1]), vectors, blocks)


def test_small_indexes_are_exact_and_cells_grow_with_the_root_of_the_rows():
    assert automatic(0) == automatic(999_999) == "exact"
    assert automatic(1_000_000) == "IVF4096,SQ8"
    assert automatic(10_000_000) == "IVF8192,SQ8"
    cells = [int(automatic(10**6 * 2**step)[3:].split(",")[0]) for step in range(8)]
    assert all(1 <= b / a <= 2 for a, b in pairwise(cells))


def test_centres_are_the_planted_directions(rng):
    planted = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].T[:8].astype(np.float32)
    vectors = planted[np.repeat(np.arange(8), 100)] + 0.02 * rng.standard_normal((800, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = centres(vectors, 8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    spread = [len(np.unique(cells_of(vectors, centres(vectors, 8, seed)))) for seed in range(5)]
    assert max(spread) == 8
    best = max((centres(vectors, 8, seed) for seed in range(5)), key=lambda c: (vectors @ c.T).max(axis=1).mean())
    assert (planted @ best.T).max(axis=1).min() > 0.99


def test_no_cell_stays_empty_where_vectors_repeat(rng):
    vectors = np.concatenate([np.repeat(unit(rng, 1), 500, axis=0), unit(rng, 100)])
    found = centres(vectors, 32)
    assert np.isfinite(found).all()
    assert len(np.unique(cells_of(vectors, found))) > 16


def test_cells_are_the_centres_with_the_largest_inner_product(rng, monkeypatch):
    monkeypatch.setattr(approximate, "PRODUCTS", 100)
    vectors, middle = unit(rng, 57), unit(rng, 9)
    np.testing.assert_array_equal(cells_of(vectors, middle), np.argmax(vectors @ middle.T, axis=1))
    assert cells_of(vectors[:0], middle).shape == (0,)


@pytest.mark.parametrize(
    "factory", ["IVF16,SQ8", "IVF16,Flat", "IVF8_HNSW8,SQ8", "HNSW16", "SQ8", "Flat", "PCA8,IVF8,Flat"]
)
def test_every_kind_keeps_the_ids_it_is_given_on_disk_too(rng, tmp_path, factory):
    import faiss

    vectors = clustered(rng, 900)
    made = made_of(vectors, factory, np.arange(900) * 3 + 5)
    faiss.write_index(made, str(tmp_path / "file"))
    for one in (made, approximate.mapped(tmp_path / "file")):
        approximate.set_depth(one, 64)
        _, ids = one.search(vectors[:50], 10)
        hit = [row * 3 + 5 in found for row, found in enumerate(ids.tolist())]
        assert np.mean(hit) > (0.95 if "P" not in factory else 0.6)


def test_what_sets_the_depth_is_known_by_kind(rng):
    names = {"IVF8,SQ8": "nprobe", "HNSW8": "efSearch", "Flat": None, "PCA8,IVF8,Flat": "nprobe", "SQ8": None}
    assert {factory: depth_name(empty(factory, DIM)) for factory in names} == names


@pytest.mark.parametrize("factory", ["no_such_factory", "IVF,SQ8", "", "PQ7"])
def test_a_wrong_factory_string_is_told(factory):
    with pytest.raises(DecipherError, match="FAISS cannot build") as told:
        empty(factory, DIM)
    assert told.value.hint


@pytest.mark.parametrize("factory", ["IVF64,SQ8", "IVF64,PQ8"])
def test_more_cells_than_vectors_are_told(rng, factory):
    with pytest.raises(DecipherError, match="cannot build"):
        made_of(unit(rng, 20), factory)


def test_taking_out_leaves_the_rest(rng):
    vectors = clustered(rng, 600)
    made = made_of(vectors, "IVF8,SQ8")
    dead = rng.random(600) < 0.3
    approximate.remove(made, dead)
    assert made.ntotal == (~dead).sum()
    approximate.set_depth(made, 8)
    _, ids = made.search(vectors, 1)
    assert not dead[ids[:, 0]].any()
    assert (ids[~dead, 0] == np.flatnonzero(~dead)).mean() > 0.99


def test_from_the_head_on_a_file_of_cells_holds_codes_and_ids_alone(rng, tmp_path):
    import faiss

    made = made_of(clustered(rng, 700), "IVF8,SQ8")
    faiss.write_index(made, str(tmp_path / "file"))
    data = (tmp_path / "file").read_bytes()
    head = approximate.head_bytes(made, len(data))
    lists = faiss.downcast_InvertedLists(made.invlists)
    rest = b"".join(
        faiss.rev_swig_ptr(lists.get_codes(cell), lists.list_size(cell) * DIM).tobytes()
        + faiss.rev_swig_ptr(lists.get_ids(cell), lists.list_size(cell)).tobytes()
        for cell in range(8)
    )
    assert data[head:] == rest
    assert approximate.head_bytes(empty("HNSW8", DIM), 500) == 500


class Fixed(Rows):
    """Rows in memory, as far as questions need them."""

    def __init__(self, vectors: np.ndarray, captions: np.ndarray) -> None:
        super().__init__(vectors.shape[1], Path())
        self.held = {"vectors": vectors, "captions": captions}

    def __len__(self) -> int:
        return len(self.held["vectors"])

    def gather(self, rows: np.ndarray, kind: str = "vectors") -> np.ndarray:
        return self.held[kind][rows]


def test_the_depth_is_the_least_that_finds_what_is_wanted(rng):
    vectors = clustered(rng, 4000)
    captions = np.where(rng.random((4000, 1)) < 0.5, 0, unit(rng, 4000)).astype(np.float32)
    made = made_of(vectors, "IVF64,SQ8")
    asked, own = questions(Fixed(vectors, captions), 60)
    truth = answers([(np.arange(4000), vectors)], asked, 100, own)

    def scores(kind: str, ids: np.ndarray) -> np.ndarray:
        found = np.einsum("qe,qme->qm", asked[kind], vectors[ids])
        return np.where((ids == own[:, None]) if kind == "volumes" else ids < 0, -np.inf, found)

    chosen = depths(made, asked, truth, scores)
    assert list(chosen) == [10, 100]
    for k, one in chosen.items():
        assert set(one["recall"]) == {"volumes", "pairs", "texts"}
        assert is_enough([*one["recall"].values()], k)
        shallower = [step for step in approximate.STEPS if step < one["depth"]][-1]
        approximate.set_depth(made, shallower)
        less = [
            recalls(scores(kind, made.search(asked[kind], k + k // 4 + 16)[1]), truth[kind][:, :k]).mean()
            for kind in asked
        ]
        assert not is_enough(less, k) or (k == 100 and shallower < chosen[10]["depth"])
    assert chosen[10]["depth"] < 64


def is_enough(recall: list[float], k: int) -> bool:
    return np.mean(recall) >= approximate.TARGETS[k] and min(recall) >= approximate.TARGETS[k] - 0.005


def test_answers_and_recall_go_by_scores_and_leave_the_row_itself_out(rng):
    vectors = unit(rng, 500)
    vectors[250:] = vectors[:250]
    index = Fixed(vectors, np.zeros_like(vectors))
    asked, own = questions(index, 30)
    assert list(asked) == ["volumes", "pairs"]
    np.testing.assert_array_equal(asked["volumes"], vectors[own])
    blocks = [(np.arange(start, start + 100), vectors[start : start + 100]) for start in range(0, 500, 100)]
    truth = answers(blocks, asked, 5, own)
    for row, query, found in zip(own, asked["volumes"], truth["volumes"], strict=True):
        np.testing.assert_allclose(found, np.sort(np.delete(vectors @ query, row))[::-1][:5], atol=1e-6)
        assert found[0] == pytest.approx(1, abs=1e-5), "its twin"
    for query, found in zip(asked["pairs"], truth["pairs"], strict=True):
        assert np.linalg.norm(query) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(found, np.sort(vectors @ query)[::-1][:5], atol=1e-6)
    assert answers(blocks, asked, 600, own)["pairs"].shape == (30, 499)
    true = np.array([[0.9, 0.8, 0.7, 0.7]])
    found = np.array([[0.9, 0.7, 0.7, 0.7, 0.1]])
    assert recalls(found, true).tolist() == [1.0]
    assert recalls(np.array([[0.9, 0.1, -np.inf]]), true).tolist() == [0.25]


def test_where_faiss_has_gpus_it_trains_and_adds_there(rng, monkeypatch):
    import faiss

    calls: list[str] = []

    class OnGpus:
        """Stands in for an index on GPUs: counts what is done there."""

        def __init__(self, inner) -> None:
            self.inner = inner

        @property
        def is_trained(self) -> bool:
            return self.inner.is_trained

        def train(self, vectors: np.ndarray) -> None:
            calls.append(f"train {len(vectors)}")
            self.inner.train(vectors)

        def add_with_ids(self, vectors: np.ndarray, ids: np.ndarray) -> None:
            calls.append(f"add {len(ids)}")
            self.inner.add_with_ids(vectors, ids)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", OnGpus, raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda index: calls.append("back") or index.inner, raising=False)
    vectors = clustered(rng, 700)
    made = made_of(vectors, "IVF8,SQ8")
    assert calls == ["train 700", "add 300", "add 300", "add 100", "back"]
    assert isinstance(made, faiss.IndexIVF)
    approximate.set_depth(made, 8)
    assert (made.search(vectors, 1)[1][:, 0] == np.arange(700)).mean() > 0.99

    def refuse(index):
        raise RuntimeError("this kind cannot go to a GPU")

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", refuse)
    assert made_of(vectors, "HNSW8").ntotal == 700
