"""Search: the fusing rule against a plain computation, filters before search, one answer a group."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.nearest import refresh
from index.search import Hit, classify, search
from index.store import Index
from models.errors import DecipherError

DIM, COUNT = 24, 60


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def ids(hits: list[Hit]) -> list[str]:
    return [hit.record["series_id"] for hit in hits]


def expected_order(scores: np.ndarray, k: int) -> list[str]:
    return [f"s{row:02d}" for row in np.argsort(-scores, kind="stable")[:k]]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """60 series of 20 studies; ages 0 to 59 but for null at 7; every third patient unknown."""
    rng = np.random.default_rng(3)
    records = pl.DataFrame(
        {
            "series_id": [f"s{i:02d}" for i in range(COUNT)],
            "study_id": [f"study{i // 3}" for i in range(COUNT)],
            "patient_id": [None if i // 6 % 3 == 0 else f"patient{i // 6}" for i in range(COUNT)],
            "sequence": ["T1", "T2", "FLAIR"] * (COUNT // 3),
            "age_years": [None if i == 7 else float(i) for i in range(COUNT)],
        }
    )
    made = Index.create(tmp_path_factory.mktemp("search") / "index", {"name": "small", "hash": "h", "dim": DIM})
    made.append(records[:20], unit(rng, 20), unit(rng, 20))
    made.append(records[20:], unit(rng, 40), unit(rng, 40))
    return Index.open(made.folder)


@pytest.fixture
def text(rng: np.random.Generator) -> np.ndarray:
    return unit(rng, 1)[0]


def test_text_against_pixels_and_tags_alone_is_the_cosine(index, text):
    for evidence, kind in (("pixels", index.vectors), ("tags", index.captions)):
        cosines = kind @ text
        hits = search(index, text, evidence=evidence, k=8)
        assert ids(hits) == expected_order(cosines, 8)
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[::-1][:8], atol=1e-6)
        assert [hit.rank for hit in hits] == list(range(1, 9))


def test_both_is_the_mean_of_the_standardised_cosines(index, text):
    wanted = (standardised(index.vectors @ text) + standardised(index.captions @ text)) / 2
    hits = search(index, text, k=12)
    assert ids(hits) == expected_order(wanted, 12)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(wanted)[::-1][:12], atol=1e-5)


def test_tags_play_no_part_for_volumes(index, text):
    for evidence in ("both", "pixels", "tags"):
        hits = search(index, like=[text], evidence=evidence, k=5)
        assert ids(hits) == expected_order(index.vectors @ text, 5)


def test_positives_are_averaged_and_negatives_subtracted_by_half(index, rng):
    a, b, c, d = unit(rng, 4)
    wanted = (a + b) / 2 - 0.5 * (c + d) / 2
    wanted /= np.linalg.norm(wanted)
    hits = search(index, like=[a, b], unlike=[c, d], k=10)
    assert ids(hits) == expected_order(index.vectors @ wanted, 10)
    hits = search(index, a, like=[b], unlike=[c], unlike_text=[d], evidence="pixels", k=10)
    assert ids(hits) == expected_order(index.vectors @ wanted, 10)
    np.testing.assert_allclose(hits[0].score, (index.vectors @ wanted).max(), atol=1e-6)


def test_text_and_example_together_use_tags_for_the_text_alone(index, rng):
    words, example = unit(rng, 2)
    both = (words + example) / np.linalg.norm(words + example)
    wanted = (standardised(index.vectors @ both) + standardised(index.captions @ words)) / 2
    assert ids(search(index, words, like=[example], k=10)) == expected_order(wanted, 10)
    wanted = (standardised(index.vectors @ example) + standardised(index.captions @ words)) / 2
    assert ids(search(index, words, like=[example], evidence="tags", k=10)) == expected_order(wanted, 10)


def test_a_side_of_negatives_alone_counts_half(index, rng):
    example, words = unit(rng, 2)
    pixels = example - 0.5 * words
    pixels /= np.linalg.norm(pixels)
    wanted = (standardised(index.vectors @ pixels) + 0.5 * standardised(-index.captions @ words)) / 1.5
    hits = search(index, like=[example], unlike_text=[words], k=10)
    assert ids(hits) == expected_order(wanted, 10)
    np.testing.assert_allclose(hits[0].score, wanted.max(), atol=1e-5)


def test_captions_that_say_nothing_leave_the_order_to_the_pixels(tmp_path, rng, text):
    vectors = unit(rng, 9)
    index = Index.create(tmp_path / "i", {"name": "small", "hash": "h", "dim": DIM})
    index.append(pl.DataFrame({"series_id": [f"s{i:02d}" for i in range(9)]}), vectors)
    hits = search(index, text, k=9)
    assert ids(hits) == expected_order(vectors @ text, 9)
    assert all(np.isfinite(hit.score) for hit in hits)


def test_a_filter_holds_before_the_search(index, text):
    cosines = index.vectors @ text
    passing = np.array([age is not None and age < 12 for age in index.records["age_years"]])
    hits = search(index, text, where=["age_years < 12"], evidence="pixels", k=100)
    assert ids(hits) == expected_order(np.where(passing, cosines, -9), int(passing.sum()))
    assert len(hits) == 11, "null does not pass"
    hits = search(index, text, where=["age_years < 12", "sequence = 'T2'"], k=2)
    assert len(hits) == 2
    assert all(hit.record["age_years"] < 12 and hit.record["sequence"] == "T2" for hit in hits)


def test_standing_scores_do_not_change_with_the_filter(index, text):
    free = {hit.record["series_id"]: hit.score for hit in search(index, text, k=COUNT)}
    for hit in search(index, text, where=["age_years BETWEEN 20 AND 30"], k=COUNT):
        assert hit.score == free[hit.record["series_id"]]


def test_a_filter_alone_lists_in_order(index):
    hits = search(index, where=["sequence IN ('T1', 'T2')"], k=5)
    assert ids(hits) == ["s00", "s01", "s03", "s04", "s06"]
    assert [hit.score for hit in hits] == [None] * 5
    assert search(index, where=["age_years > 1000"]) == []
    assert len(search(index, where=["1 = 1"], k=1000)) == COUNT
    assert len(search(index, where=["age_years = MAX(age_years)"])) == 1


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("sequense = 'T2'", "sequense"),
        ('sequence = "T2"', "T2"),
        ("age_years <", "cannot be read"),
        ("", "cannot be read"),
        ("age_years", "neither true nor false"),
        ("age_years < 'old'", "cannot be applied"),
        ("no_such_function(age_years) > 1", "cannot be read"),
    ],
)
def test_a_wrong_filter_is_told(index, text, expression, said):
    with pytest.raises(DecipherError, match=said) as told:
        search(index, text, where=[expression])
    assert told.value.hint
    if expression.startswith("sequense"):
        assert "sequence." in told.value.hint or "sequence;" in told.value.hint


@pytest.mark.parametrize(("by", "column"), [("study", "study_id"), ("patient", "patient_id")])
def test_each_group_answers_with_its_best(index, text, by, column):
    every = search(index, text, k=COUNT)
    seen, wanted = set(), []
    for hit in every:
        group = hit.record[column] or hit.record["series_id"]
        if group not in seen:
            seen.add(group)
            wanted.append((hit.record["series_id"], hit.score))
    for k in (3, COUNT):
        hits = search(index, text, by=by, k=k)
        assert [(hit.record["series_id"], hit.score) for hit in hits] == wanted[:k]
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    narrow = search(index, text, by=by, where=["age_years < 12"], k=COUNT)
    assert len(narrow) == (4 if by == "study" else 7), "each of the six series of nobody stands for itself"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    k=st.integers(0, 70),
    evidence=st.sampled_from(["both", "pixels", "tags"]),
    by=st.sampled_from(["series", "study", "patient"]),
    limit=st.integers(0, 60),
    seed=st.integers(0, 99),
)
def test_ranks_rise_scores_fall_and_k_come_when_k_exist(index, k, evidence, by, limit, seed):
    query = unit(np.random.default_rng(seed), 1)[0]
    hits = search(index, query, where=[f"age_years < {limit}"], evidence=evidence, by=by, k=k)
    passing = index.records.filter(pl.col("age_years") < limit)
    column = {"series": "series_id", "study": "study_id", "patient": "patient_id"}[by]
    groups = passing[column].drop_nulls().n_unique() + passing[column].null_count()
    assert len(hits) == min(k, groups)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert all(a.score >= b.score for a, b in pairwise(hits))


def test_the_faiss_file_changes_nothing_that_is_seen(index, text):
    without = [search(index, text, evidence="pixels", by=by, k=30) for by in ("series", "study")]
    refresh(index)
    assert [search(index, text, evidence="pixels", by=by, k=30) for by in ("series", "study")] == without
    (index.folder / "nearest.faiss").unlink()


def test_a_series_finds_itself_first(index):
    for row in (0, 19, 20, 59):
        hit = search(index, like=[index.vectors[row]], k=1)[0]
        assert hit.record["series_id"] == f"s{row:02d}"
        assert hit.score == pytest.approx(1, abs=1e-6)


def test_questions_that_cannot_be_asked_are_told(index, text):
    with pytest.raises(DecipherError, match="empty"):
        search(index)
    with pytest.raises(DecipherError, match="cancel"):
        search(index, like=[text], unlike=[2 * text])
    with pytest.raises(DecipherError, match="patients"):
        search(index, text, by="patients")
    with pytest.raises(DecipherError, match="smell"):
        search(index, text, evidence="smell")


def test_an_empty_index_answers_with_nothing(tmp_path: Path, text):
    index = Index.create(tmp_path / "i", {"name": "small", "hash": "h", "dim": DIM})
    for by in ("series", "patient"):
        assert search(index, text, by=by) == []


def test_classes_are_the_softmax_of_scaled_cosines(index, rng):
    one, two, other = unit(rng, 3)
    mean = (one + two) / np.linalg.norm(one + two)
    logits = 20.0 * np.stack([index.vectors @ mean, index.vectors @ other], axis=1)
    first = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    found = classify(index, [np.stack([one, two]), other[None]], 20.0)
    np.testing.assert_allclose(found, np.stack([first, 1 - first], axis=1), atol=1e-5)
    assert classify(index, [one[None], other[None]], 1e6).max() == pytest.approx(1)
