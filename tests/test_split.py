"""Splits: no patient is parted, shares are kept, classes are balanced; copies under two names are found."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DecipherError
from training import leakage as module
from training.leakage import balance, leakage_report
from training.split import shares, split

DIM = 32
THREE = (0.7, 0.15, 0.15)


def records_of(patients: list[str | None], **columns: list) -> pl.DataFrame:
    """One row a series; each its own study, T1, of unknown sex and age unless told otherwise."""
    count = len(patients)
    plain = {
        "series_id": [f"s{n:05d}" for n in range(count)],
        "study_id": [f"study{n}" for n in range(count)],
        "patient_id": patients,
        "sequence": ["T1"] * count,
        "sex": [None] * count,
        "age_years": [None] * count,
    }
    kinds = {name: pl.Float64 if name == "age_years" else pl.String for name in plain}
    return pl.DataFrame(plain | columns, schema=kinds)


def archive(rng: np.random.Generator, patients: int) -> pl.DataFrame:
    """Patients with a protocol, a sex, an age, and one to eight series of it."""
    protocols = (("T1", "T2", "FLAIR", "DWI", "SWI"), ("PD", "T2", "STIR"), ("CINE", "T2"), ("T1", "STIR"))
    rows = []
    for number in range(patients):
        protocol = protocols[rng.choice(4, p=[0.5, 0.3, 0.05, 0.15])]
        sex = rng.choice(["F", "M", ""], p=[0.5, 0.4, 0.1]) or None
        age = None if rng.random() < 0.1 else float(rng.uniform(1, 90))
        rows += [(f"p{number:04d}", rng.choice(protocol), sex, age) for _ in range(rng.integers(1, 9))]
    patients_, sequences, sexes, ages = map(list, zip(*rows, strict=True))
    return records_of(patients_, sequence=[str(s) for s in sequences], sex=sexes, age_years=ages)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def unevenness(classes: list, parts: list) -> float:
    """The largest total variation distance between a part's classes and all of them."""
    whole = Counter(classes)
    found = []
    for part in set(parts):
        own = Counter(one for one, of in zip(classes, parts, strict=True) if of == part)
        found.append(sum(abs(own[k] / own.total() - whole[k] / whole.total()) for k in whole) / 2)
    return max(found)


@pytest.mark.parametrize(
    ("text", "numbers"), [("0.7/0.15/0.15", THREE), ("0.8/0.2", (0.8, 0.2)), (" .5 / .3/.1/.1 ", (0.5, 0.3, 0.1, 0.1))]
)
def test_shares_are_read(text, numbers):
    assert shares(text) == numbers


@pytest.mark.parametrize(
    "text", ["", "0.7", "1", "0.7/0.2", "70/15/15", "1.2/-0.2", "1/0", "a/b", "0.5/0.5/", "nan/0.5", "inf/1", "0.7:0.3"]
)
def test_shares_that_cannot_be_are_told(text):
    with pytest.raises(DecipherError, match="--split") as error:
        shares(text)
    assert "0.7/0.15/0.15" in error.value.hint


tables = st.lists(
    st.tuples(
        st.integers(0, 25), st.sampled_from(["T1", "T2", None]), st.sampled_from(["F", "M", None]), st.floats(0, 90)
    ),
    min_size=4,
    max_size=80,
)
wanted = st.lists(st.integers(1, 20), min_size=2, max_size=4).map(lambda parts: [part / sum(parts) for part in parts])


