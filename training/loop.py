"""The training loop: stages in order, one step like the next, resumed exactly.

Decisions:
- The loop knows only `loss`; an objective owns its losses, its extra parameters and what follows a step.
- Everything random in a step is seeded by (seed, stage, step): a run that was killed continues to the same bits.
- A step whose gradients are not finite is skipped and counted; ten in a row end the run with the last good checkpoint.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.decipher import Decipher
from models.errors import DecipherError
from training.checkpoint import Position, latest, load_checkpoint, save_checkpoint
from training.config import TrainConfig
from training.data import TrainingSet
from training.objectives.align import Align
from training.objectives.vision import Vision

OBJECTIVES: dict[str, Callable[[Decipher, TrainConfig], nn.Module]] = {"vision": Vision, "align": Align}
Told = Callable[[dict[str, Any]], None]


def train_stages(model: Decipher, data: TrainingSet, config: TrainConfig, run: Path, told: Told) -> None:
    """Run every stage of config on `model` in place; checkpoints and metrics.jsonl go to `run`.

    Errors: DecipherError for an unknown stage or a loss that stays not finite.
    """
    for stage in config.stages:
        if stage not in OBJECTIVES:
            raise DecipherError(f"No stage {stage!r}.", f"Stages: {', '.join(OBJECTIVES)}.")
    if config.threads:
        torch.set_num_threads(config.threads)
    start = latest(run / "checkpoints") or Position(0, 0)
    for number, stage in enumerate(config.stages):
        if number >= start.stage:
            _train_stage(number, stage, model, data, config, run, told, start)


def _train_stage(
    number: int,
    stage: str,
    model: Decipher,
    data: TrainingSet,
    config: TrainConfig,
    run: Path,
    told: Told,
    start: Position,
) -> None:
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator="auto", devices=1, precision=_precision(config.precision))
    torch.manual_seed(config.seed + number)
    objective = OBJECTIVES[stage](model, config)
    optimiser = _optimiser(objective, config)
    first = 0
    if start.stage == number and start != Position(0, 0):
        load_checkpoint(run / "checkpoints", start, objective, optimiser)
        first = start.step
    objective, optimiser = fabric.setup(objective.train(), optimiser)
    bad = 0
    for step in range(first, config.steps):
        began = time.monotonic()
        losses, good = _step(fabric, objective.module, optimiser, data, config, stage, step)
        bad = 0 if good else bad + 1
        if bad == 10:
            raise DecipherError(
                f"The loss of stage {stage} is not finite at step {step + 1}.",
                f"Lower --set learning_rate={config.learning_rate / 3:g}; the last good checkpoint is in {run}/checkpoints.",
            )
        objective.module.after_step(step + 1, config.steps)
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            row = {"stage": stage, "step": done, "steps": config.steps, **losses, "skipped": int(not good)}
            _log(run, {**row, "seconds": round(time.monotonic() - began, 4)})
            told(row)
        if done % config.checkpoint_every == 0 or done == config.steps:
            save_checkpoint(run / "checkpoints", Position(number, done), objective.module, optimiser)


def _step(
    fabric: Any,
    objective: nn.Module,
    optimiser: torch.optim.Optimizer,
    data: TrainingSet,
    config: TrainConfig,
    stage: str,
    step: int,
) -> tuple[dict[str, float], bool]:
    """One optimiser step; returns the losses and whether the gradients were finite."""
    rate = config.learning_rate * rate_at(step, config.steps, config.warmup)
    for group in optimiser.param_groups:
        group["lr"] = rate
    batch = data.batch(stage, step).to(fabric.device)
    torch.manual_seed(config.seed * 1_000_003 + step)
    losses = objective(batch, fabric.autocast)
    optimiser.zero_grad()
    fabric.backward(losses["loss"])
    norm = nn.utils.clip_grad_norm_(objective.parameters(), config.clip)
    good = bool(torch.isfinite(norm))
    if good:
        optimiser.step()
    return {k: float(v.detach()) for k, v in losses.items()} | {
        "gradient_norm": float(norm),
        "learning_rate": rate,
    }, good


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Learning rate as a share of its peak: linear rise over the first `warmup` of the steps, then a cosine to 1 %."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _optimiser(objective: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; biases, norms, scales and other vectors are not decayed."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def _precision(asked: str) -> Any:
    """`auto` is bf16 where there are matrix units for it, else 32 bits."""
    names = {"32": "32-true", "bf16": "bf16-mixed"}
    if asked in names:
        return names[asked]
    if asked != "auto":
        raise DecipherError(f"No precision {asked!r}.", "Take auto, 32 or bf16.")
    fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.cpu._is_amx_tile_supported()
    return names["bf16"] if fast else names["32"]


def _log(run: Path, row: dict[str, Any]) -> None:
    with (run / "metrics.jsonl").open("a") as out:
        out.write(json.dumps({k: v for k, v in row.items() if v == v or k == "loss"}) + "\n")
