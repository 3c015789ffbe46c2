"""Batches of stage align: regions, shared reports, series without text, the same on any number of processes."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.errors import DecipherError
from training.compute import Compute
from training.config import TrainConfig
from training.data import TrainingSet, training_set
from training.pairs import PairBatches
from training.shards import COLUMNS, Shard
from training.side import names_side
from training.views import report_views

TINY = ModelConfig(
    prepare=PrepareConfig(box=(16, 16, 16)), vision=VisionConfig(width=24, depth=1, heads=2, registers=1)
)
CONFIG = TrainConfig(batch_size=16, captions=80, texts_per_step=9, local_crops=1, holdout=0.0, variants=1)
REPORT = "FINDINGS: A lesion of patient {} is seen. No acute infarct. IMPRESSION: Case {}."


@pytest.fixture(scope="module")
def model() -> Decipher:
    torch.manual_seed(0)
    return Decipher(TINY)


def data_of(rows: list[dict], config: TrainConfig = CONFIG) -> TrainingSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (len(rows), 16, 16, 16), dtype=np.uint8)
    content = np.tile(np.array([[0, 16]] * 3), (len(rows), 1, 1))
    frame = pl.DataFrame(
        [dict.fromkeys(COLUMNS) | {"variant": 0, "origin": "archive"} | row for row in rows], schema=COLUMNS
    )
    return training_set([Shard(pixels, content, np.ones((len(rows), 7), np.float32), frame)], config)


def study(number: int, region: str = "brain", report: bool = True) -> list[dict]:
    shared = {"study_id": f"s{number}", "patient_id": f"p{number}", "body_region": region,
              "report": REPORT.format(number, number) if report else None}  # fmt: skip
    return [shared | {"series_id": f"{number}-{sequence}", "path": f"{number}/{sequence}", "sequence": sequence}
            for sequence in ("T1", "T2")]  # fmt: skip


def rows_of(*studies: list[dict]) -> list[dict]:
    return [row for one in studies for row in one]


def test_series_of_one_study_share_their_report_and_are_no_negatives(model: Decipher) -> None:
    data = data_of(rows_of(*(study(n) for n in range(6))))
    batches = PairBatches(data, model, replace(CONFIG, region_share=0.0))
    views = batches.texts.views
    seen = 0
    for number in range(8):
        batch = batches.batch(number, Compute())
        assert not (batch.positive & batch.negative).any()
        assert batch.positive.any(dim=1).all()
        own = {name.split("-")[0] for name in batch.names}
        columns = batch.positive[:, 9 + len(batch.names) :].numpy()
        for column in columns.T:
            studies = {name.split("-")[0] for name, yes in zip(batch.names, column, strict=True) if yes}
            everyone = {n.split("-")[0] for n in batch.names}
            assert len(studies) == 1 or studies == everyone, "a report is of one study, `No acute infarct.` of all"
            mates = {n for n in batch.names if n.split("-")[0] in studies}
            assert mates == {n for n, yes in zip(batch.names, column, strict=True) if yes}
            seen += 1
        assert len(own) > 1
    assert seen > 8
    assert len(views.texts) > len(views.parts), "sections and sentences are views too"


def test_a_share_of_each_batch_comes_from_one_region(model: Decipher) -> None:
    regions = ["brain"] * 6 + ["knee"] * 6 + ["spine"] * 6 + ["heart"]
    data = data_of(rows_of(*(study(n, region) for n, region in enumerate(regions))))
    near, plain = (PairBatches(data, model, replace(CONFIG, region_share=share)) for share in (0.75, 0.0))
    assert set(near.regions) == {"brain", "knee", "spine"}, "one patient's heart is no region to build a batch around"
    region_of = dict(zip(data.rows["series_id"], data.rows["body_region"], strict=True))

    def most(batches: PairBatches) -> list[int]:
        found = []
        for number in range(12):
            counts: dict[str, int] = {}
            for name in batches.batch(number, Compute()).names:
                counts[region_of[name]] = counts.get(region_of[name], 0) + 1
            found.append(max(counts.values()))
        return found

    assert min(most(near)) >= 12
    assert np.mean(most(plain)) < 11


def test_half_a_batch_goes_with_the_other_half(model: Decipher) -> None:
    """Partners are of one patient and in different sequences; digital patients with one head are no partners."""
    single = [row for row in study(7) if row["sequence"] == "T1"]
    heads = [row | {"study_id": f"head-{n}", "patient_id": "owner", "series_id": f"h{n}{row['sequence']}", "origin": "head"}
             for n in range(3) for row in study(90 + n)]  # fmt: skip
    config = replace(CONFIG, subject_weight=1.0)
    data = data_of([*study(1), *study(2), *single, *heads], config)
    batches, alone = PairBatches(data, model, config), 0
    rows = {name: data.rows.row(place, named=True) for place, name in enumerate(data.rows["series_id"])}
    for number in range(8):
        batch = batches.batch(number, Compute())
        for place, other in enumerate(batch.partner.tolist()):
            one = rows[batch.names[place]]
            alone += one["series_id"] == "7-T1" and other < 0
            if other >= 0:
                two = rows[batch.names[other]]
                assert one["study_id"] == two["study_id"] and one["sequence"] != two["sequence"]
                assert batch.partner[other] == place and batch.same_subject[place, other]
        assert (batch.partner >= 0).sum() >= len(batch.names) // 2
    assert alone


def test_series_without_a_report_come_as_images(model: Decipher) -> None:
    data = data_of(rows_of(*(study(n, report=n < 3) for n in range(6))))
    batch = PairBatches(data, model, CONFIG).batch(0, Compute())
    assert len(batch.names) == 12 and batch.crops is not None
    assert len(batch.crops.names) == 4
    assert {name.split("-")[0] for name in batch.crops.names} <= {"3", "4", "5"}
    none = PairBatches(data_of(rows_of(*(study(n) for n in range(6)))), model, CONFIG).batch(0, Compute())
    assert none.crops is None and len(none.names) == 16


def test_two_processes_hold_what_one_holds(model: Decipher) -> None:
    data = data_of(rows_of(*(study(n, report=n < 4) for n in range(7))))
    batches = PairBatches(data, model, CONFIG)
    alone = batches.batch(5, Compute())
    parts = [batches.batch(5, Compute(rank=rank, world=2)) for rank in range(2)]
    assert torch.equal(torch.cat([p.views[0].pixels for p in parts]), alone.views[0].pixels)
    assert [name for p in parts for name in p.names] == alone.names
    sentences = torch.cat([p.sentences for p in parts])
    count = alone.positive.shape[1]
    assert torch.equal(sentences[:count], alone.sentences)
    for part in parts:
        assert torch.equal(part.positive[:, :count], alone.positive)
        assert not part.positive[:, count:].any() and not part.negative[:, count:].any()
    assert len(sentences) == parts[0].positive.shape[1] and len(sentences) % 2 == 0


def test_a_trained_text_base_is_given_words(model: Decipher) -> None:
    data = data_of(rows_of(*(study(n) for n in range(4))))
    model.text.base.requires_grad_(True)
    try:
        words = PairBatches(data, model, CONFIG).batch(0, Compute()).sentences
    finally:
        model.text.base.requires_grad_(False)
    frozen = PairBatches(data, model, CONFIG).batch(0, Compute()).sentences
    assert isinstance(words, list) and isinstance(frozen, torch.Tensor)
    assert torch.allclose(model.text.sentences(words), frozen, atol=1e-5)


def test_bad_data_is_told(model: Decipher) -> None:
    blank = [{**row, "sequence": None, "body_region": None, "report": None} for row in rows_of(study(0), study(1))]
    with pytest.raises(DecipherError, match="Nothing says what the series show"):
        PairBatches(data_of(blank), model, CONFIG)
    with pytest.raises(DecipherError, match="1 study to train on"):
        PairBatches(data_of(study(0)), model, CONFIG)


def test_held_out_patients_are_never_drawn(model: Decipher) -> None:
    config = replace(CONFIG, holdout=0.2)
    assert not data_of(rows_of(*(study(n) for n in range(10))), config).held_out.any(), "four series would say little"
    data = data_of(rows_of(*(study(n) for n in range(40))), config)
    kept = set(data.subjects[data.held_out])
    assert len(kept) == 8 and not data.weights[data.held_out].any()
    views = report_views(data)
    assert (views.report_of[data.held_out] == -1).all(), "their reports are not read either"
    names = [name for number in range(10) for name in PairBatches(data, model, CONFIG).batch(number, Compute()).names]
    assert not {f"p{name.split('-')[0]}" for name in names} & kept


@pytest.mark.parametrize(
    ("text", "sided"),
    [("A lesion in the left frontal lobe.", True), ("Rt knee", True), ("right-sided mass", True), ("Normal brain.", False),
     ("Bright signal", False), ("The patient came right away.", False), (None, False), ("upright", False)],
)  # fmt: skip
def test_sides(text: str | None, sided: bool) -> None:
    assert names_side(text) is sided
