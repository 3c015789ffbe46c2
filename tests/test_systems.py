"""MedMAP and COLIPRI as commands: each trains on digital patients, resumes to the same bits, and its folder serves."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from index.contents import contents_of
from models.config import PrepareConfig
from models.decipher import Decipher, load
from models.errors import DecipherError
from models.folder import passport
from models.fusion import Detector, DetectorConfig
from models.prepare import collate
from training.compute import Compute
from training.config import TrainConfig, load_config
from training.data import IMAGES, TrainingSet
from training.detection import detection_figures, studies_in
from training.equip import equip
from training.findings import mentions_of
from training.objectives.colipri import Colipri
from training.objectives.detect import Detect
from training.run import fresh_model, open_run, train
from training.source import Source, data_of, prepare_data
from training.studies import StudyBatches
from training.study_labels import study_findings
from training.written import WrittenBatches, _told

SMALL = ["steps=2", "batch_size=8", "log_every=1", "checkpoint_every=1", "size=tiny", "variants=1", "captions=60",
         "prototypes=8", "fewest_positive=1", "head_width=48", "holdout=0"]  # fmt: skip
Trained = tuple[TrainConfig, Path]


def silent(*said: object) -> None:
    pass


def trained(preset: str, archive: Path, run: Path, *settings: str, images: Path | None = None) -> Trained:
    config, source = load_config(preset, [*SMALL, *settings]), Source(archive, images=images)
    open_run(run, config, source, fresh=False)
    train(config, source, run, silent, silent, silent)
    return config, run


def data_in(run: Trained) -> TrainingSet:
    return data_of(*run)


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def phantom_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digital patients of whom four have the same organ, two of them with findings and two without."""
    from training.phantom.archive import make_archive

    folder = tmp_path_factory.mktemp("phantom") / "archive"
    make_archive(folder, patients=8, seed=1)
    return folder


