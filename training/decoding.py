"""How a decoder learns from features and target shares, what it says of them, and what says as much without learning.

Decisions:
- Loss: cross-entropy and Dice (Milletari et al., 2016), of the voxels that hold data. The Dice is of a batch as a whole, so
  that masks that are empty teach by the other cases. Targets are shares of a voxel, so both take them as they are.
- What is marked weighs as the square root of how rare it is: with equal weights, "nothing anywhere" is too good an answer
  to get away from.
- An epoch shows a few windows of each case, drawn anew: half of them with something marked, where there are any.
- The threshold is the one that serves the training cases best: by it, small lesions are not lost to coarse voxels.
- Baselines learn as little as can be: the mean of the training masks, each body stretched to the same box; and one
  threshold of the intensity. Both have their thresholds chosen as the decoder has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from models.decoder import Decoder, DecoderConfig
from models.view import WIDEST, inside
from models.vision import BODY
from training.compute import half_precision
from training.features import Features
from training.windows import Layout, blend, decoded

THRESHOLDS = np.round(np.arange(0.02, 0.99, 0.02), 2)
MOST_TO_CHOOSE = 8
"""training cases from which a threshold is chosen, at most"""
HEAVIEST = 50.0
"""weight of a marked voxel, at most"""
MEAN_EDGE = 64
"""edge of the box on which masks are averaged"""
Epoch = Callable[[int, nn.Module], None]
Maps = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Learning:
    """epochs, each of up to `windows` windows of every case, in batches of `batch`; rate: AdamW's largest, falling to 0 as a
    cosine."""

    epochs: int = 20
    batch: int = 1
    rate: float = 3e-3
    seed: int = 0
    windows: int = 2


class Lesson(NamedTuple):
    """What there is to learn from, a row a window of a case: targets (t, I, J, K), rows (t,) in the features, case_of (t,).

    Of each of n cases: layouts, how its windows lie; queries (n, dim), what it is asked by, None for a decoder that is not
    guided; labels (n,), what is marked in it.
    """

    features: Features
    targets: np.ndarray
    rows: np.ndarray
    case_of: np.ndarray
    layouts: list[Layout]
    queries: torch.Tensor | None
    labels: np.ndarray

    def windows(self, case: int) -> np.ndarray:
        """The lesson's rows of a case."""
        return np.flatnonzero(self.case_of == case)

    def shares(self, case: int) -> np.ndarray:
        """float32 (canvas): the share of each voxel that is marked."""
        return blend(self.targets[self.windows(case)].astype(np.float32), self.layouts[case])

    def pixels(self, case: int) -> np.ndarray:
        """float32 (canvas): prepared intensities."""
        return blend(self.features.pixels[self.rows[self.windows(case)]].astype(np.float32), self.layouts[case])

    def level(self, case: int) -> np.ndarray:
        """(2,): mean and spread of the body's intensities."""
        return self.features.level[self.rows[self.windows(case)[0]]]


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
    marked = np.array([target.mean(dtype=np.float64) for target in lesson.targets])
    decoder.expect(float(np.mean(marked[np.isin(lesson.case_of, cases)])) ** 0.5)
    fit_windows(decoder, lesson, cases, learning, device, marked > 0, after)
    return decoder


