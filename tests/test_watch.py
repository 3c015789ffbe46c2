"""The frozen check: which volumes, what is said of them, and that training is left as it was."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from index.spread import effective_rank, hubness
from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.prepare import collate
from training.config import TrainConfig
from training.data import TrainingSet, training_set
from training.shards import COLUMNS, Shard
from training.watch import check_rows, frozen_check

TINY = ModelConfig(
    prepare=PrepareConfig(box=(32, 32, 32)), vision=VisionConfig(width=48, depth=2, heads=3, registers=1, drop_path=0.3)
)
CONFIG = TrainConfig(seed=3, holdout=0.0)
KINDS = [("T1", "brain"), ("T2", "brain"), ("T2", "knee")]
OF_VOLUMES = {
    "volumes", "held_out", "collapse", "knn_sequence", "knn_sequence_majority", "knn_region", "knn_region_majority",
    "effective_rank", "uniformity", "mean_cosine", "hubness",
}  # fmt: skip
OF_TEXTS = {"queries", "pool", "alignment"} | {f"{name}_at_{k}" for name in ("recall", "chance") for k in (1, 5, 10)}


def table(kinds: list[tuple[str | None, str | None]], *, per_subject: int = 2, variants: int = 2) -> pl.DataFrame:
    """Series by kind, in turn so many of one patient and study, each stored in several variants."""
    rows = []
    for i, (sequence, region) in enumerate(kinds):
        who = f"{i // per_subject:03}"
        told = {"series_id": f"s{i:03}", "study_id": f"study{who}", "patient_id": f"p{who}", "path": f"{i}",
                "sequence": sequence, "body_region": region, "origin": "archive"}  # fmt: skip
        rows += [dict.fromkeys(COLUMNS) | told | {"variant": variant} for variant in range(variants)]
    return pl.DataFrame(rows, schema=COLUMNS)


def data_of(rows: pl.DataFrame, config: TrainConfig = CONFIG) -> TrainingSet:
    """Volumes of noise, whose grain and size differ from row to row."""
    rng = np.random.default_rng(0)
    shape = (rows.height, 32, 32, 32)
    pixels = (255 * rng.random(shape) ** rng.uniform(0.3, 4, (rows.height, 1, 1, 1))).astype(np.uint8)
    content = np.tile(np.array([[0, 32]] * 3), (rows.height, 1, 1))
    geometry = rng.uniform(0, 4, (rows.height, 7)).astype(np.float32)
    return training_set([Shard(pixels, content, geometry, rows)], config)


@pytest.fixture
def model() -> Decipher:
    torch.manual_seed(0)
    return Decipher(TINY)


@pytest.fixture(scope="module")
def plain() -> TrainingSet:
    """Eighteen series of nine patients, three kinds in turn, no reports."""
    return data_of(table(KINDS * 6))


def with_reports(data: TrainingSet, reports: dict[str, str]) -> TrainingSet:
    """The same with reports by series_id."""
    report = pl.col("series_id").replace_strict(reports, default=None, return_dtype=pl.String)
    return replace(data, rows=data.rows.with_columns(report=report))


def vectors(model: Decipher, data: TrainingSet, rows: np.ndarray) -> np.ndarray:
    """One by one, as a batch of each would be."""
    model.eval()
    return np.concatenate([model.encode_prepared(collate([data.sample(int(i))])).volume.numpy() for i in rows])


def test_figures_are_those_of_the_volumes_encoded_one_by_one(model: Decipher, plain: TrainingSet) -> None:
    found = frozen_check(model.train(), plain, CONFIG, with_text=False)
    assert found.keys() == OF_VOLUMES
    rows, held_out = check_rows(plain, CONFIG)
    alone = vectors(model, plain, rows).astype(np.float64)
    assert found["volumes"] == len(rows) == 18 and found["held_out"] is held_out is False
    cosine = (alone @ alone.T)[~np.eye(18, dtype=bool)]
    assert found["mean_cosine"] == pytest.approx(cosine.mean(), abs=1e-4)
    assert found["uniformity"] == pytest.approx(np.log(np.exp(-2 * (2 - 2 * cosine)).mean()), abs=1e-4)
    assert found["effective_rank"] == pytest.approx(effective_rank(alone), rel=1e-3)
    assert found["hubness"] == pytest.approx(hubness(alone), abs=1e-6)
    assert found["knn_sequence_majority"] == found["knn_region_majority"] == 0.5
    assert found["collapse"] == ""


def test_neighbours_are_judged_by_the_labels_of_their_own_rows(
    model: Decipher, plain: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes told apart by their region alone: an encoder that sees it names the region, not the sequence."""

    def told(batch: object) -> torch.Tensor:
        return torch.nn.functional.normalize(batch.pixels.flatten(1)[:, :384], dim=1)  # type: ignore[attr-defined]

    knee = (plain.rows["body_region"] == "knee").to_numpy()
    shard = plain.shards[0]
    noise = np.random.default_rng(0).integers(0, 40, shard.pixels.shape, dtype=np.uint8)
    noise[:, 0, 0] += (np.where(knee[:, None], 200, 0) * (np.arange(32) < 16)).astype(np.uint8)
    data = replace(plain, shards=[replace(shard, pixels=noise)])
    monkeypatch.setattr(Decipher, "encode_prepared", lambda self, batch: type("Seen", (), {"volume": told(batch)}))
    found = frozen_check(model, data, CONFIG, with_text=False)
    assert found["knn_region"] == 1
    assert found["knn_sequence"] < 1