@pytest.fixture(scope="module")
def medmap(phantom_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained("medmap", phantom_archive, tmp_path_factory.mktemp("runs") / "medmap")


@pytest.fixture(scope="module")
def colipri(phantom_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    images = tmp_path_factory.mktemp("images") / "archive"
    shutil.copytree(phantom_archive / "nifti", images)
    return trained("colipri", phantom_archive, tmp_path_factory.mktemp("runs") / "colipri", images=images)


def test_medmap_leaves_a_model_and_a_detector(medmap: Trained) -> None:
    assert [(r["stage"], r["step"]) for r in rows_of(medmap[1]) if "loss" in r] == [
        ("families", 1), ("families", 2), ("detect", 1), ("detect", 2),
    ]  # fmt: skip
    model = load(str(medmap[1] / "model"), heads=True)
    assert model.detector is not None and model.writer is None and model.config.vision.families == "adapters"
    said = {(t.organ, t.name) for t in model.detector.config.targets}
    affirmed = study_findings(data_in(medmap).rows).values()
    assert said <= {(t.organ, t.name) for study in affirmed for t in study.affirmed}
    plain = load(str(medmap[1] / "model"))
    assert plain.detector is None
    assert "Detects " in (medmap[1] / "model" / "card.md").read_text()


def test_the_text_encoder_stays_as_it_is_in_medmap(medmap: Trained) -> None:
    before, after = fresh_model(medmap[0]), load(str(medmap[1] / "model"))
    texts = ["a cyst in the liver", "no fracture"]
    torch.testing.assert_close(after.encode_texts(texts), before.encode_texts(texts), atol=2e-3, rtol=0)


@pytest.mark.parametrize("preset", ["medmap", "colipri"])
def test_a_stopped_run_ends_with_the_same_bytes(preset: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    _, run = request.getfixturevalue(preset)
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "model")
    for last in sorted((again / "checkpoints").iterdir())[1:]:
        shutil.rmtree(last)
    source = Source(None)
    train(load_config(preset, SMALL), source, again, silent, silent, silent)
    for part in ("model.safetensors", "detector/model.safetensors", "writer/model.safetensors"):
        if (run / "model" / part).is_file():
            assert (run / "model" / part).read_bytes() == (again / "model" / part).read_bytes()


def test_a_detector_predicts_studies(
    medmap: Trained, phantom_archive: Path, decipher: Callable, tmp_path: Path
) -> None:
    done = decipher("predict", medmap[1] / "model", phantom_archive, "--json")
    assert done.code == 0, done.err
    *lines, figures = [json.loads(line) for line in done.out.splitlines()]
    contents = contents_of(phantom_archive)
    assert {line["study_id"] for line in lines} == set(contents.records["study_id"])
    for line in lines:
        families = [s["sequence"] for s in line["series"]]
        assert len(families) == len(set(families)) and all(0 < p < 1 for p in line["findings"].values())
    model = load(str(medmap[1] / "model"), heads=True)
    assert model.detector is not None
    assert [len(line["findings"]) for line in lines] == [len(model.detector.config.targets)] * len(lines)
    for row in figures["figures"]:
        assert set(row["metrics"]) == {"auroc", "auprc", "accuracy", "balanced_accuracy"}
    shown = decipher("predict", medmap[1] / "model", phantom_archive)
    assert "AUROC" in shown.out and "not a diagnosis" in shown.err
    other = decipher("predict", phantom_archive, phantom_archive)
    assert other.code == 1 and "neither a detector nor a probe" in other.err


def test_one_series_of_a_sequence_stands_for_a_study() -> None:
    rows = pl.DataFrame(
        {
            "series_id": list("abcde"), "study_id": ["s"] * 4 + ["t"], "patient_id": ["p"] * 5, "path": list("abcde"),
            "sequence": ["T1", "T1", "STIR", None, "LOCALIZER"],
            "shape": [[9, 9, 9], [10, 9, 9], [5, 5, 5], [5, 5, 5], [4, 4, 4]],
        }
    )  # fmt: skip
    first, second = studies_in(rows)
    assert [row["series_id"] for row in first.series] == ["b", "c", "d"] and first.left_out == 1
    assert [row["series_id"] for row in second.series] == ["e"] and second.left_out == 0


def test_figures_of_detection_by_hand(rng: np.random.Generator) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    from models.fusion import Target

    targets = [Target("cyst", "liver"), Target("tumour", "liver"), Target("stroke", "brain")]
    labels = (rng.random((60, 3)) < 0.4).astype(np.float32)
    known = rng.random((60, 3)) < 0.8
    outputs = np.clip(0.3 * labels + rng.random((60, 3)) * 0.7, 0, 1)
    rows = detection_figures(targets, outputs, labels, known, np.arange(60).astype(str))
    assert [(r["organ"], r["finding"]) for r in rows] == [
        ("liver", "cyst"), ("liver", "tumour"), ("brain", "stroke"), ("liver", "all"), ("brain", "all"), ("all", "all"),
    ]  # fmt: skip
    each = [
        (roc_auc_score(labels[k, i], outputs[k, i]), average_precision_score(labels[k, i], outputs[k, i]))
        for i, k in enumerate(known.T)
    ]
    for row, (auroc, auprc) in zip(rows, each, strict=False):
        assert row["metrics"]["auroc"]["value"] == pytest.approx(auroc)
        assert row["metrics"]["auprc"]["value"] == pytest.approx(auprc)
    assert rows[3]["metrics"]["auroc"]["value"] == pytest.approx(np.mean([each[0][0], each[1][0]]))
    accuracy = np.mean([((outputs[k, i] > 0.5) == (labels[k, i] > 0.5)).mean() for i, k in enumerate(known.T)])
    assert rows[-1]["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    for row in rows:
        assert all(m["low"] <= m["value"] <= m["high"] for m in row["metrics"].values())


def test_batches_of_studies(medmap: Trained) -> None:
    data, config = data_in(medmap), replace(medmap[0].stage("detect"), batch_size=32)
    model = fresh_model(medmap[0])
    equip(model, data, medmap[0], ("families", "detect"))
    assert model.detector is not None and model.detector.queries.requires_grad
    batches = StudyBatches(data, model, config)
    found = study_findings(data.rows)
    for number in range(4):
        batch = batches.batch(number, Compute())
        of = dict(zip(data.rows["series_id"], data.rows.iter_rows(named=True), strict=True))
        for place, name in enumerate(batch.names):
            said = found[of[name]["study_id"]]
            row = int(batch.study[place])
            assert [bool(v) for v in batch.labels[row]] == [t in said.affirmed for t in model.detector.config.targets]
        slots = list(zip(batch.study.tolist(), batch.slot.tolist(), strict=True))
        assert len(set(slots)) == len(slots) and set(batch.study.tolist()) == set(range(batch.count))
        again = batches.batch(number, Compute())
        torch.testing.assert_close(again.volumes.pixels, batch.volumes.pixels, rtol=0, atol=0)
    with torch.no_grad():
        loss = Detect(model, config).eval()(batch, Compute())
    assert float(loss["loss"]) > 0 and 0 <= float(loss["accuracy"]) <= 1


def test_processes_share_a_batch_of_studies(medmap: Trained) -> None:
    data, config = data_in(medmap), replace(medmap[0].stage("detect"), batch_size=16)
    model = fresh_model(medmap[0])
    equip(model, data, medmap[0], ("families", "detect"))
    batches = StudyBatches(data, model, config)
    whole = batches.batch(3, Compute())
    parts = [batches.batch(3, Compute(rank=rank, world=2)) for rank in range(2)]
    assert [name for part in parts for name in part.names] == whole.names
    torch.testing.assert_close(torch.cat([p.volumes.pixels for p in parts]), whole.volumes.pixels, rtol=0, atol=0)
    torch.testing.assert_close(parts[1].labels, whole.labels)


def test_colipri_logs_each_term_and_what_it_saw(colipri: Trained) -> None:
    rows = [row for row in rows_of(colipri[1]) if "loss" in row]
    for row in rows:
        whole = row["contrast"] + row["report"] + 0.5 * row["opposite"] + 0.5 * row["images"]
        assert row["loss"] == pytest.approx(whole, rel=1e-5)
        assert row["image_only"] == pytest.approx(0.25)
        assert row["reported"] == pytest.approx(0.75), "all others have reports"
    data = data_in(colipri)
    alone = (data.rows["origin"] == IMAGES).to_numpy()
    assert (
        alone.any()
        and (data.attributes[alone] == -1).all()
        and data.rows.filter(alone)["report"].null_count() == alone.sum()
        and data.rows.filter(alone)["diagnosis"].null_count() == alone.sum()
    )


@pytest.mark.parametrize(
    ("preset", "terms"),
    [("colipri-c", set()), ("colipri-cr", {"report"}), ("colipri-cm", {"images"}), ("colipri", {"report", "images"})],
)
def test_each_term_has_a_switch(preset: str, terms: set[str], colipri: Trained) -> None:
    config = load_config(preset, SMALL)
    stage, data = config.stage("colipri"), data_in(colipri)
    model = fresh_model(config)
    equip(model, data, config, ("colipri",))
    batch = WrittenBatches(data, model, stage).batch(0, Compute())
    losses = Colipri(model, stage)(batch, Compute())
    assert set(losses) - {"loss", "contrast", "opposite", "image_only", "reported"} == terms
    assert (model.writer is not None) == ("report" in terms)
    losses["loss"].backward()
    assert all(p.grad is not None for n, p in model.vision.named_parameters() if "to_volume" in n)
    if "report" in terms:
        assert model.writer is not None and model.writer.embedding.grad is not None


def test_pairs_of_findings_are_true_of_the_volume_and_of_another(colipri: Trained) -> None:
    config, data = load_config("colipri", SMALL), data_in(colipri)
    stage, model = config.stage("colipri"), fresh_model(config)
    equip(model, data, config, ("colipri",))
    batches = WrittenBatches(data, model, replace(stage, batch_size=16))
    seen = set()
    for number in range(6):
        batch = batches.batch(number, Compute())
        assert model.writer is not None
        for row, report in enumerate(batch.reports.tolist()):
            if report < 0:
                assert (batch.present[row] == -1).all() and (batch.tokens[row] == 0).all()
                continue
            text = model.writer.text(batch.tokens[row].tolist(), model.text.tokenizer)
            assert text.lower().split()[:3] == batches.reports[report].lower().replace(",", " ,").split()[:3] or text
            drawn = batches._draw_findings(report, np.random.default_rng(number))
            affirmed = {m.finding for m in mentions_of(batches.reports[report]) if not m.negated}
            for finding, present in drawn:
                own = finding in batches.told[report].findings
                seen.add((present, own))
                if present:
                    assert own and {m.finding for m in finding.mentions} & affirmed
                elif not own:
                    assert not {m.finding for m in finding.mentions} & batches.told[report].named
    assert seen >= {(1, True), (0, False)}


def test_what_a_report_names_without_an_opposite_is_not_absent() -> None:
    told = _told("Findings: There may be a cyst in the liver. There is no haemorrhage in the liver.", "abdomen")
    assert [f.opposite for f in told.findings] == ["There is no haemorrhage in the liver."]
    assert told.named == {"cyst", "haemorrhage", "lesion", "mass"}
    assert _told("Findings: There is no haemorrhage in the liver.", "abdomen").named == {"haemorrhage"}


def test_reports_are_written_and_judged(
    colipri: Trained, phantom_archive: Path, decipher: Callable, tmp_path: Path
) -> None:
    model, index = colipri[1] / "model", tmp_path / "index"
    assert decipher("encode", phantom_archive, "-m", model, "-i", index).code == 0
    volume = next((phantom_archive / "nifti").rglob("*.nii.gz"))
    done = decipher("report", volume, "-i", index, "--beams", "2", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert set(said) == {"path", "report", "log_probability", "nearest", "note"} and said["log_probability"] < 0
    reports = pl.read_csv(phantom_archive / "reports.csv")["report"].to_list()
    assert said["nearest"]["report"] in reports and "not a medical device" in done.err.lower()
    patient = dict(contents_of(phantom_archive).records.select("path", "patient_id").iter_rows())
    for one in sorted((phantom_archive / "nifti").rglob("*.nii.gz"))[:2]:
        near = json.loads(decipher("report", one, "-i", index, "--json").out)["nearest"]
        assert patient[near["path"]] != patient[str(one.relative_to(phantom_archive))]
    assert json.loads(decipher("report", volume, "-i", index, "--beams", "2", "--json").out) == said
    assert "not a medical device" in decipher("report", volume, "-i", index, "-q").out
    judged = json.loads(decipher("eval", "report", phantom_archive, "-m", model, "--most", "6", "--json").out)
    assert judged["series"] == 6 and [row["metric"] for row in judged["figures"]] == [
        "bleu4", "rouge_l", "meteor", "findings_f1", "negation", "side",
    ]  # fmt: skip
    for row in judged["figures"]:
        if row["gain"]["value"] is not None:
            assert row["gain"]["value"] == pytest.approx(row["written"]["value"] - row["nearest"]["value"])
    plain = decipher("report", volume)
    assert plain.code == 1 and "does not write reports" in plain.err and "decipher train colipri" in plain.err


def test_what_cannot_be_read_is_told(
    medmap: Trained, phantom_archive: Path, decipher: Callable, tmp_path: Path
) -> None:
    model, archive, index = medmap[1] / "model", tmp_path / "archive", tmp_path / "index"
    shutil.copytree(phantom_archive / "nifti", archive)
    wrong = decipher("predict", model, archive, "--findings", "tumours")
    assert wrong.code == 1 and "No label column 'tumours'" in wrong.err and wrong.out == ""
    numbers = decipher("predict", model, archive, "--findings", "age_years")
    assert numbers.code == 1 and "does not hold words" in numbers.err
    assert decipher("encode", archive, "-m", model, "-i", index).code == 0
    files = sorted(archive.rglob("*.nii.gz"))
    for file in files[1:]:
        file.write_bytes(b"")
    one = decipher("predict", model, index, "--json")
    rows = [row for row in one.json_lines() if "findings" in row]
    assert one.code == 0 and sum(bool(row["findings"]) for row in rows) == 1
    assert one.err.count("not read: ") >= len(rows) - 1 and not any("patient_id" in row for row in rows)
    files[0].write_bytes(b"")
    none = decipher("predict", model, index)
    assert none.code == 1 and "No study of" in none.err
    archive.rename(tmp_path / "elsewhere")
    moved = decipher("predict", model, index)
    assert moved.code == 1 and f"is not there: {archive}" in moved.err


def test_a_study_that_tells_of_no_finding_is_not_drawn(medmap: Trained) -> None:
    data, config = data_in(medmap), replace(medmap[0].stage("detect"), batch_size=64)
    found = study_findings(data.rows)
    asked = next(
        t for s in found.values() for t in sorted(s.affirmed, key=str) if not all(o.knows(t) for o in found.values())
    )
    model = fresh_model(medmap[0])
    model.detector = Detector(DetectorConfig((asked,), width=48), model.config.dim)
    assert StudyBatches(data, model, config).batch(0, Compute()).known.all()


def test_what_a_later_stage_lacks_is_told_before_the_first(phantom_archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DecipherError, match="No finding is in 100 studies"):
        trained("medmap", phantom_archive, tmp_path / "run", "fewest_positive=100")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_passport_knows_nothing_of_heads(colipri: Trained, tmp_path: Path) -> None:
    shutil.copytree(colipri[1] / "model", tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "writer")
    assert passport(str(tmp_path / "model"))["hash"] == passport(str(colipri[1] / "model"))["hash"]


def test_what_cannot_be_learnt_is_told(colipri: Trained) -> None:
    data, config = data_in(colipri), load_config("colipri", SMALL)
    mute = replace(data, rows=data.rows.with_columns(report=pl.lit(None, pl.Utf8)))
    with pytest.raises(DecipherError, match="no report to learn to write"):
        equip(fresh_model(config), mute, config, ("colipri",))
    with pytest.raises(DecipherError, match="No finding is in 100 studies"):
        many = load_config("detect", [*SMALL, "fewest_positive=100"])
        equip(Decipher(fresh_model(many).config), data, many, ("detect",))


def test_a_head_goes_with_the_encoder_it_was_made_for(colipri: Trained) -> None:
    data, model = data_in(colipri), load(str(colipri[1] / "model"))

    def heads(*stages: str) -> tuple[bool, bool]:
        config = load_config("detect", [*SMALL, "fewest_positive=1"])
        frozen = {"text": {"freeze": ("vision", "text")}}
        equip(model, data, replace(config, stages=stages, by_stage=frozen), stages)
        return model.writer is not None, model.detector is not None

    assert heads("colipri") == (True, False)
    writer = model.writer
    assert heads("colipri", "text") == (True, False)
    assert model.writer is writer, "a stage that leaves the vision encoder alone leaves its heads alone"
    assert heads("colipri", "detect") == (False, True)


@pytest.mark.parametrize("kind", ["adapters", "encoders"])
def test_families_begin_as_the_plain_model(kind: str, colipri: Trained, rng: np.random.Generator) -> None:
    plain = load(str(colipri[1] / "model"))
    init = f"init={colipri[1] / 'model'}"
    grown = fresh_model(load_config("medmap", [init, f"families={kind}"])).eval()
    sample = data_in(colipri).sample(0)
    batch = collate([replace(sample, family=torch.tensor(number)) for number in (-1, 0, 3)])
    torch.testing.assert_close(
        grown.encode_prepared(batch).volume, plain.encode_prepared(batch).volume, atol=1e-5, rtol=0
    )
    assert grown.config.vision.families == kind
    other = "encoders" if kind == "adapters" else "adapters"
    grown.save(colipri[1].parent / kind)
    with pytest.raises(DecipherError, match=f"has {kind} for its sequence families, not {other}"):
        fresh_model(load_config("medmap", [f"init={colipri[1].parent / kind}", f"families={other}"]))


def test_findings_of_a_label_column_of_ones_own(phantom_archive: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(phantom_archive, archive)
    labels = pl.read_csv(archive / "labels.csv").rename({"diagnosis": "abnormality"})
    labels.write_csv(archive / "labels.csv")
    config = load_config("detect", [*SMALL, "findings=abnormality"])
    (tmp_path / "run").mkdir()
    prepare_data(config, Source(archive), tmp_path / "run", PrepareConfig(box=(32, 32, 32)), silent, silent)
    data = data_of(config, tmp_path / "run")
    model = fresh_model(config)
    equip(model, data, config, ("detect",))
    assert model.detector is not None and model.detector.config.column == "abnormality"
    there = set(labels["abnormality"].str.to_lowercase()) - {"healthy"}
    assert {target.name for target in model.detector.config.targets} <= there
    assert set(data.rows["findings"].drop_nulls()) == set(labels["abnormality"])
    with pytest.raises(DecipherError, match="No label column 'mood'"):
        wrong = load_config("detect", [*SMALL, "findings=mood"])
        (tmp_path / "other").mkdir()
        prepare_data(wrong, Source(archive), tmp_path / "other", PrepareConfig(), silent, silent)
