"""The optimiser and its schedules: AdamW, a learning rate that rises and falls, layer-wise decay, weight decay by a cosine."""

import math
import re

import torch
from torch import nn

from training.config import TrainConfig

LEAST_RATE = 0.01
"""learning rate at the end, as a share of its peak"""
BLOCK = re.compile(r"(?:^|\.)vision\.(?:encoders\.\w+\.|shared\.)?blocks\.(\d+)\.")
BELOW = re.compile(r"(?:^|\.)vision\.(?:encoders\.\w+\.|shared\.)?(stem|geometry|extra)\b")


def make_optimiser(objective: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what is trained; biases, norms, scales and other vectors are not decayed.

    Groups carry `depth`, the factor that layer decay gives their learning rate (Clark et al., 2020; DINOv2).
    """
    trained = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
    top = max((int(found[1]) for name, _ in trained if (found := BLOCK.search(name))), default=-1) + 1
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in trained:
        groups.setdefault((_depth(name, top, config.layer_decay), p.ndim > 1), []).append(p)
    made = [
        {"params": params, "depth": depth, "decayed": decayed, "weight_decay": config.weight_decay * decayed}
        for (depth, decayed), params in groups.items()
    ]
    return torch.optim.AdamW(made, lr=config.learning_rate, betas=(0.9, 0.98))


def _depth(name: str, top: int, decay: float) -> float:
    """decay to the power of the blocks above: 1 for heads, decay for the last block, the least for the stem."""
    found = BLOCK.search(name)
    if found:
        return decay ** (top - int(found[1]))
    return decay ** (top + 1) if BELOW.search(name) else 1.0


def set_schedules(optimiser: torch.optim.Optimizer, config: TrainConfig, step: int) -> float:
    """Set learning rates and weight decays for `step`; returns the learning rate of layers without decay."""
    rate = config.learning_rate * rate_at(step, config.steps, config.warmup)
    last = config.weight_decay if config.weight_decay_end < 0 else config.weight_decay_end
    decay = last + (config.weight_decay - last) * _falling(step / max(1, config.steps))
    for group in optimiser.param_groups:
        group["lr"] = rate * group["depth"]
        group["weight_decay"] = decay * group["decayed"]
    return rate


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Learning rate as a share of its peak: linear rise over the first `warmup` of the steps, then a cosine to 1 %."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return LEAST_RATE + (1 - LEAST_RATE) * _falling((step - rise) / max(1, steps - rise))


def _falling(share: float) -> float:
    """Half a cosine from 1 to 0 as share goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def freeze(model: nn.Module, prefixes: tuple[str, ...]) -> list[str]:
    """Train all of `model` but the parameters whose names start with one of `prefixes`; returns prefixes that fit none."""
    names = [name for name, _ in model.named_parameters()]
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(prefixes) if prefixes else True)
    return [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in names)]
