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


def strangers(index: Index) -> np.ndarray:
    """bool (n, n): pairs of rows of two patients (or studies, where the patient is unknown) and two sequences."""
    who = [one["patient_id"] or one["study_id"] for one in index.records.iter_rows(named=True)]
    sequence = index.records["sequence"].to_list()
    return np.array([[a != b and s != t for b, t in zip(who, sequence)] for a, s in zip(who, sequence)])  # noqa: B905


def captions(index: Index) -> np.ndarray:
    return index.gather(np.arange(len(index)), "captions")


def against(index: Index, kind: str) -> tuple[float, float]:
    """Mean and deviation of the cosines of strangers: "pixels" of captions with vectors, "tags" of captions, "volumes"."""
    left = index.vectors if kind == "volumes" else captions(index)
    right = captions(index) if kind == "tags" else index.vectors
    cosines = (left.astype(float) @ right.T.astype(float))[strangers(index)]
    return cosines.mean(), cosines.std()


def standardised(index: Index, kind: str, query: np.ndarray) -> np.ndarray:
    mean, deviation = against(index, kind)
    return ((captions(index) if kind == "tags" else index.vectors) @ query - mean) / deviation


def spread(index: Index, share: float = 0.5) -> float:
    """The deviation of the mean, tags by `share`, of what strangers score by pixels and by tags."""
    pairs = strangers(index)
    by = {"pixels": captions(index) @ index.vectors.T, "tags": captions(index) @ captions(index).T}
    pixels, tags = ((by[kind][pairs] - against(index, kind)[0]) / against(index, kind)[1] for kind in by)
    return float(((1 - share) * pixels + share * tags).std())


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
    for evidence, kind in (("pixels", index.vectors), ("tags", captions(index))):
        cosines = kind @ text
        hits = search(index, text, evidence=evidence, k=8).hits
        assert ids(hits) == expected_order(cosines, 8)
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[::-1][:8], atol=1e-6)
        assert [hit.rank for hit in hits] == list(range(1, 9))


def test_both_is_the_mean_of_the_standardised_cosines(index, text):
    wanted = (standardised(index, "pixels", text) + standardised(index, "tags", text)) / 2 / spread(index)
    hits = search(index, text, k=12).hits
    assert ids(hits) == expected_order(wanted, 12)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(wanted)[::-1][:12], atol=1e-5)


def test_tags_play_no_part_for_volumes(index, text):
    for evidence in ("both", "pixels", "tags"):
        hits = search(index, like=[text], evidence=evidence, k=5).hits
        assert ids(hits) == expected_order(index.vectors @ text, 5)


def test_positives_are_averaged_and_negatives_subtracted_by_half(index, rng):
    a, b, c, d = unit(rng, 4)
    wanted = (a + b) / 2 - 0.5 * (c + d) / 2
    wanted /= np.linalg.norm(wanted)
    hits = search(index, like=[a, b], unlike=[c, d], k=10).hits
    assert ids(hits) == expected_order(index.vectors @ wanted, 10)
    hits = search(index, a, like=[b], unlike=[c], unlike_text=[d], evidence="pixels", k=10).hits
    assert ids(hits) == expected_order(index.vectors @ wanted, 10)
    np.testing.assert_allclose(hits[0].score, (index.vectors @ wanted).max(), atol=1e-6)


def test_text_and_example_together_use_tags_for_the_text_alone(index, rng):
    words, example = unit(rng, 2)
    length = np.linalg.norm((words + example) / 2)
    mean = (against(index, "pixels")[0] + against(index, "volumes")[0]) / 2 / length
    deviation = (against(index, "pixels")[1] + against(index, "volumes")[1]) / 2
    pixels = (index.vectors @ ((words + example) / 2 / length) - mean) / deviation
    wanted = (pixels + standardised(index, "tags", words)) / 2
    assert ids(search(index, words, like=[example], k=10).hits) == expected_order(wanted, 10)
    wanted = (standardised(index, "volumes", example) + standardised(index, "tags", words)) / 2
    assert ids(search(index, words, like=[example], evidence="tags", k=10).hits) == expected_order(wanted, 10)