@settings(max_examples=150, deadline=None)
@given(tables, wanted, st.integers(0, 3), st.randoms(use_true_random=False))
def test_no_patient_is_parted_and_each_part_gets_its_share(table, parts, seed, random):
    patients = [f"p{row[0]}" for row in table]
    people = len(set(patients))
    columns = {name: [row[n] for row in table] for n, name in ((1, "sequence"), (2, "sex"), (3, "age_years"))}
    records = records_of(patients, **columns)
    if people < len(parts):
        with pytest.raises(DecipherError, match=f"the cohort has {people}"):
            split(records, parts, seed)
        return
    found = split(records, parts, seed)
    part_of = dict(zip(patients, found, strict=True))
    assert [part_of[patient] for patient in patients] == found.to_list()
    titles = {2: ["train", "test"], 3: ["train", "validation", "test"]}.get(
        len(parts), ["part1", "part2", "part3", "part4"]
    )
    counts = Counter(part_of.values())
    assert set(counts) == set(titles)
    if min(parts) * people >= 1:
        assert all(abs(counts[title] - part * people) < 1 for title, part in zip(titles, parts, strict=True))
    order = random.sample(range(len(table)), len(table))
    assert split(records[order], parts, seed).to_list() == [found[n] for n in order]


def test_shares_are_of_patients_by_largest_remainder_and_one_at_least():
    counts = [Counter(split(records_of([f"p{n}" for n in range(count)]), parts)) for count, parts in (
        (10, THREE), (20, THREE), (3, (0.98, 0.01, 0.01)), (7, (0.5, 0.5)), (100, (0.29, 0.71)),
    )]  # fmt: skip
    assert counts == [
        {"train": 7, "validation": 2, "test": 1},
        {"train": 14, "validation": 3, "test": 3},
        {"train": 1, "validation": 1, "test": 1},
        {"train": 4, "test": 3},
        {"train": 29, "test": 71},
    ]


