"""What an objective may ask of the machine: precision, and the other processes of the run.

Decisions:
- A batch is drawn whole on every process, and each takes its share of the volumes; what a loss compares is gathered, so
  that the loss, and by it the gradient, is that of the whole batch however many processes there are.
- Gathering is differentiable: each process computes the whole loss, and data parallelism averages over the processes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist

Autocast = Callable[[], AbstractContextManager]


def is_quick_in_half(device: torch.device) -> bool:
    """Whether the machine is made for bfloat16: on a processor, whether it has matrix units.

    Processors with bfloat16 instructions alone take a third less time a step, but small decoders did not learn on them."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where that is quicker: convolutions take a quarter of the time."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_quick_in_half(device))


def _same(value: torch.Tensor) -> torch.Tensor:
    return value


@dataclass(frozen=True)
class Compute:
    """autocast: opens the context in which encoders may compute in half precision; losses are always computed in full.
    gather: (B, ...) of each process to (world * B, ...) in the order of ranks, with gradients. total: sum over all
    processes, without gradients."""

    autocast: Autocast = nullcontext
    rank: int = 0
    world: int = 1
    gather: Callable[[torch.Tensor], torch.Tensor] = _same
    total: Callable[[torch.Tensor], torch.Tensor] = _same

    def share(self, count: int) -> slice:
        """This process's part of `count` items, which is a multiple of world."""
        each = count // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, summed: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """The mean over all processes of what each has summed over its `count` items: the whole batch's value on every process,
        with this process's gradient times their number, over which data parallelism averages."""
        whole, items = self.total(torch.stack([summed.detach(), count.to(summed.dtype)]))
        items = items.clamp(min=1)
        local = summed * self.world / items
        return local + (whole / items - local).detach()


class _Gathered(torch.autograd.Function):
    """(B, ...) of each process to (world * B, ...); the gradient is the sum of those of all processes, own part."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed.chunk(dist.get_world_size())[dist.get_rank()]


def compute_of(fabric: Any) -> Compute:
    """The Compute of a launched lightning Fabric."""
    if fabric.world_size == 1:
        return Compute(fabric.autocast)

    def total(value: torch.Tensor) -> torch.Tensor:
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    return Compute(fabric.autocast, fabric.global_rank, fabric.world_size, _Gathered.apply, total)
