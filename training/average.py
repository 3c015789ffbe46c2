"""Moving averages of weights."""

from collections.abc import Iterable

import torch


@torch.no_grad()
def follow(old: Iterable[torch.Tensor], new: Iterable[torch.Tensor], momentum: float) -> None:
    """old <- momentum * old + (1 - momentum) * new, in place and tensor by tensor."""
    for mine, theirs in zip(old, new, strict=True):
        mine.lerp_(theirs.to(mine.dtype), 1 - momentum)
