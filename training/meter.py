"""What a run says of itself: metrics.jsonl, TensorBoard, and whoever listens.

Decisions:
- A logged row is the means since the row before it: seconds a step, the share of them spent waiting for batches, volumes
  a second, memory, FLOP/s, and their share of the processor's peak (model FLOPs utilisation).
- A resumed run writes the rows after its checkpoint again; of a step written twice the last counts.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Told = Callable[[dict[str, Any]], None]


@dataclass
class Clock:
    """Time since the last row: of all, and of waiting for batches."""

    began: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    steps: int = 0

    def wait_for(self, make: Callable[[], Any]) -> Any:
        """What `make` gives, its time counted as waiting."""
        start = time.perf_counter()
        found = make()
        self.waited += time.perf_counter() - start
        return found

    def reading(self, volumes: int, flops: float, peak: float) -> dict[str, float]:
        """Figures a step, for steps of `volumes` and `flops` each; starts anew."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        each = seconds / max(1, self.steps)
        found = {
            "seconds": round(each, 4),
            "loader_share": round(self.waited / seconds, 4),
            "volumes_per_second": round(volumes / each, 2),
            "gflops_per_second": round(flops / each / 1e9, 2),
            "mfu": round(flops / each / peak, 4),
        }
        self.began, self.waited, self.steps = time.perf_counter(), 0.0, 0
        return found


def memory_gb(device: torch.device) -> float:
    """Most memory used so far in GB: of the GPU, or of this process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 3)
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3)


class Record:
    """Where rows go: RUN/metrics.jsonl, RUN/tensorboard, and `told`; silent on all processes but the first."""

    def __init__(self, run: Path, told: Told, first: bool) -> None:
        self.run, self.told = run, told
        self.board: Any = None
        if first:
            from tensorboardX import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"), flush_secs=10)

    def write(self, row: dict[str, Any]) -> None:
        """One row with its stage and step."""
        if self.board is None:
            return
        with (self.run / "metrics.jsonl").open("a") as out:
            out.write(json.dumps({k: v for k, v in row.items() if v == v or k == "loss"}) + "\n")
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "steps"):
                self.board.add_scalar(f"{row['stage']}/{name}", value, row["step"])
        self.told(row)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
