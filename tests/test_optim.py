"""Schedules, layer decay, freezing, averages, loaders: each against a computation by hand."""

import math
import threading
import time

import numpy as np
import pytest
import torch

from models.config import ModelConfig, PrepareConfig, VisionConfig
from models.decipher import Decipher
from training.average import follow
from training.config import TrainConfig
from training.loader import ahead
from training.optim import freeze, make_optimiser, rate_at, set_schedules

TINY = ModelConfig(
    prepare=PrepareConfig(box=(16, 16, 16)), vision=VisionConfig(width=24, depth=3, heads=2, registers=1)
)


class Objective(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Decipher(TINY)
        self.head = torch.nn.Linear(4, 2)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert np.all(np.diff(rates[10:]) < 0) and rates[-1] < 0.02
    assert rates[55] == pytest.approx(0.01 + 0.99 * 0.5, abs=0.01)


def test_layers_further_down_learn_slower() -> None:
    objective, config = Objective(), TrainConfig(learning_rate=1.0, layer_decay=0.5, warmup=0.0, steps=10)
    optimiser = make_optimiser(objective, config)
    set_schedules(optimiser, config, 0)
    rate_of = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    named = dict(objective.named_parameters())
    expected = {
        "head.weight": 1.0, "model.log_scale": 1.0, "model.vision.to_volume.0.weight": 1.0,
        "model.vision.blocks.2.attention.qkv.weight": 0.5, "model.vision.blocks.0.attention.qkv.weight": 0.125,
        "model.vision.stem.weight": 0.0625,
    }  # fmt: skip
    assert {name: rate_of[id(named[name])] for name in expected} == pytest.approx(expected)


def test_weight_decay_follows_its_cosine_and_spares_vectors() -> None:
    objective, config = Objective(), TrainConfig(weight_decay=0.04, weight_decay_end=0.4, steps=100)
    optimiser = make_optimiser(objective, config)
    decay_of = {}
    for step in (0, 50, 100):
        set_schedules(optimiser, config, step)
        for group in optimiser.param_groups:
            for p in group["params"]:
                decay_of[step, p.ndim > 1] = group["weight_decay"]
    assert [decay_of[s, True] for s in (0, 50, 100)] == pytest.approx([0.04, 0.22, 0.4])
    assert {decay_of[s, False] for s in (0, 50, 100)} == {0.0}
    assert math.isclose(optimiser.param_groups[0]["betas"][1], 0.98)


def test_what_is_frozen_is_said_by_the_start_of_its_name() -> None:
    model = Decipher(TINY)
    assert freeze(model, ("text.base", "vision.blocks.0", "vision.stems")) == ["vision.stems"]
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if n.startswith(("text.base", "vision.blocks.0."))}
    assert freeze(model, ()) == [] and all(p.requires_grad for p in model.parameters())


def test_an_average_follows_by_hand() -> None:
    old, new = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, -2.0])]
    follow(old, new, 0.75)
    assert old[0].tolist() == [1.5, 1.0]


def test_batches_come_in_order_and_ahead_of_their_step() -> None:
    made: list[int] = []
    lock = threading.Lock()

    def make(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        with lock:
            made.append(number)
        return number * number

    found = []
    for value in ahead(make, range(2, 12), workers=3):
        found.append(value)
        time.sleep(0.03)
        assert len(made) >= min(10, len(found) + 2)
        assert len(made) <= len(found) + 3
    assert found == [n * n for n in range(2, 12)]
    assert list(ahead(make, range(3), workers=0)) == [0, 1, 4]


def test_a_batch_that_cannot_be_made_is_told_where_it_is_taken() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("number 2")
        return number

    batches = ahead(make, range(9), workers=2)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ValueError, match="number 2"):
        next(batches)
