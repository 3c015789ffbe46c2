"""Figures of vectors, held against direct loops, known spectra and SciPy; collapses, against vectors made to be so."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom
from sklearn.metrics import balanced_accuracy_score

from index.spread import effective_rank, mean_cosine
from training.health import (
    alignment,
    chance_at,
    collapse,
    nearest_neighbours,
    recall_at,
    uniformity,
)

seeds = st.integers(0, 2**32 - 1)


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.array([v / np.sqrt((v**2).sum()) for v in vectors])


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.5, 4))
def test_spread_on_the_sphere_is_that_of_a_double_loop(seed: int, t: float) -> None:
    given_vectors = np.random.default_rng(seed).normal(1, 2, size=(9, 4))
    points = unit(given_vectors)
    pairs = [(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j]
    gauss = [np.exp(-t * ((a - b) ** 2).sum()) for a, b in pairs]
    assert uniformity(given_vectors, t) == pytest.approx(np.log(np.mean(gauss)))
    assert mean_cosine(given_vectors) == pytest.approx(np.mean([a @ b for a, b in pairs]))


def test_uniformity_of_a_square_and_of_one_point() -> None:
    square = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert uniformity(square) == pytest.approx(np.log((4 * np.exp(-4) + 2 * np.exp(-8)) / 6))
    assert uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)


def test_alignment_of_pairs(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(7, 5)), rng.normal(size=(7, 5))
    expected = np.mean([((x - y) ** 2).sum() for x, y in zip(unit(a), unit(b), strict=True)])
    assert alignment(a, b) == pytest.approx(expected)
    assert alignment(a, 3 * a) == pytest.approx(0, abs=1e-12)
    assert alignment(a, -a) == pytest.approx(4)


@settings(max_examples=100, deadline=None)
@given(seeds, st.integers(1, 6), st.integers(1, 9), st.integers(1, 11))
def test_recall_is_that_of_lists_where_ties_stand_against_it(seed: int, texts: int, volumes: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.integers(-2, 3, size=(texts, volumes)).astype(float)
    relevant = rng.random((texts, volumes)) < 0.3
    hits = []
    for values, wanted in zip(similarity, relevant, strict=True):
        order = sorted(range(volumes), key=lambda v: (-values[v], wanted[v]))
        hits.append(any(wanted[v] for v in order[:k]))
    assert recall_at(similarity, relevant, k) == pytest.approx(np.mean(hits))


def test_equal_and_unknown_similarities_find_nothing(rng: np.random.Generator) -> None:
    relevant = np.eye(12, dtype=bool)
    rounding = (0.3 + 1e-7 * rng.normal(size=(12, 12))).astype(np.float32)
    assert recall_at(rounding, relevant, 10) == 0
    for value in (0.0, 1.0, np.nan):
        assert recall_at(np.full((12, 12), value), relevant, 10) == 0
    assert recall_at(np.eye(12), relevant, 1) == 1
    unknown = np.where(np.eye(12) == 1, 0.9, np.nan)
    assert recall_at(unknown, relevant, 10) == 0


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 8), st.integers(1, 300), st.integers(1, 12))
def test_chance_is_hypergeometric(seed: int, texts: int, volumes: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    relevant = rng.random((texts, volumes)) < rng.random()
    expected = hypergeom.sf(0, volumes, relevant.sum(1), min(k, volumes)).mean()
    assert chance_at(relevant, k) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_chance_is_the_mean_recall_of_all_orders(k: int) -> None:
    relevant = np.array([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]], dtype=bool)
    orders = [np.tile(order, (2, 1)).astype(float) for order in itertools.permutations(range(5))]
    assert chance_at(relevant, k) == pytest.approx(np.mean([recall_at(order, relevant, k) for order in orders]))


def by_hand(vectors: np.ndarray, labels: list[str | None], subjects: list[str], k: int) -> tuple[list, list]:
    """Truth and vote of every row that counts, written as one would say it."""
    people = {label: {s for one, s in zip(labels, subjects, strict=True) if one == label} for label in labels}
    rows = [i for i, label in enumerate(labels) if label is not None and len(people[label]) > 1]
    points, said = unit(vectors), []
    for i in rows:
        others = sorted((j for j in rows if subjects[j] != subjects[i]), key=lambda j: -(points[i] @ points[j]))[:k]
        votes = Counter(labels[j] for j in others)
        near = {label: sum(points[i] @ points[j] + 1 for j in others if labels[j] == label) for label in votes}
        said.append(max(votes, key=lambda label: (votes[label], near[label])))
    return [labels[i] for i in rows], said


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(4, 30), st.integers(1, 7))
def test_neighbours_are_those_of_a_direct_loop(seed: int, count: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 3))
    labels = rng.choice(np.array(["T1", "T2", "FLAIR", "ADC", None], dtype=object), count)
    subjects = rng.choice([f"p{i}" for i in range(6)], count)
    truth, said = by_hand(vectors, labels.tolist(), subjects.tolist(), k)
    accuracy, majority = nearest_neighbours(vectors, labels, subjects, k)
    if len(set(truth)) < 2:
        assert np.isnan(accuracy) and np.isnan(majority)
        return
    recalls = [np.mean([s == t for s, t in zip(said, truth, strict=True) if t == one]) for one in set(truth)]
    assert accuracy == pytest.approx(np.mean(recalls))
    largest = Counter(truth).most_common(1)[0][0]
    assert majority == pytest.approx(balanced_accuracy_score(truth, [largest] * len(truth)))


def test_a_subjects_own_series_are_never_asked(rng: np.random.Generator) -> None:
    """Vectors that know the subject and nothing else: asking the subject's own series would be right every time."""
    subjects = np.repeat([f"p{i}" for i in range(40)], 3)
    vectors = np.repeat(rng.normal(size=(40, 16)), 3, axis=0) + 0.01 * rng.normal(size=(120, 16))
    labels = np.repeat(np.array(["T1", "T2"] * 20, dtype=object), 3)
    assert nearest_neighbours(vectors, labels, subjects, 2)[0] < 0.75
    assert nearest_neighbours(vectors, labels, np.arange(120), 2)[0] == 1