def test_a_side_of_negatives_alone_counts_half(index, rng):
    example, words = unit(rng, 2)
    towards = example - 0.5 * words
    length = np.linalg.norm(towards)
    means, deviations = zip(against(index, "volumes"), against(index, "pixels"), strict=True)
    pixels = index.vectors @ (towards / length) - (means[0] - 0.5 * means[1]) / length
    pixels /= (deviations[0] + 0.5 * deviations[1]) / 1.5
    mean, deviation = against(index, "tags")
    tags = -(captions(index) @ words - mean) / deviation
    wanted = (pixels + 0.5 * tags) / 1.5 / spread(index, 1 / 3)
    hits = search(index, like=[example], unlike_text=[words], k=10).hits
    assert ids(hits) == expected_order(wanted, 10)
    np.testing.assert_allclose(hits[0].score, wanted.max(), atol=1e-5)


def test_series_whose_tags_are_silent_are_judged_by_their_pixels_alone(tmp_path, rng, text):
    vectors, said = unit(rng, 80), unit(rng, 80)
    said[::3] = 0
    records = pl.DataFrame(
        {"series_id": [f"s{i:02d}" for i in range(80)], "sequence": ["T1", "T2", "FLAIR", "PD"] * 20}
    )
    made = Index.create(tmp_path / "i", {"name": "small", "hash": "h", "dim": DIM})
    made.append(records[:50], vectors[:50], said[:50])
    made.append(records[50:], vectors[50:], said[50:])
    pairs = [(i, j) for i in range(80) for j in range(80) if i % 4 != j % 4 and i % 3]
    told = [(i, j) for i, j in pairs if j % 3]
    fits, agrees = said @ vectors.T, said @ said.T
    pixels = np.array([fits[pair] for pair in pairs])
    tags = np.array([agrees[pair] for pair in told])
    z_pixels = (vectors @ text - pixels.mean()) / pixels.std()
    z_tags = (said @ text - tags.mean()) / tags.std()
    alike = np.corrcoef([fits[pair] for pair in told], tags)[0, 1]
    wanted = np.where(np.arange(80) % 3 == 0, z_pixels, (z_pixels + z_tags) / 2 / np.sqrt((1 + alike) / 2))
    hits = search(made, text, k=80).hits
    assert ids(hits) == expected_order(wanted, 80)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(wanted)[::-1], atol=1e-4)


def test_a_hit_stands_where_its_score_lies_among_strangers(index, text):
    strange = (captions(index) @ index.vectors.T)[strangers(index)]
    for hit in search(index, text, evidence="pixels", k=60).hits:
        assert hit.standing == pytest.approx((strange < hit.score).mean(), abs=2e-3)
    assert [hit.standing for hit in search(index, where=["1 = 1"], k=3).hits] == [None] * 3


def test_a_search_among_some_finds_these_alone_and_lists_them_in_their_order(index, text):
    chosen = ["s40", "s03", "s21", "nobody"]
    assert sorted(ids(search(index, text, among=chosen).hits)) == ["s03", "s21", "s40"]
    assert ids(search(index, among=chosen).hits) == ["s40", "s03", "s21"]
    assert ids(search(index, among=chosen, where=["age_years > 10"]).hits) == ["s40", "s21"]
    assert search(index, text, among=[]).hits == []


def test_only_the_columns_asked_for_are_read(index, text):
    assert search(index, text, k=1, columns=["sequence"]).hits[0].record.keys() == {"series_id", "sequence"}


