"""How a decoder learns from features and target shares, what it says of them, and what says as much without learning.

Decisions:
- Loss: cross-entropy and Dice (Milletari et al., 2016), of the voxels that hold data. The Dice is of a batch as a whole, so
  that masks that are empty teach by the other cases. Targets are shares of a voxel, so both take them as they are.
- What is marked weighs as the square root of how rare it is: with equal weights, "nothing anywhere" is too good an answer
  to get away from.
- The threshold is the one that serves the training cases best: by it, small lesions are not lost to coarse voxels.
- Baselines learn as little as can be: the mean of the training masks on the box, which lies about the body; and one
  threshold of the prepared intensity. Both have their thresholds chosen as the decoder has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from models.decoder import Decoder, DecoderConfig, inside
from training.features import Features

THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.05), 2)
MOST_TO_CHOOSE = 64
"""training cases from which a threshold is chosen, at most"""
HEAVIEST = 50.0
"""weight of a marked voxel, at most"""
Epoch = Callable[[int, Decoder], None]


@dataclass(frozen=True)
class Learning:
    """epochs over the cases in batches of `batch`; rate: AdamW's largest, falling to 0 as a cosine."""

    epochs: int = 20
    batch: int = 1
    rate: float = 3e-3
    seed: int = 0


class Lesson(NamedTuple):
    """What there is to learn from: targets (n, I, J, K) of n cases, their rows in the features, and what each is asked by:
    queries (n, dim), None for a decoder that is not guided; labels, what is marked in each."""

    features: Features
    targets: np.ndarray
    rows: np.ndarray
    queries: torch.Tensor | None
    labels: np.ndarray


def segmentation_loss(logits: torch.Tensor, shares: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy and 1 - Dice of (B, 1, I, J, K) logits against shares 0..1, where `data` (bool) is true."""
    weight = data.float()
    marked = (shares * weight).sum() / weight.sum().clamp(min=1)
    rare = ((1 - marked) / marked.clamp(min=1e-9)).sqrt().clamp(1, HEAVIEST)
    heavy = weight * (1 + (rare - 1) * shares)
    entropy = F.binary_cross_entropy_with_logits(logits, shares, heavy, reduction="sum") / heavy.sum().clamp(min=1)
    said = logits.sigmoid() * weight
    overlap = (2 * (said * shares).sum() + 1) / (said.sum() + (shares * weight).sum() + 1)
    return entropy + 1 - overlap


def train_decoder(
    config: DecoderConfig, lesson: Lesson, cases: np.ndarray, learning: Learning, device: torch.device, after: Epoch
) -> Decoder:
    """A decoder fitted to `cases` (places in the lesson); `after` is called with each epoch done, from 1, and the decoder."""
    with torch.random.fork_rng():
        torch.manual_seed(learning.seed)
        decoder = Decoder(config).to(device)
    decoder.expect(float(np.mean([lesson.targets[case].mean(dtype=np.float64) for case in cases])) ** 0.5)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=learning.rate, weight_decay=1e-2)
    steps = learning.epochs * -(-len(cases) // learning.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(learning.seed)
    for epoch in range(1, learning.epochs + 1):
        order = rng.permutation(cases)
        decoder.train()
        for start in range(0, len(order), learning.batch):
            now = order[start : start + learning.batch]
            logits, data = _logits(decoder, lesson, now, device)
            shares = torch.from_numpy(lesson.targets[now].astype(np.float32))[:, None].to(device)
            loss = segmentation_loss(logits, shares, data)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        after(epoch, decoder.eval())
    return decoder


def _logits(
    decoder: Decoder, lesson: Lesson, cases: Sequence[int] | np.ndarray, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, patches = lesson.features.batch(lesson.rows[np.asarray(cases)].tolist(), device)
    query = None if lesson.queries is None else lesson.queries[torch.as_tensor(cases)].to(device)
    return decoder(batch, patches, query), inside(batch)


@torch.inference_mode()
def box_map(decoder: Decoder, lesson: Lesson, case: int, device: torch.device) -> np.ndarray:
    """float32 (I, J, K): probabilities of one case on its box, 0 on padding."""
    logits, data = _logits(decoder, lesson, np.array([case]), device)
    return (logits.sigmoid() * data)[0, 0].float().cpu().numpy()


def best_threshold(map_of: Callable[[int], np.ndarray], lesson: Lesson, cases: np.ndarray) -> float:
    """The threshold of THRESHOLDS under which the maps of `cases` have the largest mean Dice with the target shares.

    Cases without anything marked weigh in as nothing: 0.5 where no case has any.
    """
    scores = []
    for case in cases[:: max(1, -(-len(cases) // MOST_TO_CHOOSE))]:
        shares = lesson.targets[case].astype(np.float32)
        if shares.any():
            scores.append(_dices(map_of(case), shares))
    if not scores:
        return 0.5
    mean = np.mean(scores, axis=0)
    return float(THRESHOLDS[np.flatnonzero(mean >= mean.max() - 1e-9)].mean().round(3))


def _dices(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Dice of values > t with the shares, for each t of THRESHOLDS; counted once, by how many thresholds a voxel passes."""
    passed = np.searchsorted(THRESHOLDS, values.ravel(), side="left")
    count = np.bincount(passed, minlength=len(THRESHOLDS) + 1)
    marked = np.bincount(passed, weights=shares.ravel(), minlength=len(THRESHOLDS) + 1)
    above = [np.cumsum(counted[::-1])[::-1][1:] for counted in (count, marked)]
    return 2 * above[1] / np.maximum(above[0] + shares.sum(dtype=np.float64), 1e-9)


def mean_shape(lesson: Lesson, cases: np.ndarray) -> Callable[[int], np.ndarray]:
    """A baseline's maps: the mean target of the training cases of the same label, scaled to a largest value of 1."""
    means = {}
    for label in np.unique(lesson.labels[cases]):
        same = cases[lesson.labels[cases] == label]
        mean = np.mean([lesson.targets[case].astype(np.float32) for case in same], axis=0)
        means[label] = mean / max(float(mean.max()), 1e-6)
    nothing = np.zeros(lesson.targets.shape[1:], np.float32)
    return lambda case: means.get(lesson.labels[case], nothing)


def intensity(lesson: Lesson, cases: np.ndarray) -> Callable[[int], np.ndarray]:
    """A baseline's maps: the prepared intensity, or what it lacks to 1 within the body, whichever serves training better."""

    def bright(case: int) -> np.ndarray:
        return lesson.features.pixels[lesson.rows[case]].astype(np.float32)

    def dark(case: int) -> np.ndarray:
        found = bright(case)
        return np.where(found > 0.1, 1 - found, 0.0)

    def score(maps: Callable[[int], np.ndarray]) -> float:
        every = cases[:: max(1, -(-len(cases) // MOST_TO_CHOOSE))]
        marked = [(case, lesson.targets[case].astype(np.float32)) for case in every]
        return float(np.max(np.mean([_dices(maps(case), shares) for case, shares in marked if shares.any()], axis=0)))

    if not any(lesson.targets[case].any() for case in cases):
        return bright
    return max((bright, dark), key=score)
