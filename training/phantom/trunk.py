"""The wall of the trunk, alike in chest and abdomen: skin, fat, muscle and ribs about a cavity."""

import numpy as np

from training.phantom.person import Person
from training.phantom.shapes import Space, smooth_noise
from training.phantom.tissue import Tissue


def oval(points: np.ndarray, width: float, depth: float, power: float = 2.5) -> np.ndarray:
    """Distance-like field in mm of a vertical column with a rounded cross-section."""
    x, y = np.abs(points[0]) / width, np.abs(points[1] + 6) / depth
    return ((x**power + y**power) ** (1 / power) - 1) * depth


def paint_wall(
    space: Space, person: Person, width: float, depth: float, rng: np.random.Generator, ribs_above_mm: float = 30.0
) -> np.ndarray:
    """Skin, fat, muscle and ribs; the distance in mm to the cavity, filled with fat.

    ribs_above_mm: template height of the costal arch in front.
    """
    labels, points = space.labels, space.points_mm
    hull = oval(points, width, depth)
    fat = 9 + 30 * person.fat * (1.15 - 0.35 * np.clip(points[1] / depth, -1, 1)) - 0.03 * points[2]
    labels[hull < 0] = Tissue.SKIN
    labels[hull < -2.5] = Tissue.FAT
    cavity = hull + fat + 11
    sheets = smooth_noise(labels.shape, np.array([14, 14, 40]) / space.voxel_mm, rng)
    labels[(cavity < 11) & (np.abs(sheets) > 0.07)] = Tissue.MUSCLE
    paint_ribs(space, cavity - 4.5, points[2] - 0.9 * points[1] > ribs_above_mm - 0.35 * np.abs(points[0]))
    labels[cavity < 0] = Tissue.FAT
    return cavity


def paint_ribs(space: Space, depth_mm: np.ndarray, where: np.ndarray) -> None:
    """Sloping ribs, compact bone about marrow, in the middle (0) of a wall's `depth_mm` (I, J, K)."""
    x, y, z = space.points_mm
    along = np.abs(np.mod(z + 0.45 * y + 0.05 * np.abs(x), 26.0) - 13)
    rib = (np.abs(depth_mm) < 4) & (along < 5.5) & where
    space.labels[rib] = Tissue.CORTICAL_BONE
    space.labels[rib & (np.abs(depth_mm) < 2.2) & (along < 3.6)] = Tissue.FATTY_MARROW
