"""A lumbar or a cervical spine with the muscles, vessels and organs about it.

- Millimetres with the origin in the middle of the column; x right, y anterior, z superior.
"""

from dataclasses import dataclass

import numpy as np

from training.phantom.column import Column, paint_column
from training.phantom.person import Person
from training.phantom.shapes import Space, ellipsoid, make_space, pair, smooth_noise, tube
from training.phantom.tissue import Tissue


@dataclass(frozen=True)
class SpineSpace(Space):
    """A space that knows its column and level names, lowest first."""

    column: Column
    level_names: tuple[str, ...]


LUMBAR = ("S1", "L5", "L4", "L3", "L2", "L1", "T12", "T11")
CERVICAL = ("T2", "T1", "C7", "C6", "C5", "C4", "C3", "C2")


def build_spine(person: Person, rng: np.random.Generator, voxel_mm: float) -> SpineSpace:
    """The label grid of a lumbar (two in three) or cervical spine, without lesions."""
    return _build_lumbar(person, rng, voxel_mm) if rng.random() < 0.67 else _build_cervical(person, rng, voxel_mm)


def _start(low: tuple, high: tuple, person: Person, rng: np.random.Generator, voxel_mm: float) -> Space:
    return make_space(low, high, voxel_mm, rng, ((70.0, 2.2), (26.0, 0.6)), person.scale)


