"""Background and standing: against plain loops over pairs, and on planted indexes whose answer is known."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import background as bg
from index.store import Index

DIM = 32
SEQUENCES, REGIONS = ("T1", "T2", "FLAIR"), ("brain", "knee", "spine", "heart")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def meaning(sequence: str, region: str) -> np.ndarray:
    """The direction of a sequence of a region: half its own, half the region's."""
    own = np.random.default_rng(SEQUENCES.index(sequence) + 10).standard_normal(DIM)
    return unit(own + np.random.default_rng(REGIONS.index(region) + 20).standard_normal(DIM))


def planted(regions: tuple[str, ...], patients: int = 20) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """Records, vectors and captions of patients with one region and the three sequences each."""
    rng = np.random.default_rng(0)
    rows = [(i, s, regions[i % len(regions)]) for i in range(patients) for s in SEQUENCES]
    captions = np.stack([meaning(s, r) for _, s, r in rows])
    records = pl.DataFrame(
        {
            "series_id": [f"s{n:03d}" for n in range(len(rows))],
            "study_id": [f"study{i}" for i, _, _ in rows],
            "patient_id": [None if i % 5 == 0 else f"p{i}" for i, _, _ in rows],
            "sequence": [s for _, s, _ in rows],
            "body_region": [r for _, _, r in rows],
        },
        schema_overrides={"patient_id": pl.String},
    )
    return records, unit(captions + 0.08 * rng.standard_normal(captions.shape)), captions


def stored(tmp_path: Path, records: pl.DataFrame, vectors: np.ndarray, captions: np.ndarray | None) -> Index:
    index = Index.create(tmp_path / "index", {"name": "small", "hash": "h", "dim": DIM})
    index.append(records, vectors, captions)
    return Index.open(index.folder)


def test_a_sample_is_all_or_spread_evenly_and_in_step_with_no_period():
    assert bg.sample_rows(200).tolist() == list(range(200))
    for count in (257, 1000, 65536, 1_000_000, 10_000_000):
        rows = bg.sample_rows(count)
        assert 150 < len(rows) <= bg.SAMPLE
        assert (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < count
        tenths = np.bincount(rows * 10 // count, minlength=10) / len(rows)
        assert np.abs(tenths - 0.1).max() < 0.02
        for period in range(2, 13):
            residues = np.bincount(rows % period, minlength=period) / len(rows)
            assert residues.min() > 0.4 / period


def test_pairs_are_those_of_plain_loops():
    records, vectors, captions = planted(("brain", "knee"), patients=12)
    records = records.with_columns(
        sequence=pl.Series(["OTHER", None, *records["sequence"][2:]]),
        body_region=pl.Series([None, None, *records["body_region"][2:]]),
    )
    found = bg.of_rows(records, vectors, captions)
    rows = records.to_dicts()

    def apart(a: dict, b: dict) -> bool:
        differ = [
            a[name] is not None and b[name] is not None and "OTHER" not in (a[name], b[name]) and a[name] != b[name]
            for name in ("sequence", "body_region")
        ]
        return any(differ) and (a["patient_id"] or a["study_id"]) != (b["patient_id"] or b["study_id"])

    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if apart(rows[i], rows[j])]
    assert found.by_tags and 0 < len(pairs) < len(rows) * (len(rows) - 1)
    fits = np.array([captions[i] @ vectors[j] for i, j in pairs], dtype=np.float64)
    agrees = np.array([captions[i] @ captions[j] for i, j in pairs], dtype=np.float64)
    looks = np.array([vectors[i] @ vectors[j] for i, j in pairs], dtype=np.float64)
    for pairs_of, cosines in ((found.pixels, fits), (found.tags, agrees), (found.volumes, looks)):
        assert pairs_of.mean == pytest.approx(cosines.mean(), abs=1e-6)
        assert pairs_of.deviation == pytest.approx(cosines.std(), abs=1e-6)
        np.testing.assert_allclose(pairs_of.scores, np.sort((cosines - cosines.mean()) / cosines.std()), atol=1e-4)

    p, t = (fits - fits.mean()) / fits.std(), (agrees - agrees.mean()) / agrees.std()
    both = (p + t) / 2 / ((p + t) / 2).std()
    assert found.correlation == pytest.approx((p * t).mean(), abs=1e-5)
    np.testing.assert_allclose(found.both.scores, np.sort(both), atol=1e-4)
    for pairs_of, scores in ((found.pixels, p), (found.both, both)):
        best = {i: max(score for (a, _), score in zip(pairs, scores, strict=True) if a == i) for i, _ in pairs}
        assert pairs_of.bar == pytest.approx(np.quantile(list(best.values()), 0.2), abs=1e-4)
    assert found.tags.bar == pytest.approx(np.median(t), abs=0.05)


def test_two_evidences_and_one_are_held_against_the_same(rng):
    for correlation in (-0.3, 0.0, 0.6):
        pixels, tags = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], 20000).T
        for share in (0.5, 1 / 3):
            spoken = bg.fused(pixels, tags, np.zeros(20000, bool), correlation, share)
            assert spoken.std() == pytest.approx(1, abs=0.02)
            wanted = (1 - share) * pixels + share * tags
            np.testing.assert_allclose(spoken / spoken[0], wanted / wanted[0], rtol=1e-6)
    silent = np.arange(20000) % 2 == 0
    mixed = bg.fused(pixels, tags, silent, 0.6)
    np.testing.assert_array_equal(mixed[silent], pixels[silent])
    assert bg.fused(np.array([2.0]), np.array([1.0]), np.array([False]), 1.0)[0] == pytest.approx(1.5)


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30),
    asked=st.lists(st.floats(-6, 6, width=32), max_size=8),
)
def test_standing_is_the_share_of_pairs_that_score_lower(scores, asked):
    pairs = bg.Pairs(0.0, 1.0, np.sort(np.array(scores, dtype=np.float32)), None)
    wanted = [sum(one < score for one in scores) / len(scores) for score in asked]
    assert bg.standing(pairs, np.array(asked)).tolist() == pytest.approx(wanted)


