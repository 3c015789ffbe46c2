import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from models.errors import DecipherError
from training import probe as probing
from training.baselines import baseline_features
from training.probe import ProbeResult, apply_probe, check_passport, fit_probe, load_probe, read_labels, save_probe

HEADS = ("linear", "knn", "mlp")
PASSPORT = {"name": "small", "hash": "ab" * 32, "dim": 24, "prepare": "cd", "version": 1}


def singles(n: int) -> list[str]:
    return [f"patient {i}" for i in range(n)]


def numbers(n: int = 400, p: int = 24, explained: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, p) and ages of which a linear function of the vectors explains the given share of variance."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, p))
    signal = vectors @ rng.normal(size=p)
    noise = rng.normal(size=n) * signal.std() * math.sqrt(1 / explained - 1) if explained else rng.normal(size=n)
    return vectors.astype(np.float32), 50 + (signal * (explained > 0) + noise)


def two_classes(n: int = 600, p: int = 24, distance: float = 2.0, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Two Gaussian clouds whose means lie `distance` standard deviations apart: the best accuracy is Phi(d / 2)."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(2, size=n)
    axis = rng.normal(size=p)
    vectors = rng.normal(size=(n, p)) + np.outer(codes, axis / np.linalg.norm(axis) * distance)
    return vectors.astype(np.float32), ["yes" if code else "no" for code in codes]


def several_classes(n: int = 240, p: int = 24, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(4, size=n)
    vectors = rng.normal(size=(n, p)) + 1.2 * rng.normal(size=(4, p))[codes]
    return vectors.astype(np.float32), [("FLAIR", "PD", "T1", "T2")[code] for code in codes]


def within(result: ProbeResult, metric: str, value: float) -> bool:
    found = result.metrics[metric]
    return found["low"] <= value <= found["high"]


def test_planted_variance_is_explained() -> None:
    vectors, ages = numbers(explained=0.8)
    result = fit_probe(vectors, ages, singles(400), task="age")
    assert result.kind == "regression" and (result.n, result.groups, result.n_missing) == (400, 400, 0)
    assert result.metrics["r2"]["value"] == pytest.approx(0.8, abs=0.05)
    assert within(result, "r2", 0.8)
    assert result.metrics["pearson"]["value"] == pytest.approx(math.sqrt(0.8), abs=0.03)
    expected_mae = ages.std() * math.sqrt(0.2) * math.sqrt(2 / math.pi)
    assert result.metrics["mae"]["value"] == pytest.approx(expected_mae, rel=0.1)


@pytest.mark.parametrize("head", HEADS)
def test_planted_classes_are_found_as_well_as_they_can_be(head: str) -> None:
    vectors, said = two_classes(n=400, p=8, distance=2.5)
    result = fit_probe(vectors, said, singles(400), task="lesion", head=head)
    best = NormalDist().cdf(1.25)
    assert result.kind == "binary" and result.classes == ["no", "yes"]
    lost = 0.06 if head == "knn" else 0.03
    assert best - lost < result.metrics["balanced_accuracy"]["value"] < best + 0.03
    assert result.metrics["auroc"]["value"] == pytest.approx(NormalDist().cdf(2.5 / math.sqrt(2)), abs=lost)


def test_more_dimensions_than_patients_still_find_a_strong_signal() -> None:
    vectors, said = two_classes(n=80, p=384, distance=12)
    assert fit_probe(vectors, said, singles(80), task="sex").metrics["auroc"]["value"] > 0.97
    rng = np.random.default_rng(0)
    ages = rng.uniform(20, 80, 80)
    vectors = rng.normal(size=(80, 384)) + np.outer((ages - 50) / 17, rng.choice([-0.6, 0.6], 384))
    assert fit_probe(vectors, ages, singles(80), task="age").metrics["r2"]["value"] > 0.9


@pytest.mark.parametrize("head", HEADS)
def test_no_signal_gives_chance(head: str) -> None:
    groups = [f"patient {i // 2}" for i in range(160)]
    held, values = 0, []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(160, 12)).astype(np.float32)
        found = fit_probe(vectors, rng.choice(["a", "b", "c"], 160), groups, task="nothing", head=head)
        held += within(found, "balanced_accuracy", 1 / 3) + within(found, "auroc", 0.5)
        ages = fit_probe(vectors, rng.normal(60, 10, 160), groups, task="nothing", head=head).metrics["r2"]["value"]
        values.append([found.metrics["balanced_accuracy"]["value"], found.metrics["auroc"]["value"], ages])
    assert held >= 5
    accuracy, area, explained = np.mean(np.array(values), axis=0)
    assert accuracy == pytest.approx(1 / 3, abs=0.04) and area == pytest.approx(0.5, abs=0.04) and explained < 0.03


@pytest.mark.parametrize("head", HEADS)
def test_features_that_name_the_patient_score_no_better_than_chance(head: str) -> None:
    """The vectors hold who it is and nothing else: folds that parted patients would score far above chance."""
    patient = np.repeat(np.arange(60), 4)
    values = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        vectors = (3 * rng.normal(size=(60, 24))[patient] + 0.1 * rng.normal(size=(240, 24))).astype(np.float32)
        sexes = rng.permutation(["F", "M"] * 30)[patient]
        apart = fit_probe(vectors, sexes, [f"p{i}" for i in patient], task="sex", head=head)
        assert apart.groups == 60 and apart.metrics["balanced_accuracy"]["low"] < 0.5
        values.append(apart.metrics["balanced_accuracy"]["value"])
    assert np.mean(values) == pytest.approx(0.5, abs=0.08)
    leaking = fit_probe(vectors, sexes, singles(240), task="sex", head=head)
    assert leaking.metrics["balanced_accuracy"]["value"] > 0.75


@pytest.mark.parametrize(
    ("head", "kind"),
    [("linear", "classes"), ("linear", "numbers"), ("knn", "classes"), ("knn", "numbers"), ("mlp", "classes")],
)
def test_row_order_changes_nothing(head: str, kind: str) -> None:
    vectors, values = several_classes(60) if kind == "classes" else numbers(60)
    groups = [f"p{i % 30}" for i in range(60)]
    order = np.random.default_rng(3).permutation(60)
    first = fit_probe(vectors, list(values), groups, task="t", head=head)
    again = fit_probe(vectors[order], [values[i] for i in order], [groups[i] for i in order], task="t", head=head)
    tolerance = 1e-2 if head == "mlp" else 1e-4
    np.testing.assert_allclose(again.outputs, first.outputs[order], rtol=tolerance, atol=tolerance)
    for name, found in first.metrics.items():
        assert again.metrics[name]["value"] == pytest.approx(found["value"], abs=tolerance)


@pytest.mark.parametrize("head", HEADS)
def test_probabilities_sum_to_one(head: str) -> None:
    vectors, said = several_classes(50, p=8)
    result = fit_probe(vectors, said, singles(50), task="sequence", head=head)
    assert result.kind == "multiclass" and result.outputs.shape == (50, 4)
    np.testing.assert_allclose(result.outputs.sum(1), 1, atol=1e-6)
    assert result.outputs.min() >= 0


def test_logistic_path_is_that_of_scikit_learn() -> None:
    vectors, said = several_classes(150, p=10)
    codes = np.unique(said, return_inverse=True)[1]
    codes[:100] = np.minimum(codes[:100], 1)
    turned = vectors @ probing._principal_axes(vectors.astype(np.float64))
    penalties = np.array([100.0, 10.0, 1.0])
    for penalty, (weight, bias) in zip(penalties, probing._logistic_path(turned, codes, penalties, 5), strict=True):
        model = LogisticRegression(C=1 / penalty, class_weight="balanced", tol=1e-8, max_iter=2000).fit(vectors, codes)
        found = probing._activated(turned @ weight + bias, 5)
        np.testing.assert_allclose(found[:, :4], model.predict_proba(vectors), atol=2e-3)
        assert not found[:, 4].any()


def test_ridge_path_is_that_of_scikit_learn() -> None:
    vectors, ages = numbers(60, p=90)
    axes = probing._principal_axes(vectors.astype(np.float64))
    assert axes.shape == (90, 60)
    penalties = np.array([1000.0, 1.0])
    for penalty, (weight, bias) in zip(penalties, probing._ridge_path(vectors @ axes, ages, penalties, 0), strict=True):
        expected = Ridge(alpha=penalty).fit(vectors.astype(np.float64), ages).predict(vectors)
        np.testing.assert_allclose((vectors @ axes @ weight + bias)[:, 0], expected, rtol=1e-5)


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
    vectors, said = several_classes(80)
    result = fit_probe(vectors, said, singles(80), task="sequence")
    assert set(result.metrics) == {"auroc", "auprc", "balanced_accuracy", "f1"}
    assert result.baselines["majority"]["balanced_accuracy"] == 0.25
    assert result.baselines["majority"]["auroc"] == 0.5


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
    labels = read_labels(values, singles(len(values)), "t")
    assert (labels.kind, labels.classes) == (kind, classes)
    known = [i for i, v in enumerate(values) if str(v).strip() not in ("", "None", "nan", "unknown", "n/a")]
    assert labels.rows.tolist() == known and labels.n_missing == len(values) - len(known)


def test_rare_classes_are_left_out_and_told() -> None:
    vectors, said = two_classes(40)
    said[:3] = ["CINE", "EPI", "EPI"]
    groups = [f"p{max(i, 2)}" for i in range(40)]
    result = fit_probe(vectors, said, groups, task="sequence")
    assert result.n == 37 and result.rows.tolist() == list(range(3, 40)) and result.n_missing == 0
    assert result.notes == ["left out, fewer than 2 patients: CINE (1), EPI (2)"]


def test_few_patients_are_noted() -> None:
    vectors, ages = numbers(6)
    result = fit_probe(vectors, ages, ["a", "a", "b", "b", "c", "c"], task="age")
    assert result.groups == 3 and any("only 3 patients" in note for note in result.notes)


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


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_saved_probe_predicts_the_same(tmp_path: Path, kind: str) -> None:
    vectors, values = several_classes(100) if kind == "classes" else numbers(100)
    result = fit_probe(vectors, values, singles(100), task="t")
    save_probe(result, tmp_path / "probes" / "t", PASSPORT)
    loaded = load_probe(tmp_path / "probes" / "t")
    assert sorted(p.name for p in (tmp_path / "probes" / "t").iterdir()) == ["probe.json", "probe.safetensors"]
    assert (loaded.task, loaded.kind, loaded.classes, loaded.passport) == ("t", result.kind, result.classes, PASSPORT)
    assert loaded.report["metrics"] == result.metrics
    predicted = apply_probe(loaded, vectors)
    assert result.probe is not None
    np.testing.assert_array_equal(predicted, apply_probe(result.probe, vectors))
    if kind == "classes":
        assert np.mean([loaded.classes[i] for i in predicted.argmax(1)] == np.array(values)) > 0.9
        np.testing.assert_allclose(predicted.sum(1), 1)
    else:
        assert predicted.shape == (100,) and np.corrcoef(predicted, values)[0, 1] > 0.85


def test_a_probe_is_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    vectors, ages = numbers(40)
    first = fit_probe(vectors, ages, singles(40), task="age")
    second = fit_probe(vectors, 2 * ages, singles(40), task="age")
    save_probe(first, tmp_path / "p", PASSPORT)
    (tmp_path / "p" / "plot.svg").write_text("mine")
    save_probe(second, tmp_path / "p", PASSPORT)
    np.testing.assert_allclose(
        apply_probe(load_probe(tmp_path / "p"), vectors),
        2 * apply_probe(first.probe, vectors),
        rtol=1e-5,
    )
    assert (tmp_path / "p" / "plot.svg").read_text() == "mine"
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "thesis.txt").write_text("mine")
    with pytest.raises(DecipherError, match="something else"):
        save_probe(first, tmp_path / "q", PASSPORT)
    assert [p.name for p in (tmp_path / "q").iterdir()] == ["thesis.txt"]