def test_captions_are_asked_where_there_are_no_reports(model: Decipher, plain: TrainingSet) -> None:
    found = frozen_check(model, plain, CONFIG, with_text=True)
    assert found.keys() == OF_VOLUMES | OF_TEXTS
    assert found["queries"] == "captions" and found["pool"] == 18
    rows, _ = check_rows(plain, CONFIG)
    words = ["T1-weighted MRI of the brain.", "T2-weighted MRI of the brain.", "T2-weighted MRI of the knee."]
    asked, seen = model.encode_texts(words).numpy(), vectors(model, plain, rows)
    pairs = zip(plain.rows[rows]["sequence"], plain.rows[rows]["body_region"], strict=True)
    kind = np.array([KINDS.index(pair) for pair in pairs])
    for k in (1, 5, 10):
        nearest = [kind[np.argsort(-(seen @ text))[:k]] for text in asked]
        assert found[f"recall_at_{k}"] == pytest.approx(np.mean([n in near for n, near in enumerate(nearest)]))
        assert found[f"chance_at_{k}"] == pytest.approx(hypergeom.sf(0, 18, 6, k))
    assert found["alignment"] == pytest.approx(((asked[kind] - seen) ** 2).sum(1).mean(), abs=1e-4)


def test_a_report_should_find_its_volumes_and_those_of_its_studies(model: Decipher, plain: TrainingSet) -> None:
    """Two reports: one stands by one series of study 0, the other by a series each of studies 1 and 2; so two volumes
    are right for the first, four for the second."""
    data = with_reports(plain, {"s000": "A glioma.", "s002": "No lesion.", "s004": "No lesion. ", "s006": "  "})
    found = frozen_check(model, data, CONFIG, with_text=True)
    assert found["queries"] == "reports" and found["pool"] == 18
    for k in (1, 5, 10):
        assert found[f"chance_at_{k}"] == pytest.approx(hypergeom.sf(0, 18, [2, 4], k).mean())
    rows, _ = check_rows(data, CONFIG)
    seen = vectors(model, data, rows)
    asked = model.encode_texts(["A glioma."] * 2 + ["No lesion."] * 4).numpy()
    assert found["alignment"] == pytest.approx(((asked - seen[:6]) ** 2).sum(1).mean(), abs=1e-4)


def test_reports_without_a_study_find_their_own_volumes_only(model: Decipher, plain: TrainingSet) -> None:
    data = with_reports(plain, {"s000": "A glioma.", "s002": "No lesion."})
    data = replace(data, rows=data.rows.with_columns(study_id=pl.lit(None, pl.String)))
    found = frozen_check(model, data, CONFIG, with_text=True)
    assert found["chance_at_1"] == pytest.approx(1 / 18)


def test_what_is_not_known_is_not_asked(model: Decipher) -> None:
    """Without a sequence, a region or a report there are no classes, no captions, and so none of their figures."""
    data = data_of(table([(None, None)] * 6))
    found = frozen_check(model, data, CONFIG, with_text=True)
    assert found.keys() == {"volumes", "held_out", "collapse", "effective_rank", "uniformity", "mean_cosine"}


@pytest.mark.parametrize("kinds", [[], KINDS[:1]], ids=["none", "one"])
def test_one_volume_or_none_is_no_error(model: Decipher, plain: TrainingSet, kinds: list) -> None:
    data = replace(plain, weights=np.where(np.arange(36) < 2 * len(kinds), 1.0, 0.0))
    found = frozen_check(model, data, CONFIG, with_text=True)
    assert found["volumes"] == len(kinds) and found["collapse"] == ""
    assert all(value == value for value in found.values())
    assert ("recall_at_1" in found) == bool(kinds)


def test_constant_vectors_are_named_and_find_nothing_by_luck(model: Decipher, plain: TrainingSet) -> None:
    with torch.no_grad():
        for layer in model.vision.to_volume:
            layer.weight.zero_()
            layer.bias.fill_(1.0)
    found = frozen_check(model, plain, CONFIG, with_text=True)
    assert "collapsed" in found["collapse"] and "the same" in found["collapse"]
    assert found["recall_at_1"] == found["recall_at_10"] == 0
    assert found["effective_rank"] == 0 and found["mean_cosine"] == pytest.approx(1)


def test_vectors_that_are_not_finite_are_named_and_give_no_figures(model: Decipher, plain: TrainingSet) -> None:
    with torch.no_grad():
        model.text.adapter[-1].bias.fill_(torch.nan)
    found = frozen_check(model, plain, CONFIG, with_text=True)
    assert "text encoder" in found["collapse"] and found.keys() == OF_VOLUMES
    with torch.no_grad():
        model.vision.to_volume[0].bias.fill_(torch.nan)
    found = frozen_check(model, plain, CONFIG, with_text=True)
    assert "18 of 18 vectors are not finite" in found["collapse"]
    assert found.keys() == {"volumes", "held_out", "collapse"}


