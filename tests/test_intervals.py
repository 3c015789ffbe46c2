"""Intervals cover, calibrated probabilities mean what they say, on simulated data whose truth is known."""

import numpy as np
import pytest

from training.calibration import Calibration, calibration_error, log_loss
from training.intervals import LEVEL, half_width, honest_outputs, interval, log_odds
from training.probe import fit_probe


def test_intervals_cover_as_often_as_they_say() -> None:
    """Patients of one to five series with a share of the error in common; coverage of the patients to come."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        counts = rng.integers(1, 6, size=160)
        who = np.repeat(np.arange(160), counts)
        residuals = np.abs(rng.normal(size=160)[who] + rng.standard_t(4, size=len(who)))
        known = who < 100
        half = half_width(residuals[known], who[known].astype(str))
        new = [np.mean(residuals[who == name] <= half) for name in range(100, 160)]
        covered.append(np.mean(new))
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_finite_sample_correction_is_that_of_split_conformal() -> None:
    residuals, who = np.arange(1.0, 20.0), np.arange(19).astype(str)
    assert half_width(residuals, who) == 19, "the largest of 19: 0.95 * 20"
    assert half_width(residuals[:18], who[:18]) is None
    many = np.random.default_rng(0).exponential(size=999)
    rank = int(np.ceil(LEVEL * 1000))
    assert half_width(many, np.arange(999).astype(str)) == np.sort(many)[rank - 1]
    twice = half_width(np.repeat(many, 3), np.repeat(np.arange(999), 3).astype(str))
    assert twice == np.sort(many)[rank - 1], "a patient weighs the same with one series and with three"


def test_the_coverage_that_is_told_is_measured_on_other_patients() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=600)
    found = interval(truth, truth + rng.normal(size=600), np.arange(600).astype(str))
    assert found["half_width"] == pytest.approx(1.96, abs=0.15)
    assert 0.93 <= found["coverage"]["value"] <= 0.97
    assert found["coverage"]["low"] < 0.95 < found["coverage"]["high"]


def test_intervals_of_a_probe_cover_new_patients() -> None:
    rng = np.random.default_rng(3)
    weight = rng.normal(size=10)
    vectors = rng.normal(size=(1400, 10))
    years = 50 + 5 * vectors @ weight + rng.normal(0, 4, size=1400)
    result = fit_probe(vectors[:400], years[:400], [f"p{i}" for i in range(400)], task="age")
    half = honest_outputs(result)["interval"]["half_width"]
    probe = result.probe
    predicted = ((vectors[400:] - probe.mean) / probe.scale @ probe.weight + probe.bias)[:, 0]
    assert 0.93 <= np.mean(np.abs(predicted - years[400:]) <= half) <= 0.97


def test_calibration_mends_what_a_head_that_balances_classes_says() -> None:
    """One in ten is positive; the head says what it would say of as many of each."""
    rng = np.random.default_rng(0)
    codes = (rng.random(600) < 0.1).astype(int)
    vectors = rng.normal(size=(600, 5)) + np.outer(codes, [1.5, 0, 0, 0, 0])
    result = fit_probe(vectors, codes.astype(str), [f"p{i}" for i in range(600)], task="t")
    (found,) = honest_outputs(result)["calibrations"]
    before, after = found["before"], found["after"]
    assert before["log_loss"]["value"] == pytest.approx(log_loss(result.target, result.outputs))
    assert before["calibration_error"]["value"] == pytest.approx(calibration_error(result.target, result.outputs))
    assert after["log_loss"]["high"] < before["log_loss"]["low"]
    calibrated = Calibration(found["scale"], np.array(found["bias"])).probabilities(log_odds(result.outputs))
    assert calibrated[:, 1].mean() == pytest.approx(codes.mean(), abs=0.02) and result.outputs[:, 1].mean() > 0.2


def test_overconfident_outputs_lose_less_when_calibrated() -> None:
    from dataclasses import replace

    rng = np.random.default_rng(0)
    raw = rng.normal(size=400)
    truth = (rng.random(400) < 1 / (1 + np.exp(-raw))).astype(int)
    sure = 1 / (1 + np.exp(-5 * raw))
    vectors, patients = rng.normal(size=(400, 3)), [f"p{i}" for i in range(400)]
    result = fit_probe(vectors, truth.astype(str), patients, task="t")
    outputs = np.stack([1 - sure, sure], axis=1)
    (found,) = honest_outputs(replace(result, outputs=outputs))["calibrations"]
    assert found["scale"] == pytest.approx(1 / 5, abs=0.06)
    assert found["after"]["log_loss"]["value"] < found["before"]["log_loss"]["value"] / 1.5
    assert found["after"]["log_loss"]["high"] < found["before"]["log_loss"]["low"]


def test_too_few_give_none() -> None:
    vectors = np.random.default_rng(0).normal(size=(8, 3))
    patients = [f"p{i}" for i in range(8)]
    assert honest_outputs(fit_probe(vectors, ["a", "b"] * 4, patients, task="t")) == {"calibrations": [None]}
    found = honest_outputs(fit_probe(vectors, vectors[:, 0], patients, task="t"))["interval"]
    assert found["half_width"] is None and found["coverage"]["value"] is None
