"""The loop: a run that was stopped goes on to the same bits; a diverging one stops and keeps its checkpoint."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.errors import DecipherError
from training import loop
from training.checkpoint import Position, latest, load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.data import TrainingSet, training_set
from training.loop import rate_at, train_stages
from training.shards import COLUMNS, Shard

TINY = ModelConfig(
    prepare=PrepareConfig(box=32), vision=VisionConfig(width=48, depth=2, heads=3, registers=1, drop_path=0.1)
)
CONFIG = TrainConfig(
    stages=("vision", "align"), steps=6, batch_size=4, log_every=1, checkpoint_every=2, captions=60, texts_per_step=12,
    prototypes=16, precision="32", seed=5,
)  # fmt: skip


def shard(count: int = 12) -> Shard:
    rng = np.random.default_rng(0)
    sequences = ["T1", "T2", "FLAIR"]
    rows = [
        dict.fromkeys(COLUMNS)
        | {"series_id": f"{i}", "patient_id": f"p{i // 2}", "path": f"{i}", "sequence": sequences[i % 3],
           "body_region": "brain", "report": f"Report {i // 2}.", "variant": 0, "origin": "archive"}
        for i in range(count)
    ]  # fmt: skip
    pixels = rng.integers(0, 255, (count, 32, 32, 32), dtype=np.uint8)
    content = np.tile(np.array([[0, 32]] * 3), (count, 1, 1))
    return Shard(pixels, content, np.ones((count, 7), np.float32), pl.DataFrame(rows, schema=COLUMNS))


def prepared(config: TrainConfig = CONFIG) -> tuple[Decipher, TrainingSet]:
    torch.manual_seed(config.seed)
    model = Decipher(TINY)
    return model, training_set([shard()], model, config)


def losses(run: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(row["stage"], row["step"]): row["loss"] for row in rows}


def weights(model: Decipher) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.trained_state().items()}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [("vision", 3), ("vision", 6), ("align", 1), ("align", 5)], ids=str)
def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, stop: tuple[str, int]) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for run in (whole, cut):
        run.mkdir()
    model, data = prepared()
    train_stages(model, data, CONFIG, whole, lambda row: None)

    def stopping(row: dict) -> None:
        if (row["stage"], row["step"]) == stop:
            raise Stopped

    other, data = prepared()
    with pytest.raises(Stopped):
        train_stages(other, data, CONFIG, cut, stopping)
    resumed, data = prepared()
    train_stages(resumed, data, CONFIG, cut, lambda row: None)
    assert losses(cut) == losses(whole)
    expected = weights(model)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_batches_are_a_function_of_seed_stage_and_step() -> None:
    _, data = prepared()
    first, again, next_one = data.batch("align", 3), data.batch("align", 3), data.batch("align", 4)
    assert torch.equal(first.views[0].pixels, again.views[0].pixels)
    assert torch.equal(first.positive, again.positive)
    assert not torch.equal(first.views[0].pixels, next_one.views[0].pixels)


def test_own_reports_are_positive_and_agreeing_ones_are_not_negative() -> None:
    _, data = prepared()
    batch = data.batch("align", 0)
    assert batch.positive.any(dim=1).all()
    assert not (batch.positive & batch.negative).any()


def test_rare_kinds_are_drawn_more_often_than_they_lie_there() -> None:
    _, data = prepared()
    kinds = data.rows["sequence"].to_numpy()
    assert data.weights.sum() == pytest.approx(1)
    assert data.weights[kinds == "T1"].sum() == pytest.approx(1 / 3)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert np.all(np.diff(rates[10:]) < 0) and rates[-1] < 0.02
    assert rates[55] == pytest.approx(0.01 + 0.99 * 0.5, abs=0.01)


def test_a_diverging_loss_is_told_and_the_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverging(torch.nn.Module):
        def __init__(self, model: Decipher, config: TrainConfig) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.seen = 0

        def forward(self, batch: object, autocast: object) -> dict[str, torch.Tensor]:
            self.seen += 1
            return {"loss": self.weight.sum() * (float("nan") if self.seen > 4 else 1.0)}

        def after_step(self, step: int, steps: int) -> None:
            pass

    monkeypatch.setitem(loop.OBJECTIVES, "align", Diverging)
    model, data = prepared()
    config = TrainConfig(**{**CONFIG.__dict__, "stages": ("align",), "steps": 40})
    with pytest.raises(DecipherError, match="not finite"):
        train_stages(model, data, config, tmp_path, lambda row: None)
    assert latest(tmp_path / "checkpoints") is not None


def test_checkpoints_come_back_to_the_last_bit_and_two_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimiser = torch.optim.AdamW(model.parameters())
    for step in range(1, 4):
        model(torch.randn(5, 4)).sum().backward()
        optimiser.step()
        save_checkpoint(tmp_path, Position(0, step), model, optimiser)
    assert len(list(tmp_path.iterdir())) == 2
    other = torch.nn.Linear(4, 3)
    fresh = torch.optim.AdamW(other.parameters())
    assert latest(tmp_path) == Position(0, 3)
    load_checkpoint(tmp_path, Position(0, 3), other, fresh)
    assert torch.equal(other.weight, model.weight)
    for mine, theirs in zip(
        fresh.state_dict()["state"].values(), optimiser.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.slow
def test_kill_9_and_the_same_command(tmp_path: Path) -> None:
    """As a person does it: the command is killed, typed again, and ends with the bytes of an unbroken run."""
    program = [sys.executable, "-c", "from decipher_cli.main import main; main()"]
    small = ["steps=6", "batch_size=4", "log_every=1", "checkpoint_every=2", "captions=100", "size=tiny", "variants=1"]
    command = [*program, "train", "align", *(x for s in small for x in ("--set", s))]
    subprocess.run([*command, "-o", "whole"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "cut").mkdir()
    child = subprocess.Popen(
        [*command, "-o", "cut"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = tmp_path / "cut" / "metrics.jsonl"
    while not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    subprocess.run([*command, "-o", "cut"], cwd=tmp_path, check=True, capture_output=True)
    name = "model/model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
