import math
from statistics import NormalDist

import numpy as np
import pytest

from training import heads
from training.folds import grouped_folds
from training.heads import HEADS, PATCH_HEADS


def two_classes(n: int, p: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian clouds whose means lie `distance` standard deviations apart: the best accuracy is Phi(d / 2)."""
    rng = np.random.default_rng(0)
    codes = rng.integers(2, size=n)
    return rng.normal(size=(n, p)) + np.outer(codes - 0.5, np.full(p, distance / math.sqrt(p))), codes


def four_classes(n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=n)
    return rng.normal(size=(n, p)) + 1.2 * rng.normal(size=(4, p))[codes], codes


def ages(n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and ages of which a linear function of the features explains 80 % of variance."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, p))
    return features, 50 + 20 * features.mean(1) * math.sqrt(p) + rng.normal(size=n) * 10


def ridge(features: np.ndarray, target: np.ndarray, penalty: float) -> np.ndarray:
    """Coefficients and intercept (p + 1,) by least squares, each coefficient beside a row that asks it to be 0."""
    asked = math.sqrt(penalty) * np.eye(features.shape[1], features.shape[1] + 1)
    rows = np.vstack([with_ones(features), asked])
    return np.linalg.lstsq(rows, np.r_[target, np.zeros(features.shape[1])], rcond=None)[0]


def logistic(features: np.ndarray, codes: np.ndarray, penalty: float) -> np.ndarray:
    """Probabilities (n, K) of balanced multinomial regression by Newton's method, that is with the whole Hessian."""
    design, goal = with_ones(features), np.eye(codes.max() + 1)[codes]
    share = (len(codes) / goal.shape[1] / goal.sum(0))[codes]
    cost = np.r_[np.full(features.shape[1], penalty), 0.0]
    theta = np.zeros((design.shape[1], goal.shape[1]))
    for _ in range(12):
        found = softmax(design @ theta)
        gradient = design.T @ (share[:, None] * (found - goal)) + cost[:, None] * theta
        spread = share[:, None, None] * (found[:, :, None] * np.eye(len(theta.T)) - found[:, :, None] * found[:, None])
        hessian = np.tensordot(design[:, :, None] * design[:, None], spread, (0, 0)).transpose(0, 2, 1, 3)
        flat = hessian.reshape(theta.size, theta.size) + np.diag(np.repeat(cost, len(theta.T)))
        theta -= (np.linalg.pinv(flat) @ gradient.ravel()).reshape(theta.shape)
    assert np.abs(gradient).max() < 1e-9
    return softmax(design @ theta)


def with_ones(features: np.ndarray) -> np.ndarray:
    return np.hstack([features, np.ones((len(features), 1))])


def softmax(raw: np.ndarray) -> np.ndarray:
    return np.exp(raw) / np.exp(raw).sum(1, keepdims=True)


def inner(n: int) -> heads.Folds:
    return grouped_folds([f"patient {i}" for i in range(n)], n_folds=3)


@pytest.mark.parametrize("head", [head for head in HEADS if head not in PATCH_HEADS])
def test_planted_classes_are_found_as_well_as_they_can_be(head: str) -> None:
    features, codes = two_classes(4300, p=4, distance=2.5)
    found = HEADS[head](features[:300], codes[:300], inner(300), n_classes=2, seed=0)(features[300:])
    right = found.argmax(1) == codes[300:]
    best = NormalDist().cdf(1.25)
    assert best - 0.03 < np.mean([right[codes[300:] == code].mean() for code in (0, 1)]) < best + 0.015


@pytest.mark.parametrize(("head", "least"), [("linear", 0.78), ("knn", 0.65), ("mlp", 0.76)])
def test_planted_variance_is_explained(head: str, least: float) -> None:
    features, target = ages(2200, p=4)
    found = HEADS[head](features[:200], target[:200], inner(200), n_classes=0, seed=0)(features[200:])
    assert found.shape == (2000, 1)
    assert least < 1 - np.mean((found[:, 0] - target[200:]) ** 2) / target[200:].var() < 0.82


def test_classes_weigh_the_same_however_many_rows_they_have() -> None:
    features, codes = two_classes(3000, p=2, distance=2)
    rows = np.r_[np.flatnonzero(codes == 0)[:270], np.flatnonzero(codes == 1)[:30]]
    for head in ("linear", "mlp"):
        found = HEADS[head](features[rows], codes[rows], inner(300), n_classes=2, seed=0)(features)
        shares = [np.mean(found[codes == code].argmax(1) == code) for code in (0, 1)]
        assert shares == pytest.approx([NormalDist().cdf(1)] * 2, abs=0.1)


@pytest.mark.parametrize("head", [head for head in HEADS if head not in PATCH_HEADS])
@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_row_order_changes_nothing_and_probabilities_sum_to_one(head: str, kind: str) -> None:
    features, target = four_classes(100, p=8) if kind == "classes" else ages(100, p=8)
    queries, features, truth, target = features[50:], features[:50], target[50:], target[:50]
    order = np.random.default_rng(3).permutation(50)
    place = np.argsort(order)
    moved = [(np.sort(place[train]), np.sort(place[test])) for train, test in inner(50)]
    settings = {"n_classes": 4 if kind == "classes" else 0, "seed": 0}
    first = HEADS[head](features, target, inner(50), **settings)(queries)
    again = HEADS[head](features[order], target[order], moved, **settings)(queries)
    np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-4)
    if kind == "classes":
        assert first.shape == (50, 4) and first.min() >= 0 and np.mean(first.argmax(1) == truth) > 0.65
        np.testing.assert_allclose(first.sum(1), 1, atol=1e-6)


