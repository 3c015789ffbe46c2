"""What a decoder sees of a volume: windows of its canvas, encoded one by one, and their maps blended to one.

Decisions:
- The encoder's box about a whole body has voxels of several millimetres: what is smaller drowns. So a volume that is finer is
  laid on a canvas (models.prepare) and cut into boxes of that size; one that is not has a single window, its box.
- Each patch of a window stands beside the patch of the whole box at the same place: near by what is there, far out where.
- Windows share a quarter of their edge, and maps are blended with Gaussian weights as by monai's sliding windows: towards
  its border a window knows less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import nn

from models.config import Edges
from models.decipher import Decipher
from models.prepare import Prepared, canvas, collate
from models.view import View, inside, level_of
from models.volume import Volume
from training.compute import half_precision
from training.regrid import along_axes

OVERLAP = 0.25
"""share of a window's edge that the next one shows too, at least"""
SIGMA = 0.125
"""of the blending weights, in edges of a window"""
AT_ONCE = 4
"""windows encoded or decoded together"""


@dataclass(frozen=True)
class Layout:
    """How windows lie on their canvas: shape its edges, content (3, 2) where it holds data, affine_mm (4, 4) canvas voxel to
    RAS+ mm, starts (w, 3) the first voxel of each window."""

    shape: Edges
    content: np.ndarray
    affine_mm: np.ndarray
    starts: np.ndarray


def starts_along(edge: int, window: int) -> list[int]:
    """First voxels of windows that cover `edge` voxels, evenly spread, each sharing at least OVERLAP with the next."""
    room = max(0, edge - window)
    steps = int(np.ceil(room / max(1, int(window * (1 - OVERLAP)))))
    return np.rint(np.linspace(0, room, steps + 1)).astype(int).tolist()


def laid(canvas: Prepared, window: Edges) -> Layout:
    """Windows over a whole canvas."""
    shape: Edges = tuple(canvas.pixels.shape[1:])  # type: ignore[assignment]
    starts = product(*(starts_along(edge, own) for edge, own in zip(shape, window, strict=True)))
    return Layout(shape, canvas.content.numpy(), canvas.affine_mm.numpy(), np.array(list(starts)))


def cut(canvas: Prepared, start: Sequence[int], window: Edges) -> Prepared:
    """The window of a canvas that begins at voxel `start`."""
    first = torch.as_tensor(np.asarray(start))
    where = tuple(slice(a, a + own) for a, own in zip(first.tolist(), window, strict=True))
    content = torch.minimum((canvas.content - first[:, None]).clamp(min=0), torch.tensor(window)[:, None])
    affine = canvas.affine_mm.clone()
    affine[:3, 3] += affine[:3, :3] @ first.double()
    return Prepared(canvas.pixels[:, *where].contiguous(), content, canvas.geometry, affine, canvas.family)


def blend(maps: np.ndarray, layout: Layout) -> np.ndarray:
    """float32 (canvas): maps (w, I, J, K) of the windows, the mean of all that show a voxel, by Gaussian weights."""
    window = maps.shape[1:]
    weights = gaussian(window)
    total, weight = np.zeros(layout.shape, np.float32), np.zeros(layout.shape, np.float32)
    for values, start in zip(maps, layout.starts, strict=True):
        where = tuple(slice(a, a + own) for a, own in zip(start, window, strict=True))
        total[where] += weights * values
        weight[where] += weights
    return total / weight


def gaussian(window: Sequence[int]) -> np.ndarray:
    """float32 (window): 1 in the middle, at least 0.001."""
    i, j, k = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (SIGMA * n)) ** 2) for n in window)
    weights = i[:, None, None] * j[:, None] * k
    return np.maximum(weights / weights.max(), 1e-3).astype(np.float32)


def views_of(model: Decipher, volume: Volume, box: Prepared, finest_mm: float) -> tuple[View, Layout]:
    """All windows of a volume as a decoder sees them, and how they lie; `box`: the volume as `prepare` gives it.

    finest_mm: edge of the finest voxels of a canvas; 0 keeps to the box.
    """
    config, device = model.config.prepare, next(model.parameters()).device
    whole = canvas(volume, config, finest_mm) if finest_mm else box
    layout = laid(whole, config.box)
    windows = [box] if layout.shape == config.box else [cut(whole, start, config.box) for start in layout.starts]
    far = _patches(model, [box], device)
    near = far if len(windows) == 1 else _patches(model, windows, device)
    grid = patch_grid(model)
    about = torch.stack([_at(far[0], box.affine_mm, one.affine_mm, grid, model.config.vision.patch) for one in windows])
    batch = collate(windows)
    level = level_of(whole).expand(len(windows), 2)
    return View(batch.pixels, batch.content, level, torch.cat([near, about], dim=-1)).to(device), layout


@torch.inference_mode()
def decoded(decoder: nn.Module, view: View, query: torch.Tensor | None) -> np.ndarray:
    """float32 (w, I, J, K): probabilities of each window, 0 on padding; query (1, dim) of a guided decoder."""
    found = []
    for start in range(0, len(view.pixels), AT_ONCE):
        part = view.part(slice(start, start + AT_ONCE))
        with half_precision(part.pixels.device):
            logits = decoder(part, query).float()
        found.append((logits.sigmoid() * inside(part))[:, 0].cpu().numpy())
    return np.concatenate(found)


def patch_grid(model: Decipher) -> Edges:
    """How many patches a box has along each axis."""
    i, j, k = (edge // p for edge, p in zip(model.config.prepare.box, model.config.vision.patch, strict=True))
    return i, j, k


def _patches(model: Decipher, windows: Sequence[Prepared], device: torch.device) -> torch.Tensor:
    """(w, N, E) float32 on the CPU, as half precision keeps them."""
    parts = []
    for start in range(0, len(windows), AT_ONCE):
        batch = collate(list(windows[start : start + AT_ONCE])).to(device)
        parts.append(model.encode_prepared(batch).patches.half().float().cpu())
    return torch.cat(parts)


def _at(
    patches: torch.Tensor, affine_mm: torch.Tensor, window_mm: torch.Tensor, grid: Edges, patch: Edges
) -> torch.Tensor:
    """(N, E): patches (N, E) of a box at `affine_mm`, interpolated at the centres of the patches of a window."""
    step, first = along_axes(affine_mm.numpy(), window_mm.numpy())
    weights = []
    for axis in range(3):
        middle = (patch[axis] - 1) / 2
        place = (first[axis] + step[axis] * (patch[axis] * np.arange(grid[axis]) + middle) - middle) / patch[axis]
        apart = np.abs(np.clip(place, 0, grid[axis] - 1)[:, None] - np.arange(grid[axis]))
        weights.append(torch.from_numpy(np.clip(1 - apart, 0, None)).float())
    laid_out = patches.reshape(*grid, -1)
    return torch.einsum("ai,bj,ck,ijke->abce", *weights, laid_out).flatten(0, 2)
