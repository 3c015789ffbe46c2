"""The objectives of MedMAP and COLIPRI on two processes: the loss and the gradients of one, sharded or not."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch import nn

from models.config import PrepareConfig
from training.compute import Compute, compute_of
from training.config import load_config
from training.data import IMAGES, TrainingSet, training_set
from training.equip import equip
from training.launch import _sharded
from training.loop import OBJECTIVES
from training.optim import freeze
from training.run import fresh_model
from training.shards import Making, open_shard, phantom_shard
from training.written import WrittenBatch

SMALL = ["batch_size=8", "size=tiny", "box=32", "captions=60", "texts_per_step=11", "prototypes=8", "head_width=32",
         "head_depth=1", "head_hidden=32", "head_bottleneck=16", "local_crops=2", "report_tokens=24", "study_series=2",
         "fewest_positive=1", "holdout=0"]  # fmt: skip
CASES = {
    "families, adapters": ("families", ["families=adapters", "views_weight=1"]),
    "families, encoders": ("families", ["families=encoders", "image_weight=0.5", "ibot_weight=0"]),
    "families, encoders, volumes alone": ("families", ["families=encoders"]),
    "detect, one encoder": ("detect", ["series_dropout=0.5"]),
    "detect, adapters": ("detect", ["families=adapters", "series_dropout=0.5"]),
    "detect, encoders": ("detect", ["families=encoders", "series_dropout=0.5"]),
    "colipri": ("colipri", []),
    "colipri, contrast alone": ("colipri-c", []),
    "colipri, nothing told on one process": ("colipri", []),
    "colipri, text trained": ("colipri", ["freeze=log_scale", "texts_per_step=3", "opposite_pairs=2"]),
}
WORLD = 2


def data_of(folder: Path) -> TrainingSet:
    """Digital patients, and the same once more as images alone."""
    told = open_shard(folder)
    silent = replace(told, rows=told.rows.with_columns(report=pl.lit(None, pl.Utf8), origin=pl.lit(IMAGES)))
    return training_set([told, silent], load_config("colipri", SMALL))


def made(case: str, data: TrainingSet, compute: Compute) -> tuple[nn.Module, Any]:
    """The objective of a case, and this process's share of a batch."""
    preset, settings = CASES[case]
    config = load_config(preset, [*SMALL, *settings])
    stage = config.stages[-1]
    model = fresh_model(config)
    freeze(model, config.stage(stage).freeze)
    equip(model, data, config, (stage,))
    make_objective, make_batches = OBJECTIVES[stage]
    batch = make_batches(data, model, config.stage(stage)).batch(1, compute)
    if "nothing told" in case:
        batch = hushed(batch, compute)
    return make_objective(model, config.stage(stage)).train(), batch


def hushed(batch: WrittenBatch, compute: Compute) -> WrittenBatch:
    """As if the second half of the volumes had no report to write and no findings."""
    if compute.world == 1:
        half = len(batch.tokens) // WORLD
        told = torch.arange(len(batch.tokens)) < half
        return replace(batch, tokens=batch.tokens * told[:, None], present=batch.present.where(told[:, None], -1))
    if compute.rank == 0:
        return batch
    none = {"opposites": batch.opposites[:0], "pairs": torch.zeros_like(batch.pairs)}
    return replace(batch, tokens=torch.zeros(len(batch.tokens), 2, dtype=torch.int64), **none,
                   present=torch.full_like(batch.present, -1))  # fmt: skip


def gradients(objective: nn.Module, batch: Any, compute: Compute, strategy: str) -> dict[str, torch.Tensor]:
    """Of all weights that have one, beside the loss."""
    wrapped = objective
    if strategy == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(objective, find_unused_parameters=True)
    if strategy == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh

        wrapped = _sharded(objective, init_device_mesh("cpu", (WORLD,), mesh_dim_names=("data_parallel",)))
    losses = wrapped(batch, compute)
    losses["loss"].backward()
    mean = compute.total(losses["loss"].detach()) / compute.world
    found = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    whole = {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in found.items()}
    return {"loss": mean, **whole}


class Launched:
    """What compute_of asks of a Fabric."""

    def __init__(self, rank: int) -> None:
        self.global_rank, self.world_size, self.autocast = rank, WORLD, Compute().autocast


def work(rank: int, folder: Path, out: Path, strategy: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{out}/meeting-{strategy}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=120),
    )
    data, compute = data_of(folder), compute_of(Launched(rank))
    for number, case in enumerate(CASES):
        found = gradients(*made(case, data, compute), compute, strategy)
        if rank == 0:
            save_file({name: value.contiguous() for name, value in found.items()}, out / f"{strategy}-{number}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    kinds = [
        {"region": region, "diagnosis": diagnosis, "sequences": list(sequences)}
        for region, diagnosis, sequences in (
            ("brain", "stroke", ("T1", "FLAIR")), ("brain", "healthy", ("DWI",)), ("abdomen", "liver cyst", ("T1", "T2")),
            ("abdomen", "healthy", ("T2",)),
        )
    ]  # fmt: skip
    making = Making(folder, PrepareConfig(box=(32, 32, 32)), 0, lambda *_: None, lambda text: None)
    return phantom_shard(6, making, kinds)


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, dict[str, torch.Tensor]]:
    data = data_of(place)
    return {case: gradients(*made(case, data, Compute()), Compute(), "alone") for case in CASES}


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def together(request: pytest.FixtureRequest, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    out = tmp_path_factory.mktemp("found")
    torch.multiprocessing.spawn(work, (place, out, request.param), nprocs=WORLD)
    yield {case: load_file(out / f"{request.param}-{number}") for number, case in enumerate(CASES)}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_does(case: str, alone: dict, together: dict) -> None:
    mine, theirs = alone[case], together[case]
    assert float(theirs["loss"]) == pytest.approx(float(mine["loss"]), abs=1e-5)
    moved = {name for name, value in mine.items() if value.any()}
    assert moved <= theirs.keys() and len(moved) > 20
    for name, value in theirs.items():
        torch.testing.assert_close(value, mine.get(name, torch.zeros_like(value)), atol=1e-5, rtol=1e-4, msg=name)
