"""Multi-crops of prepared volumes: what stage 1 shows to student and teacher.

Sources: multi-crops of SwAV and DINO, in-slice and through-slice scales apart as 3DINO has them, blockwise hiding of BEiT.

Decisions:
- A crop is resized by one factor along all axes, so a token still covers a cube of millimetres; voxel edge and affine follow.
- The field of view in `geometry` stays the acquisition's. It says how the series was taken, which all crops share; a
  crop's own size stands in its pixels and in the voxel edge, and its place in the volume stands nowhere.
- What a crop looks like depends on its volume's generator alone, never on its neighbours in the batch: the share of a
  process is a slice of the batch of one process.
- Hidden patches are cuboids, since a patch between visible ones can be told from its neighbours.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from models.config import Edges, ModelConfig, edges
from models.decipher import Decipher
from models.prepare import Prepared, collate
from models.vision import token_places
from training.augment import quick_variation
from training.compute import Compute
from training.config import TrainConfig
from training.data import TrainingSet, generators, rng_of

ANISOTROPIC = 1.35
"""ratio of the largest to the smallest native spacing from which on a volume has a through-plane axis"""
SMALLEST_BLOCK = 4
"""tokens of the smallest cuboid that is hidden, as in BEiT"""
THREADS = min(8, os.cpu_count() or 1)
"""at work on the volumes of a batch: torch lets go of the interpreter's lock"""


@dataclass(frozen=True)
class CropBatch:
    """globals and locals: one batch of B crops each; hidden: (B, N) bool for each of globals; geometry_known (B,) bool;
    names: series ids of the B volumes."""

    globals: list[Prepared]
    locals: list[Prepared]
    hidden: list[torch.Tensor]
    geometry_known: torch.Tensor
    names: list[str]

    def to(self, device: torch.device) -> "CropBatch":
        return CropBatch(
            [c.to(device) for c in self.globals],
            [c.to(device) for c in self.locals],
            [h.to(device) for h in self.hidden],
            self.geometry_known.to(device),
            self.names,
        )


class CropBatches:
    """Batches of stage 1, each a pure function of (seed, number)."""

    def __init__(self, data: TrainingSet, model: Decipher, config: TrainConfig) -> None:
        self.data, self.shape, self.config = data, model.config, config

    def batch(self, number: int, compute: Compute) -> CropBatch:
        """This process's share of batch `number`."""
        rng = rng_of(self.config, "vision", number)
        rows = self.data.draw(rng, self.config.batch_size)
        return crop_batch(self.data, rows, generators(rng, len(rows)), rng, self.shape, self.config, compute)


def crop_batch(
    data: TrainingSet,
    rows: np.ndarray,
    sources: Sequence[torch.Generator],
    rng: np.random.Generator,
    shape: ModelConfig,
    config: TrainConfig,
    compute: Compute,
) -> CropBatch:
    """The crops of this process's share of rows (B,), a multiple of the processes. Each volume's crops come from its own
    generator of `sources` (B,), and what is hidden of which from rng; shape says the box and the patch."""
    mine = compute.share(len(rows))
    own, shares = rows[mine], hidden_shares(rng, len(rows), config)[mine]

    def work(row: int, source: torch.Generator, share: np.ndarray) -> "_Crops":
        return _crops(data.sample(row), source, bool(data.may_flip[row]), share, shape, config)

    with ThreadPoolExecutor(THREADS) as pool:
        made = list(pool.map(work, own, sources[mine], shares))
    return CropBatch(
        [collate([m.globals[n] for m in made]) for n in range(config.global_crops)],
        [collate([m.locals[n] for m in made]) for n in range(config.local_crops)],
        [torch.stack([m.hidden[n] for m in made]) for n in range(config.global_crops)],
        torch.tensor([m.geometry_known for m in made]),
        data.rows["series_id"].gather(own.tolist()).to_list(),
    )


def hidden_shares(rng: np.random.Generator, count: int, config: TrainConfig) -> np.ndarray:
    """(count, global crops): the share of patches to hide in each global crop of `count` volumes, 0 where all are seen.

    Exactly the configured share of the crops hides some, evenly spread over the volumes, so that processes get as many
    each where it divides; their shares are one from each of as many equal parts of the range (DINOv2), in random order.
    """
    crops = count * config.global_crops
    masked = round(config.masked_volumes * crops)
    steps = (np.arange(crops + 1) + rng.integers(crops)) * masked // crops
    low, high = config.masked_patches
    each = low + (high - low) * (np.arange(masked) + rng.random(masked)) / max(1, masked)
    shares = np.zeros(crops)
    shares[np.diff(steps) > 0] = rng.permutation(each)
    return shares.reshape(count, config.global_crops)


