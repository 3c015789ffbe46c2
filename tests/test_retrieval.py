"""Retrieval: figures against plain loops and scikit-learn, chance against drawing, intervals, ties, and what is left out."""

import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from index.nearest import rebuild
from index.store import Index
from models.errors import DecipherError
from training import retrieval, retrieval_tasks
from training.ranks import chance, figures, median, ordered, ranks_of
from training.retrieval import measure_retrieval

DIM = 16
REGIONS = ("brain", "knee", "spine")
SEQUENCES = ("T1", "T2", "FLAIR")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def archive(
    rng: np.random.Generator, patients: int = 30, each: int = 4, dim: int = DIM
) -> tuple[pl.DataFrame, np.ndarray]:
    """Patients of one region with several sequences, whose vectors lean towards region, sequence and person."""
    rows, vectors = [], []
    centres = {name: rng.standard_normal(dim) for name in (*REGIONS, *SEQUENCES)}
    for who in range(patients):
        own, region = rng.standard_normal(dim), REGIONS[who % 3]
        for number in range(each):
            sequence = SEQUENCES[rng.integers(3)]
            name = f"{who:05d}{number:03d}"
            rows.append(
                {"series_id": name.rjust(16, "0"), "study_id": f"study{who}", "patient_id": f"p{who}", "path": name,
                 "part": None, "sequence": sequence, "body_region": region, "report": None}
            )  # fmt: skip
            vectors.append(centres[region] + centres[sequence] + own + rng.standard_normal(dim))
    schema = {"part": pl.String, "report": pl.String}
    return pl.DataFrame(rows, schema_overrides=schema), unit(np.array(vectors))


def make(folder: Path, records: pl.DataFrame, vectors: np.ndarray) -> Index:
    made = Index.create(folder, {"name": "small", "hash": "h", "dim": vectors.shape[1]})
    made.append(records, vectors)
    return made


def by_kind(index: Index, **chosen) -> dict[str, dict]:
    return {row["kind"]: row for row in measure_retrieval(index, **chosen).rows}


def plainly(scores: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """One query by a loop over its sorted pool; at equal scores what is not relevant first."""
    found, hits, total = {}, 0, 0.0
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], relevant[i]))
    first = next(rank for rank, i in enumerate(order, 1) if relevant[i])
    for rank, i in enumerate(order, 1):
        if relevant[i]:
            hits += 1
            total += hits / rank
    for k in (1, 5, 10):
        found[f"recall@{k}"] = float(first <= k)
    top = order[:10]
    return found | {"precision@10": sum(relevant[i] for i in top) / len(top), "map": total / hits, "median_rank": first}


def averaged(each: list[dict[str, float]]) -> dict[str, float]:
    found = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    return found | {"median_rank": float(np.median([one["median_rank"] for one in each]))}