def test_the_seed_draws_another_split():
    records = records_of([f"p{n}" for n in range(30)])
    drawn = [split(records, THREE, seed).to_list() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_divides_evenly_is_divided_evenly():
    """40 patients, half of each sex, half of each age; each has T1, every fourth PD too: 20, 10 and 10 of them."""
    patients = [n for n in range(40) for _ in range(2 if n % 4 == 0 else 1)]
    first = {n: patients.index(n) for n in range(40)}
    records = records_of(
        [f"p{n}" for n in patients],
        sequence=["T1" if first[n] == row else "PD" for row, n in enumerate(patients)],
        sex=["FM"[n // 4 % 2] for n in patients],
        age_years=[[20.0, 70.0][n // 8 % 2] for n in patients],
    )
    for seed in range(10):
        parts = split(records, (0.5, 0.25, 0.25), seed)
        rows = records.with_columns(parts).rows(named=True)
        for part, share in (("train", 0.5), ("validation", 0.25), ("test", 0.25)):
            own = [row for row in rows if row["split"] == part]
            assert Counter(row["sequence"] for row in own) == {
                "T1": 40 * share,
                "PD": pytest.approx(10 * share, abs=1),
            }
            sexes = Counter(row["sex"] for row in own if row["sequence"] == "T1")
            assert sexes["F"] == pytest.approx(20 * share, abs=1)


def test_it_is_far_more_even_than_patients_drawn_at_random(rng):
    records = archive(rng, 600)
    patient, sequence = records["patient_id"].to_list(), records["sequence"].to_list()
    people = records.unique("patient_id").sort("patient_id")
    sex, old = people["sex"].to_list(), [age is not None and age > 45 for age in people["age_years"]]

    def measured(part_of: dict[str, str]) -> list[float]:
        of_people = [part_of[one] for one in people["patient_id"]]
        of_rows = [part_of[one] for one in patient]
        return [unevenness(sequence, of_rows), unevenness(sex, of_people), unevenness(old, of_people)]

    ours, drawn = [], []
    titles = ["train"] * 420 + ["validation"] * 90 + ["test"] * 90
    for seed in range(5):
        ours.append(measured(dict(zip(patient, split(records, THREE, seed), strict=True))))
        drawn.append(measured(dict(zip(people["patient_id"], rng.permutation(titles), strict=True))))
    assert (np.mean(ours, axis=0) < np.mean(drawn, axis=0) / 2.5).all()
    assert (np.max(ours, axis=0) < 0.03).all()


@pytest.mark.parametrize("rare", [4, 8])
def test_the_rarest_are_dealt_first(rare):
    """Patients of a single PD each, beside fourteen of many series: dealt last, they would have to fill what is left."""
    patients = [f"rare{n}" for n in range(rare)] + [f"p{n}" for n in range(14) for _ in range(3 + n * n % 11)]
    sequences = ["PD"] * rare + ["T1" if n % 3 else "T2" for n in range(len(patients) - rare)]
    records = records_of(patients, sequence=sequences)
    for seed in range(20):
        found = Counter(split(records, (0.5, 0.25, 0.25), seed)[:rare])
        assert found == {"train": rare / 2, "validation": rare / 4, "test": rare / 4}


def test_series_of_no_known_patient_go_with_their_study():
    """Study a is of one known patient, study b of two, study c of none, and two series stand alone."""
    study = ["a", "a", "a", "b", "b", "b", "b", "c", "c", None, None] + [f"x{n}" for n in range(20)]
    patient = ["p1", None, None, "p2", "p3", None, None, None, None, None, None] + [f"q{n}" for n in range(20)]
    records = records_of(patient, study_id=study)
    seen = set()
    for seed in range(40):
        part = split(records, (0.5, 0.5), seed).to_list()
        assert part[0] == part[1] == part[2]
        assert part[5] == part[6] and part[7] == part[8]
        seen |= {("b", part[3] != part[4]), ("unknown", part[5] != part[3]), ("alone", part[9] != part[10])}
    assert {("b", True), ("unknown", True), ("alone", True)} <= seen


def clusters(rng: np.random.Generator, count: int, spread: float) -> np.ndarray:
    """Vectors around four directions; spread: length of the step from there."""
    centres = unit(rng.standard_normal((4, DIM)))
    return unit(centres[np.arange(count) % 4] + spread * unit(rng.standard_normal((count, DIM))))


def planted(rng: np.random.Generator, spread: float, copies: int = 30, count: int = 400):
    """Patients of two series each; the first `copies` series stand once more, under other names, with a little noise."""
    vectors = clusters(rng, count, spread)
    noisy = unit(vectors[:copies] + 0.01 * spread * rng.standard_normal((copies, DIM)))
    records = records_of([f"p{n // 2}" for n in range(count)] + [f"other{n}" for n in range(copies)])
    return records, np.concatenate([vectors, noisy])


@pytest.mark.parametrize("spread", [0.5, 0.1, 0.01])
def test_the_same_volumes_under_other_names_are_found(rng, spread):
    """Also where any two neighbours are nearer than 0.999."""
    records, vectors = planted(rng, spread)
    records = records.with_columns(split(records, THREE))
    part = records["split"].to_list()
    across = {(n, 400 + n) for n in range(30) if part[n] != part[400 + n]}
    assert len(across) > 5
    report = leakage_report(records, vectors)
    assert report.near == len(across)
    found = {tuple(sorted(int(one[1:]) for one in pair.series)) for pair in report.nearest[: report.near]}
    assert found == across
    assert (report.patients_parted, report.studies_parted, report.patients_unknown) == (0, 0, 0)
    clean = leakage_report(records[:400], vectors[:400])
    assert clean.near == 0
    assert clean.usual == pytest.approx(report.usual, abs=0.01)


def test_an_archive_that_was_taken_in_twice_is_found_out(rng):
    vectors = clusters(rng, 300, 0.5)
    records = records_of([f"p{n}" for n in range(300)] + [f"again{n}" for n in range(300)])
    records = records.with_columns(split(records, THREE))
    report = leakage_report(records, np.concatenate([vectors, vectors]))
    part = records["split"].to_list()
    assert report.near >= sum(part[n] != part[n + 300] for n in range(300)) > 100
    assert report.nearest[0].cosine == 1.0


@pytest.mark.parametrize(("values", "blocks"), [(700, 5 + 6), (32_000_000, 2)])
def test_nearest_pairs_are_those_of_plain_arithmetic(rng, monkeypatch, values, blocks):
    monkeypatch.setattr(module, "BLOCK_VALUES", values)
    vectors = clusters(rng, 150, 0.5)
    part = rng.permutation(["train"] * 30 + ["validation"] * 50 + ["test"] * 70)
    records = records_of([f"p{n}" for n in range(150)]).with_columns(split=pl.Series(part.tolist()))
    order = {"test": 0, "validation": 1, "train": 2}
    wanted, fifth = [], []
    for n in range(150):
        larger = [m for m in range(150) if order[part[m]] < order[part[n]]]
        if larger:
            cosines = vectors[larger].astype(float) @ vectors[n].astype(float)
            wanted.append((cosines.max(), n, larger[cosines.argmax()]))
            fifth.append(np.sort(cosines)[-5])
    calls = []
    report = leakage_report(records, vectors, lambda done, of: calls.append((done, of)))
    assert (report.comparable, report.compared) == (80, 80)
    assert calls[-1] == (80, 80)
    assert len(calls) == blocks
    pairs = [(pair.cosine, *(int(one[1:]) for one in pair.series)) for pair in report.nearest]
    for found, true in zip(pairs, sorted(wanted, reverse=True), strict=True):
        assert found == (pytest.approx(true[0], abs=2e-6), true[1], true[2])
    assert report.usual == pytest.approx(np.median([one[0] for one in wanted]), abs=1e-5)
    assert report.threshold == 0.999
    assert report.nearest[0].parts == tuple(part[[pairs[0][1], pairs[0][2]]])
    assert report.nearest[0].patients == tuple(f"p{n}" for n in pairs[0][1:])
    shuffled = rng.permutation(150)
    assert leakage_report(records[shuffled], vectors[shuffled]).nearest == report.nearest


def test_the_threshold_follows_the_fifth_neighbours(rng):
    vectors = clusters(rng, 400, 0.05)
    records = records_of([f"p{n}" for n in range(400)])
    records = records.with_columns(split(records, (0.5, 0.5)))
    half = (records["split"] == "train").to_numpy()
    cosines = vectors[half].astype(float) @ vectors[~half].astype(float).T
    distance = 1 - np.quantile(np.sort(cosines, axis=1)[:, -5], 0.75)
    assert distance / 20 < 0.001, "nearer by nature than 0.999"
    assert 1 - leakage_report(records, vectors).threshold == pytest.approx(distance / 20, rel=2e-3)


def test_of_too_many_pairs_an_even_sample_is_compared(rng, monkeypatch):
    records, vectors = planted(rng, 0.5)
    records = records.with_columns(split(records, THREE))
    whole = leakage_report(records, vectors)
    monkeypatch.setattr(module, "MOST_PAIRS", 10_000)
    report = leakage_report(records, vectors)
    assert report.comparable == whole.comparable == whole.compared
    assert whole.comparable / 6 < report.compared < whole.comparable / 3
    assert {pair.series for pair in report.nearest} <= {pair.series for pair in whole.nearest}


def test_a_parted_patient_is_counted(rng):
    records = records_of(["a", "a", "b", "c", None, None], study_id=["x", "x", "y", "y", "z", "z"])
    records = records.with_columns(split=pl.Series(["train", "test", "train", "test", "train", "train"]))
    report = leakage_report(records, clusters(rng, 6, 0.5))
    assert (report.patients_parted, report.studies_parted, report.patients_unknown) == (1, 2, 2)


def test_the_report_is_json(rng):
    records, vectors = planted(rng, 0.5)
    records = records.with_columns(split(records, THREE))
    report = leakage_report(records, vectors)
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert told["near"] == report.near
    assert told["nearest"][0]["series"] == list(report.nearest[0].series)
    assert told["balance"] == report.balance
    alone = leakage_report(records.with_columns(split=pl.lit("train")), vectors)
    assert (alone.compared, alone.usual, alone.nearest) == (0, None, [])
    assert leakage_report(records[:0], vectors[:0]).balance[-1] == {"what": "median age", "value": ""}


def test_the_balance_is_counted(rng):
    records = archive(rng, 60)
    records = records.with_columns(split(records, THREE))
    rows = records.rows(named=True)
    people = {row["patient_id"]: row for row in rows}.values()
    told = balance(records)
    assert [list(row)[2:] for row in told] == [["train", "validation", "test"]] * len(told)
    assert [told[0][part] for part in ("train", "validation", "test")] == [42, 9, 9]
    wanted = defaultdict(Counter)
    for row in rows:
        wanted["series", ""][row["split"]] += 1
        wanted["sequence", row["sequence"]][row["split"]] += 1
    for row in people:
        wanted["sex", row["sex"] or "unknown"][row["split"]] += 1
    for row in told[1:-1]:
        assert {part: count for part, count in list(row.items())[2:] if count} == wanted.pop(
            (row["what"], row["value"])
        )
    assert not wanted
    ages = [row["age_years"] for row in people if row["split"] == "test" and row["age_years"] is not None]
    assert told[-1]["test"] == pytest.approx(np.median(ages), abs=0.05)
    by_sequence = [sum(list(row.values())[2:]) for row in told if row["what"] == "sequence"]
    assert by_sequence == sorted(by_sequence, reverse=True)


def test_public_brains_are_split_evenly(shared: Path):
    """Subjects, sequences and sexes of the public volumes: more even than nine of ten random assignments."""
    labels = pl.read_csv(shared / "mri" / "labels.csv", infer_schema=False)
    records = records_of(
        labels["subject_id"].to_list(),
        study_id=labels["study_id"].to_list(),
        sequence=labels["sequence"].to_list(),
        sex=labels["sex"].to_list(),
        age_years=labels["age_years"].cast(pl.Float64).to_list(),
    )
    patients, sequences = records["patient_id"].to_list(), records["sequence"].to_list()
    names = sorted(set(patients))
    parts = split(records, THREE).to_list()
    part_of = dict(zip(patients, parts, strict=True))
    assert all(part_of[one] == part for one, part in zip(patients, parts, strict=True))
    counts = Counter(part_of.values())
    assert all(
        abs(counts[part] - share * len(names)) < 1
        for part, share in zip(("train", "validation", "test"), THREE, strict=True)
    )
    rng = np.random.default_rng(0)
    titles = sorted(part_of.values())
    drawn = []
    for _ in range(100):
        other = dict(zip(names, rng.permutation(titles), strict=True))
        drawn.append(unevenness(sequences, [other[one] for one in patients]))
    assert unevenness(sequences, parts) < np.quantile(drawn, 0.1)


def test_copies_of_public_brains_under_other_names_are_found(shared: Path, rng):
    """T1-weighted brains of four people, and each once more: rescaled, with noise of 1 % of the bright voxels."""
    from index.reading import volume_at
    from models.decipher import load
    from models.volume import Volume

    files = sorted(shared.glob("mri/nifti/ixi/*T1_2mm.nii.gz"))
    volumes = [volume_at(file)[0] for file in files]
    noisy = [
        Volume(
            (3.7 * np.abs(one.data + rng.normal(0, 0.01 * np.percentile(one.data, 99), one.data.shape))).astype(
                np.float32
            ),
            one.affine_mm,
        )
        for one in volumes
    ]
    count = len(volumes)
    vectors = load(None).encode_volumes([*volumes, *noisy]).numpy()
    records = records_of([f"p{n}" for n in range(count)] + [f"copy{n}" for n in range(count)])
    report = leakage_report(records.with_columns(split=pl.Series(["train"] * count + ["test"] * count)), vectors)
    found = {tuple(sorted(int(one[1:]) for one in pair.series)) for pair in report.nearest[: report.near]}
    assert report.near == count == 4
    assert found == {(n, count + n) for n in range(count)}
    halves = pl.Series(["train", "test"] * count)[:count]
    assert leakage_report(records[:count].with_columns(split=halves), vectors[:count]).near == 0