def local_edges(shape: ModelConfig) -> Edges:
    """Half the box in whole patches, at least two an edge where the box has two."""
    counts = [box // patch for box, patch in zip(shape.prepare.box, shape.vision.patch, strict=True)]
    halves = [max(math.ceil(n / 2), min(2, n)) for n in counts]
    return edges([n * patch for n, patch in zip(halves, shape.vision.patch, strict=True)])


@dataclass(frozen=True)
class _Crops:
    globals: list[Prepared]
    locals: list[Prepared]
    hidden: list[torch.Tensor]
    geometry_known: bool


def _crops(
    sample: Prepared,
    generator: torch.Generator,
    may_flip: bool,
    shares: np.ndarray,
    shape: ModelConfig,
    config: TrainConfig,
) -> _Crops:
    """All crops of one volume."""

    def cut(in_slice: tuple[float, ...], through: tuple[float, ...], size: Edges) -> Prepared:
        a, b = _uniform(in_slice, generator), _uniform(through, generator)
        return quick_variation(crop(sample, a, b, size, generator), generator, may_flip)

    box, patch = shape.prepare.box, shape.vision.patch
    wide = [cut(config.global_in_slice, config.global_through_slice, box) for _ in range(config.global_crops)]
    small = local_edges(shape)
    near = [cut(config.local_in_slice, config.local_through_slice, small) for _ in range(config.local_crops)]
    grid = edges([edge // p for edge, p in zip(box, patch, strict=True)])
    valid = token_places(collate(wide), patch)[1]
    hidden = [blocks(v, grid, float(share), generator) for v, share in zip(valid, shares, strict=True)]
    return _Crops(wide, near, hidden, _uniform((0, 1), generator) >= config.geometry_dropout)


def crop(sample: Prepared, in_slice: float, through_slice: float, size: Edges, generator: torch.Generator) -> Prepared:
    """A box somewhere in the sample's content, resized by one factor to fit `size` voxels and centred there.

    in_slice, through_slice: the box's edges as a share of the content's, in the plane of the slices and across it.
    """
    low, count = _place(sample, in_slice, through_slice, generator)
    scale = min(edge / n for edge, n in zip(size, count, strict=True))
    found = _resized(sample.pixels[(slice(None), *(slice(a, a + n) for a, n in zip(low, count, strict=True)))], scale)
    held = found.shape[1:]
    first = [(edge - n) // 2 for edge, n in zip(size, held, strict=True)]
    pixels = sample.pixels.new_zeros(1, *size)
    pixels[(slice(None), *(slice(a, a + n) for a, n in zip(first, held, strict=True)))] = found
    within = torch.eye(4, dtype=sample.affine_mm.dtype)
    within[:3, :3] /= scale
    within[:3, 3] = torch.tensor([a + (0.5 - b) / scale - 0.5 for a, b in zip(low, first, strict=True)])
    geometry = sample.geometry.clone()
    geometry[6] -= math.log(scale)
    content = torch.tensor([[a, a + n] for a, n in zip(first, held, strict=True)])
    return replace(sample, pixels=pixels, content=content, geometry=geometry, affine_mm=sample.affine_mm @ within)


def _place(
    sample: Prepared, in_slice: float, through_slice: float, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """First voxel and number of voxels along each axis."""
    axis = through_axis(sample.geometry, generator)
    low, count = [], []
    for a, (start, end) in enumerate(sample.content.tolist()):
        share = through_slice if a == axis else in_slice
        n = min(end - start, max(1, round(share * (end - start))))
        low.append(start + int(torch.randint(end - start - n + 1, (), generator=generator)))
        count.append(n)
    return low, count


def through_axis(geometry: torch.Tensor, generator: torch.Generator) -> int:
    """The axis of the largest native spacing in geometry (7,), or any where the spacings are much the same."""
    spacing = geometry[:3]
    drawn = int(torch.randint(3, (), generator=generator))
    return int(spacing.argmax()) if float(spacing.max() - spacing.min()) >= math.log(ANISOTROPIC) else drawn


def _resized(cut: torch.Tensor, scale: float) -> torch.Tensor:
    """Pixels (1, i, j, k) at `scale` times as many voxels along each axis, rounded down but never to none: output voxel
    n lies at input voxel (n + 0.5) / scale - 0.5 along every axis, which an output size instead would not keep."""
    lacking = [max(0, math.ceil(1 / scale) - n) for n in reversed(cut.shape[1:])]
    if any(lacking):
        cut = F.pad(cut, [side for n in lacking for side in (0, n)], mode="replicate")
    exact = scale * (1 + 1e-9)  # n * (edge / n) may fall short of edge by the last bit
    return F.interpolate(cut[None], scale_factor=(exact,) * 3, mode="trilinear", recompute_scale_factor=False)[0]


def blocks(valid: torch.Tensor, grid: Edges, share: float, generator: torch.Generator) -> torch.Tensor:
    """Which tokens of a grid to hide (N,) bool: `share` of the valid ones (N,), to the nearest count and never all, as
    cuboids of random proportions around random tokens that still are seen (BEiT, in 3D)."""
    free = valid.reshape(grid).numpy().copy()
    total = int(free.sum())
    wanted = min(round(share * total), total - 1)
    hidden = np.zeros(grid, dtype=bool)
    while wanted > 0:
        seen = np.argwhere(free)
        centre = seen[int(torch.randint(len(seen), (), generator=generator))]
        block = np.zeros(grid, dtype=bool)
        block[_cuboid(centre, grid, _uniform((min(SMALLEST_BLOCK, wanted), wanted), generator), generator)] = True
        new = np.flatnonzero(block & free)[:wanted]
        hidden.reshape(-1)[new], free.reshape(-1)[new] = True, False
        wanted -= len(new)
    return torch.from_numpy(hidden.reshape(-1))


def _cuboid(centre: np.ndarray, grid: Edges, tokens: float, generator: torch.Generator) -> tuple[slice, ...]:
    """About `tokens` tokens around a centre, as slices inside the grid."""
    stretch = torch.rand(3, generator=generator).numpy() * 2 - 1
    lengths = np.maximum(1, np.rint(tokens ** (1 / 3) * 2.0 ** (stretch - stretch.mean())))
    low = np.maximum(0, centre - lengths.astype(int) // 2)
    high = np.minimum(grid, low + lengths.astype(int))
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _uniform(span: Sequence[float], generator: torch.Generator) -> float:
    low, high = span
    return low + (high - low) * float(torch.rand((), generator=generator))
