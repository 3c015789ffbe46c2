"""A vertebral column along a curve: bodies, discs, canal with cord or roots, arches and processes.

- Points are straightened along the curve once; levels then repeat with a pitch, so every level is painted in one pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.phantom.person import Person
from training.phantom.shapes import Space, smooth_noise
from training.phantom.tissue import Tissue


@dataclass(frozen=True)
class Column:
    """Sizes in mm. curve: (y of the body's centre, slope dy/dz) at heights z; width, depth: half axes of a body;
    pitch from level to level; disc height; origin: z of the lowest body's centre; conus: z where the cord ends."""

    curve: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    width: float
    depth: float
    pitch: float
    disc: float
    origin: float
    levels: int
    cord: tuple[float, float]
    conus: float

    def straighten(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points (3, ...) to: lateral offset, offset forward of the body's centre, offset from the nearest body's
        middle along the curve, level number from 0 below."""
        centre, slope = self.curve(points[2])
        forward = (points[1] - centre) / np.sqrt(1 + slope**2)
        height = points[2] + slope * forward
        level = np.round((height - self.origin) / self.pitch)
        return points[0], forward, height - self.origin - level * self.pitch, level

    def place_mm(self, level: float) -> np.ndarray:
        """Centre (3,) in mm of the body of `level`; halves are discs."""
        z = self.origin + level * self.pitch
        return np.array([0.0, float(self.curve(np.array(z))[0]), z], np.float32)


def paint_column(space: Space, column: Column, person: Person, rng: np.random.Generator) -> None:
    """Paint the whole column into `space`."""
    side, forward, along, level = column.straighten(space.points_mm)
    exists = (level >= -0.5) & (level < column.levels - 0.5) & (space.labels > Tissue.SKIN)
    speckle = smooth_noise(space.labels.shape, 4.5 / space.voxel_mm, rng)
    _paint_arches(space, column, side, forward, along, exists)
    _paint_bodies(space, column, person, side, forward, along, exists, speckle)
    _paint_canal(space, column, side, forward, speckle)


def _paint_bodies(
    space: Space,
    column: Column,
    person: Person,
    side: np.ndarray,
    forward: np.ndarray,
    along: np.ndarray,
    exists: np.ndarray,
    speckle: np.ndarray,
) -> None:
    half = (column.pitch - column.disc) / 2
    waist = 0.9 + 0.1 * np.clip(np.abs(along) / half, 0, 1) ** 2
    flat_back = np.where(forward < 0, 1.12, 1.0)
    outline = np.hypot(side / column.width, forward * flat_back / column.depth)
    inside = (outline < waist) & exists
    body = inside & (np.abs(along) < half)
    rim = (np.abs(along) > half - 1.0) | (outline > waist - 1.1 / column.depth)
    space.labels[body] = np.where(speckle[body] > 0.9 - 1.1 * person.decline, Tissue.FATTY_MARROW, Tissue.RED_MARROW)
    space.labels[body & rim] = Tissue.CORTICAL_BONE
    vein = body & (np.abs(along) < 1.6) & (np.abs(side) < 4) & (forward < -0.35 * column.depth)
    space.labels[vein] = Tissue.JOINT_FLUID
    disc = (outline < 1.03) & exists & (np.abs(along) >= half)
    core = np.hypot(side / (0.68 * column.width), forward / (0.62 * column.depth)) < 1
    dry = person.decline > 0.75
    space.labels[disc] = Tissue.ANNULUS
    space.labels[disc & core & (np.abs(along) > half + 0.8)] = (
        Tissue.DEGENERATE_DISC if dry else Tissue.NUCLEUS_PULPOSUS
    )


def _paint_arches(
    space: Space, column: Column, side: np.ndarray, forward: np.ndarray, along: np.ndarray, exists: np.ndarray
) -> None:
    """Pedicles, laminae, facets, transverse and spinous processes: shells of compact bone about marrow."""
    canal = -(column.depth + column.cord[1] + 3.5)
    wide, tall = column.width, column.pitch - column.disc
    pedicle = _box(
        np.abs(side) - 0.62 * wide, forward + column.depth + 2, along - 0.16 * tall, 0.2 * wide, 9, 0.24 * tall
    )
    behind = forward - (canal - column.cord[1] - 6)
    lamina = _box(
        np.abs(side) - 0.32 * wide, behind + 0.35 * np.abs(side), along + 0.08 * tall, 0.42 * wide, 3.6, 0.36 * tall
    )
    facet = np.sqrt(((np.abs(side) - 0.74 * wide) / 1.0) ** 2 + (behind - 1) ** 2 + ((along - 0.5 * tall) / 1.5) ** 2)
    transverse = _box(np.abs(side) - 1.15 * wide, forward + column.depth + 7, along - 0.1 * tall, 0.6 * wide, 3.2, 3.8)
    length = 0.85 * column.depth + 5
    spinous = _box(side, behind + length, along + 0.12 * tall, 3.2, length, 0.3 * tall)
    bone = np.minimum.reduce([pedicle, lamina, facet - 0.24 * wide, transverse, spinous])
    space.labels[(bone < 0) & exists] = Tissue.CORTICAL_BONE
    space.labels[(bone < -1.3) & exists] = Tissue.FATTY_MARROW


def _box(u: np.ndarray, v: np.ndarray, w: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """Distance-like field of a box with half edges a, b, c."""
    return np.maximum(np.maximum(np.abs(u) - a, np.abs(v) - b), np.abs(w) - c)


def _paint_canal(space: Space, column: Column, side: np.ndarray, forward: np.ndarray, speckle: np.ndarray) -> None:
    """Fluid in the dural sac, the cord down to the conus and roots below, fat behind the sac."""
    middle = -(column.depth + column.cord[1] + 3.5)
    wide, deep = column.cord[0] + 4.0, column.cord[1] + 2.8
    fat = np.hypot(side / (wide + 2.0), (forward - middle + 1.2) / (deep + 2.6)) < 1
    sac = np.hypot(side / wide, (forward - middle) / deep)
    space.labels[fat] = Tissue.FAT
    space.labels[sac < 1.0] = Tissue.CSF
    z = space.points_mm[2]
    taper = np.clip((z - column.conus) / 25 + 0.4, 0.4, 1)
    cord = np.hypot(side / column.cord[0], (forward - middle) / column.cord[1]) < taper
    space.labels[cord & (z > column.conus)] = Tissue.CORD
    roots = (sac < 0.85) & (forward < middle + 1.5) & (speckle > 0.35) & (z <= column.conus)
    space.labels[roots] = Tissue.CORD
