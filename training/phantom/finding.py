"""What a lesion is called, and where one may be put.

- Places are named from template coordinates (x > 0 is the patient's right; in a knee, lateral).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.phantom.shapes import Shape, Space, smooth_noise
from training.phantom.tissue import Tissue

Lesion = tuple["Finding", np.ndarray]


@dataclass(frozen=True)
class Finding:
    """diagnosis: "healthy" or a disease; noun and place in words; largest diameter in mm (0: none told); how many; does
    it enhance."""

    diagnosis: str = "healthy"
    noun: str = ""
    place: str = ""
    size_mm: float = 0.0
    count: int = 0
    enhances: bool = False


def draw_site(
    space: Space, tissues: Sequence[Tissue], low_mm: Sequence[float], high_mm: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """A random place (3,) in template mm of one of `tissues` in the box, else the middle of the box."""
    low, high = np.asarray(low_mm, np.float32), np.asarray(high_mm, np.float32)
    block = space.block(low, high)
    points = space.points_mm[(slice(None), *block)]
    fits = np.isin(space.labels[block], tissues)
    for axis in range(3):
        fits &= (points[axis] > low[axis]) & (points[axis] < high[axis])
    found = np.flatnonzero(fits)
    if not found.size:
        return (low + high) / 2
    return points.reshape(3, -1)[:, found[rng.integers(found.size)]]


def rough_distance(
    space: Space, shape: Shape, roughness_mm: float, knot_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Distance (I, J, K) in mm to a shape whose surface is roughened by smooth noise."""
    return shape.distance(space.points_mm) + np.float32(roughness_mm) * smooth_noise(
        space.labels.shape, knot_mm / space.voxel_mm, rng
    )


def paint_mask(space: Space, mask: np.ndarray, tissue: Tissue) -> np.ndarray:
    """Give `tissue` to the voxels of `mask` and return the mask."""
    space.labels[mask] = tissue
    return mask


def side_of(x: float) -> str:
    """ "right" or "left" of the patient for a template x."""
    return "right" if x > 0 else "left"
