import json
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.errors import DecipherError
from training.baselines import baseline_features
from training.heads import HEADS, PATCH_HEADS
from training.probe import ProbeResult, fit_probe
from training.target import read_target


def singles(n: int) -> list[str]:
    return [f"patient {i}" for i in range(n)]


def numbers(n: int, p: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, p) and ages of which a linear function of the vectors explains 80 % of variance."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, p))
    signal = vectors @ rng.normal(size=p)
    return vectors.astype(np.float32), 50 + signal + rng.normal(size=n) * signal.std() / 2


def two_classes(n: int, p: int, distance: float) -> tuple[np.ndarray, list[str]]:
    """Two Gaussian clouds whose means lie `distance` standard deviations apart: the best accuracy is Phi(d / 2)."""
    rng = np.random.default_rng(0)
    codes = rng.integers(2, size=n)
    axis = rng.normal(size=p)
    vectors = rng.normal(size=(n, p)) + np.outer(codes, axis / np.linalg.norm(axis) * distance)
    return vectors.astype(np.float32), ["yes" if code else "no" for code in codes]


def several_classes(n: int, p: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=n)
    vectors = rng.normal(size=(n, p)) + 1.2 * rng.normal(size=(4, p))[codes]
    return vectors.astype(np.float32), [("FLAIR", "PD", "T1", "T2")[code] for code in codes]


def within(result: ProbeResult, metric: str, value: float) -> bool:
    found = result.metrics[metric]
    return found["low"] <= value <= found["high"]


def test_planted_variance_is_explained() -> None:
    vectors, ages = numbers(300, p=12)
    result = fit_probe(vectors, ages, singles(300), task="age")
    assert result.kind == "regression" and (result.n, result.groups, result.n_missing) == (300, 300, 0)
    assert result.metrics["r2"]["value"] == pytest.approx(0.8, abs=0.05)
    assert within(result, "r2", 0.8)
    assert result.metrics["pearson"]["value"] == pytest.approx(math.sqrt(0.8), abs=0.03)
    expected_mae = ages.std() * math.sqrt(0.2) * math.sqrt(2 / math.pi)
    assert result.metrics["mae"]["value"] == pytest.approx(expected_mae, rel=0.1)


def test_planted_classes_are_found_as_well_as_they_can_be() -> None:
    vectors, said = two_classes(n=300, p=6, distance=2.5)
    result = fit_probe(vectors, said, singles(300), task="lesion")
    best = NormalDist().cdf(1.25)
    assert result.kind == "binary" and result.classes == ["no", "yes"]
    assert result.metrics["balanced_accuracy"]["value"] == pytest.approx(best, abs=0.03)
    assert result.metrics["auroc"]["value"] == pytest.approx(NormalDist().cdf(2.5 / math.sqrt(2)), abs=0.03)
    assert within(result, "balanced_accuracy", best)