def test_without_pairs_nothing_is_claimed():
    assert np.isnan(bg.standing(None, np.array([1.0, 2.0]))).all()
    assert not bg.nothing_better(None, -9.0)
    assert not bg.nothing_better(bg.Pairs(0.0, 1.0, np.zeros(3, np.float32), None), -9.0)
    assert bg.scale([]) == (0.0, 1.0)
    assert bg.scale([(1.0, None)], 0.3) == (0.0, 1.0)


def test_a_direction_of_several_vectors_has_the_background_that_its_cosines_show():
    records, vectors, captions = planted(REGIONS, patients=80)
    found = bg.of_rows(records, vectors, captions)
    assert bg.scale([(1.0, found.pixels)]) == (found.pixels.mean, found.pixels.deviation)
    regions, sequences = records["body_region"].to_numpy(), records["sequence"].to_numpy()
    means = []
    for one in range(0, 60, 7):
        wanted, avoided = vectors[one], captions[one + 1]
        length = float(np.linalg.norm(wanted - 0.5 * avoided))
        mean, deviation = bg.scale([(1.0, found.volumes), (-0.5, found.pixels)], length)
        apart = (regions != regions[one]) | ((sequences != sequences[one]) & (sequences != sequences[one + 1]))
        means.append((vectors[apart] @ (wanted - 0.5 * avoided) / length).mean() - mean)
        assert deviation == pytest.approx((found.volumes.deviation + 0.5 * found.pixels.deviation) / 1.5)
    assert abs(np.mean(means)) < 0.05


