"""The low-data curve: nested shares of patients, more data tell more, and all of them what the probe told."""

from itertools import pairwise

import numpy as np
import pytest

from training.crossfit import question
from training.curve import SHARES, _draw
from training.probe import fit_probe

PATIENTS = [f"p{i // 2}" for i in range(400)]


def planted() -> tuple[np.ndarray, list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 20)).astype(np.float32)
    signal = vectors @ rng.normal(size=20) / 4
    return vectors, ["yes" if one > 0 else "no" for one in signal + rng.normal(size=400)], 50 + 9 * signal


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_the_curve_rises_to_what_the_probe_tells(kind: str) -> None:
    vectors, said, years = planted()
    values, metric = (said, "auroc") if kind == "classes" else (years, "r2")
    found = fit_probe(vectors, values, PATIENTS, task="t", curve=True)
    assert found.curve[-1]["share"] == 1 and found.curve[-1]["metrics"] == found.metrics
    assert found.metrics == fit_probe(vectors, values, PATIENTS, task="t").metrics
    assert [point["patients"] for point in found.curve[-3:]] == [16, 48, 160]
    heights = [point["metrics"][metric]["value"] for point in found.curve]
    assert heights[-1] > heights[0] + 0.1 and heights == sorted(heights)
    for point in found.curve:
        one = point["metrics"][metric]
        assert one["low"] <= one["value"] <= one["high"]


def test_shares_are_nested_and_keep_whole_patients_and_proportions() -> None:
    who, codes = np.array(PATIENTS), np.repeat(np.arange(200) % 4 == 0, 2).astype(int)
    asked = question(np.arange(400), codes, 2, who, seed=0)
    drawn = [_draw(asked, who, share, seed=5) for share in SHARES]
    for smaller, larger in pairwise(drawn):
        for (few, test), (many, same) in zip(smaller.outer, larger.outer, strict=True):
            assert set(few) <= set(many) and np.array_equal(test, same)
            assert not set(who[many]) & set(who[test])
            assert all((who == name).sum() == (who[few] == name).sum() for name in set(who[few]))
    for train, _ in drawn[3].outer:
        assert codes[train].mean() == pytest.approx(0.25, abs=0.02)


def test_shares_without_two_patients_a_class_are_skipped_and_told() -> None:
    vectors, said, years = planted()
    found = fit_probe(vectors[:60], said[:60], PATIENTS[:60], task="t", curve=True)
    assert [point["share"] for point in found.curve] == [0.3, 1]
    assert found.notes[-1] == "no curve at 1%, 3%, 10%: a class has fewer than 2 patients"
    numbers = fit_probe(vectors[:60], years[:60], PATIENTS[:60], task="t", curve=True)
    assert numbers.notes[-1] == "no curve at 1%, 3%: there are fewer than 2 patients"


def test_several_labels_have_one_curve() -> None:
    vectors, said, years = planted()
    labels = {"a": said[:120], "b": (years[:120] > 55).astype(int)}
    found = fit_probe(vectors[:120], labels, PATIENTS[:120], task="a,b", curve=True)
    assert found.curve[-1]["metrics"] == found.metrics and len(found.curve) >= 2
