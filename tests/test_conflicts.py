"""Conflicts between pixels and tags: planted wrong tags are found; the parts against least squares and plain loops."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from index import conflicts as cf
from index.store import Index
from models.errors import DecipherError

DIM = 24
VALUES = ("T1", "T2", "FLAIR", "DWI")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def clustered(patients: int = 30, noise: float = 0.12) -> tuple[pl.DataFrame, np.ndarray]:
    """Patients with one series of each value; a value's vectors lie around its own direction."""
    rng = np.random.default_rng(5)
    centres = unit(rng.standard_normal((len(VALUES), DIM)))
    rows = [(i, v) for i in range(patients) for v in range(len(VALUES))]
    vectors = unit(np.stack([centres[v] for _, v in rows]) + noise * rng.standard_normal((len(rows), DIM)))
    records = pl.DataFrame(
        {
            "series_id": [f"s{n:04d}" for n in range(len(rows))],
            "study_id": [f"study{i}" for i, _ in rows],
            "patient_id": [f"p{i}" for i, _ in rows],
            "path": [f"{i}/{VALUES[v]}.nii.gz" for i, v in rows],
            "sequence": [VALUES[v] for _, v in rows],
            "body_region": ["brain"] * len(rows),
        }
    )
    return records, vectors


def stored(tmp_path: Path, records: pl.DataFrame, vectors: np.ndarray) -> Index:
    index = Index.create(tmp_path / "index", {"name": "small", "hash": "h", "dim": DIM})
    index.append(records, vectors)
    return Index.open(index.folder)


def mislabelled(records: pl.DataFrame, wrong: dict[int, str | None]) -> pl.DataFrame:
    tags = [wrong.get(i, tag) for i, tag in enumerate(records["sequence"])]
    return records.with_columns(pl.Series("sequence", tags, dtype=pl.String))


def test_planted_wrong_tags_are_listed_first_with_the_right_suggestion(tmp_path):
    records, vectors = clustered()
    wrong = {2: "T1", 17: "DWI", 40: "T2", 77: "FLAIR", 111: "T1"}
    index = stored(tmp_path, mislabelled(records, wrong), vectors)
    found = cf.conflicts(index, "sequence", k=5)
    assert (found.judged, found.unjudged, set(found.values)) == (120, 0, set(VALUES))
    rows = {int(one["series_id"][1:]): one for one in found.found.to_dicts()}
    assert set(rows) == set(wrong)
    assert found.found["disagreement"].is_sorted(descending=True)
    patient = dict(zip(records["series_id"], records["patient_id"], strict=True))
    tag = dict(zip(index.records["series_id"], index.records["sequence"], strict=True))
    for row, one in rows.items():
        assert one["tagged"] == wrong[row] and one["suggested"] == records["sequence"][row]
        assert one["path"] == records["path"][row] and one["field"] == "sequence"
        assert 0.5 < one["disagreement"] <= 1
        assert one["votes"] > 0.7 * one["of"] and one["of"] == cf.NEIGHBOURS
        assert len(one["neighbours"]) == cf.SHOWN
        for other in one["neighbours"]:
            assert patient[other] != patient[one["series_id"]] and tag[other] == one["suggested"]
    assert len(cf.conflicts(index, "sequence", k=2).found) == 2


def test_right_tags_are_no_conflicts(tmp_path):
    found = cf.conflicts(stored(tmp_path, *clustered()), "sequence")
    assert found.judged == 120 and found.found.is_empty()
    assert found.found.schema == cf.SCHEMA


def test_the_regression_is_ridge_fitted_on_other_patients(rng):
    vectors, codes, fold = rng.standard_normal((90, DIM)), rng.integers(0, 3, 90), rng.integers(0, cf.FOLDS, 90)
    fitted = cf.fit(vectors, codes, fold, 3)
    wanted = np.empty((90, 3))
    for part in range(cf.FOLDS):
        seen, said = vectors[fold != part], np.eye(3)[codes[fold != part]]
        penalty = np.vstack([seen - seen.mean(axis=0), cf.RIDGE**0.5 * np.eye(DIM)])
        slope = np.linalg.lstsq(penalty, np.vstack([said - said.mean(axis=0), np.zeros((DIM, 3))]), rcond=None)[0]
        wanted[fold == part] = (vectors[fold == part] - seen.mean(axis=0)) @ slope + said.mean(axis=0)
    wanted = wanted.clip(0) / wanted.clip(0).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(cf.predict(fitted, vectors, fold), wanted, atol=1e-8)


def test_votes_are_those_of_plain_loops(rng):
    cosines, codes = rng.uniform(-1, 1, (7, 40)), rng.integers(0, 3, 40)
    cosines[rng.random((7, 40)) < 0.3] = -np.inf
    cosines[3, 5:] = -np.inf
    cosines[4] = -np.inf
    shares, nearest = cf.vote(cosines, codes, 3)
    for i in range(7):
        order = [j for j in sorted(range(40), key=lambda j: -cosines[i, j]) if cosines[i, j] > -9][: cf.NEIGHBOURS]
        assert nearest[i][nearest[i] >= 0].tolist() == order
        said = np.zeros(3)
        for j in order:
            said[codes[j]] += np.exp(10 * (cosines[i, j] - cosines[i, order[0]]))
        np.testing.assert_allclose(shares[i], said / said.sum() if order else said, atol=1e-12)


