"""The attentive head: learned queries look at the patches of a volume, and a linear head reads what they pool.

After the attentive probes of V-JEPA (arXiv 2404.08471) and CAPI (arXiv 2502.08769), kept light for a few hundred labels: where
the query is learned, its product with the keys' projection is one vector a query, and values and outputs are one matrix.

Decisions
- The queries are learned by gradients, together with a linear layer. A head that tunes its penalty then takes that layer's
  place, since a few steps on few labels fit a thousand pooled numbers badly.
- One more query is zero and stays so: it pools the mean of the patches, to which attention adds.
- Pooling is linear, so pools are standardised rather than patches, by the patches of the rows that are fitted.
- A token of zeros is padding and has no weight. Patches are read a batch at a time from wherever they lie.
- Rows are taken in an order that follows from what they hold and from the seed, not from where they stand.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

QUERIES = 4
BATCH = 128
MOST_EPOCHS = 100
PATIENCE = 10
RATE, DECAY = 3e-3, 0.1

Folds = list[tuple[np.ndarray, np.ndarray]]
Head = Callable[..., Callable[[np.ndarray], np.ndarray]]
"""one of training.heads"""


class PatchRows(Protocol):
    """float16 (n, N, E): an array, a memory-map, or an index's Patches; np.asarray reads what was chosen of it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


class AttentiveProbe(nn.Module):
    """Patches (B, N, E) to (B, K): mean, scale (E,) standardise; weights are drawn from `seed`, outputs begin at 0."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: torch.Tensor, scale: torch.Tensor, outputs: int, seed: int) -> None:
        super().__init__()
        width = len(mean)
        drawn = torch.randn(QUERIES, width, generator=torch.Generator().manual_seed(seed))
        self.queries = nn.Parameter(drawn / width**0.5)
        self.weight = nn.Parameter(torch.zeros((1 + QUERIES) * width, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.pools(patches) @ self.weight + self.bias

    def pools(self, patches: torch.Tensor) -> torch.Tensor:
        """What each query sees of patches (B, N, E), standardised: (B, (1 + QUERIES) * E)."""
        padding = ~patches.any(dim=-1)[:, None]
        look = (F.pad(self.queries, (0, 0, 1, 0)) / self.scale) @ patches.mT
        share = look.masked_fill(padding, torch.finfo(look.dtype).min).softmax(dim=-1)
        return ((share @ patches - self.mean) / self.scale).flatten(1)


def fit_attentive(
    patches: PatchRows, target: np.ndarray, folds: Folds, *, n_classes: int, seed: int, read_out: Head
) -> Callable[[PatchRows], np.ndarray]:
    """A head as those of training.heads, of patches (n, N, E), zeros where a token is padding; `read_out` reads the pools."""
    probe = _learned(patches, target, folds, n_classes, seed)
    pools = _pools(probe, patches)
    mean, scale = pools.mean(0), np.maximum(pools.std(0), 1e-6)
    read = read_out((pools - mean) / scale, target, folds, n_classes=n_classes, seed=seed)
    return lambda queries: read((_pools(probe, queries) - mean) / scale)


@torch.inference_mode()
def _pools(probe: AttentiveProbe, patches: PatchRows) -> np.ndarray:
    rows = np.arange(len(patches))
    return torch.cat([probe.pools(_read(patches, batch)) for batch in _batches(rows)]).double().numpy()


@dataclass(frozen=True)
class Lesson:
    """What is to be learned: patches (n, N, E), the outputs (n, K) that are wanted, and how much each row counts (n,)."""

    patches: PatchRows
    goal: torch.Tensor
    share: torch.Tensor
    seed: int

    def loss(self, probe: AttentiveProbe, rows: np.ndarray) -> torch.Tensor:
        """Cross-entropy, or squared error where one output is wanted, summed over `rows` as they count."""
        each = F.cross_entropy if self.goal.shape[1] > 1 else F.mse_loss
        losses = each(probe(_read(self.patches, rows)), self.goal[rows], reduction="none")
        return (losses.reshape(len(rows)) * self.share[rows]).sum()


def _learned(patches: PatchRows, target: np.ndarray, folds: Folds, n_classes: int, seed: int) -> AttentiveProbe:
    """The probe of all rows, after as many epochs as serve the first inner fold best."""
    standard = (target - target.mean()) / (target.std() or 1.0)
    goal = np.eye(n_classes)[target] if n_classes else standard[:, None]
    share = 1 / np.bincount(target)[target] if n_classes else np.ones(len(target))
    lesson = Lesson(patches, torch.tensor(goal).float(), torch.tensor(share).float(), seed)
    everyone = _in_own_order(patches, target)
    train, stop = (everyone[np.isin(everyone, own)] for own in (folds[0] if folds else (everyone, everyone)))
    curve = _taught(lesson, train, stop, MOST_EPOCHS)[1]
    return _taught(lesson, everyone, everyone[:0], int(np.argmin(curve)))[0]


def _taught(lesson: Lesson, train: np.ndarray, stop: np.ndarray, epochs: int) -> tuple[AttentiveProbe, list[float]]:
    """The probe after at most `epochs` of `train`, and the loss of `stop` before each and after the last.

    With rows to stop by, it ends early when PATIENCE epochs brought nothing.
    """
    probe = AttentiveProbe(*_standard(lesson.patches, train), lesson.goal.shape[1], lesson.seed)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=DECAY)
    order = np.random.default_rng(lesson.seed)

    @torch.no_grad()
    def judged() -> float:
        return sum(float(lesson.loss(probe, rows)) for rows in _batches(stop))

    curve = [judged()]
    while len(curve) <= epochs and (not len(stop) or len(curve) - int(np.argmin(curve)) <= PATIENCE):
        for rows in _batches(order.permutation(train)):
            optimiser.zero_grad()
            (lesson.loss(probe, rows) / lesson.share[rows].sum()).backward()
            optimiser.step()
        curve.append(judged())
    return probe, curve


def _standard(patches: PatchRows, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (E,) of the patches of some rows, padding left out."""
    count, total, squares = (torch.zeros(size, dtype=torch.float64) for size in (1, *patches.shape[2:] * 2))
    for batch in _batches(rows):
        found = _read(patches, batch).double()
        count += found.any(dim=-1).sum()
        total += found.sum(dim=(0, 1))
        squares += (found**2).sum(dim=(0, 1))
    mean = total / count
    spread = (squares / count - mean**2).clamp(min=0).sqrt()
    return mean.float(), torch.where(spread > 1e-6, spread, 1.0).float()


def _in_own_order(patches: PatchRows, target: np.ndarray) -> np.ndarray:
    """The rows (n,), ordered by the sum of their patches, which is exact for numbers in half precision, then by target."""
    sums = [_read(patches, rows).double().sum(dim=(1, 2)) for rows in _batches(np.arange(len(target)))]
    return np.lexsort((target, torch.cat(sums).numpy()))


def _read(patches: PatchRows, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(patches[rows])).float()


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
