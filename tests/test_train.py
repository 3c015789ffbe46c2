"""Training as a command: from an archive to a model folder that serves; runs are told apart."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from index.encode import EncodeOptions, encode_archive
from index.store import Index
from models.config import SIZES
from models.decipher import load
from models.errors import DecipherError
from models.folder import passport
from training.config import TrainConfig, load_config
from training.run import fresh_model, is_complete, open_run, stage_costs, train
from training.source import Source

SMALL = [
    "steps=2",
    "batch_size=4",
    "log_every=1",
    "checkpoint_every=1",
    "size=tiny",
    "variants=1",
    "captions=60",
    "prototypes=8",
]


def silent(*said: object) -> None:
    pass


@pytest.fixture(scope="module")
def run(phantom_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "decipher"
    config, source = load_config("decipher", SMALL), Source(phantom_archive)
    open_run(folder, config, source, fresh=False)
    train(config, source, folder, silent, silent, silent)
    return folder


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_all_stages_are_logged_and_leave_a_model(run: Path) -> None:
    steps = [row for row in rows_of(run) if "loss" in row]
    assert [(row["stage"], row["step"]) for row in steps] == [
        (s, n) for s in ("vision", "text", "align") for n in (1, 2)
    ]
    for row in steps:
        assert row["loss"] > 0 and 0 <= row["loader_share"] <= 1 and row["mfu"] > 0 and row["memory_gb"] > 0
        assert row["volumes_per_second"] == pytest.approx(4 / row["seconds"], rel=0.02)
    checks = [row for row in rows_of(run) if row.get("check")]
    assert [(row["stage"], row["step"]) for row in checks] == [("vision", 2), ("align", 2), ("align", 2)]
    assert (
        checks[2]["certain_scale"] == load(str(run / "model")).certain_scale and load(str(run / "model")).centre.any()
    )
    assert json.loads((run / "model" / "figures.json").read_text())["mean_cosine"] < checks[1]["mean_cosine"]
    assert checks[1]["pool"] == checks[1]["volumes"] and 0 <= checks[1]["recall_at_5"] <= 1
    assert yaml.safe_load((run / "config.yaml").read_text())["stages"] == ["vision", "text", "align"]
    assert {p.name for p in (run / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "card.md",
        "figures.json",
        "text",
    }
    card = (run / "model" / "card.md").read_text()
    assert "align (2 steps)" in card and "| recall_at_5 |" in card
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))


def test_a_complete_run_has_nothing_left_and_a_resumed_one_scans_nothing(
    run: Path, phantom_archive: Path, tmp_path: Path
) -> None:
    assert is_complete(run) and not is_complete(tmp_path)
    config, again = load_config("decipher", SMALL), tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "model")
    for last in sorted((again / "checkpoints").iterdir())[1:]:
        shutil.rmtree(last)
    (again / "metrics.jsonl").unlink()
    phases: list[str] = []
    train(config, Source(phantom_archive), again, lambda phase, done, of: phases.append(phase), silent, silent)
    assert phases == []
    assert [(row["stage"], row["step"]) for row in rows_of(again) if "loss" in row] == [("align", 2)]
    before, after = ((folder / "model" / "model.safetensors").read_bytes() for folder in (run, again))
    assert before == after


def test_an_archive_without_reports_is_trained_on_its_tags(phantom_archive: Path, tmp_path: Path) -> None:
    silent_archive = tmp_path / "archive"
    shutil.copytree(phantom_archive, silent_archive, ignore=shutil.ignore_patterns("reports.csv"))
    config, said = load_config("decipher", [*SMALL, "stages=text,align", "steps=1"]), []
    open_run(tmp_path / "run", config, Source(silent_archive), fresh=False)
    train(config, Source(silent_archive), tmp_path / "run", silent, silent, said.append)
    assert any("no reports" in text for text in said) and "stage text is left out" in said
    assert {row["stage"] for row in rows_of(tmp_path / "run")} == {"align"}
    alone = load_config("text", [*SMALL])
    open_run(tmp_path / "alone", alone, Source(silent_archive), fresh=False)
    with pytest.raises(DecipherError, match=r"[Nn]o report"):
        train(alone, Source(silent_archive), tmp_path / "alone", silent, silent, silent)


def test_text_alone_needs_no_volumes(phantom_archive: Path, tmp_path: Path) -> None:
    config, phases = load_config("text", [*SMALL, "steps=1"]), []
    open_run(tmp_path / "run", config, Source(phantom_archive), fresh=False)
    train(config, Source(phantom_archive), tmp_path / "run", lambda p, *_: phases.append(p), silent, silent)
    assert set(phases) == {"scan"}
    assert (tmp_path / "run" / "model" / "text" / "model.safetensors").is_file()


def test_words_become_pieces_of_the_vocabulary(phantom_archive: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("gliosis\nsyringomyelia\n")
    config = load_config("text", [*SMALL, "steps=1", f"vocabulary={tmp_path / 'words.txt'}"])
    open_run(tmp_path / "run", config, Source(phantom_archive), fresh=False)
    model = load(str(train(config, Source(phantom_archive), tmp_path / "run", silent, silent, silent)))
    assert "syringomyelia" in model.text.tokenizer.encode("syringomyelia of the cord").tokens
    with pytest.raises(DecipherError, match="cannot be read"):
        fresh_model(load_config("text", ["vocabulary=no-such.txt"]))


def test_a_start_of_another_size_is_told(run: Path) -> None:
    start = f"init={run / 'model'}"
    assert fresh_model(load_config("align", [start])).config.vision == SIZES["tiny"]
    with pytest.raises(DecipherError, match="another size"):
        fresh_model(load_config("align", [start, "size=small"]))
    with pytest.raises(DecipherError, match="does not part into patches"):
        fresh_model(load_config("align", ["size=tiny", "box=60"]))


def test_shape_is_set_by_box_and_patch() -> None:
    model = fresh_model(load_config("align", ["size=tiny", "box=32,32,16", "patch=8,8,4"]))
    assert model.config.prepare.box == (32, 32, 16) and model.config.vision.patch == (8, 8, 4)
    assert model.vision.stem.weight.shape[2:] == (8, 8, 4)


def test_costs_are_told_without_data() -> None:
    rows = stage_costs(load_config("decipher", ["size=tiny"]))
    assert [row["stage"] for row in rows] == ["vision", "text", "align"]
    vision, text, _ = rows
    model = fresh_model(load_config("decipher", ["size=tiny"]))
    assert vision["parameters"] == sum(p.numel() for p in model.parameters())
    assert vision["trained"] == sum(p.numel() for p in model.vision.parameters())
    assert vision["total_flops"] == vision["flops"] * vision["steps"] and text["memory_gb"] > 0


def test_the_model_encodes_and_another_is_refused(
    run: Path, phantom_archive: Path, tiny_model: Path, tmp_path: Path
) -> None:
    volume = sorted(phantom_archive.rglob("*.nii.gz"))[0]
    encode_archive(volume, tmp_path / "index", EncodeOptions(model=str(run / "model")), silent)
    assert Index.open(tmp_path / "index").passport == passport(str(run / "model"))
    with pytest.raises(DecipherError, match="another encoder"):
        encode_archive(volume, tmp_path / "index", EncodeOptions(model=str(tiny_model)), silent)


def test_a_run_folder_belongs_to_one_run(run: Path, phantom_archive: Path, tmp_path: Path) -> None:
    other = load_config("decipher", [*SMALL, "seed=9"])
    with pytest.raises(DecipherError, match="other settings"):
        open_run(run, other, Source(phantom_archive), fresh=False)
    failed = tmp_path / "failed"
    open_run(failed, other, Source(phantom_archive), fresh=False)
    open_run(failed, load_config("decipher", SMALL), Source(phantom_archive), fresh=False)
    assert "seed: 0" in (failed / "config.yaml").read_text(), "a run without a step keeps nobody out"
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DecipherError, match="no run"):
        open_run(tmp_path, other, Source(phantom_archive), fresh=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_fresh_begins_again(run: Path, phantom_archive: Path) -> None:
    other = load_config("decipher", [*SMALL, "seed=9"])
    open_run(run, other, Source(phantom_archive), fresh=True)
    assert not (run / "metrics.jsonl").exists() and not (run / "checkpoints").exists()
    assert "seed: 9" in (run / "config.yaml").read_text()


def test_nothing_to_train_on_is_told(tmp_path: Path) -> None:
    with pytest.raises(DecipherError, match="Nothing to train on"):
        train(TrainConfig(size="tiny"), Source(None), tmp_path, silent, silent, silent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DecipherError, match="No MRI"):
        train(TrainConfig(size="tiny"), Source(tmp_path / "empty"), tmp_path, silent, silent, silent)


def test_sources_can_be_left_out(phantom_archive: Path, tmp_path: Path) -> None:
    config = load_config("align", [*SMALL, "skip_sources=nifti/,dicom/"])
    with pytest.raises(DecipherError, match="No series is left"):
        train(config, Source(phantom_archive), tmp_path, silent, silent, silent)
