"""Series, studies, patients and sites: what is judged at once, and what no fold parts."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DecipherError
from training.crossfit import question
from training.probe import fit_probe
from training.table import Table, keep_apart, linked
from training.units import SEVERAL, averaged, common, in_units, means, unit_names

NAMES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 12)), min_size=12, max_size=60)


def table_of(values: list, patients: list[str], features: np.ndarray | None = None, **by: list) -> Table:
    rows, who = np.arange(len(values)), np.array(patients)
    return Table(rows, rows, values, who, who, by, {} if features is None else {"encoder": features})


@given(NAMES)
@settings(max_examples=60, deadline=None)
def test_no_fold_parts_a_patient_a_unit_or_a_group(rows: list[tuple[int, int, int]]) -> None:
    patient, site, study = (np.array([f"{name}{row[i]}" for row in rows]) for i, name in enumerate(("p", "s", "u")))
    try:
        table, _ = keep_apart(table_of([0] * len(rows), list(patient)), {"site": list(site)})
    except DecipherError:
        assert len(np.unique(linked(patient, site))) == 1
        return
    table, _ = in_units(table, "study", list(study), "vote")
    if len(np.unique(table.apart)) < 2:
        return
    values = np.arange(len(rows), dtype=float)
    asked = question(table.rows, values, 0, table.apart, seed=0)
    assert sorted(np.concatenate([test for _, test in asked.outer])) == list(range(len(rows)))
    for train, test in asked.outer:
        inner = [(train[a], train[b]) for a, b in asked.inner(train)]
        for one, other in [(train, test), *inner]:
            for column in (patient, site, study):
                assert not set(column[one]) & set(column[other])


@given(NAMES)
@settings(max_examples=60, deadline=None)
def test_linked_rows_are_those_that_a_chain_of_equal_names_connects(rows: list[tuple[int, int, int]]) -> None:
    columns = [np.array([f"{row[i]}" for row in rows]) for i in range(3)]
    reached = np.any([column[:, None] == column for column in columns], axis=0)
    for _ in rows:
        reached = reached @ reached
    found = linked(*columns)
    np.testing.assert_array_equal(found[:, None] == found, reached)


def test_the_mean_of_a_unit_is_that_of_its_series() -> None:
    values = np.random.default_rng(0).normal(size=(6, 4))
    unit = np.array([1, 0, 1, 2, 0, 1])
    expected = [values[unit == code].mean(0) for code in range(3)]
    np.testing.assert_allclose(means(values, unit), expected)
    table = table_of(
        list("xyxzyx"), list("abacba"), values, sex=list("MFMOFM"), vendor=["GE", "GE", "UIH", "GE", "GE", "GE"]
    )
    found = averaged(replace(table, unit=unit))
    np.testing.assert_allclose(found.features["encoder"], expected)
    assert found.rows.tolist() == [1, 0, 3] and found.patients.tolist() == ["b", "a", "c"]
    assert found.by == {"sex": ["F", "M", "O"], "vendor": ["GE", SEVERAL, "GE"]}
    assert common(["a", "b"], np.array([0, 0])) == [SEVERAL]


def test_units_that_disagree_are_left_out_and_counted() -> None:
    table = table_of(["F", "M", None, "M", "F"], list("ppqqr"), np.eye(5))
    found, notes = in_units(table, "study", ["1", "1", "2", "2", None], "vote")
    assert found.rows.tolist() == [2, 3] and list(found.values) == ["M", "M"], "a series takes the label of its study"
    assert notes == [
        "1 series without a known study left out",
        "left out, their series disagree on the label: 1 of 2 units (study), 2 series",
    ]
    with pytest.raises(DecipherError, match="each study disagree"):
        in_units(table_of(["F", "M"], ["p", "p"]), "study", ["1", "1"], "mean")
    with pytest.raises(DecipherError, match="No series has a known patient") as error:
        in_units(table_of(["F", "M"], ["p", "q"]), "patient", [None, None], "mean")
    assert "--unit series" in error.value.hint
    with pytest.raises(DecipherError, match="no pool 'median'"):
        in_units(table_of(["F", "M"], ["p", "q"]), "patient", ["p", "q"], "median")


@pytest.mark.parametrize("pool", ["mean", "vote"])
def test_pooled_series_tell_more_than_single_ones(pool: str) -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.integers(2, size=80), 6)
    patients = [f"p{i // 6}" for i in range(480)]
    vectors = (rng.normal(size=(480, 8)) + np.outer(codes, np.full(8, 0.3))).astype(np.float32)
    said = ["yes" if code else "no" for code in codes]
    single = fit_probe(vectors, said, patients, task="t")
    pooled = fit_probe(vectors, said, patients, task="t", units=("patient", patients), pool=pool)
    assert (pooled.n, pooled.groups, pooled.unit) == (80, 80, "patient") and single.n == 480
    assert pooled.metrics["auroc"]["value"] > single.metrics["auroc"]["value"] + 0.1
    np.testing.assert_array_equal(pooled.target, codes[pooled.rows])
    assert pooled.who.tolist() == [patients[row] for row in pooled.rows]


def test_a_site_that_is_left_out_shows_a_shortcut() -> None:
    """Vectors name the site, and sites have their own share of the label: only folds that leave sites out see through it."""
    rng = np.random.default_rng(0)
    site = rng.integers(8, size=240)
    vectors = (4 * rng.normal(size=(8, 12))[site] + rng.normal(size=(240, 12))).astype(np.float32)
    said = np.where(rng.random(240) < np.where(site % 2, 0.9, 0.1), "yes", "no")
    patients, sites = [f"p{i}" for i in range(240)], [f"site {i}" for i in site]
    plain = fit_probe(vectors, said, patients, task="t")
    honest = fit_probe(vectors, said, patients, task="t", apart={"site": sites})
    assert plain.metrics["auroc"]["value"] > 0.8 > 0.65 > honest.metrics["auroc"]["value"]
    assert honest.notes == ["folds leave out whole groups of 'site': 8"]
    assert honest.folds == {"n": 5, "seed": 0, "apart": ["site"]}


def test_too_few_groups_are_told() -> None:
    vectors = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    values, patients = ["F", "M"] * 12, [f"p{i}" for i in range(24)]
    sites = ["A"] * 8 + ["B"] * 7 + ["C"] * 8 + [None]
    found = fit_probe(vectors, values, patients, task="sex", apart={"site": sites})
    assert found.notes[0] == "1 series without a known 'site' left out"
    assert found.notes[1] == "folds leave out whole groups of 'site': 3, so 3 folds instead of 5"
    assert found.n == 23 and found.folds["n"] == 3
    for column, who in ((["A"] * 24, patients), (["A"] * 12 + ["B"] * 12, ["one"] * 24)):
        with pytest.raises(DecipherError, match="one group of 'site'") as error:
            fit_probe(vectors, values, who, task="sex", apart={"site": column})
        assert "--group" in error.value.hint
    with pytest.raises(DecipherError, match="No series has a known 'site'"):
        fit_probe(vectors, values, patients, task="sex", apart={"site": [None] * 24})


def test_a_study_is_one_patients() -> None:
    records = pl.DataFrame(
        {"series_id": list("abcd"), "study_id": ["1", "1", "1", None], "patient_id": ["p", "q", None, "q"]}
    )
    one, two, three, none = unit_names(records, "study")
    assert len({one, two, three}) == 3 and none is None
    assert unit_names(records, "patient") == ["p", "q", None, "q"] and unit_names(records, "series") == list("abcd")
    with pytest.raises(DecipherError, match="no unit 'scan'"):
        unit_names(records, "scan")
