import functools
import json
from pathlib import Path

import numpy as np
import pytest

from models.errors import DecipherError
from training.calibration import Calibration
from training.probe import Probe, ProbeResult, fit_probe
from training.saved_probe import apply_probe, check_passport, check_savable, half_width_of, load_probe, save_probe

PASSPORT = {"name": "small", "hash": "ab" * 32, "dim": 24, "prepare": "cd", "version": 1}
PATIENTS = [f"patient {i}" for i in range(60)]


@functools.cache
def sequences() -> tuple[np.ndarray, list[str], ProbeResult]:
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=60)
    vectors = (rng.normal(size=(60, 24)) + 1.2 * rng.normal(size=(4, 24))[codes]).astype(np.float32)
    said = [("FLAIR", "PD", "T1", "T2")[code] for code in codes]
    return vectors, said, fit_probe(vectors, said, PATIENTS, task="sequence")


@functools.cache
def ages() -> tuple[np.ndarray, np.ndarray, ProbeResult]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 24)).astype(np.float32)
    years = 50 + vectors @ rng.normal(size=24) + rng.normal(size=60)
    return vectors, years, fit_probe(vectors, years, PATIENTS, task="age")


@pytest.mark.parametrize("fitted", [sequences, ages])
def test_saved_probe_predicts_the_same(tmp_path: Path, fitted: functools._lru_cache_wrapper) -> None:
    vectors, values, result = fitted()
    folder = tmp_path / "probes" / "t"
    save_probe(result, folder, PASSPORT)
    loaded = load_probe(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["probe.json", "probe.safetensors"]
    described = (loaded.task, loaded.kind, loaded.classes, loaded.passport)
    assert described == (result.task, result.kind, result.classes, PASSPORT)
    assert loaded.report["metrics"] == result.metrics
    assert loaded.report["folds"] == {"n": 5, "seed": 0, "apart": []}
    predicted, plain = apply_probe(loaded, vectors), apply_probe(result.probe, vectors)
    if result.classes:
        (how,) = loaded.report["calibrations"]
        plain = Calibration(how["scale"], np.array(how["bias"])).probabilities(np.log(plain))
    np.testing.assert_allclose(predicted, plain, rtol=1e-9)
    if result.classes:
        assert np.mean([loaded.classes[i] for i in predicted.argmax(1)] == np.array(values)) > 0.9
        np.testing.assert_allclose(predicted.sum(1), 1)
    else:
        assert predicted.shape == (60,) and np.corrcoef(predicted, values)[0, 1] > 0.85


def test_a_probe_is_applied_by_its_formula() -> None:
    weight, bias = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0.5, 0.0])
    classes = Probe("sex", "binary", ["F", "M"], np.array([1.0, 2.0]), np.array([2.0, 4.0]), weight, bias)
    np.testing.assert_allclose(
        apply_probe(classes, np.array([[3.0, 6.0]])), [[1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(1.5))]]
    )
    numbers = Probe("age", "regression", [], np.zeros(2), np.ones(2), weight[:, :1], bias[:1])
    np.testing.assert_allclose(apply_probe(numbers, np.array([[3.0, 6.0], [0.0, 1.0]])), [6.5, 0.5])


def test_a_probe_is_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    vectors, years, first = ages()
    second = fit_probe(vectors, 2 * years, PATIENTS, task="age")
    save_probe(first, tmp_path / "p", PASSPORT)
    (tmp_path / "p" / "plot.svg").write_text("mine")
    save_probe(second, tmp_path / "p", PASSPORT)
    replaced = apply_probe(load_probe(tmp_path / "p"), vectors)
    np.testing.assert_allclose(replaced, 2 * apply_probe(first.probe, vectors), rtol=1e-5)
    assert (tmp_path / "p" / "plot.svg").read_text() == "mine"
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "thesis.txt").write_text("mine")
    with pytest.raises(DecipherError, match="something else"):
        save_probe(first, tmp_path / "q", PASSPORT)
    assert [p.name for p in (tmp_path / "q").iterdir()] == ["thesis.txt"]


