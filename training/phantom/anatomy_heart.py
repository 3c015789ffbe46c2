"""A chest: heart with its chambers, great vessels, lungs, diaphragm over liver and stomach, column, ribs, muscles, fat.

- Millimetres with the origin in the middle of the chest at the height of the heart; x right, y anterior, z superior.
- The ventricles are ellipsoids along the heart's long axis (AXES[0], from base to apex); the right one lies as a crescent
  about the left, whose wall is three times as thick.
"""

import numpy as np

from training.phantom.column import Column, paint_column
from training.phantom.person import Person
from training.phantom.shapes import (
    Space,
    blend,
    capsule,
    ellipsoid,
    make_space,
    pair,
    smooth_noise,
    tube,
    turned_ellipsoid,
)
from training.phantom.tissue import Tissue
from training.phantom.trunk import paint_wall

LONG = np.array([-0.62, 0.55, -0.56]) / np.linalg.norm([-0.62, 0.55, -0.56])
TOWARDS_RIGHT = np.array([0.75, 0.62, -0.22]) - LONG * np.dot([0.75, 0.62, -0.22], LONG)
AXES = np.stack([LONG, TOWARDS_RIGHT / np.linalg.norm(TOWARDS_RIGHT), np.cross(LONG, TOWARDS_RIGHT)])
AXES[2] /= np.linalg.norm(AXES[2])
LEFT_CENTRE = np.array([-34.0, 20.0, -8.0])
RIGHT_CENTRE = LEFT_CENTRE + 31 * AXES[1] - 5 * AXES[0]
CAVITY_MM, WALL_MM = np.array([40.0, 21.5, 21.5]), 9.5
"""half axes of the left ventricle's cavity, and how thick its wall is"""
LEFT_ATRIUM, RIGHT_ATRIUM = ellipsoid((-4, -22, 17), (30, 20, 23)), ellipsoid((37, 9, 0), (21, 24, 29))
CHAMBERS = (
    turned_ellipsoid(LEFT_CENTRE, AXES, CAVITY_MM + WALL_MM),
    turned_ellipsoid(RIGHT_CENTRE, AXES, (40, 25, 31)),
    LEFT_ATRIUM,
    RIGHT_ATRIUM,
)
AROUND = (Tissue.FAT, Tissue.LUNG)


def build_heart(person: Person, rng: np.random.Generator, voxel_mm: float) -> Space:
    """The label grid of a chest from the aortic arch to below the diaphragm, without lesions."""
    width, depth = 146 + 34 * person.fat, 98 + 28 * person.fat
    warps = ((80.0, 4.5), (30.0, 1.4))
    low, high = (-width - 12, -depth - 24, -124), (width + 12, depth + 12, 118)
    space = make_space(low, high, voxel_mm, rng, warps, person.scale)
    cavity = paint_wall(space, person, width, depth, rng, ribs_above_mm=-130.0)
    _paint_lungs(space, cavity, rng)
    _paint_below(space, cavity, rng)
    _paint_middle(space, person, rng)
    _paint_heart(space, rng)
    _paint_vessels(space)
    return space


def heart_distance(points_mm: np.ndarray) -> np.ndarray:
    """Distance in mm to the outer surface of the heart."""
    found = CHAMBERS[0].distance(points_mm)
    for chamber in CHAMBERS[1:]:
        found = blend(found, chamber.distance(points_mm), 7.0)
    return found


def _paint_lungs(space: Space, cavity: np.ndarray, rng: np.random.Generator) -> None:
    """Lungs with vessels that thin out from the hilum, and the muscles of chest and back."""
    labels, x = space.labels, space.points_mm[0]
    labels[cavity < -2] = Tissue.LUNG
    branches = smooth_noise(labels.shape, 5 / space.voxel_mm, rng)
    near = np.clip(np.abs(x) / 90, 0.5, 1.5)
    labels[(cavity < -8) & (branches > 1.5 + 0.9 * near)] = Tissue.BLOOD
    front = [
        *pair(capsule((46, 70, 40), (104, 36, 76), 9, 13, flatten=(1.4, 1, 1.8))),
        *pair(capsule((34, -84, -160), (32, -84, 160), 18, flatten=(1.4, 1, 1))),
        *pair(capsule((112, -58, -40), (120, -40, 90), 12, 20, flatten=(1, 1.6, 1))),
    ]
    space.paint(front, Tissue.MUSCLE, over=(Tissue.FAT,))
    space.paint(
        capsule((0, 66, -30), (0, 58, 90), 7, flatten=(2.2, 0.8, 1)), Tissue.RED_MARROW, over=(*AROUND, Tissue.MUSCLE)
    )