def test_more_dimensions_than_patients_still_find_a_strong_signal() -> None:
    vectors, said = two_classes(n=60, p=200, distance=12)
    assert fit_probe(vectors, said, singles(60), task="sex").metrics["auroc"]["value"] > 0.97
    rng = np.random.default_rng(0)
    ages = rng.uniform(20, 80, 60)
    vectors = rng.normal(size=(60, 200)) + np.outer((ages - 50) / 17, rng.choice([-0.8, 0.8], 200))
    assert fit_probe(vectors, ages, singles(60), task="age").metrics["r2"]["value"] > 0.9


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_no_signal_gives_chance(head: str) -> None:
    groups = [f"patient {i // 2}" for i in range(160)]
    held, values = 0, []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(160, 12)).astype(np.float32)
        found = fit_probe(vectors, rng.choice(["a", "b", "c"], 160), groups, task="nothing", head=head)
        held += within(found, "balanced_accuracy", 1 / 3) + within(found, "auroc", 0.5)
        ages = fit_probe(vectors, rng.normal(60, 10, 160), groups, task="nothing", head=head).metrics["r2"]["value"]
        values.append([found.metrics["balanced_accuracy"]["value"], found.metrics["auroc"]["value"], ages])
    assert held >= 3
    accuracy, area, explained = np.mean(np.array(values), axis=0)
    assert accuracy == pytest.approx(1 / 3, abs=0.06) and area == pytest.approx(0.5, abs=0.06) and explained < 0.03


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_features_that_name_the_patient_score_no_better_than_chance(head: str) -> None:
    """The vectors hold who it is and nothing else: folds that parted patients would score far above chance."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 3)
    vectors = (3 * rng.normal(size=(60, 32))[patient] + 0.1 * rng.normal(size=(180, 32))).astype(np.float32)
    sexes = rng.permutation(["F", "M"] * 30)[patient]
    apart = fit_probe(vectors, sexes, [f"p{i}" for i in patient], task="sex", head=head)
    assert apart.groups == 60 and within(apart, "balanced_accuracy", 0.5)
    assert apart.metrics["balanced_accuracy"]["value"] == pytest.approx(0.5, abs=0.12)
    leaking = fit_probe(vectors, sexes, singles(180), task="sex", head=head)
    assert leaking.metrics["balanced_accuracy"]["value"] > 0.75


@pytest.mark.parametrize(("head", "kind"), [("knn", "classes"), ("linear", "numbers")])
def test_row_order_changes_nothing(head: str, kind: str) -> None:
    vectors, values = several_classes(60, p=8) if kind == "classes" else numbers(60, p=8)
    groups = [f"p{i % 30}" for i in range(60)]
    order = np.random.default_rng(3).permutation(60)
    first = fit_probe(vectors, list(values), groups, task="t", head=head)
    again = fit_probe(vectors[order], [values[i] for i in order], [groups[i] for i in order], task="t", head=head)
    np.testing.assert_allclose(again.outputs, first.outputs[order], rtol=1e-4, atol=1e-4)
    for name, found in first.metrics.items():
        assert again.metrics[name]["value"] == pytest.approx(found["value"], abs=1e-4)


def test_json_has_the_keys_of_the_contract() -> None:
    vectors, ages = numbers(60)
    told = json.loads(
        json.dumps(fit_probe(vectors, ages, singles(60), task="age", baselines={"flat": np.ones((60, 2))}).to_json())
    )
    assert {"task", "kind", "n", "groups", "metrics", "baselines"} <= told.keys()
    assert set(told["metrics"]) == {"mae", "r2", "pearson"}
    assert all(
        set(m) == {"value", "low", "high"} and m["low"] <= m["value"] <= m["high"] for m in told["metrics"].values()
    )
    assert told["baselines"]["mean"] == {
        "mae": pytest.approx(np.abs(ages - ages.mean()).mean()),
        "r2": 0.0,
        "pearson": None,
    }
    assert told["baselines"]["flat"]["r2"] == pytest.approx(0, abs=0.1)
    vectors, said = several_classes(60, p=8)
    result = fit_probe(vectors, said, singles(60), task="sequence", head="knn")
    assert set(result.metrics) == {"auroc", "auprc", "balanced_accuracy", "f1"}
    assert result.baselines["majority"]["balanced_accuracy"] == 0.25
    assert result.baselines["majority"]["auroc"] == 0.5
    assert result.outputs.shape == (60, 4) and result.kind == "multiclass"


def test_baselines_share_head_and_folds_so_a_shortcut_shows() -> None:
    rng = np.random.default_rng(0)
    ages = rng.uniform(20, 80, 90)
    shortcut = np.stack([ages, rng.normal(size=90)], axis=1)
    vectors = rng.normal(size=(90, 16)).astype(np.float32)
    result = fit_probe(vectors, ages, singles(90), task="age", baselines={"geometry": shortcut, "same": vectors})
    assert result.baselines["geometry"]["r2"] > 0.99 > 0.05 > result.metrics["r2"]["value"]
    assert result.baselines["same"] == {name: found["value"] for name, found in result.metrics.items()}


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (list(range(12)) * 2, "regression", []),
        (["20.5", "30", "41", "", "55.0", "n/a"] * 4, "regression", []),
        ([1.5, 3.0, None, float("nan")] * 6, "binary", ["1.5", "3"]),
        ([True, False] * 12, "binary", ["no", "yes"]),
        ([10, 9, 1] * 8, "multiclass", ["1", "9", "10"]),
        (["M", "F", "unknown", " F "] * 6, "binary", ["F", "M"]),
        (np.array([0.5, 1.5, 2.5, np.nan] * 6), "regression", []),
        (["T2", "T1", "3", None] * 6, "multiclass", ["3", "T1", "T2"]),
    ],
)
def test_kind_follows_from_the_values(values: Any, kind: str, classes: list[str]) -> None:
    labels = read_target(values, singles(len(values)), "t")
    assert (labels.kind, labels.classes) == (kind, classes)
    known = [i for i, v in enumerate(values) if str(v).strip() not in ("", "None", "nan", "unknown", "n/a")]
    assert labels.rows.tolist() == known and labels.n_missing == len(values) - len(known)


def test_rare_classes_are_left_out_and_told() -> None:
    vectors, said = two_classes(40, p=24, distance=2)
    said[:3] = ["CINE", "EPI", "EPI"]
    groups = [f"p{max(i, 2)}" for i in range(40)]
    result = fit_probe(vectors, said, groups, task="sequence", head="knn")
    assert result.n == 37 and result.rows.tolist() == list(range(3, 40)) and result.n_missing == 0
    assert result.notes == ["left out, fewer than 2 patients: CINE (1), EPI (2)"]


@pytest.mark.parametrize("head", sorted({*HEADS} - {*PATCH_HEADS}))
def test_few_patients_are_noted_and_predicted_from_the_others(head: str) -> None:
    """Vectors say who it is and nothing else, so an age is predicted from those of the other two and lies between."""
    vectors, groups = np.repeat(np.eye(3), 4, axis=0), ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    result = fit_probe(vectors, [20.5] * 4 + [30.5] * 4 + [70.5] * 4, groups, task="age", head=head)
    assert result.head == head and result.groups == 3
    assert any("only 3 patients" in note for note in result.notes)
    for predicted, low, high in zip(result.outputs.reshape(3, 4), (30.5, 20.5, 20.5), (70.5, 70.5, 30.5), strict=True):
        assert (low - 1e-6 < predicted).all() and (predicted < high + 1e-6).all()


@pytest.mark.parametrize(
    ("values", "groups", "head", "message"),
    [
        (["F"] * 30, singles(30), "linear", "needs two classes"),
        ([7.5] * 30, singles(30), "linear", "Every row has the same"),
        ([None, "unknown", float("nan")] * 10, singles(30), "linear", "No row has a known 'label'"),
        (["F", "M"] * 15, singles(30), "forest", "no head 'forest'"),
        (list(range(30)), ["one"] * 30, "linear", "at least 2 patients"),
        (["F", "M"] * 15, ["a", "b"] * 15, "linear", "no class has that"),
        ([*map(str, range(29)), "old"], singles(30), "linear", "mixes numbers with text such as 'old'"),
    ],
)
def test_what_cannot_be_probed_is_told(values: list, groups: list[str], head: str, message: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    with pytest.raises(DecipherError, match=message) as error:
        fit_probe(vectors, values, groups, task="label", head=head)
    assert error.value.hint


def test_vectors_that_are_not_finite_are_told() -> None:
    with pytest.raises(DecipherError, match="not finite"):
        fit_probe(np.full((4, 2), np.nan), ["a", "b"] * 2, singles(4), task="t")


def records() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "spacing_mm": [[1.0, 2.0, 4.0], None, [0.5, 0.5, 5.0]],
            "shape": [[100, 50, 25], [64, 64, 64], [10, 20, 40]],
            "repetition_time_ms": [500.0, None, 3000.0],
            "echo_time_ms": pl.Series([None, None, None], dtype=pl.Float64),
            "inversion_time_ms": [0.0, 0.0, 2500.0],
            "flip_angle_deg": [90.0, 12.0, 120.0],
            "b_value": [None, 0.0, 1000.0],
            "field_strength_t": [1.5, 3.0, None],
            "vendor": ["GE", "Siemens", None],
            "plane": ["axial", "3d", "axial"],
        }
    )


def test_geometry_is_the_log_of_the_grid() -> None:
    found = baseline_features(records())["geometry"]
    assert found.shape == (3, 9)
    np.testing.assert_allclose(np.exp(found[0]), [1, 2, 4, 100, 50, 25, 100, 100, 100])
    np.testing.assert_allclose(np.exp(found[2]), [0.5, 0.5, 5, 10, 20, 40, 5, 10, 200])
    np.testing.assert_allclose(found[1, :3], np.median(np.log([[1, 2, 4], [0.5, 0.5, 5]]), axis=0))


def test_tags_are_imputed_with_indicators() -> None:
    found = baseline_features(records())["tags"]
    assert found.shape == (3, 12 + 3 + 2) and np.isfinite(found).all()
    np.testing.assert_allclose(found[:, 0], np.log1p([500, np.expm1(np.log1p([500, 3000]).mean()), 3000]))
    np.testing.assert_array_equal(found[:, 1], [0, 1, 0])
    np.testing.assert_array_equal(found[:, 2:4], [[0, 1]] * 3)
    np.testing.assert_array_equal(found[:, 12:].sum(1), [2, 2, 2])


def test_the_task_is_never_its_own_baseline() -> None:
    whole, less = baseline_features(records()), baseline_features(records(), exclude=["plane", "shape"])
    np.testing.assert_array_equal(less["tags"], whole["tags"][:, :-2])
    np.testing.assert_array_equal(less["geometry"], whole["geometry"][:, :3])
    assert "geometry" not in baseline_features(records(), exclude=["spacing_mm", "shape"])