def test_what_is_no_probe_is_told(tmp_path: Path) -> None:
    vectors, years, result = ages()
    with pytest.raises(DecipherError, match="no readable probe"):
        load_probe(tmp_path / "nowhere")
    save_probe(result, tmp_path / "p", PASSPORT)
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
        save_probe(fit_probe(vectors, years, PATIENTS, task="age", head="knn"), tmp_path / "k", PASSPORT)
    assert not (tmp_path / "k").exists()


def test_another_encoder_is_refused() -> None:
    empty = np.zeros(1)
    probe = Probe("age", "regression", [], empty, empty, empty, empty, passport=PASSPORT)
    check_passport(probe, PASSPORT)
    check_passport(probe, {**PASSPORT, "name": "renamed"})
    for changed in ({"hash": "00"}, {"prepare": "ef"}, {"dim": 25}):
        with pytest.raises(DecipherError, match="fitted on vectors of model small"):
            check_passport(probe, {**PASSPORT, **changed})


def test_what_cannot_be_saved_is_told_before_anything_is_fitted(tmp_path: Path) -> None:
    for head in ("knn", "mlp", "attentive"):
        with pytest.raises(DecipherError, match=f"head '{head}' cannot be saved") as error:
            check_savable(head, tmp_path / "new")
        assert "--head linear" in error.value.hint
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DecipherError, match="something else"):
        check_savable("linear", tmp_path)
    check_savable("linear", tmp_path / "new")


def test_several_labels_come_back_with_a_calibration_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 8)).astype(np.float32)
    labels = {name: (vectors[:, i] + rng.normal(size=120) > 0.5).astype(float) for i, name in enumerate("ab")}
    labels["b"][:20] = np.nan
    result = fit_probe(vectors, labels, [f"p{i}" for i in range(120)], task="a,b")
    card = save_probe(result, tmp_path / "p", PASSPORT, "mini")
    loaded = load_probe(tmp_path / "p")
    assert loaded.kind == "multilabel" and loaded.classes == ["a", "b"] and loaded.report["model"] == "mini"
    assert set(card["labels"]) == {"a", "b"} and len(card["calibrations"]) == 2
    found = apply_probe(loaded, vectors)
    raw = (vectors - loaded.mean) / loaded.scale @ loaded.weight + loaded.bias
    for place, how in enumerate(card["calibrations"]):
        odds = how["scale"] * raw[:, place] + how["bias"][1] - how["bias"][0]
        np.testing.assert_allclose(found[:, place], 1 / (1 + np.exp(-odds)), rtol=1e-6)
        known = ~np.isnan(labels["ab"[place]])
        assert found[known, place].mean() == pytest.approx(labels["ab"[place]][known].mean(), abs=0.06)


@pytest.mark.parametrize("pool", ["mean", "vote"])
def test_a_probe_of_patients_pools_as_it_was_judged(tmp_path: Path, pool: str) -> None:
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(40), 3)
    years = np.repeat(rng.uniform(20, 80, 40), 3)
    vectors = rng.normal(size=(120, 6)) + np.outer(years / 20, np.ones(6))
    names = [f"p{i}" for i in unit]
    result = fit_probe(vectors, years, names, task="age", units=("patient", names), pool=pool)
    save_probe(result, tmp_path / "p", PASSPORT)
    loaded = load_probe(tmp_path / "p")
    assert (loaded.report["unit"], loaded.report["pool"]) == ("patient", pool)
    single = apply_probe(loaded, vectors)
    pooled = apply_probe(loaded, vectors, unit)
    assert single.shape == (120,) and pooled.shape == (40,)
    np.testing.assert_allclose(pooled, single.reshape(40, 3).mean(axis=1), rtol=1e-6)
    assert half_width_of(loaded) == loaded.report["interval"]["half_width"] > 0


def test_a_probe_without_calibration_still_predicts(tmp_path: Path) -> None:
    """As older files are."""
    vectors, _, result = sequences()
    card = save_probe(result, tmp_path / "p", PASSPORT)
    kept = {key: card[key] for key in card if key not in ("calibrations", "folds", "unit", "pool", "model")}
    (tmp_path / "p" / "probe.json").write_text(json.dumps(kept))
    loaded = load_probe(tmp_path / "p")
    np.testing.assert_allclose(apply_probe(loaded, vectors), apply_probe(result.probe, vectors), rtol=1e-9)
    assert half_width_of(loaded) is None
