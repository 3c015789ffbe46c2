"""Several processes do what one does: the command under torchrun, on gloo."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from training.phantom.archive import make_archive

SETTINGS = [
    "steps=3", "batch_size=8", "log_every=1", "checkpoint_every=2", "size=tiny", "box=32", "variants=1", "captions=60",
    "prototypes=16",
    "head_hidden=32", "head_bottleneck=16", "local_crops=2", "texts_per_step=11", "precision=32", "heads_weight=1", "loaders=0",
    "image_weight=0.5", "stages=vision,align",
]  # fmt: skip
COMMAND = ["train", "decipher", "--data", "archive", *(word for s in SETTINGS for word in ("--set", s))]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2", "--standalone"]
DECIPHER = [sys.executable, "-c", "from decipher_cli.main import main; main()"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    make_archive(folder / "archive", patients=5)
    reports = folder / "archive" / "reports.csv"
    lines = reports.read_text().splitlines()
    reports.write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    run(place=folder, words=[*DECIPHER, *COMMAND, "-o", "alone"])
    return folder


def run(place: Path, words: list[str]) -> str:
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def losses(folder: Path) -> dict[tuple[str, int], list[float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "dino", "ibot", "koleo", "contrast", "heads", "images")
    return {(r["stage"], r["step"]): [r[n] for n in names if n in r] for r in rows if "loss" in r}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(place: Path, strategy: str) -> None:
    """The same global batch: losses to 1e-5 of their size, and the weights of the model that is saved."""
    said = run(place, [*TORCHRUN, *DECIPHER, *COMMAND, "--set", f"strategy={strategy}", "-o", strategy])
    alone, together = losses(place / "alone"), losses(place / strategy)
    assert alone.keys() == together.keys() and len(alone) == 6
    assert any(len(values) > 3 for (stage, _), values in alone.items() if stage == "align"), (
        "images were trained on too"
    )
    for step, values in alone.items():
        assert together[step] == pytest.approx(values, rel=1e-5, abs=1e-5), step
    mine, theirs = (load_file(place / name / "model" / "model.safetensors") for name in ("alone", strategy))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert np.allclose(value, theirs[name], atol=2e-3), name
    assert said.count("model: ") == 1, "the first process alone speaks"


def test_a_batch_that_does_not_part_is_told(place: Path) -> None:
    words = [*TORCHRUN, *DECIPHER, *COMMAND, "--set", "batch_size=5", "-o", "odd"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=280)
    assert done.returncode != 0
    assert "does not part into 2 processes" in done.stderr and "batch_size=6" in done.stderr
