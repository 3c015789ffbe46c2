"""Boxes as a decoder sees them: the prepared picture, standardised twice, and the encoder's patches of it.

Decisions:
- The picture is standardised by the body of the whole volume, not of the window, so that a tissue looks the same in each; and
  by the body some centimetres around, so that it does beside a bright scalp or under a coil.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from models.prepare import Prepared
from models.vision import BODY

WIDEST = 4.0
"""standardised intensities beyond which all are one"""
AROUND = 8, 5
"""edge of the cubes of voxels, and how many of them each way, whose body standardises what is in their middle"""


@dataclass(frozen=True)
class View:
    """Boxes as a decoder sees them: pixels (B, 1, I, J, K) in 0..1; content (B, 3, 2), where they hold data; level (B, 2),
    mean and spread of the body of the volume that each was cut from; patches (B, N, 2 * dim), the encoder's of the box and
    of the whole volume at the same places."""

    pixels: torch.Tensor
    content: torch.Tensor
    level: torch.Tensor
    patches: torch.Tensor

    def to(self, device: torch.device) -> "View":
        return View(*(getattr(self, name).to(device) for name in View.__dataclass_fields__))

    def part(self, rows: slice) -> "View":
        return View(*(getattr(self, name)[rows] for name in View.__dataclass_fields__))


def level_of(prepared: Prepared) -> torch.Tensor:
    """(2,): mean and spread of the prepared intensities of the body."""
    where = tuple(slice(a, b) for a, b in prepared.content.tolist())
    shown = prepared.pixels[0][where]
    body = shown[shown > BODY]
    if not len(body):
        return torch.tensor([0.5, 1.0])
    return torch.stack([body.mean(), body.std(unbiased=False).clamp(min=1e-3)])


def standardised(view: View) -> torch.Tensor:
    """(B, 1, I, J, K): intensities from the mean of the whole volume's body, in its spread; at most WIDEST either way."""
    mean, spread = view.level.reshape(-1, 2, 1, 1, 1).split(1, dim=1)
    return ((view.pixels - mean) / spread).clamp(-WIDEST, WIDEST)


def standardised_around(view: View) -> torch.Tensor:
    """(B, 1, I, J, K): intensities from the mean of the body around them, in its spread; 0 outside the body."""
    cube, cubes = AROUND
    body = ((view.pixels > BODY) & inside(view)).float()
    sums = torch.cat([body, view.pixels * body, view.pixels**2 * body], dim=1)
    coarse = F.avg_pool3d(F.pad(F.avg_pool3d(sums, cube), [cubes // 2] * 6), cubes, stride=1)
    share, mean, square = coarse.split(1, dim=1)
    mean, square = mean / share.clamp(min=1e-4), square / share.clamp(min=1e-4)
    told = torch.cat([mean, (square - mean**2).clamp(min=1e-4).sqrt()], dim=1)
    mean, spread = F.interpolate(told, size=body.shape[2:], mode="trilinear", align_corners=False).split(1, dim=1)
    return ((view.pixels - mean) / spread).clamp(-WIDEST, WIDEST) * body


def inside(view: View) -> torch.Tensor:
    """(B, 1, I, J, K) bool: the voxels of the boxes that hold data rather than padding."""
    found = torch.ones_like(view.pixels, dtype=torch.bool)
    for axis in range(3):
        place = torch.arange(view.pixels.shape[axis + 2], device=found.device)
        within = (place >= view.content[:, axis, :1]) & (place < view.content[:, axis, 1:])
        found &= within.reshape(len(found), 1, *(-1 if other == axis else 1 for other in range(3)))
    return found
