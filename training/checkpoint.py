"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

Decisions:
- A checkpoint is `<stage number>-<step>/`: state.safetensors (objective and model), optimiser.safetensors,
  average.safetensors where weights are averaged, state.json. The two newest are kept.
- Tensors are whole, also where a run shards them, so that a run may go on with another number of processes. The first
  process writes; all must call.
- Batches are a function of their number, so step and weights are all that a resume needs.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import DecipherError

KEPT = 2
FROZEN = ".text.base."


@dataclass(frozen=True)
class Position:
    """stage: its number; step: how many of its steps are done."""

    stage: int
    step: int

    @property
    def name(self) -> str:
        return f"{self.stage:02d}-{self.step:08d}"


@dataclass(frozen=True)
class State:
    """All that a run is made of between two steps; average: names and moving averages of the model's weights, {} without."""

    objective: nn.Module
    optimiser: torch.optim.Optimizer
    average: dict[str, torch.Tensor]


def save_checkpoint(folder: Path, position: Position, state: State, first: bool = True) -> None:
    """Write the checkpoint of `position` below `folder`, and drop all but the newest two."""
    from safetensors.torch import save_file

    parts = {
        "state": trained_state(state.objective),
        "optimiser": _moments(state.optimiser),
        "average": whole(state.average),
    }
    if not first:
        return
    folder.mkdir(parents=True, exist_ok=True)
    making = folder / f".{position.name}"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    for name, tensors in parts.items():
        if tensors:
            save_file(tensors, making / f"{name}.safetensors")
    (making / "state.json").write_text(json.dumps({"stage": position.stage, "step": position.step}))
    _sync(making)
    shutil.rmtree(folder / position.name, ignore_errors=True)
    making.rename(folder / position.name)
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old)


def latest(folder: Path) -> Position | None:
    """Where the newest checkpoint stands, or None."""
    found = _all(folder)
    if not found:
        return None
    said = json.loads((found[-1] / "state.json").read_text())
    return Position(said["stage"], said["step"])


def load_objective(folder: Path, position: Position, objective: nn.Module) -> None:
    """Restore objective and model in place, to the last bit.

    Errors: DecipherError when the checkpoint is of another size or damaged.
    """
    found = _read(folder / position.name / "state.safetensors")
    own = objective.state_dict()
    other = [k for k in own if k in found and found[k].shape != own[k].shape]
    missing = [k for k in trained_names(objective) if k not in found]
    if other or missing or found.keys() - own.keys():
        raise DecipherError(
            f"The checkpoint {folder / position.name} is of another size than the model.",
            "Add --fresh to begin again, or choose another -o.",
        )
    objective.load_state_dict(found, strict=False)


def load_optimiser(folder: Path, position: Position, optimiser: torch.optim.Optimizer) -> None:
    """Restore the optimiser's moments, sharded as its parameters are."""
    params = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in _read(folder / position.name / "optimiser.safetensors").items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = _placed(value, params[int(number)])
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def load_average(folder: Path, position: Position, average: Mapping[str, torch.Tensor]) -> None:
    """Restore the moving averages in place."""
    for name, value in _read(folder / position.name / "average.safetensors").items():
        average[name].copy_(_placed(value, average[name]))


def whole(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, gathered where they are sharded, on the CPU and apart from each other's memory."""
    return {name: full(value).detach().cpu().contiguous().clone() for name, value in tensors.items()}


def trained_state(objective: nn.Module) -> dict[str, torch.Tensor]:
    """Whole tensors of all that training may have changed."""
    state = objective.state_dict()
    return whole({name: state[name] for name in trained_names(objective)})


def trained_names(objective: nn.Module) -> list[str]:
    """Names in the state of an objective, each tensor once, less those of a text base that stays as it was published."""
    text: Any = getattr(getattr(objective, "model", None), "text", None)
    own, state = text is not None and text.own, objective.state_dict()
    names = [name for name, _ in chain(objective.named_parameters(), objective.named_buffers())]
    return [name for name in names if name in state and (own or FROZEN not in f".{name}")]


def _moments(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimiser.state_dict()["state"]
    return whole({f"{n}.{key}": value for n, values in state.items() for key, value in values.items()})


def full(value: torch.Tensor) -> torch.Tensor:
    """A tensor gathered from its shards; itself where it has none."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _placed(value: torch.Tensor, like: Any) -> torch.Tensor:
    """A whole tensor sharded as `like` is; scalars and plain tensors as they are."""
    if not hasattr(like, "device_mesh") or value.ndim == 0:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path) if path.is_file() else {}
    except (SafetensorError, OSError) as wrong:
        hint = f"Delete {path.parent}: the checkpoint before it is taken."
        raise DecipherError(f"The checkpoint {path.parent} cannot be read: {wrong}", hint) from wrong


def _sync(folder: Path) -> None:
    """Bytes on the disk before the folder gets its name."""
    for path in folder.iterdir():
        with path.open("rb") as written:
            os.fsync(written.fileno())


def _all(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("[0-9]*") if (p / "state.json").is_file())