def test_training_goes_on_as_if_nothing_had_been(
    model: Decipher, plain: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = TrainingSet.sample

    def careless(self: TrainingSet, row: int) -> object:
        torch.rand(3)
        np.random.rand(3)
        return sample(self, row)

    monkeypatch.setattr(TrainingSet, "sample", careless)
    model.train().text.base.eval()
    model.vision.blocks[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before, numbers = torch.get_rng_state(), np.random.get_state()
    frozen_check(model, plain, CONFIG, with_text=True)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert len(set(modes.values())) == 2
    assert torch.equal(torch.get_rng_state(), before)
    after = np.random.get_state()
    assert np.array_equal(after[1], numbers[1]) and after[2:] == numbers[2:]
    model.vision(collate([plain.sample(0)])).volume.sum().backward()
    assert model.vision.to_volume[0].weight.grad is not None and not torch.is_inference_mode_enabled()


def test_the_mode_comes_back_after_an_error_too(
    model: Decipher, plain: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TrainingSet, row: int) -> None:
        raise OSError("the shard is gone")

    monkeypatch.setattr(TrainingSet, "sample", broken)
    with pytest.raises(OSError, match="gone"):
        frozen_check(model.train(), plain, CONFIG, with_text=False)
    assert model.training and model.vision.blocks[0].training


def test_the_same_figures_in_either_mode_and_again(model: Decipher, plain: TrainingSet) -> None:
    """Drop path is on in training mode, and must not be felt."""
    first = frozen_check(model.train(), plain, CONFIG, with_text=True)
    torch.manual_seed(99)
    assert frozen_check(model.eval(), plain, CONFIG, with_text=True) == first


def test_held_out_patients_are_asked_where_there_are_two(plain: TrainingSet) -> None:
    def held(*patients: str) -> tuple[set[str], bool]:
        mine = plain.rows["patient_id"].is_in(list(patients)).to_numpy()
        data = replace(plain, held_out=mine, weights=np.where(mine, 0, plain.weights))
        rows, held_out = check_rows(data, CONFIG)
        return set(data.rows[rows]["patient_id"]), held_out

    everyone = set(plain.rows["patient_id"])
    assert held("p001", "p004") == ({"p001", "p004"}, True)
    assert held("p001") == (everyone - {"p001"}, False)
    assert held() == (everyone, False)


def test_only_volumes_as_they_were_stored(plain: TrainingSet) -> None:
    rows, _ = check_rows(plain, CONFIG)
    assert plain.rows[rows]["variant"].to_list() == [0] * 18
    assert plain.rows[rows]["series_id"].n_unique() == 18


kinds_drawn = st.lists(st.sampled_from([*KINDS, ("FLAIR", None), (None, None)]), min_size=6, max_size=40)


@settings(max_examples=40, deadline=None)
@given(kinds_drawn, st.integers(1, 30), st.integers(0, 5))
def test_kinds_have_even_shares(kinds: list, most: int, seed: int) -> None:
    """Kinds have as many volumes as each other, or all that they have; and so few of one subject as can be."""
    config = replace(CONFIG, check_volumes=most, seed=seed)
    data = unpictured(table(kinds, per_subject=3, variants=1))
    rows, _ = check_rows(data, config)
    assert len(rows) == min(most, len(kinds)) == len(set(rows.tolist()))
    chosen = [kinds[row] for row in rows]
    counts = {kind: chosen.count(kind) for kind in kinds}
    open_kinds = [n for kind, n in counts.items() if n < kinds.count(kind)]
    assert not open_kinds or max(counts.values()) - min(open_kinds) <= 1
    for kind, count in counts.items():
        mine = {row // 3 for row in rows if kinds[row] == kind}
        assert len(mine) == min(count, len({i // 3 for i, one in enumerate(kinds) if one == kind}))


def test_the_choice_is_of_seed_and_series_not_of_their_order(rng: np.random.Generator) -> None:
    rows = table(KINDS * 30, variants=1)
    mixed = rows[rng.permutation(rows.height)]

    def chosen(rows: pl.DataFrame, seed: int) -> list[str]:
        numbers, _ = check_rows(unpictured(rows), replace(CONFIG, check_volumes=20, seed=seed))
        return sorted(rows[numbers]["series_id"].to_list())

    assert chosen(rows, 1) == chosen(rows, 1) == chosen(mixed, 1)
    assert chosen(rows, 1) != chosen(rows, 2)
    assert chosen(rows, 1) != sorted(rows["series_id"].to_list())[:20]


def unpictured(rows: pl.DataFrame) -> TrainingSet:
    """Rows whose volumes nobody looks at."""
    empty = np.zeros((rows.height, 1, 1, 1), dtype=np.uint8)
    return training_set([Shard(empty, empty, empty, rows)], CONFIG)