def test_average_precision_is_scikit_learns(rng):
    scores = rng.uniform(-1, 1, (40, 200))
    relevant = rng.uniform(size=scores.shape) < 0.1
    relevant[:, 0] = True
    found = ranks_of(ordered(scores, relevant, np.zeros_like(relevant)), np.full(40, 200))
    wanted = [average_precision_score(truth, line) for truth, line in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(found.average_precision, wanted, atol=1e-4)
    far = np.rint(scores * 1000) / 1000 + np.arange(200) * 2e-6  # nothing ties: exact
    found = ranks_of(ordered(far, relevant, np.zeros_like(relevant)), np.full(40, 200))
    wanted = [average_precision_score(truth, line) for truth, line in zip(relevant, far, strict=True)]
    np.testing.assert_allclose(found.average_precision, wanted, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_ranks_are_those_of_a_plain_loop_with_ties_against_the_encoder(seed, size):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, (3, size)) / 8
    relevant, hidden = rng.uniform(size=(2, 3, size)) < 0.3
    relevant[:, 0], hidden[:, 0] = True, False
    found = ranks_of(ordered(scores, relevant, hidden), size - hidden.sum(axis=1))
    for line in range(3):
        kept = ~hidden[line]
        wanted = plainly(scores[line, kept], relevant[line, kept])
        assert found.first[line] == wanted["median_rank"]
        assert found.precision[line] == pytest.approx(wanted["precision@10"])
        assert found.average_precision[line] == pytest.approx(wanted["map"])
        assert found.relevant[line] == (relevant[line] & kept).sum()


def test_an_encoder_that_gives_all_the_same_vector_finds_nothing_by_ties(rng, tmp_path):
    records, vectors = archive(rng, patients=20)
    index = make(tmp_path / "flat", records, np.repeat(vectors[:1], len(vectors), axis=0))
    row = by_kind(index)["identity"]
    assert row["metrics"]["recall@10"]["value"] == 0
    assert row["metrics"]["median_rank"]["value"] == row["pool"] - 2, "after all that are not relevant"


def test_chance_is_what_random_orders_give(rng):
    pool = np.array([9, 30, 30, 57, 120, 6])
    relevant = np.array([1, 2, 11, 5, 1, 3])
    drawn = []
    for n, r in zip(pool, relevant, strict=True):
        truth = np.arange(n) < r
        drawn.append([plainly(rng.permutation(n), truth) for _ in range(3000)])
    found = chance(pool, relevant)
    for name in ("recall@1", "recall@5", "recall@10", "precision@10", "map"):
        values = np.array([[one[name] for one in lines] for lines in drawn])
        slack = 4 * values.std(axis=1).mean() / np.sqrt(values.size)
        assert found[name] == pytest.approx(values.mean(), abs=slack), name
    ranks = [one["median_rank"] for lines in drawn for one in lines]
    assert abs(found["median_rank"] - np.median(ranks)) <= 1


def test_chance_in_closed_cases():
    one = chance(np.array([100]), np.array([1]))
    assert one["recall@10"] == pytest.approx(0.1)
    assert one["map"] == pytest.approx(np.mean(1 / np.arange(1, 101)))
    assert one["median_rank"] == 50
    whole = chance(np.array([7, 1]), np.array([7, 1]))
    assert all(value == pytest.approx(1) for value in whole.values())
    assert chance(np.array([8]), np.array([1]))["recall@10"] == 1, "fewer than ten"
    large = chance(np.array([100_000]), np.array([1]))
    assert large["median_rank"] == 50_000
    assert large["recall@10"] == pytest.approx(1e-4, rel=1e-9)


def test_the_weighted_median_is_that_of_repeated_values(rng):
    values = rng.integers(1, 40, 25)
    weights = rng.integers(0, 4, (50, 25))
    wanted = [np.median(np.repeat(values, line)) for line in weights]
    np.testing.assert_array_equal(median(values, weights.astype(float)), wanted)
    assert median(values) == np.median(values)


def test_intervals_hold_the_value_and_narrow_with_patients(rng):
    widths = []
    for patients in (10, 160):
        owners = np.repeat([f"p{i}" for i in range(patients)], 3)
        order = rng.uniform(size=(len(owners), 50)) < 0.1
        order[:, -1] = True
        found = figures(ranks_of(order, np.full(len(owners), 50)), owners)
        assert all(one["low"] <= one["value"] <= one["high"] for one in found.values())
        widths.append(found["recall@5"]["high"] - found["recall@5"]["low"])
    assert widths[1] < widths[0] / 2
    alone = figures(ranks_of(order[:3], np.full(3, 50)), owners[:3])
    assert alone["map"]["low"] is None, "one patient gives no interval"


def test_intervals_cover_the_truth_on_simulated_patients():
    covered, truth = 0, 0.4
    for seed in range(60):
        rng = np.random.default_rng(seed)
        share = rng.beta(2, 3, 40)  # each patient's own recall@1, 0.4 on average
        order = np.zeros((200, 2), dtype=bool)
        order[:, 0] = rng.uniform(size=200) < np.repeat(share, 5)
        order[:, 1] = True
        found = figures(ranks_of(order, np.full(200, 2)), np.repeat(np.arange(40), 5))["recall@1"]
        covered += found["low"] <= truth <= found["high"]
    assert covered >= 52, "95 % of 60 are 57"


def test_labels_are_looked_for_among_other_patients(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK_VALUES", 500)  # several blocks
    records, vectors = archive(rng)
    records = records.with_columns(
        sequence=pl.when(pl.col("series_id").is_in(records["series_id"][:5].implode()))
        .then(pl.lit("Unknown"))
        .otherwise("sequence")
    )
    row = by_kind(make(tmp_path / "i", records, vectors), label="sequence")["label:sequence"]
    label, who = np.array(records["sequence"]), np.array(records["patient_id"])
    known = np.flatnonzero(label != "Unknown")
    each, sizes = [], []
    for query in known:
        pool = [i for i in known if who[i] != who[query]]
        scores = vectors[pool].astype(float) @ vectors[query].astype(float)
        each.append(plainly(scores, label[pool] == label[query]))
        sizes.append((len(pool), (label[pool] == label[query]).sum()))
    assert row["queries"] == len(known) and row["left_out"]["without_label"] == 5
    assert row["pool"] == int(np.median([n for n, _ in sizes])) and row["patients"] == len(set(who[known]))
    for name, wanted in averaged(each).items():
        assert row["metrics"][name]["value"] == pytest.approx(wanted, abs=1e-3), name
    assert row["chance"]["precision@10"] == pytest.approx(np.mean([r / n for n, r in sizes]))
    assert row["indexed"] is None, "a small index is searched exactly"


def test_a_patient_is_found_by_other_series_and_by_other_sequences(rng, tmp_path):
    records, vectors = archive(rng)
    parts = pl.Series("part", ["echo-1", "echo-2", *[None] * (len(records) - 2)])
    paths = pl.Series("path", [records["path"][0], records["path"][0], *records["path"][2:]])
    lone = records[:1].with_columns(series_id=pl.lit("f" * 16), patient_id=pl.lit(None, pl.String), path=pl.lit("x"))
    records = pl.concat([records.with_columns(parts, paths), lone], how="vertical_relaxed")
    vectors = np.concatenate([vectors, vectors[:1]])
    found = by_kind(make(tmp_path / "i", records, vectors))
    who, sequence = np.array(records["patient_id"]), np.array(records["sequence"])
    origin = np.array([0, 0, *range(2, len(who))])
    for kind in ("identity", "identity_other_sequence"):
        each = []
        for query in range(len(who) - 1):
            other = origin[:-1] != origin[query]
            if kind != "identity":
                other &= (who[:-1] != who[query]) | (sequence[:-1] != sequence[query])
            pool = np.flatnonzero(other)
            if (who[pool] == who[query]).any():
                scores = vectors[pool].astype(float) @ vectors[query].astype(float)
                each.append(plainly(scores, who[pool] == who[query]))
        assert found[kind]["queries"] == len(each)
        assert found[kind]["left_out"]["without_patient"] == 1
        for name, wanted in averaged(each).items():
            assert found[kind]["metrics"][name]["value"] == pytest.approx(wanted, abs=1e-3), (kind, name)


def test_reports_and_volumes_find_each_other_by_study(rng, tmp_path, monkeypatch):
    records, vectors = archive(rng, patients=12)
    texts = [f" report  {who} " if who < 6 else f"report {who}" for who in range(10)]
    texts[7] = texts[8]  # the same words of two patients
    told = [texts[int(who[1:])] if int(who[1:]) < 10 else None for who in records["patient_id"]]
    told[1] = None  # a series without its own, in a study that has one
    records = records.with_columns(report=pl.Series(told, dtype=pl.String))
    made = {}

    def vectors_of(index, words, progress):
        made.update(zip(words, unit(rng.standard_normal((len(words), DIM))), strict=True))
        return np.stack([made[one] for one in words]), 2

    monkeypatch.setattr(retrieval_tasks, "report_vectors", vectors_of)
    answer = measure_retrieval(make(tmp_path / "i", records, vectors))
    assert any("2 of 9 reports are longer" in note for note in answer.notes)
    rows = {row["kind"]: row for row in answer.rows}
    words = sorted(made)
    assert words[0] == "report 0" and len(words) == 9
    of_patient = [None if who >= 10 else " ".join(texts[who].split()) for who in range(12)]
    own = [of_patient[int(who[1:])] for who in records["patient_id"]]
    text = np.stack([made[one] for one in words]).astype(float)
    there = [plainly(vectors.astype(float) @ text[n], np.array(own) == word) for n, word in enumerate(words)]
    back = [plainly(text @ vectors[row].astype(float), np.array(words) == word) for row, word in enumerate(own) if word]
    for kind, each, pool in (("text_to_volume", there, 48), ("volume_to_text", back, 9)):
        assert (rows[kind]["queries"], rows[kind]["pool"]) == (len(each), pool)
        for name, wanted in averaged(each).items():
            assert rows[kind]["metrics"][name]["value"] == pytest.approx(wanted, abs=1e-3), (kind, name)
    assert rows["volume_to_text"]["left_out"]["without_report"] == 8


def test_the_approximate_index_stands_beside_exact_search(rng, tmp_path):
    records, vectors = archive(rng, patients=150, each=8)
    index = make(tmp_path / "i", records, vectors)
    rebuild(index, "IVF16,Flat")
    found = by_kind(index, queries=60)
    for kind in ("label:sequence", "identity"):
        row = found[kind]
        assert set(row["indexed"]) == {"recall@1", "recall@5", "recall@10", "precision@10"}
        for name, figure in row["indexed"].items():
            assert figure["value"] == pytest.approx(row["metrics"][name]["value"], abs=0.05), (kind, name)


def test_the_approximate_path_is_taken(rng, tmp_path, monkeypatch):
    class Narrow:
        """Proposes the first rows alone, whatever is asked."""

        def candidates(self, query, count):
            return np.arange(min(len(records), 4 * count))

    records, vectors = archive(rng, patients=100)
    monkeypatch.setattr(retrieval, "load_nearest", lambda index: Narrow())
    row = by_kind(make(tmp_path / "i", records, vectors), queries=50)["identity"]
    assert row["indexed"]["recall@10"]["value"] < row["metrics"]["recall@10"]["value"] - 0.2


def test_the_same_seed_draws_the_same_queries_and_order_of_rows_is_nothing(rng, tmp_path):
    records, vectors = archive(rng)
    one, other = (make(tmp_path / name, records, vectors) for name in "ab")
    assert by_kind(one, queries=20) == by_kind(other, queries=20)
    assert by_kind(one, queries=20)["identity"]["queries"] == 20
    shuffled = rng.permutation(len(records))
    turned = by_kind(make(tmp_path / "c", records[shuffled], vectors[shuffled]))["label:body_region"]["metrics"]
    straight = by_kind(one)["label:body_region"]["metrics"]
    assert turned["map"]["value"] == pytest.approx(straight["map"]["value"], abs=1e-3)


def test_what_cannot_be_asked_is_one_sentence_with_a_hint(rng, tmp_path):
    records, vectors = archive(rng)
    with pytest.raises(DecipherError, match="holds no series") as told:
        measure_retrieval(Index.create(tmp_path / "empty", {"name": "s", "hash": "h", "dim": DIM}))
    assert "decipher encode" in told.value.hint
    with pytest.raises(DecipherError, match="one patient"):
        measure_retrieval(make(tmp_path / "one", records[:4], vectors[:4]))
    index = make(tmp_path / "i", records.with_columns(weight=rng.uniform(size=len(records))), vectors)
    with pytest.raises(DecipherError, match="No column 'sequenze'") as told:
        measure_retrieval(index, label="sequenze")
    assert "sequence" in told.value.hint
    with pytest.raises(DecipherError, match="not categories"):
        measure_retrieval(index, label="weight")
    with pytest.raises(DecipherError, match="label:part is left out"):
        measure_retrieval(index, label="part")
    broken = vectors.copy()
    answer = measure_retrieval(make(tmp_path / "bare", records.select("series_id", "study_id", "sequence"), broken))
    assert [row["kind"] for row in answer.rows] == ["label:sequence"]
    assert any("no reports" in note for note in answer.notes)
    assert any("identity is left out" in note for note in answer.notes)


def test_ten_thousand_series_take_seconds(rng, tmp_path):
    records, vectors = archive(rng, patients=2500, dim=384)
    index = make(tmp_path / "i", records, vectors)
    began = time.process_time()
    row = by_kind(index, label="sequence", queries=1000)["label:sequence"]
    assert (row["queries"], row["pool"]) == (1000, 9996)
    assert time.process_time() - began < 20