@pytest.mark.parametrize("gone", REGIONS)
def test_what_is_there_is_found_and_what_is_not_is_said(tmp_path, gone):
    left = tuple(region for region in REGIONS if region != gone)
    index = stored(tmp_path, *planted(left, patients=60))
    found = bg.background(index)
    silent = index.silent()
    for region in REGIONS:
        for sequence in SEQUENCES:
            query = meaning(sequence, region)
            pixels = (index.similarity(query) - found.pixels.mean) / found.pixels.deviation
            tags = (index.similarity(query, "captions") - found.tags.mean) / found.tags.deviation
            best = bg.fused(pixels, tags, silent, found.correlation).max()
            if region != gone:
                assert not bg.nothing_better(found.both, best)
                assert not bg.nothing_better(found.pixels, pixels.max())
                assert bg.standing(found.both, np.array([best]))[0] > 0.99
    stranger = unit(np.random.default_rng(99).standard_normal(DIM))
    pixels = (index.similarity(stranger) - found.pixels.mean) / found.pixels.deviation
    tags = (index.similarity(stranger, "captions") - found.tags.mean) / found.tags.deviation
    assert bg.nothing_better(found.pixels, pixels.max())
    assert bg.nothing_better(found.both, bg.fused(pixels, tags, silent, found.correlation).max())


def test_an_index_gives_the_background_of_its_sampled_rows(tmp_path, monkeypatch):
    records, vectors, captions = planted(REGIONS, patients=200)
    index = stored(tmp_path, records, vectors, captions)
    sample = bg.sample_rows(600)
    wanted = bg.of_rows(records[sample], vectors[sample], captions[sample])
    found = bg.background(index)
    assert len(sample) < 600
    np.testing.assert_array_equal(found.both.scores, wanted.both.scores)
    assert found.pixels.bar == wanted.pixels.bar
    monkeypatch.setattr(bg, "IDENTIFIED", 0)
    unknown = bg.background(index)
    assert len(unknown.pixels.scores) >= len(found.pixels.scores), "who is who is not looked up"
    assert unknown.pixels.mean == pytest.approx(found.pixels.mean, abs=0.01)


def test_tags_that_are_all_null_leave_strangers_and_no_bars(tmp_path):
    records, vectors, captions = planted(REGIONS)
    records = records.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in bg.TAGS)
    found = bg.background(stored(tmp_path, records, vectors, np.tile(captions[:1], (len(captions), 1))))
    assert not found.by_tags
    assert found.tags is None and found.both is None and found.correlation == 0
    assert found.pixels.bar is None and found.volumes.bar is None
    other = records["patient_id"].fill_null("").to_numpy() + records["study_id"].to_numpy()
    assert len(found.volumes.scores) == sum(a != b for a in other for b in other)


def test_an_index_without_captions_has_a_background_of_volumes_alone(tmp_path):
    records, vectors, _ = planted(REGIONS)
    found = bg.background(stored(tmp_path, records, vectors, None))
    assert found.pixels is None and found.tags is None and found.both is None
    assert found.by_tags and found.volumes.bar is not None


def test_too_few_pairs_are_no_background(tmp_path):
    records, vectors, captions = planted(("brain",), patients=2)
    index = stored(tmp_path, records, vectors, captions)
    assert bg.background(index) is None
    assert bg.background(Index.create(tmp_path / "empty", index.passport)) is None
    bare = Index.create(tmp_path / "bare", index.passport)
    bare.append(pl.DataFrame({"series_id": [f"s{i}" for i in range(20)]}), planted(REGIONS)[1][:20])
    found = bg.background(bare)
    assert not found.by_tags and len(found.volumes.scores) == 20 * 19


def test_words_about_something_else_are_off_topic(tiny_model):
    from models.decipher import load

    here = [
        "FLAIR",
        "T2 hyperintense lesion",
        "meniscal tear",
        "sagittal",
        "MRI of the spine",
        "7T",
        "glioma",
        "a child",
    ]
    elsewhere = [
        "recipe for apple pie",
        "weather forecast for tomorrow",
        "mortgage interest rates",
        "jazz concert tickets",
    ]
    model = load(str(tiny_model))
    assert bg.off_topic(model, here).tolist() == [False] * len(here)
    assert bg.off_topic(model, elsewhere).tolist() == [True] * len(elsewhere)
