"""An upper abdomen: liver, spleen, kidneys, stomach, pancreas, gallbladder, gut, vessels, spine, muscles, fat, lung bases.

- Millimetres with the origin before the second lumbar vertebra; x right, y anterior, z superior.
"""

import numpy as np

from training.phantom.column import Column, paint_column
from training.phantom.person import Person
from training.phantom.shapes import Shape, Space, blend, capsule, ellipsoid, make_space, pair, smooth_noise, tube
from training.phantom.tissue import Tissue
from training.phantom.trunk import paint_wall

INSIDE = (Tissue.FAT,)


def build_abdomen(person: Person, rng: np.random.Generator, voxel_mm: float) -> Space:
    """The label grid of an abdomen from the lung bases to the iliac crests, without lesions."""
    width, depth = 146 + 38 * person.fat, 98 + 32 * person.fat
    high = (width + 14, depth + 14, 138)
    warps = ((90.0, 5.0), (35.0, 1.6))
    space = make_space((-high[0], -high[1] - 12, -128), high, voxel_mm, rng, warps, person.scale)
    cavity = paint_wall(space, person, width, depth, rng)
    _paint_back(space)
    _paint_gut(space, cavity, rng)
    _paint_column(space, person, rng)
    _paint_organs(space, cavity, rng)
    _paint_kidneys(space, rng)
    _paint_vessels(space, rng)
    return space


def _paint_back(space: Space) -> None:
    """Erector, psoas and quadratus muscles beside the column."""
    behind = [
        *pair(capsule((36, -76, -400), (34, -76, 400), 20, flatten=(1.35, 1, 1))),
        *pair(capsule((30, -56, 70), (52, -44, -140), 8, 24)),
        *pair(capsule((62, -72, 40), (74, -66, -140), 9, 13)),
    ]
    space.paint(behind, Tissue.MUSCLE, over=(Tissue.FAT, Tissue.MUSCLE))