def test_what_is_no_probe_is_told(tmp_path: Path) -> None:
    vectors, ages = numbers(40)
    with pytest.raises(DecipherError, match="no readable probe"):
        load_probe(tmp_path / "nowhere")
    save_probe(fit_probe(vectors, ages, singles(40), task="age"), tmp_path / "p", PASSPORT)
    saved = load_probe(tmp_path / "p")
    content = bytearray((tmp_path / "p" / "probe.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "p" / "probe.safetensors").write_bytes(content)
    with pytest.raises(DecipherError, match="no readable probe"):
        load_probe(tmp_path / "p")
    (tmp_path / "p" / "probe.json").write_text("[1]")
    with pytest.raises(DecipherError, match="no readable probe"):
        load_probe(tmp_path / "p")
    with pytest.raises(DecipherError, match=r"takes vectors \(n, 24\)"):
        apply_probe(saved, np.ones((3, 25), dtype=np.float32))
    with pytest.raises(DecipherError, match="cannot be saved"):
        save_probe(fit_probe(vectors, ages, singles(40), task="age", head="knn"), tmp_path / "k", PASSPORT)
    assert not (tmp_path / "k").exists()


def test_another_encoder_is_refused() -> None:
    empty = np.zeros(1)
    probe = probing.Probe("age", "regression", [], empty, empty, empty, empty, passport=PASSPORT)
    check_passport(probe, PASSPORT)
    check_passport(probe, {**PASSPORT, "name": "renamed"})
    for changed in ({"hash": "00"}, {"prepare": "ef"}, {"dim": 25}):
        with pytest.raises(DecipherError, match="fitted on vectors of model small"):
            check_passport(probe, {**PASSPORT, **changed})


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
