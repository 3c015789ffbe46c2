"""The training loop: stages in order, one step like the next, resumed exactly.

Decisions:
- The loop knows only `loss`; an objective owns its losses, its extra parameters and what follows a step or a stage.
- Everything random in a step is seeded by (seed, stage, step): a run that was killed continues to the same bits.
- A loss that is not finite ends the run with the last good checkpoint, and the batch is named. A step whose gradients alone
  are not finite is skipped and counted, since half precision overflows now and then; ten in a row end the run too.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.decipher import Decipher
from models.errors import DecipherError
from training.average import follow
from training.checkpoint import (
    Position,
    State,
    full,
    latest,
    load_average,
    load_objective,
    load_optimiser,
    save_checkpoint,
    whole,
)
from training.compute import compute_of
from training.config import TrainConfig
from training.cost import step_flops
from training.crops import CropBatches
from training.data import TrainingSet
from training.equip import equip
from training.launch import is_sharding
from training.loader import ahead
from training.meter import Clock, Record, Told, memory_gb
from training.objectives.align import Align
from training.objectives.colipri import Colipri
from training.objectives.detect import Detect
from training.objectives.families import Families
from training.objectives.text import Text
from training.objectives.vision import Vision
from training.optim import freeze, make_optimiser, set_schedules
from training.pairs import PairBatches
from training.peak import peak_flops
from training.studies import StudyBatches
from training.tokens import TokenBatches
from training.watch import frozen_check
from training.written import WrittenBatches

MOST_SKIPPED = 10
OBJECTIVES: dict[str, tuple[Callable[..., nn.Module], Callable[..., Any]]] = {
    "vision": (Vision, CropBatches),
    "text": (Text, TokenBatches),
    "align": (Align, PairBatches),
    "families": (Families, PairBatches),
    "detect": (Detect, StudyBatches),
    "colipri": (Colipri, WrittenBatches),
}
"""{stage: (its objective, its batches)}"""
WITH_TEXT = ("align", "families", "colipri")
"""stages in which volumes and texts are brought together"""


@dataclass(frozen=True)
class Session:
    """What all stages of a run share."""

    data: TrainingSet
    config: TrainConfig
    run: Path
    fabric: Any
    record: Record

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"


def train_stages(
    model: Decipher, data: TrainingSet, config: TrainConfig, run: Path, told: Told, fabric: Any
) -> Decipher:
    """Run every stage of config on `model`; checkpoints and metrics.jsonl go to `run`. Returns the trained model.

    Errors: DecipherError for a loss that is not finite, or a checkpoint that does not fit.
    """
    start = latest(run / "checkpoints") or Position(0, 0)
    record = Record(run, told, fabric.is_global_zero)
    session = Session(data, config, run, fabric, record)
    try:
        for number in range(start.stage, len(config.stages)):
            first = start.step if number == start.stage else 0
            model = Stage(session, model, Position(number, first)).train()
    finally:
        record.close()
    return model


class Stage:
    """One stage of a run, as its checkpoint left it, made ready to step."""

    def __init__(self, session: Session, model: Decipher, position: Position) -> None:
        self.session, self.fabric, self.position = session, session.fabric, position
        self.name = session.config.stages[position.stage]
        self.config = config = session.config.stage(self.name)
        self.compute = compute_of(self.fabric)
        torch.manual_seed(config.seed + position.stage)
        unknown = freeze(model, config.freeze)
        if unknown:
            raise DecipherError(
                f"No part of the model begins with {unknown[0]!r}.", f"Parts: {', '.join(_parts(model))}."
            )
        equip(model, session.data, session.config, session.config.stages[: position.stage + 1])
        make_objective, make_batches = OBJECTIVES[self.name]
        objective = make_objective(model, config).train()
        if position.step:
            load_objective(session.checkpoints, position, objective)
        self.batches = make_batches(session.data, model, config)
        self.flops = step_flops(self.name, model, config) * config.accumulate
        self._set_up(objective, model)

    def _set_up(self, objective: nn.Module, model: Decipher) -> None:
        """Give objective and optimiser to the devices, and restore what belongs to them."""
        config, fabric = self.config, self.fabric
        model.vision.recompute = config.recompute
        if config.compile == "yes" or (config.compile == "auto" and fabric.device.type == "cuda"):
            model.vision.compile()
        self.spare = copy.deepcopy(model) if is_sharding(fabric) else None
        self.wrapped = fabric.setup_module(objective)
        self.objective = self.wrapped.module
        self.optimiser = fabric.setup_optimizers(make_optimiser(self.objective, config))
        trained = self.objective.model.named_parameters()
        self.average = {n: p.detach().clone() for n, p in trained if p.requires_grad and config.ema}
        if self.position.step:
            load_optimiser(self.session.checkpoints, self.position, self.optimiser)
            load_average(self.session.checkpoints, self.position, self.average)

    def train(self) -> Decipher:
        """All steps that are left, and what ends the stage; returns the model, whole on every process."""
        config, first, skipped = self.config, self.position.step, 0
        clock, peak = Clock(), peak_flops(self.fabric.device, _dtype(self.fabric)) * self.compute.world
        numbers = range(first * config.accumulate, config.steps * config.accumulate)
        batches = ahead(lambda n: self.batches.batch(n, self.compute), numbers, config.loaders)
        for step in range(first, config.steps):
            losses, good = self._step(step, batches, clock)
            skipped = 0 if good else skipped + 1
            if skipped == MOST_SKIPPED:
                raise self._diverged(step, "gradient", [])
            done = step + 1
            self._follow(done, good)
            clock.steps += 1
            if done % config.log_every == 0 or done == config.steps:
                figures = clock.reading(config.batch_size * config.accumulate, self.flops, peak)
                memory = {"skipped": skipped, **figures, "memory_gb": memory_gb(self.fabric.device)}
                self._write(done, {**self._shared(losses), **memory})
            if done % config.checkpoint_every == 0 or done == config.steps:
                self._save(done)
            if config.check_every and done % config.check_every == 0 and done < config.steps:
                self._check(done, self._whole_model())
                clock = Clock()
        return self._ended()

    def _step(self, step: int, batches: Iterator[Any], clock: Clock) -> tuple[dict[str, torch.Tensor], bool]:
        """One optimiser step; returns the losses and whether the gradients were finite."""
        config = self.config
        rate = set_schedules(self.optimiser, config, step)
        self.optimiser.zero_grad()
        sums: dict[str, torch.Tensor] = {}
        names: list[str] = []
        for part in range(config.accumulate):
            batch = clock.wait_for(lambda: next(batches)).to(self.fabric.device)
            torch.manual_seed(config.seed * 1_000_003 + step * config.accumulate + part + self.compute.rank * 7919)
            with self.fabric.no_backward_sync(self.wrapped, enabled=part < config.accumulate - 1):
                # Fabric's own wrapper would compute the losses in half precision too
                losses = self.wrapped._forward_module(batch, self.compute)
                self.fabric.backward(losses["loss"] / config.accumulate)
            names += batch.names
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + value.detach().float() / config.accumulate
        norm = full(
            self.fabric.clip_gradients(self.wrapped, self.optimiser, max_norm=config.clip, error_if_nonfinite=False)
        )
        good = bool(torch.isfinite(norm))
        if not good and float(self.compute.total((~torch.isfinite(sums["loss"])).float())) > 0:
            raise self._diverged(step, "loss", names)
        if good:
            self.optimiser.step()
        return {**sums, "gradient_norm": norm.detach(), "learning_rate": torch.tensor(rate)}, good

    def _follow(self, done: int, good: bool) -> None:
        """What comes after a step: the objective's own, and the moving average of the weights."""
        self.objective.after_step(done, self.config.steps)
        if self.average and good:
            follow(self.average.values(), self._averaged(), self.config.ema)

    def _shared(self, losses: dict[str, torch.Tensor]) -> dict[str, float]:
        """Losses as means over all processes."""
        values = torch.stack([v.float().to(self.fabric.device).reshape(()) for v in losses.values()])
        means = self.compute.total(values) / self.compute.world
        return dict(zip(losses, (float(v) for v in means), strict=True))

    def _write(self, done: int, figures: dict[str, Any]) -> None:
        self.session.record.write({"stage": self.name, "step": done, "steps": self.config.steps, **figures})

    def _save(self, done: int) -> None:
        state = State(self.objective, self.optimiser, self.average)
        position = Position(self.position.stage, done)
        save_checkpoint(self.session.checkpoints, position, state, self.fabric.is_global_zero)

    def _ended(self) -> Decipher:
        """The model as this stage leaves it, looked at once more."""
        if self.average:
            follow(self._averaged(), self.average.values(), 0.0)
        self.objective.finish()
        model = self._whole_model()
        self._check(self.config.steps, model)
        return model

    def _averaged(self) -> list[torch.Tensor]:
        """The weights of which a moving average is kept."""
        trained = dict(self.objective.model.named_parameters())
        return [trained[name] for name in self.average]

    def _whole_model(self) -> Decipher:
        """The model itself or, where it is sharded, a whole copy of it."""
        model: Any = self.objective.model
        if self.spare is None:
            return model
        self.spare.load_state_dict(whole(model.state_dict()))
        return self.spare

    def _check(self, done: int, model: Decipher) -> None:
        """Look at the frozen encoder; a collapse is said in the row's `collapse`."""
        if self.name != "text" and self.fabric.is_global_zero:
            found = frozen_check(model, self.session.data, self.config, with_text=self.name in WITH_TEXT)
            self._write(done, {"check": True, **found})

    def _diverged(self, step: int, what: str, names: list[str]) -> DecipherError:
        batch = f" Its batch: {', '.join(names)}." if names else ""
        kept = latest(self.session.checkpoints)
        return DecipherError(
            f"The {what} of stage {self.name} is not finite at step {step + 1}.{batch}",
            f"Begin again with --fresh --set learning_rate={self.config.learning_rate / 3:g}"
            + (f"; the last good checkpoint is {self.session.checkpoints / kept.name}." if kept else "."),
        )


def _parts(model: nn.Module) -> list[str]:
    """Names of the model's parts, two deep."""
    return sorted({".".join(name.split(".")[:2]) for name, _ in model.named_parameters()})


def _dtype(fabric: Any) -> torch.dtype:
    return torch.bfloat16 if "bf16" in str(fabric._precision.precision) else torch.float32