def test_logistic_path_is_the_optimum_for_every_penalty() -> None:
    features, codes = four_classes(150, p=6)
    codes[:100] = np.minimum(codes[:100], 1)
    turned = features @ heads._principal_axes(features)
    penalties = np.array([100.0, 10.0, 1.0])
    for penalty, (weight, bias) in zip(penalties, heads._logistic_path(turned, codes, penalties, 5), strict=True):
        found = heads.activated(turned @ weight + bias, 5)
        np.testing.assert_allclose(found[:, :4], logistic(features, codes, penalty), atol=2e-3)
        assert not found[:, 4].any()


def test_ridge_path_is_that_of_least_squares() -> None:
    features, target = ages(60, p=90)
    axes = heads._principal_axes(features)
    assert axes.shape == (90, 60)
    penalties = np.array([1000.0, 1.0])
    for penalty, (weight, bias) in zip(
        penalties, heads._ridge_path(features @ axes, target, penalties, 0), strict=True
    ):
        expected = with_ones(features) @ ridge(features, target, penalty)
        np.testing.assert_allclose((features @ axes @ weight + bias)[:, 0], expected, rtol=1e-6)


def test_the_penalty_is_that_of_least_error_on_the_inner_folds() -> None:
    features, target = ages(60, p=40)
    penalties = 40 * heads.PENALTIES
    errors = np.zeros(len(penalties))
    for train, test in inner(60):
        said = [with_ones(features[test]) @ ridge(features[train], target[train], penalty) for penalty in penalties]
        errors += ((said - target[test]) ** 2).sum(1)
    best = int(errors.argmin())
    assert 0 < best < len(errors) - 1
    weight, bias = heads.linear_weights(features, target, inner(60), 0)
    np.testing.assert_allclose(np.r_[weight[:, 0], bias], ridge(features, target, penalties[best]), rtol=1e-6)


def test_knn_votes_by_cosine() -> None:
    """Of the three nearest directions, two say 1; without folds k is 3, half of the rows."""
    features = np.array([[1, 0.1], [2, 0.4], [1, 0], [-1, 1], [-1, 0.5], [-1, -1]])
    codes = np.array([1, 0, 1, 0, 0, 0])
    cosine = np.array([1, 1 / math.sqrt(1.01), 1 / math.sqrt(1.04)])
    weights = np.exp(cosine / 0.07)
    found = HEADS["knn"](features, codes, [], n_classes=2, seed=0)(np.array([[5.0, 0.0]]))
    np.testing.assert_allclose(found, [[weights[2] / weights.sum(), weights[:2].sum() / weights.sum()]], rtol=1e-9)