def _build_lumbar(person: Person, rng: np.random.Generator, voxel_mm: float) -> SpineSpace:
    space = _start((-82, -112, -132), (82, 78, 132), person, rng, voxel_mm)
    bend, tilt = rng.uniform(0.0008, 0.0018), rng.uniform(0.008, 0.013)

    def curve(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low = np.clip(-92 - z, 0, None)
        return -bend * (z + 25) ** 2 + 6 - tilt * low**2, -2 * bend * (z + 25) + 2 * tilt * low

    disc = float(np.clip(11 - 3.5 * person.decline + rng.normal(0, 0.5), 6, 12))
    column = Column(curve, 23.5, 17.0, 37.0, disc, -100.0, 8, (6.0, 4.6), float(rng.uniform(40, 70)))
    _paint_back(space, column, person, rng, outline=64.0)
    _paint_belly(space, column, rng)
    paint_column(space, column, person, rng)
    return SpineSpace(space.labels, space.points_mm, space.affine_mm, space.stretch, space.slack_mm, column, LUMBAR)


def _build_cervical(person: Person, rng: np.random.Generator, voxel_mm: float) -> SpineSpace:
    space = _start((-72, -86, -90), (72, 66, 96), person, rng, voxel_mm)
    bend = rng.uniform(0.0006, 0.0028)

    def curve(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 4 - bend * (z - 5) ** 2, -2 * bend * (z - 5)

    disc = float(np.clip(6 - 1.6 * person.decline + rng.normal(0, 0.3), 3.5, 6.5))
    column = Column(curve, 13.5, 9.0, 19.5, disc, -76.0, 8, (6.6, 4.2), -200.0)
    _paint_neck(space, person, rng)
    _paint_back(space, column, person, rng, outline=0.0)
    paint_column(space, column, person, rng)
    _paint_skull_base(space, rng)
    return SpineSpace(space.labels, space.points_mm, space.affine_mm, space.stretch, space.slack_mm, column, CERVICAL)


def _paint_back(space: Space, column: Column, person: Person, rng: np.random.Generator, outline: float) -> None:
    """Erector muscles and multifidus beside the processes, psoas beside the bodies, fat and skin behind."""
    x, _, z = space.points_mm
    side, forward, _, _ = column.straighten(space.points_mm)
    if outline:
        back = -(column.depth + 52 + 14 * person.fat)
        space.labels[forward > back - 8 - 0.004 * x**2] = Tissue.SKIN
        space.labels[forward > back - 6 - 0.004 * x**2] = Tissue.FAT
    scale = column.width / 23.5
    streaks = smooth_noise(space.labels.shape, np.array([3, 3, 12]) / space.voxel_mm, rng) < 2.0 - 0.9 * person.decline
    erector = (
        np.hypot((np.abs(side) - 31 * scale) / (27 * scale), (forward + column.depth + 31 * scale) / (21 * scale)) < 1
    )
    multifidus = (
        np.hypot((np.abs(side) - 10 * scale) / (9 * scale), (forward + column.depth + 36 * scale) / (15 * scale)) < 1
    )
    grow = np.clip((95 - z) / 90, 0.1, 2.0)
    psoas = np.hypot((np.abs(side) - 30 * scale - 6 * grow) / (13 * grow), (forward + 4) / (15 * grow**0.5)) < 1
    muscle = (erector | multifidus | (psoas if outline else False)) & streaks & (space.labels == Tissue.FAT)
    space.labels[muscle] = Tissue.MUSCLE


def _paint_belly(space: Space, column: Column, rng: np.random.Generator) -> None:
    """Aorta, vena cava and loops of gut before the column."""
    x, _, z = space.points_mm
    _, forward, _, _ = column.straighten(space.points_mm)
    split = np.clip((-45 - z) * 0.35, 0, 40)
    front = forward - column.depth - 9
    gut = smooth_noise(space.labels.shape, 14 / space.voxel_mm, rng)
    loops = (front > 6 + 6 * gut) & (np.abs(gut) > 0.22) & (space.labels == Tissue.FAT)
    space.labels[loops] = np.where(np.abs(gut[loops]) < 0.6, Tissue.GUT_WALL, Tissue.GUT_CONTENT)
    space.labels[loops & (gut > 1.7)] = Tissue.AIR
    for centre, radius in ((-9, 8.5), (13, 9.5)):
        away = np.abs(x - centre - np.sign(centre) * split * 0.8)
        space.labels[np.hypot(away, front) < radius - 0.06 * split] = Tissue.BLOOD


def _paint_neck(space: Space, person: Person, rng: np.random.Generator) -> None:
    """The outline of a neck with airway, vessels, thyroid and muscles."""
    x, y, z = space.points_mm
    wider = 0.0035 * np.clip(-z - 30, 0, None) ** 2 + 0.003 * np.clip(z - 40, 0, None) ** 2
    radius = 52 + 10 * person.fat + wider
    hull = np.hypot(x, (y + 9) * 1.0) - radius
    space.labels[hull < 0] = Tissue.SKIN
    space.labels[hull < -2] = Tissue.FAT
    sheets = smooth_noise(space.labels.shape, np.array([9, 9, 30]) / space.voxel_mm, rng)
    space.labels[(hull < -5 - 6 * person.fat) & (np.abs(sheets) > 0.12 + 0.08 * person.fat)] = Tissue.MUSCLE
    front = [(0, 42, -100), (0, 32, -30), (0, 27, 30), (0, 32, 110)]
    space.paint(tube(front, 9.2), Tissue.GUT_WALL)
    space.paint(tube(front, 7.5), Tissue.AIR)
    space.paint(pair(ellipsoid((17, 34, -42), (9, 10, 22))), Tissue.SPLEEN)
    space.paint(pair(tube([(21, 18, -100), (24, 18, 110)], 3.6)), Tissue.BLOOD)
    space.paint(pair(tube([(31, 14, -100), (31, 12, 110)], 5.0)), Tissue.BLOOD)
    space.paint(pair(tube([(17.5, -2, -100), (17.5, -2, 70)], 2.0)), Tissue.BLOOD)


def _paint_skull_base(space: Space, rng: np.random.Generator) -> None:
    """Occiput and clivus with cerebellum and brainstem above the column."""
    dens = ellipsoid((0, 6, 84), (6, 6, 16))
    space.paint(dens, Tissue.CORTICAL_BONE)
    space.paint(dens, Tissue.RED_MARROW, grow_mm=-1.5)
    fossa = ellipsoid((0, -34, 128), (54, 44, 42))
    space.paint(fossa, Tissue.CORTICAL_BONE, grow_mm=5.0)
    space.paint(fossa, Tissue.CSF)
    space.paint(ellipsoid((0, -40, 126), (48, 32, 34)), Tissue.GRAY_MATTER)
    space.paint(ellipsoid((0, -38, 126), (26, 14, 16)), Tissue.WHITE_MATTER)
    space.paint(tube([(0, -10, 140), (0, -12, 100), (0, -11, 80)], [13.0, 8.0, 5.5]), Tissue.CORD)
