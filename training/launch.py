"""How a run gets its devices: precision, data parallelism, sharding; carried by lightning-fabric.

Decisions:
- Under torchrun or SLURM the processes are there already, and all of them are taken; else one device is used unless
  `devices` says more, in which case the command starts its own copies.
- Processes wait for each other as long as it takes, since the first one may prepare volumes for hours.
- fsdp shards every transformer block (FSDP2), which also runs on CPUs.
"""

import logging
import os
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from models.errors import DecipherError
from training.compute import is_quick_in_half
from training.config import TrainConfig

PATIENCE = timedelta(days=1)


def launched(config: TrainConfig) -> Any:
    """A launched lightning Fabric for these settings.

    Errors: DecipherError for settings that make no sense here.
    """
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if config.threads:
        torch.set_num_threads(config.threads)
    devices, nodes = _devices(config.devices)
    world = devices * nodes
    if config.batch_size % world:
        raise DecipherError(
            f"A batch of {config.batch_size} volumes does not part into {world} processes.",
            f"Take a multiple: --set batch_size={-(-config.batch_size // world) * world}",
        )
    fabric = Fabric(
        accelerator="auto",
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(config.strategy, world),
        precision=_precision(config.precision),
    )
    fabric.launch()
    return fabric


def is_sharding(fabric: Any) -> bool:
    """Whether the weights of a run are spread over its processes."""
    from lightning_fabric.strategies import ModelParallelStrategy

    return isinstance(fabric.strategy, ModelParallelStrategy)


def is_first() -> bool:
    """Whether this process is the one that speaks and writes; told from the environment, before anything is launched."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _devices(asked: str) -> tuple[int, int]:
    """Devices of this machine, and machines."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    if "SLURM_NTASKS_PER_NODE" in os.environ:
        return int(os.environ["SLURM_NTASKS_PER_NODE"]), int(os.environ.get("SLURM_NNODES", "1"))
    if asked == "auto":
        return 1, 1
    if not asked.isdigit() or int(asked) < 1:
        raise DecipherError(f"Setting devices takes a number or auto; got {asked!r}.", "Type --set devices=2.")
    return int(asked), 1


def _strategy(asked: str, world: int) -> Any:
    from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy

    if asked not in ("auto", "ddp", "fsdp"):
        raise DecipherError(f"No strategy {asked!r}.", "Take auto, ddp or fsdp.")
    if world == 1:
        return "auto"
    if asked == "fsdp":
        return ModelParallelStrategy(_sharded, data_parallel_size=world, tensor_parallel_size=1, timeout=PATIENCE)
    return DDPStrategy(find_unused_parameters=True, timeout=PATIENCE)


def _sharded(objective: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    from models.layers import Block

    for part in objective.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(objective, mesh=mesh["data_parallel"])
    return objective


def _precision(asked: str) -> Any:
    """`auto` is bf16 where the machine is made for it, else 32 bits."""
    names = {"32": "32-true", "bf16": "bf16-mixed"}
    if asked in names:
        return names[asked]
    if asked != "auto":
        raise DecipherError(f"No precision {asked!r}.", "Take auto, 32 or bf16.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return names["bf16" if is_quick_in_half(device) else "32"]