def fit_windows(
    decoder: nn.Module, lesson: Lesson, cases: np.ndarray, learning: Learning, device: torch.device,
    marked: np.ndarray, after: Epoch,
) -> None:  # fmt: skip
    """Train whatever maps views, and queries if any, to logits; marked (t,) bool: the rows where anything is."""
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=learning.rate, weight_decay=1e-2)
    rng = np.random.default_rng(learning.seed)
    steps = learning.epochs * -(-len(drawn(lesson, cases, marked, learning.windows, rng)) // learning.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(1, learning.epochs + 1):
        order = drawn(lesson, cases, marked, learning.windows, rng)
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


def drawn(lesson: Lesson, cases: np.ndarray, marked: np.ndarray, windows: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `windows` rows of each case in chance order, half of them marked where there are as many."""
    found = []
    for case in cases:
        rows = rng.permutation(lesson.windows(int(case)))
        some, none = rows[marked[rows]], rows[~marked[rows]]
        half = max(windows - windows // 2, windows - len(none))
        found.append(np.concatenate([some[:half], none])[:windows])
    return rng.permutation(np.concatenate(found))


def _logits(
    decoder: nn.Module, lesson: Lesson, windows: np.ndarray, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    view = lesson.features.view(lesson.rows[windows], device)
    query = None if lesson.queries is None else lesson.queries[lesson.case_of[windows]].to(device)
    with half_precision(device):
        logits = decoder(view, query)
    return logits.float(), inside(view)


def canvas_map(decoder: nn.Module, lesson: Lesson, case: int, device: torch.device) -> np.ndarray:
    """float32 (canvas): probabilities of one case, 0 on padding."""
    view = lesson.features.view(lesson.rows[lesson.windows(case)], device)
    query = None if lesson.queries is None else lesson.queries[case : case + 1].to(device)
    return blend(decoded(decoder, view, query), lesson.layouts[case])


def best_threshold(map_of: Maps, lesson: Lesson, cases: np.ndarray) -> float:
    """The threshold of THRESHOLDS under which the maps of `cases` have the largest mean Dice with the target shares.

    Cases without anything marked weigh in as nothing: 0.5 where no case has any.
    """
    return best_of(dices_of(map_of, lesson, cases))


def best_of(dices: Sequence[np.ndarray]) -> float:
    """The threshold with the largest mean of what `dices_of` tells."""
    if not len(dices):
        return 0.5
    mean = np.mean(dices, axis=0)
    return float(THRESHOLDS[np.flatnonzero(mean >= mean.max() - 1e-9)].mean().round(3))


def dices_of(map_of: Maps, lesson: Lesson, cases: np.ndarray) -> list[np.ndarray]:
    """Dice at each of THRESHOLDS of the cases where anything is marked; of MOST_TO_CHOOSE of them."""
    found = []
    for case in cases[:: max(1, -(-len(cases) // MOST_TO_CHOOSE))]:
        shares = lesson.shares(case)
        if shares.any():
            found.append(_dices(map_of(case), shares))
    return found


def _dices(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Dice of values > t with the shares, for each t of THRESHOLDS; counted once, by how many thresholds a voxel passes."""
    passed = np.searchsorted(THRESHOLDS, values.ravel(), side="left")
    count = np.bincount(passed, minlength=len(THRESHOLDS) + 1)
    marked = np.bincount(passed, weights=shares.ravel(), minlength=len(THRESHOLDS) + 1)
    above = [np.cumsum(counted[::-1])[::-1][1:] for counted in (count, marked)]
    return 2 * above[1] / np.maximum(above[0] + shares.sum(dtype=np.float64), 1e-9)


def mean_shape(lesson: Lesson, cases: np.ndarray) -> Maps:
    """A baseline's maps: the mean target of the training cases of the same label, scaled to a largest value of 1."""
    means = {}
    for label in np.unique(lesson.labels[cases]):
        same = cases[lesson.labels[cases] == label]
        mean = np.mean([_stretched(_body(lesson, c, lesson.shares(c)), (MEAN_EDGE,) * 3, "area") for c in same], axis=0)
        means[label] = mean / max(float(mean.max()), 1e-6)

    def shown(case: int) -> np.ndarray:
        found = np.zeros(lesson.layouts[case].shape, np.float32)
        body = _body(lesson, case, found)
        if lesson.labels[case] in means:
            body[...] = _stretched(means[lesson.labels[case]], body.shape, "trilinear")
        return found

    return shown


def _body(lesson: Lesson, case: int, values: np.ndarray) -> np.ndarray:
    """The part of a canvas that holds data, as a view of it."""
    return values[tuple(slice(a, b) for a, b in lesson.layouts[case].content)]


def _stretched(values: np.ndarray, shape: Sequence[int], mode: str) -> np.ndarray:
    found = F.interpolate(torch.from_numpy(values.astype(np.float32))[None, None], size=tuple(shape), mode=mode)
    return found[0, 0].numpy()


def intensity(lesson: Lesson, cases: np.ndarray) -> Maps:
    """A baseline's maps: how bright a voxel is beside the volume's body, or how dark, whichever serves training better; 0..1
    for intensities from WIDEST spreads below the mean to as many above."""

    def bright(case: int) -> np.ndarray:
        mean, spread = lesson.level(case)
        return np.clip((lesson.pixels(case) - mean) / (2 * WIDEST * spread) + 0.5, 0, 1)

    def dark(case: int) -> np.ndarray:
        return np.where(lesson.pixels(case) > BODY, 1 - bright(case), 0)

    def score(maps: Maps) -> float:
        dices = dices_of(maps, lesson, cases)
        return float(np.mean(dices, axis=0).max()) if dices else 0.0

    return max((bright, dark), key=score)
