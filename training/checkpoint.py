"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

A checkpoint is `<stage number>-<step>/`: state.safetensors (objective and model), optimiser.safetensors, state.json. The
two newest are kept. Batches are a function of the step, so step and weights are all that a resume needs.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

KEPT = 2
FROZEN = ".text.base."


@dataclass(frozen=True)
class Position:
    """stage: its number; step: how many of its steps are done."""

    stage: int
    step: int


def save_checkpoint(folder: Path, position: Position, objective: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write the checkpoint of `position` below `folder`, and drop all but the newest two."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    name = f"{position.stage:02d}-{position.step:08d}"
    making = folder / f".{name}"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    save_file(_trained(objective), making / "state.safetensors")
    moments = {
        f"{number}.{key}": value.contiguous()
        for number, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
    }
    save_file(moments, making / "optimiser.safetensors")
    (making / "state.json").write_text(json.dumps({"stage": position.stage, "step": position.step}))
    shutil.rmtree(folder / name, ignore_errors=True)
    making.rename(folder / name)
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest(folder: Path) -> Position | None:
    """Where the newest checkpoint stands, or None."""
    found = _all(folder)
    if not found:
        return None
    said = json.loads((found[-1] / "state.json").read_text())
    return Position(said["stage"], said["step"])


def load_checkpoint(
    folder: Path, position: Position, objective: nn.Module, optimiser: torch.optim.Optimizer | None
) -> None:
    """Restore objective, model and optimiser in place, to the last bit."""
    from safetensors.torch import load_file

    path = folder / f"{position.stage:02d}-{position.step:08d}"
    objective.load_state_dict(load_file(path / "state.safetensors"), strict=False)
    if optimiser is None:
        return
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in load_file(path / "optimiser.safetensors").items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    whole = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _trained(objective: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.contiguous().clone() for k, v in objective.state_dict().items() if FROZEN not in k}


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[0-9]*") if (p / "state.json").is_file())