def _paint_column(space: Space, person: Person, rng: np.random.Generator) -> None:
    """The thoracolumbar column at the back."""

    def curve(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -44 - 0.0006 * (z + 30) ** 2, -0.0012 * (z + 30)

    paint_column(space, Column(curve, 24.0, 17.5, 36.0, 9.5, -108.0, 8, (6.0, 4.6), 30.0), person, rng)


def _paint_gut(space: Space, cavity: np.ndarray, rng: np.random.Generator) -> None:
    """Loops of small bowel in mesenteric fat, the colon round them with haustra, content and gas."""
    labels, points = space.labels, space.points_mm
    knots = 15 / space.voxel_mm
    first, second = smooth_noise(labels.shape, knots, rng), smooth_noise(labels.shape, knots, rng)
    room = (cavity < -3) & (points[2] < 26) & (points[1] > -18)
    loop = room & (first > -0.1)
    labels[loop] = Tissue.GUT_WALL
    labels[loop & (first > 0.35)] = Tissue.GUT_CONTENT
    labels[loop & (first > 0.9) & (second > 1.0) & (points[1] > 25)] = Tissue.AIR
    frame = [
        *tube([(96, -12, -130), (98, -10, -50), (92, 0, 4)], [24, 25, 22]),
        *tube([(92, 4, 0), (50, 52, -22), (0, 62, -30), (-60, 44, -4), (-104, -6, 34)], [21, 20, 19, 18, 17]),
        *tube([(-104, -10, 34), (-108, -22, -60), (-104, -18, -130)], [17, 16, 16]),
    ]
    soft = (Tissue.FAT, Tissue.GUT_WALL, Tissue.GUT_CONTENT, Tissue.AIR)
    inside = cavity < -1
    for shape, shrink, tissue in [(s, 0.0, Tissue.GUT_WALL) for s in frame] + [
        (s, -3.0, Tissue.GUT_CONTENT) for s in frame
    ]:
        found = space.mask(_shrunk(shape, shrink), over=soft) & inside
        labels[found] = tissue
        if tissue == Tissue.GUT_CONTENT:
            labels[found & (second > 0.6) & (points[1] > -5)] = Tissue.AIR


def _shrunk(shape: Shape, grow_mm: float) -> Shape:
    return Shape(shape.low_mm, shape.high_mm, lambda points: shape.distance(points) - grow_mm)


def _paint_organs(space: Space, cavity: np.ndarray, rng: np.random.Generator) -> None:
    """Lung bases and heart over the diaphragm; liver, spleen, stomach, pancreas, gallbladder."""
    labels, points = space.labels, space.points_mm
    x, y, z = points
    inside = cavity < 0
    dome = np.where(x > -10, 112 - ((x - 68) ** 2 + 0.9 * y**2) / 95, 98 - ((x + 72) ** 2 + 0.9 * (y + 5) ** 2) / 85)
    right = ellipsoid((78, -8, 52), (82, 92, 78)).distance(points)
    left = ellipsoid((-2, 44, 74), (78, 40, 32)).distance(points)
    liver = blend(right, left, 16.0)
    under = capsule((34, 10, -44), (4, 30, 30), 36, 26).distance(points)
    backbone = capsule((0, -58, -200), (0, -52, 200), 34).distance(points)
    liver = np.maximum(liver, -np.minimum(under, backbone))
    body = inside & (z < dome - 3)
    labels[body & (liver < 0) & (x > -76)] = Tissue.LIVER
    soft = (Tissue.FAT, Tissue.GUT_WALL, Tissue.GUT_CONTENT, Tissue.AIR)
    stomach = tube([(-46, -10, 84), (-62, 24, 52), (-40, 48, 18), (4, 48, 6), (28, 34, 12)], [26, 31, 24, 16, 9])
    for shape in stomach:
        labels[space.mask(shape, over=soft) & body] = Tissue.GUT_WALL
    for shape in stomach:
        inner = space.mask(_shrunk(shape, -4.0), over=(Tissue.GUT_WALL,)) & body
        labels[inner] = np.where(y[inner] > 34, Tissue.AIR, Tissue.GUT_CONTENT)
    spleen = ellipsoid((-100, -42, 58), (28, 42, 50)).distance(points)
    labels[body & (spleen < 0) & np.isin(labels, soft)] = Tissue.SPLEEN
    pancreas = tube([(26, 12, -4), (14, 14, 12), (-16, 4, 20), (-52, -18, 30), (-74, -26, 36)], [13, 9, 8, 8, 6])
    for shape in pancreas:
        labels[space.mask(shape, over=(*soft, Tissue.LIVER)) & inside] = Tissue.PANCREAS
    space.paint(
        capsule((54, 44, -2), (46, 28, 22), float(rng.uniform(9, 14)), 6.0), Tissue.BILE, over=(*soft, Tissue.LIVER)
    )
    _paint_chest(space, inside & (z > dome))


def _paint_chest(space: Space, above: np.ndarray) -> None:
    """Lung over the diaphragm, with the heart's base in the middle."""
    keep = ~np.isin(
        space.labels, (Tissue.CORTICAL_BONE, Tissue.RED_MARROW, Tissue.CSF, Tissue.CORD, Tissue.NUCLEUS_PULPOSUS)
    )
    spine = capsule((0, -64, -300), (0, -60, 300), 34).distance(space.points_mm) < 0
    space.labels[above & keep & ~spine] = Tissue.LUNG
    heart = ellipsoid((-18, 30, 138), (58, 48, 38))
    space.paint(heart, Tissue.MUSCLE, over=(Tissue.LUNG,))
    space.paint(ellipsoid((-18, 30, 140), (46, 37, 30)), Tissue.BLOOD, over=(Tissue.MUSCLE,))


def _paint_kidneys(space: Space, rng: np.random.Generator) -> None:
    """Cortex with medullary pyramids about a fatty sinus; the right lies lower, under the liver."""
    pyramids = smooth_noise(space.labels.shape, 7 / space.voxel_mm, rng)
    soft = (Tissue.FAT, Tissue.GUT_WALL, Tissue.GUT_CONTENT, Tissue.AIR, Tissue.LIVER, Tissue.MUSCLE, Tissue.SPLEEN)
    for side, drop in ((1, -12.0), (-1, 0.0)):
        top, bottom = (side * 56, -50, 22 + drop), (side * 66, -44, -26 + drop)
        space.paint(capsule(top, bottom, 33), Tissue.FAT, over=soft)
        kidney = capsule(top, bottom, 27, 26)
        space.paint(kidney, Tissue.KIDNEY_CORTEX, over=soft)
        deep = space.mask(_shrunk(kidney, -6.0))
        space.labels[deep & (pyramids > -0.05)] = Tissue.KIDNEY_MEDULLA
        sinus = capsule((side * 50, -44, 8 + drop), (side * 54, -42, -14 + drop), 13.0)
        space.paint(sinus, Tissue.FAT, over=(Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA))
        space.paint(capsule((side * 48, -44, 2 + drop), (side * 44, -42, -10 + drop), 5.0), Tissue.URINE)
        space.paint(ellipsoid((side * 44, -38, 46 + drop), (5, 9, 9)), Tissue.PANCREAS, over=INSIDE)


def _paint_vessels(space: Space, rng: np.random.Generator) -> None:
    """Aorta, vena cava, renal, portal and hepatic vessels."""
    space.paint(capsule((-9, -26, -200), (-7, -30, 200), 9.0), Tissue.BLOOD)
    space.paint(tube([(15, -24, -200), (16, -24, 20), (22, -20, 90), (16, -8, 140)], 10.5), Tissue.BLOOD)
    space.paint(tube([(-8, -26, 0), (-44, -42, 4)], 3.5), Tissue.BLOOD)
    space.paint(tube([(15, -24, -4), (46, -42, -6)], 4.0), Tissue.BLOOD)
    space.paint(tube([(4, 4, -30), (8, 4, 12), (34, 6, 34), (62, 4, 48)], [5.0, 6.5, 6.0, 4.5]), Tissue.BLOOD)
    space.paint(tube([(-72, -26, 40), (-24, -2, 22), (6, 2, 14)], 4.0), Tissue.BLOOD)
    for _ in range(9):
        start = np.array([34, 4, 40]) + rng.normal(0, 8, 3)
        middle = np.array([70, -5, 52]) + rng.normal(0, 24, 3)
        end = middle + rng.normal(0, 30, 3) + np.array([18, 0, 6])
        space.paint(tube([start, middle, end], [4.0, 2.8, 1.6]), Tissue.BLOOD, over=(Tissue.LIVER,))