def test_neighbours_of_vectors_that_know_the_class(rng: np.random.Generator) -> None:
    labels = np.array(["T1", "T2", "ADC"] * 10, dtype=object)
    vectors = np.eye(3)[np.arange(30) % 3] + 0.1 * rng.normal(size=(30, 3))
    assert nearest_neighbours(vectors, labels, np.arange(30), 5) == (1.0, pytest.approx(1 / 3))
    assert nearest_neighbours(np.ones((30, 3)), labels, np.arange(30), 5)[0] <= 0.4


def healthy(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(64, 32))


@pytest.mark.parametrize("offset", [0.0, 1.0, 3.0])
def test_healthy_vectors_are_not_named(rng: np.random.Generator, offset: float) -> None:
    """Also in a narrow cone, at a mean cosine of up to 0.9, as random encoders have it."""
    vectors = healthy(rng) + offset
    assert collapse(vectors) == ""
    assert mean_cosine(vectors) == pytest.approx(offset**2 / (1 + offset**2), abs=0.05)


def test_a_few_kinds_told_apart_are_no_collapse(rng: np.random.Generator) -> None:
    assert collapse(unit(np.eye(8)[np.arange(40) % 4] + 1e-3 * rng.normal(size=(40, 8)))) == ""


def test_vectors_that_are_all_alike_are_named(rng: np.random.Generator) -> None:
    assert "the same" in collapse(np.tile(rng.normal(size=32), (20, 1)).astype(np.float32))
    assert "the same" in collapse(np.zeros((20, 32)))
    rounded = np.tile(rng.normal(size=32), (20, 1)) * (1 + 1e-7 * rng.normal(size=(20, 32)))
    assert "the same" in collapse(rounded.astype(np.float32))
    narrow = healthy(rng) + 20
    assert "alike" in collapse(narrow) and f"{mean_cosine(narrow):.4f}" in collapse(narrow)


def test_vectors_in_one_direction_are_named(rng: np.random.Generator) -> None:
    line = rng.normal(size=(40, 1)) * rng.normal(size=32) + rng.normal(size=32)
    lumps = np.where(np.arange(40) % 2, 1, -1)[:, None] * rng.normal(size=32)
    assert mean_cosine(lumps) < 0.1
    for vectors in (line, lumps, lumps + 1e-3 * rng.normal(size=(40, 32))):
        assert "one direction" in collapse(vectors)


def test_vectors_that_are_not_finite_are_counted(rng: np.random.Generator) -> None:
    vectors = healthy(rng)
    vectors[3, 5], vectors[7] = np.nan, np.inf
    assert "2 of 64" in collapse(vectors)
    assert np.isnan(effective_rank(vectors))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_too_few_vectors_are_no_evidence(rng: np.random.Generator, count: int) -> None:
    assert collapse(rng.normal(size=(count, 32))) == ""


def test_what_is_not_defined_is_nan() -> None:
    none = np.zeros((0, 4))
    assert np.isnan([effective_rank(none), uniformity(none), mean_cosine(none), alignment(none, none)]).all()
    assert np.isnan([recall_at(none, none.astype(bool), 1), chance_at(none.astype(bool), 1)]).all()
    one_class = np.array(["T1"] * 4, dtype=object)
    assert np.isnan(nearest_neighbours(np.eye(4), one_class, np.arange(4), 2)).all()