def test_captions_that_say_nothing_leave_the_order_to_the_pixels(tmp_path, rng, text):
    vectors = unit(rng, 9)
    index = Index.create(tmp_path / "i", {"name": "small", "hash": "h", "dim": DIM})
    index.append(pl.DataFrame({"series_id": [f"s{i:02d}" for i in range(9)]}), vectors)
    hits = search(index, text, k=9).hits
    assert ids(hits) == expected_order(vectors @ text, 9)
    assert all(np.isfinite(hit.score) for hit in hits)


def test_a_filter_holds_before_the_search(index, text):
    cosines = index.vectors @ text
    passing = np.array([age is not None and age < 12 for age in index.records["age_years"]])
    hits = search(index, text, where=["age_years < 12"], evidence="pixels", k=100).hits
    assert ids(hits) == expected_order(np.where(passing, cosines, -9), int(passing.sum()))
    assert len(hits) == 11, "null does not pass"
    hits = search(index, text, where=["age_years < 12", "sequence = 'T2'"], k=2).hits
    assert len(hits) == 2
    assert all(hit.record["age_years"] < 12 and hit.record["sequence"] == "T2" for hit in hits)


def test_standing_scores_do_not_change_with_the_filter(index, text):
    free = {hit.record["series_id"]: hit.score for hit in search(index, text, k=COUNT).hits}
    for hit in search(index, text, where=["age_years BETWEEN 20 AND 30"], k=COUNT).hits:
        assert hit.score == free[hit.record["series_id"]]


def test_a_filter_alone_lists_in_order(index):
    hits = search(index, where=["sequence IN ('T1', 'T2')"], k=5).hits
    assert ids(hits) == ["s00", "s01", "s03", "s04", "s06"]
    assert [hit.score for hit in hits] == [None] * 5
    assert search(index, where=["age_years > 1000"]).hits == []
    assert len(search(index, where=["1 = 1"], k=1000).hits) == COUNT
    assert len(search(index, where=["age_years = MAX(age_years)"]).hits) == 1


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
    every = search(index, text, k=COUNT).hits
    seen, wanted = set(), []
    for hit in every:
        group = hit.record[column] or hit.record["series_id"]
        if group not in seen:
            seen.add(group)
            wanted.append((hit.record["series_id"], hit.score))
    for k in (3, COUNT):
        hits = search(index, text, by=by, k=k).hits
        assert [(hit.record["series_id"], hit.score) for hit in hits] == wanted[:k]
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    narrow = search(index, text, by=by, where=["age_years < 12"], k=COUNT).hits
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
    hits = search(index, query, where=[f"age_years < {limit}"], evidence=evidence, by=by, k=k).hits
    passing = index.records.filter(pl.col("age_years") < limit)
    column = {"series": "series_id", "study": "study_id", "patient": "patient_id"}[by]
    groups = passing[column].drop_nulls().n_unique() + passing[column].null_count()
    assert len(hits) == min(k, groups)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert all(a.score >= b.score for a, b in pairwise(hits))


def test_the_faiss_file_changes_nothing_that_is_seen(index, text):
    without = [search(index, text, evidence="pixels", by=by, k=30).hits for by in ("series", "study")]
    refresh(index)
    assert [search(index, text, evidence="pixels", by=by, k=30).hits for by in ("series", "study")] == without
    (index.folder / "nearest.faiss").unlink()


def test_a_series_finds_itself_first(index):
    for row in (0, 19, 20, 59):
        hit = search(index, like=[index.vectors[row]], k=1).hits[0]
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
        assert search(index, text, by=by).hits == []


def test_classes_are_the_softmax_of_scaled_cosines(index, rng):
    one, two, other = unit(rng, 3)
    mean = (one + two) / np.linalg.norm(one + two)
    logits = 20.0 * np.stack([index.vectors @ mean, index.vectors @ other], axis=1)
    first = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
    found = classify(index, [np.stack([one, two]), other[None]], 20.0)
    np.testing.assert_allclose(found, np.stack([first, 1 - first], axis=1), atol=1e-5)
    assert classify(index, [one[None], other[None]], 1e6).max() == pytest.approx(1)
