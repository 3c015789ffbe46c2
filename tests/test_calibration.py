"""Calibration: the fit is the optimum that an independent search finds, and its quality is of patients not seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DecipherError
from training import calibration
from training.calibration import Calibration, calibrate, calibration_error, fit, log_loss, quality


def softmax(logits: np.ndarray) -> np.ndarray:
    power = np.exp(logits - logits.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


def drawn(rng: np.random.Generator, rows: int, scale: float, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits (rows, C) and classes drawn from softmax(scale * logits + bias)."""
    logits = 10 * rng.standard_normal((rows, len(bias)))
    shares = softmax(scale * logits + bias)
    return logits, np.array([rng.choice(len(bias), p=row) for row in shares])


def test_what_made_the_labels_is_found_again(rng):
    bias = np.array([1.0, -1.5, 0.5])
    logits, truth = drawn(rng, 6000, 0.2, bias)
    found = fit(logits, truth)
    assert found.scale == pytest.approx(0.2, rel=0.05)
    np.testing.assert_allclose(found.bias - found.bias.mean(), bias - bias.mean(), atol=0.12)


def test_the_fit_is_the_posterior_mode_by_brute_force(rng):
    logits, truth = drawn(rng, 30, 0.3, np.array([0.5, -0.5]))

    def loss(scale: float, low: float, high: float) -> float:
        shares = softmax(scale * logits + np.array([low, high]))
        prior = (np.log(scale) ** 2 + low**2 + high**2) / 8
        return float(prior - np.log(shares[np.arange(30), truth]).sum())

    found = fit(logits, truth)
    best = loss(found.scale, *found.bias)
    for _ in range(3000):
        near = np.exp(0.3 * rng.standard_normal()) * found.scale, *(found.bias + 0.3 * rng.standard_normal(2))
        assert loss(*near) >= best - 1e-4


def test_tiny_and_parted_data_stay_sane():
    """Ten series that the prompts part without a mistake: surer, but finite; no label: as they came."""
    logits = np.array([[1.0, -1.0], [-1.0, 1.0]] * 5)
    found = fit(logits, np.array([0, 1] * 5))
    assert 1 < found.scale < 10 and np.abs(found.bias).max() < 1e-3
    one_class = fit(np.tile([3.0, -3.0, 0.0], (10, 1)), np.zeros(10, dtype=int))
    assert one_class.scale == pytest.approx(1) and (one_class.bias == 0).all()


def test_a_class_without_labels_keeps_its_bias(rng):
    logits, truth = drawn(rng, 200, 0.3, np.array([1.0, -1.0]))
    whole = np.insert(logits, 1, rng.standard_normal(200), axis=1)
    found, own = fit(whole, np.where(truth == 1, 2, 0)), fit(logits, truth)
    assert found.bias[1] == 0 and found.scale == pytest.approx(own.scale, rel=1e-3)
    np.testing.assert_allclose(found.bias[[0, 2]], own.bias, atol=1e-3)


def test_two_classes_are_platts_sigmoid(rng):
    logits, truth = drawn(rng, 100, 0.3, np.array([0.0, 1.0]))
    found = fit(logits, truth)
    slope, offset = found.scale, found.bias[1] - found.bias[0]
    expected = 1 / (1 + np.exp(-(slope * (logits[:, 1] - logits[:, 0]) + offset)))
    np.testing.assert_allclose(found.probabilities(logits)[:, 1], expected, rtol=1e-9)


def test_quality_comes_from_patients_not_seen(rng, monkeypatch):
    logits, truth = drawn(rng, 60, 0.2, np.zeros(3))
    who = [f"p{row // 3}" for row in range(60)]
    seen: list[np.ndarray] = []
    real = calibration.fit

    def spied(own: np.ndarray, codes: np.ndarray) -> Calibration:
        seen.append(np.array([np.flatnonzero((logits == row).all(1))[0] for row in own]))
        return real(own, codes)

    monkeypatch.setattr(calibration, "fit", spied)
    done = calibrate(logits, truth, who)
    *folds, last = seen
    assert len(folds) == 5 and len(last) == 60 and (done.n, done.groups) == (60, 20)
    shares, prior = np.zeros((60, 3)), np.zeros((60, 3))
    for train in folds:
        test = np.setdiff1d(np.arange(60), train)
        assert not {who[row] for row in train} & {who[row] for row in test}
        shares[test] = real(logits[train], truth[train]).probabilities(logits[test])
        prior[test] = (np.bincount(truth[train], minlength=3) + 1) / (len(train) + 3)
    for expected, found in ((shares, done.after), (softmax(logits), done.before), (prior, done.prior)):
        loss = -np.log(expected[np.arange(60), truth]).mean()
        assert found["log_loss"]["value"] == pytest.approx(loss)
        recall = np.mean([(expected.argmax(1) == c)[truth == c].mean() for c in range(3)])
        assert found["balanced_accuracy"]["value"] == pytest.approx(recall)
    assert done.after["log_loss"]["value"] < done.before["log_loss"]["value"]
    assert done.calibration.scale == real(logits, truth).scale


def test_log_loss_and_error_against_loops(rng):
    shares = softmax(2 * rng.standard_normal((50, 4)))
    truth = rng.integers(4, size=50)
    assert log_loss(truth, shares) == pytest.approx(-np.mean([np.log(shares[i, truth[i]]) for i in range(50)]))
    gaps = 0.0
    for low in range(10):
        inside = [i for i in range(50) if low <= 10 * shares[i].max() < low + 1]
        if inside:
            right = np.mean([shares[i].argmax() == truth[i] for i in inside])
            gaps += len(inside) / 50 * abs(right - np.mean([shares[i].max() for i in inside]))
    assert calibration_error(truth, shares) == pytest.approx(gaps)
    assert log_loss(np.array([1]), np.array([[1.0, 0.0]])) == pytest.approx(-np.log(1e-12))
    assert calibration_error(np.array([0, 0]), np.array([[1.0, 0.0], [1.0, 0.0]])) == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_weights_are_repeated_rows(seed):
    rng = np.random.default_rng(seed)
    shares, truth = softmax(rng.standard_normal((12, 3))), rng.integers(3, size=12)
    weights = rng.integers(0, 3, size=(2, 12)).astype(float)
    weights[:, 0] = 1
    for score in (log_loss, calibration_error):
        weighted = score(truth, shares, weights)
        for own, counts in zip(weighted, weights.astype(int), strict=True):
            rows = np.repeat(np.arange(12), counts)
            assert own == pytest.approx(score(truth[rows], shares[rows]))


def test_intervals_hold_the_value_and_resample_patients(rng):
    logits, truth = drawn(rng, 120, 0.3, np.zeros(2))
    shares = softmax(0.3 * logits)
    alone = quality(truth, shares, np.arange(120).astype(str))["log_loss"]
    few = quality(np.tile(truth, 4), np.tile(shares, (4, 1)), np.tile(np.arange(120), 4).astype(str))["log_loss"]
    assert alone["low"] < alone["value"] < alone["high"]
    assert few == pytest.approx(alone)


@pytest.mark.parametrize(
    ("truth", "who", "said"),
    [
        ([0, 1] * 4, ["a", "b"] * 4, "10 labelled series"),
        ([0, 1] * 6, ["a"] * 12, "2 patients"),
        ([1] * 12, ["a", "b"] * 6, "one class"),
    ],
)
def test_what_cannot_calibrate_is_told(truth, who, said):
    with pytest.raises(DecipherError, match=said) as error:
        calibrate(np.zeros((len(truth), 2)), np.array(truth), who)
    assert error.value.hint
