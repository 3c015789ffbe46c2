"""Model FLOPs utilisation of stage 2 and the loader's share of its time: python tests/benchmarks/throughput.py

The default is the paper's size on tokens of 96 voxels cubed at patch 8, bf16, compiled where there is a GPU. Volumes are
random, since speed does not depend on what they show; they go through the shard, the loader and the loop of a real run.
The first third of the steps is left out. Prints one Markdown row.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch

from training.config import TrainConfig, load_config
from training.data import training_set
from training.launch import launched
from training.loop import train_stages
from training.run import fresh_model
from training.shards import COLUMNS, Shard

SEQUENCES = ("T1", "T2", "FLAIR", "PD")


def main() -> None:
    asked = _arguments()
    config = load_config("align", [
        f"size={asked.size}", f"box={asked.box}", f"patch={asked.patch}", f"batch_size={asked.batch}", f"steps={asked.steps}",
        f"precision={asked.precision}", "log_every=1", f"checkpoint_every={asked.steps}", "holdout=0", "check_volumes=8",
        "loaders=6", *asked.settings,
    ])  # fmt: skip
    fabric = launched(config)
    data = training_set([_random_shard(asked.volumes, asked.box)], config)
    with tempfile.TemporaryDirectory() as folder:
        train_stages(fresh_model(config), data, config, Path(folder), lambda row: None, fabric)
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    _print(rows, config, fabric.device)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base")
    parser.add_argument("--box", type=int, default=96)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--volumes", type=int, default=256)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    return parser.parse_args()


def _random_shard(volumes: int, edge: int) -> Shard:
    rng = np.random.default_rng(0)
    rows = [
        dict.fromkeys(COLUMNS)
        | {"series_id": f"{i}", "study_id": f"s{i // 2}", "patient_id": f"p{i // 2}", "sequence": SEQUENCES[i % 4],
           "body_region": "brain", "report": f"Case {i // 2}. No acute infarct.", "variant": 0, "origin": "archive"}
        for i in range(volumes)
    ]  # fmt: skip
    pixels = rng.integers(0, 255, (volumes, edge, edge, edge), dtype=np.uint8)
    content = np.tile(np.array([[0, edge]] * 3), (volumes, 1, 1))
    return Shard(pixels, content, np.ones((volumes, 7), np.float32), pl.DataFrame(rows, schema=COLUMNS))


def _print(rows: list[dict], config: TrainConfig, device: torch.device) -> None:
    settled = [row for row in rows if "loss" in row][config.steps // 3 :]
    middle = {name: float(np.median([row[name] for row in settled])) for name in ("seconds", "mfu", "loader_share")}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print("| device | size | box | batch | seconds a step | volumes/s | MFU | loader's share | memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(f"| {name} | {config.size} | {config.box[0]} | {config.batch_size} | {middle['seconds']:.3f} | "
          f"{config.batch_size / middle['seconds']:.1f} | {middle['mfu']:.2f} | {middle['loader_share']:.3f} | "
          f"{settled[-1]['memory_gb']:.1f} GB |")  # fmt: skip


if __name__ == "__main__":
    main()