def test_parts_share_no_patient_and_spread_those_of_a_rare_value():
    who = np.repeat(np.arange(40), 3)
    codes = np.where(np.arange(120) % 3 == 0, 1, 2)
    codes[np.isin(who, (0, 5, 10, 15, 20)) & (np.arange(120) % 3 == 2)] = 0
    fold = cf._folds(codes, who, 3)
    assert all(len(set(fold[who == one])) == 1 for one in range(40))
    assert sorted(set(fold[codes == 0])) == list(range(cf.FOLDS)), "five patients, five parts"
    assert np.bincount(fold).tolist() == [24] * cf.FOLDS


def test_what_few_patients_have_is_neither_judged_nor_suggested(tmp_path):
    records, vectors = clustered()
    gone: dict[int, str | None] = {0: "MRA", 4: "MRA", 8: "OTHER", 12: None}
    found = cf.conflicts(stored(tmp_path, mislabelled(records, gone), vectors), "sequence", k=200)
    assert found.judged == 116 and found.unjudged == 3, "null is no tag"
    assert "MRA" not in found.values and "OTHER" not in found.values
    assert not set(found.found["series_id"]) & {"s0000", "s0004", "s0008", "s0012"}


def test_a_patient_does_not_vote_for_himself(tmp_path):
    records, vectors = clustered()
    twice = mislabelled(records, {0: "T2", 1: "T1"})
    own = np.arange(8)
    again = twice[own].with_columns(
        series_id=pl.Series([f"t{i}" for i in own]), patient_id=pl.lit("p0"), study_id=pl.lit("study0")
    )
    again = again.with_columns(sequence=pl.lit("T2"))
    index = stored(tmp_path, pl.concat([twice, again]), np.concatenate([vectors, np.tile(vectors[0], (8, 1))]))
    found = cf.conflicts(index, "sequence", k=10)
    listed = dict(zip(found.found["series_id"], found.found["suggested"], strict=True))
    assert all(listed[f"t{i}"] == "T1" for i in own), "eight equal copies of one patient do not outvote the others"
    assert listed["s0000"] == "T1" and listed["s0001"] == "T2"


def test_where_tags_tell_too_little_nothing_is_judged(tmp_path):
    records, vectors = clustered()
    index = stored(tmp_path, records, vectors)
    found = cf.conflicts(index, "body_region")
    assert (found.values, found.judged, found.unjudged) == ((), 0, 120) and found.found.is_empty()
    bare = Index.create(tmp_path / "bare", index.passport)
    assert cf.conflicts(bare).judged == 0
    bare.append(records.select("series_id"), vectors)
    assert cf.conflicts(bare).unjudged == 0
    with pytest.raises(DecipherError, match="plane") as told:
        cf.conflicts(index, "plane")
    assert "body_region" in told.value.hint


def test_only_chosen_rows_are_judged_but_all_teach(tmp_path):
    records, vectors = clustered()
    index = stored(tmp_path, mislabelled(records, {2: "T1", 17: "DWI", 40: None}), vectors)
    found = cf.conflicts(index, "sequence", rows=np.arange(10, 50))
    assert found.found["series_id"].to_list() == ["s0017"]
    assert found.judged == 39 and found.unjudged == 0
    assert cf.conflicts(index, "sequence", rows=np.array([40])).judged == 0


def test_a_shortlist_and_sampled_references_find_the_same(tmp_path, monkeypatch):
    records, vectors = clustered(patients=60)
    wrong = {2: "T1", 17: "DWI", 40: "T2", 177: "FLAIR", 211: "T1"}
    index = stored(tmp_path, mislabelled(records, wrong), vectors)
    whole = cf.conflicts(index, "sequence", k=5).found
    monkeypatch.setattr(cf, "SHORTLIST", 8)
    monkeypatch.setattr(cf, "BLOCK_ROWS", 50)
    monkeypatch.setattr(cf, "VOTE_ROWS", 3)
    short = cf.conflicts(index, "sequence", k=5).found
    assert short.drop("disagreement").equals(whole.drop("disagreement"))
    np.testing.assert_allclose(short["disagreement"], whole["disagreement"], atol=1e-9)
    monkeypatch.setattr(cf, "REFERENCES", 30)
    sampled = cf.conflicts(index, "sequence", k=5).found
    assert set(sampled["series_id"]) == set(whole["series_id"])
    assert dict(zip(sampled["series_id"], sampled["suggested"], strict=True)) == dict(
        zip(whole["series_id"], whole["suggested"], strict=True)
    )
