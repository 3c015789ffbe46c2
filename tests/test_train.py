"""Training as a command: from an archive to a model folder that serves; runs are told apart."""

import json
from pathlib import Path

import pytest
import yaml

from index.encode import EncodeOptions, encode_archive
from index.store import Index
from models.errors import DecipherError
from models.folder import passport
from training.config import TrainConfig, load_config
from training.run import Source, open_run, train

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
    train(config, source, folder, silent, silent)
    return folder


def test_both_stages_are_logged_and_leave_a_model(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [("vision", 1), ("vision", 2), ("align", 1), ("align", 2)]
    assert all(row["loss"] > 0 for row in rows)
    assert yaml.safe_load((run / "config.yaml").read_text())["stages"] == ["vision", "align"]
    assert {p.name for p in (run / "model").iterdir()} == {"config.json", "model.safetensors", "card.md"}
    assert "2 steps" in (run / "model" / "card.md").read_text()


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
        train(TrainConfig(size="tiny"), Source(None), tmp_path, silent, silent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DecipherError, match="No MRI"):
        train(TrainConfig(size="tiny"), Source(tmp_path / "empty"), tmp_path, silent, silent)


def test_sources_can_be_left_out(phantom_archive: Path, tmp_path: Path) -> None:
    config = load_config("align", [*SMALL, "skip_sources=nifti/,dicom/"])
    with pytest.raises(DecipherError, match="No series is left"):
        train(config, Source(phantom_archive), tmp_path, silent, silent)
