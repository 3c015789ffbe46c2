import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from training.metrics import (
    auprc,
    auroc,
    balanced_accuracy,
    bootstrap,
    class_scores,
    f1,
    mae,
    number_scores,
    pearson,
    r2,
)

seeds = st.integers(0, 2**32 - 1)


def classes_of(seed: int, n_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, predicted classes and probabilities rounded so that ties occur; every class is there."""
    rng = np.random.default_rng(seed)
    truth = np.r_[np.arange(n_classes), rng.integers(n_classes, size=40)]
    probabilities = np.round(rng.dirichlet(np.ones(n_classes), size=len(truth)), 1)
    return truth, probabilities.argmax(1), probabilities


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 6))
def test_class_metrics_are_those_of_scikit_learn(seed: int, n_classes: int) -> None:
    truth, said, probabilities = classes_of(seed, n_classes)
    member = np.eye(n_classes)[truth]
    assert balanced_accuracy(truth, said) == pytest.approx(reference.balanced_accuracy_score(truth, said))
    assert f1(truth, said) == pytest.approx(reference.f1_score(truth, said, average="macro"))
    assert auroc(truth, probabilities) == pytest.approx(reference.roc_auc_score(member, probabilities, average="macro"))
    assert auprc(truth, probabilities) == pytest.approx(reference.average_precision_score(member, probabilities))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_binary_curves_are_those_of_scikit_learn(seed: int) -> None:
    truth, _, probabilities = classes_of(seed, 2)
    graded = probabilities[:, 1]
    assert auroc(truth, graded) == pytest.approx(reference.roc_auc_score(truth, graded))
    assert auprc(truth, graded) == pytest.approx(reference.average_precision_score(truth, graded))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_number_metrics_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(60, 15, 30)
    predicted = truth + rng.normal(2, 9, 30)
    assert mae(truth, predicted) == pytest.approx(reference.mean_absolute_error(truth, predicted))
    assert r2(truth, predicted) == pytest.approx(reference.r2_score(truth, predicted))
    assert pearson(truth, predicted) == pytest.approx(np.corrcoef(truth, predicted)[0, 1])


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_weights_count_rows_as_if_repeated(seed: int) -> None:
    truth, _, probabilities = classes_of(seed, 3)
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, size=(5, len(truth)))
    counts[:, 0] += 1
    numbers = rng.normal(size=len(truth))
    scores = class_scores(truth, probabilities) | number_scores(numbers, numbers + rng.normal(size=len(truth)))
    for score in scores.values():
        metric, known, predicted = score.func, *score.args
        repeated = [metric(np.repeat(known, line), np.repeat(predicted, line, axis=0)) for line in counts]
        np.testing.assert_allclose(score(counts), repeated, rtol=1e-9, atol=1e-12)


def test_macro_average_leaves_absent_classes_out() -> None:
    truth = np.array([0, 0, 2, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]])
    one_by_one = [reference.roc_auc_score(truth == c, probabilities[:, c]) for c in (0, 2)]
    assert auroc(truth, probabilities) == pytest.approx(np.mean(one_by_one))
    assert balanced_accuracy(truth, probabilities.argmax(1)) == pytest.approx((0.5 + 1.0) / 2)


def test_what_is_not_defined_is_nan() -> None:
    ones, numbers = np.ones(4, dtype=int), np.arange(4.0)
    assert np.isnan(auroc(ones, numbers))
    assert np.isnan(auprc(np.zeros(4, dtype=int), numbers))
    assert np.isnan(r2(np.full(4, 0.1), numbers))
    assert np.isnan(pearson(numbers, np.full(4, 0.1)))
    assert np.isnan(bootstrap(["a", "a", "b", "b"], lambda w: auroc(ones, numbers, w))).all()


def test_interval_covers_the_truth_of_simulated_patients() -> None:
    """95 % of the intervals of a mean over 40 patients with 3 correlated rows each hold the true mean, 0."""
    groups = np.repeat(np.arange(40).astype(str), 3)
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        values = np.repeat(rng.normal(size=40), 3) + 0.2 * rng.normal(size=120)
        low, high = bootstrap(groups, lambda w, values=values: w @ values / w.sum(1), tries=300, seed=seed)
        held += low <= 0 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_interval_has_the_width_that_theory_gives() -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=900), np.arange(900).astype(str)
    low, high = bootstrap(groups, lambda w: w @ values / w.sum(1), tries=4000)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.08)
    clustered = bootstrap(np.repeat(np.arange(90).astype(str), 10), lambda w: w @ np.sort(values) / w.sum(1))
    assert clustered[1] - clustered[0] > 2.5 * (high - low)


def test_interval_does_not_depend_on_row_order_and_follows_the_seed() -> None:
    truth, _, probabilities = classes_of(0, 3)
    groups = np.array([f"p{i % 11}" for i in range(len(truth))])
    order = np.random.default_rng(0).permutation(len(truth))
    first = bootstrap(groups, lambda w: auroc(truth, probabilities, w))
    again = bootstrap(groups[order], lambda w: auroc(truth[order], probabilities[order], w))
    assert again == pytest.approx(first, abs=1e-12)
    assert bootstrap(groups, lambda w: auroc(truth, probabilities, w), seed=1) != first


def test_resamples_in_blocks_follow_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = np.arange(30.0), [f"p{i // 2}" for i in range(30)]
    whole = bootstrap(groups, lambda w: w @ values / w.sum(1), tries=200)
    monkeypatch.setattr("training.metrics.CHUNK_VALUES", 60)
    assert bootstrap(groups, lambda w: w @ values / w.sum(1), tries=200) == pytest.approx(whole, abs=1e-12)
