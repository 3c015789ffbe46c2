"""Figures of probes against scikit-learn, of several labels and of parts."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from training.judge import Judge
from training.probe import fit_probe


def several(n: int = 120) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
    """Vectors that tell three labels more or less; the second is unknown for a third of the rows."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, 6)).astype(np.float32)
    raw = vectors[:, :3] * [2.0, 0.5, 1.0] + rng.normal(size=(n, 3))
    labels = (raw > [0.0, 0.0, 1.0]).astype(float)
    labels[::3, 1] = np.nan
    return vectors, dict(zip("abc", labels.T, strict=True)), [f"p{i // 2}" for i in range(n)]


def test_several_labels_are_judged_as_scikit_learn_does() -> None:
    vectors, labels, patients = several()
    found = fit_probe(vectors, labels, patients, task="a,b,c")
    assert found.kind == "multilabel" and found.classes == ["a", "b", "c"] and found.n == 120
    assert found.outputs.shape == found.target.shape == (120, 3)
    np.testing.assert_array_equal(np.isnan(found.target), np.isnan(found.outputs))
    rows = []
    for truth, output in zip(found.target.T, found.outputs.T, strict=True):
        known = ~np.isnan(truth)
        y, p, said = truth[known], output[known], output[known] > 0.5
        area = (roc_auc_score(y, p), average_precision_score(y, p))
        rows.append((*area, balanced_accuracy_score(y, said), f1_score(y, said, average="macro")))
    names = ("auroc", "auprc", "balanced_accuracy", "f1")
    for place, name in enumerate(names):
        assert found.metrics[name]["value"] == pytest.approx(np.mean([row[place] for row in rows]), abs=1e-12)
        for label, row in zip("abc", rows, strict=True):
            assert found.labels[label][name]["value"] == pytest.approx(row[place], abs=1e-12)
            assert found.labels[label][name]["low"] <= row[place] <= found.labels[label][name]["high"]


def test_a_label_of_several_is_told_as_it_is_alone() -> None:
    vectors, labels, patients = several()
    together = fit_probe(vectors, labels, patients, task="a,b,c")
    for place, name in enumerate("abc"):
        alone = fit_probe(vectors, ["" if v != v else "ny"[int(v)] for v in labels[name]], patients, task=name)
        known = ~np.isnan(labels[name])
        np.testing.assert_allclose(together.outputs[known, place], alone.outputs[:, 1], atol=1e-9)
        assert together.labels[name] == alone.metrics


def test_labels_that_nothing_tells_have_chance_in_their_intervals() -> None:
    held, values = 0, []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(120, 6)).astype(np.float32)
        labels = {name: rng.integers(2, size=120) for name in "ab"}
        found = fit_probe(vectors, labels, [f"p{i}" for i in range(120)], task="t")
        held += found.metrics["auroc"]["low"] <= 0.5 <= found.metrics["auroc"]["high"]
        values.append(found.metrics["auroc"]["value"])
    assert held >= 5 and np.mean(values) == pytest.approx(0.5, abs=0.03)
    assert found.baselines["majority"]["auroc"] == found.baselines["majority"]["balanced_accuracy"] == 0.5


def test_parts_have_their_own_figures_and_small_ones_none() -> None:
    rng = np.random.default_rng(0)
    vectors, years = rng.normal(size=(90, 4)), rng.uniform(20, 80, 90)
    vectors[:, 0] += years / 10
    sex = ["F"] * 50 + ["M"] * 34 + [None] * 2 + ["O"] * 4
    patients = [f"p{i}" for i in range(90)]
    found = fit_probe(vectors, years, patients, task="age", by={"sex": sex, "years": years})
    assert {name: (one["n"], one["groups"]) for name, one in found.by["sex"].items()} == {
        "F": (50, 50), "M": (34, 34), "O": (4, 4), "unknown": (2, 2)}  # fmt: skip
    assert found.by["sex"]["O"]["metrics"] is None and found.by["sex"]["unknown"]["metrics"] is None
    mae = np.abs(found.outputs[:50, 0] - years[:50]).mean()
    told = found.by["sex"]["F"]["metrics"]["mae"]
    assert told["value"] == pytest.approx(mae) and told["low"] < mae < told["high"]
    assert [one["n"] for one in found.by["years"].values()] == [30, 30, 30], "numbers are told by thirds"


def test_several_draws_are_averaged() -> None:
    truth = np.array([0, 1] * 20)
    judge = Judge("binary", ["no", "yes"], truth, np.arange(40).astype(str), 0)
    right, wrong = np.eye(2)[truth], np.eye(2)[1 - truth]
    assert judge.figures(right, wrong)["auroc"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert judge.figures(right, right, wrong)["balanced_accuracy"]["value"] == pytest.approx(2 / 3)