def _paint_below(space: Space, cavity: np.ndarray, rng: np.random.Generator) -> None:
    """Liver, stomach and spleen under the domes of the diaphragm."""
    labels, (x, y, z) = space.labels, space.points_mm
    right = -44 - ((x - 66) ** 2 + 0.8 * (y + 6) ** 2) / 120
    left = -52 - ((x + 66) ** 2 + 0.8 * (y + 6) ** 2) / 110
    below = (cavity < -2) & (z < np.maximum(right, left))
    labels[below] = Tissue.FAT
    inner = (cavity < -4) & (z < np.maximum(right, left) - 3)
    labels[inner & (x > -22 + 0.2 * y)] = Tissue.LIVER
    veins = smooth_noise(labels.shape, 14 / space.voxel_mm, rng)
    labels[(labels == Tissue.LIVER) & (np.abs(veins) < 0.07)] = Tissue.BLOOD
    stomach, spleen = ellipsoid((-58, 20, -92), (40, 46, 34)), ellipsoid((-92, -44, -92), (32, 40, 34))
    labels[inner & space.mask(stomach, over=(Tissue.FAT,))] = Tissue.GUT_WALL
    gas = space.mask(ellipsoid((-58, 20, -92), (36, 42, 30)), over=(Tissue.GUT_WALL,))
    labels[inner & gas] = np.where(y[inner & gas] > 18, Tissue.AIR, Tissue.GUT_CONTENT)
    labels[inner & space.mask(spleen, over=(Tissue.FAT,))] = Tissue.SPLEEN


def _paint_middle(space: Space, person: Person, rng: np.random.Generator) -> None:
    """Mediastinal fat, thoracic column, airways."""
    heart = heart_distance(space.points_mm)
    pad = heart - 3 - 6 * person.fat * (space.points_mm[1] > 10)
    upper = capsule((0, 2, 130), (0, -6, 20), 30, 36, flatten=(0.9, 1.25, 1)).distance(space.points_mm)
    space.labels[(np.minimum(pad, upper) < 0) & (space.labels == Tissue.LUNG)] = Tissue.FAT
    space.paint(capsule((0, -76, -200), (0, -76, 200), 27), Tissue.FAT, over=(Tissue.LUNG, Tissue.BLOOD))
    bend = float(rng.uniform(0.0004, 0.0011))

    def curve(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -62 - bend * (30 - np.abs(z - 20)) ** 2 * 0.1 - 0.02 * z, np.full_like(z, -0.02)

    paint_column(space, Column(curve, 17.0, 14.0, 25.0, 5.0, -118.0, 10, (5.0, 4.2), -300.0), person, rng)
    space.paint(tube([(0, -18, 130), (0, -24, 62)], 8.5), Tissue.AIR)
    space.paint(pair(tube([(0, -24, 62), (34, -26, 40)], 6.0)), Tissue.AIR)


def _paint_heart(space: Space, rng: np.random.Generator) -> None:
    """Atria, right ventricle, then the left with its papillary muscles: blood within myocardium."""
    wall = WALL_MM + float(rng.normal(0, 0.6))
    _, right, left_atrium, right_atrium = CHAMBERS
    for chamber, thick in ((right_atrium, 3.0), (left_atrium, 3.0), (right, 4.5)):
        space.paint(chamber, Tissue.MYOCARDIUM)
        space.paint(chamber, Tissue.BLOOD, grow_mm=-thick)
    outer = turned_ellipsoid(LEFT_CENTRE, AXES, CAVITY_MM + wall)
    space.paint(outer, Tissue.MYOCARDIUM)
    space.paint(turned_ellipsoid(LEFT_CENTRE, AXES, CAVITY_MM), Tissue.BLOOD)
    for side in (-1, 1):
        start = LEFT_CENTRE + 26 * AXES[0] + AXES[2] * side * 13 - AXES[1] * 8
        space.paint(capsule(start, start - 22 * AXES[0], 5.5, 4.0), Tissue.MYOCARDIUM, over=(Tissue.BLOOD,))
    space.paint(capsule(LEFT_CENTRE - 50 * AXES[0], LEFT_CENTRE - 30 * AXES[0], 13), Tissue.BLOOD)
    space.paint(capsule(RIGHT_CENTRE - 42 * AXES[0] + 8 * AXES[1], RIGHT_CENTRE - 24 * AXES[0], 14), Tissue.BLOOD)


def _paint_vessels(space: Space) -> None:
    """Aorta with its arch, pulmonary trunk and arteries, caval and pulmonary veins."""
    aorta = [(-8, 8, 16), (12, 18, 44), (12, 12, 72), (-4, -8, 84), (-18, -34, 76), (-22, -42, 50), (-20, -44, -130)]
    space.paint(tube(aorta, [14, 15, 14, 12.5, 12, 11.5, 10.5]), Tissue.BLOOD)
    trunk = [(-8, 46, 14), (-20, 28, 40), (-22, 8, 52), (-44, -14, 52), (-74, -20, 46)]
    space.paint(tube(trunk, [14, 13.5, 13, 9, 6]), Tissue.BLOOD)
    space.paint(tube([(-20, 10, 50), (16, -8, 46), (46, -14, 42), (74, -20, 32)], [11, 10, 9, 6]), Tissue.BLOOD)
    space.paint(tube([(27, 2, 130), (28, 4, 20)], 9.5), Tissue.BLOOD)
    space.paint(tube([(34, -4, -22), (28, -22, -130)], 11.0), Tissue.BLOOD)
    space.paint(pair(tube([(18, -26, 22), (62, -32, 16)], [8.0, 5.0])), Tissue.BLOOD)
