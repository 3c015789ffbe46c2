"""The loop: a run that was stopped goes on to the same bits; a diverging one stops and keeps its checkpoint."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from models.errors import DecipherError
from training import loop
from training.checkpoint import Position, State, latest, load_objective, load_optimiser, save_checkpoint
from training.config import TrainConfig
from training.data import TrainingSet, rng_of, training_set
from training.launch import launched
from training.loop import train_stages
from training.meter import Told
from training.shards import COLUMNS, Shard

TINY = ModelConfig(
    prepare=PrepareConfig(box=(32, 32, 32)), vision=VisionConfig(width=48, depth=2, heads=3, registers=1, drop_path=0.1)
)
CONFIG = TrainConfig(
    stages=("vision", "align"), steps=6, batch_size=4, log_every=1, checkpoint_every=2, captions=60, texts_per_step=12,
    prototypes=16, head_hidden=16, head_bottleneck=8, local_crops=2, precision="32", seed=5, check_every=4, holdout=0.2,
    ema=0.9, by_stage={"vision": {"freeze": ("text", "log_scale")}},
)  # fmt: skip


def shard(count: int = 12) -> Shard:
    rng = np.random.default_rng(0)
    sequences = ["T1", "T2", "FLAIR"]
    rows = [
        dict.fromkeys(COLUMNS)
        | {"series_id": f"{i}", "study_id": f"s{i // 2}", "patient_id": f"p{i // 2}", "path": f"{i}",
           "sequence": sequences[i % 3], "body_region": "brain",
           "report": f"Report {i // 2}.", "variant": 0, "origin": "archive"}
        for i in range(count)
    ]  # fmt: skip
    pixels = rng.integers(0, 255, (count, 32, 32, 32), dtype=np.uint8)
    content = np.tile(np.array([[0, 32]] * 3), (count, 1, 1))
    return Shard(pixels, content, np.ones((count, 7), np.float32), pl.DataFrame(rows, schema=COLUMNS))


def prepared(config: TrainConfig = CONFIG) -> tuple[Decipher, TrainingSet]:
    torch.manual_seed(config.seed)
    model = Decipher(TINY)
    return model, training_set([shard()], config)


def run_stages(
    model: Decipher, data: TrainingSet, config: TrainConfig, run: Path, told: Told = lambda row: None
) -> Decipher:
    return train_stages(model, data, config, run, told, launched(config))


def losses(run: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(row["stage"], row["step"]): row["loss"] for row in rows if "loss" in row}


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
    run_stages(model, data, CONFIG, whole)

    def stopping(row: dict) -> None:
        if (row["stage"], row["step"]) == stop:
            raise Stopped

    other, data = prepared()
    with pytest.raises(Stopped):
        run_stages(other, data, CONFIG, cut, stopping)
    resumed, data = prepared()
    run_stages(resumed, data, CONFIG, cut)
    assert losses(cut) == losses(whole)
    expected = weights(model)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_batches_are_a_function_of_seed_stage_and_number() -> None:
    _, data = prepared()
    first, again, next_one = (data.draw(rng_of(CONFIG, "align", number), 8) for number in (3, 3, 4))
    other = data.draw(rng_of(CONFIG, "vision", 3), 8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_one) and not np.array_equal(first, other)


def test_rare_kinds_are_drawn_more_often_than_they_lie_there() -> None:
    _, data = prepared(TrainConfig(holdout=0.0))
    kinds = data.rows["sequence"].to_numpy()
    assert data.weights.sum() == pytest.approx(1)
    assert data.weights[kinds == "T1"].sum() == pytest.approx(1 / 3)


class Diverging(torch.nn.Module):
    """Its loss, or its gradient alone, is not a number from the fifth batch on."""

    def __init__(self, model: Decipher, config: TrainConfig, loss: bool) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = 0

    def forward(self, batch: object, compute: object) -> dict[str, torch.Tensor]:
        self.seen += 1
        bad = torch.full((1,), float("nan")) if self.seen > 4 else torch.ones(1)
        value = self.weight * bad
        return {"loss": value.sum() if self.loss else torch.where(torch.isnan(value), self.weight * 0, value).sum()}

    def after_step(self, step: int, steps: int) -> None:
        pass

    def finish(self) -> None:
        pass


@pytest.mark.parametrize(
    ("loss", "said"), [(True, r"The loss .* at step 5\. Its batch: \d"), (False, r"The gradient .* at step 14")]
)
def test_a_diverging_run_is_told_and_its_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: bool, said: str
) -> None:
    batches = loop.OBJECTIVES["align"][1]
    monkeypatch.setitem(loop.OBJECTIVES, "align", (partial(Diverging, loss=loss), batches))
    model, data = prepared()
    config = replace(CONFIG, stages=("align",), steps=40, ema=0.0)
    with pytest.raises(DecipherError, match=said):
        run_stages(model, data, config, tmp_path)
    assert latest(tmp_path / "checkpoints") == Position(0, 4 if loss else 12)


def test_checkpoints_come_back_to_the_last_bit_and_two_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimiser = torch.optim.AdamW(model.parameters())
    for step in range(1, 4):
        model(torch.randn(5, 4)).sum().backward()
        optimiser.step()
        save_checkpoint(tmp_path, Position(0, step), State(model, optimiser, {}))
    assert len(list(tmp_path.iterdir())) == 2
    other = torch.nn.Linear(4, 3)
    fresh = torch.optim.AdamW(other.parameters())
    assert latest(tmp_path) == Position(0, 3)
    load_objective(tmp_path, Position(0, 3), other)
    load_optimiser(tmp_path, Position(0, 3), fresh)
    assert torch.equal(other.weight, model.weight)
    for mine, theirs in zip(
        fresh.state_dict()["state"].values(), optimiser.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_checkpoint_of_another_size_is_told(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 3)
    save_checkpoint(tmp_path, Position(0, 1), State(model, torch.optim.AdamW(model.parameters()), {}))
    with pytest.raises(DecipherError, match="another size"):
        load_objective(tmp_path, Position(0, 1), torch.nn.Linear(4, 5))
    with pytest.raises(DecipherError, match="another size"):
        load_objective(tmp_path, Position(0, 1), torch.nn.Sequential(torch.nn.Linear(4, 3)))


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
