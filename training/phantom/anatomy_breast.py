"""Both breasts of a woman who lies on her front: fat, gland and strands, skin, nipple; chest wall, lungs and heart behind.

- Millimetres with the origin before the breastbone; x right, y anterior (down, as she lies), z superior.
- Glandular tissue is a noise field above a threshold that falls towards the nipple; the threshold is the breast's density,
  which age lowers. Strands are the zero sheets of a second field.
"""

import numpy as np

from training.phantom.person import Person
from training.phantom.shapes import Space, blend, capsule, ellipsoid, make_space, pair, smooth_noise, tube
from training.phantom.tissue import Tissue
from training.phantom.trunk import paint_ribs

CENTRE_X_MM = 82.0
MIDDLE_Y_MM = -112.0
"""of the chest"""


def build_breast(person: Person, rng: np.random.Generator, voxel_mm: float) -> Space:
    """The label grid of both breasts and the front of the chest, without lesions."""
    size = _size(person, rng)
    width = 158 + 24 * person.fat
    low, high = (-width - 10, -152, -104), (width + 10, 96 + 34 * person.fat, 100)
    space = make_space(low, high, voxel_mm, rng, ((70.0, 5.0), (26.0, 1.6)), person.scale)
    chest = _chest(space.points_mm, width)
    breast = np.minimum(*(shape.distance(space.points_mm) for shape in _breasts(size)))
    _paint_skin(space, blend(chest, breast, 22.0), size)
    _paint_wall(space, chest, person, rng)
    _paint_inside(space, chest, rng)
    _paint_gland(space, breast, chest, person, size, rng)
    return space


def _size(person: Person, rng: np.random.Generator) -> float:
    """Of a breast against the average one."""
    drawn = 0.72 + 0.75 * person.fat + rng.normal(0, 0.1)
    return float(np.clip(drawn, 0.55, 1.5)) if person.sex == "F" else float(np.clip(0.4 * drawn, 0.25, 0.5))


def _chest(points: np.ndarray, width: float) -> np.ndarray:
    x, y = points[0] / width, (points[1] - MIDDLE_Y_MM) / 108
    return ((np.abs(x) ** 2.3 + np.abs(y) ** 2.3) ** (1 / 2.3) - 1) * 108


def _breasts(size: float) -> list:
    """Hanging, narrower towards the nipple."""
    far = 38 * size
    return pair(capsule((CENTRE_X_MM, -18, 0), (CENTRE_X_MM + 4, far, -12), 58 * size**0.5, 44 * size**0.6))


def _tip(size: float) -> np.ndarray:
    return np.array([CENTRE_X_MM + 5, 38 * size + 44 * size**0.6, -14.0])


def _paint_skin(space: Space, hull: np.ndarray, size: float) -> None:
    space.labels[hull < 0] = Tissue.SKIN
    space.labels[hull < -2.4] = Tissue.FAT
    tip = _tip(size)
    space.paint(pair(capsule(tip - [0, 10, 0], tip - [0, -3, 0], 5.5)), Tissue.SKIN)


def _paint_wall(space: Space, chest: np.ndarray, person: Person, rng: np.random.Generator) -> None:
    """Pectoral muscles over ribs; breastbone; fat at the sides and back."""
    labels, x = space.labels, space.points_mm[0]
    fat = 4 + 12 * person.fat
    sheets = smooth_noise(labels.shape, np.array([12, 12, 30]) / space.voxel_mm, rng)
    wall = (chest < -fat) & (np.abs(sheets) > 0.07)
    labels[wall] = Tissue.MUSCLE
    paint_ribs(space, chest + fat + 15, np.abs(x) > 14)
    bone = capsule((0, -20 - fat, -40), (0, -26 - fat, 120), 7, flatten=(2.2, 0.8, 1))
    space.paint(bone, Tissue.CORTICAL_BONE)
    space.paint(bone, Tissue.RED_MARROW, grow_mm=-1.6)
    axilla = [*pair(ellipsoid((144, -66, 74), (22, 34, 40)))]
    space.paint(axilla, Tissue.FAT, over=(Tissue.MUSCLE,))
    for _ in range(6):
        node = np.array([rng.choice([-1, 1]) * 144, -66, 74]) + rng.normal(0, 10, 3)
        space.paint(ellipsoid(node, rng.uniform(3, 6, 3)), Tissue.SPLEEN, over=(Tissue.FAT,))


def _paint_inside(space: Space, chest: np.ndarray, rng: np.random.Generator) -> None:
    """Lungs, heart and liver, as far as the coil sees them."""
    labels, (x, y, z) = space.labels, space.points_mm
    inner = chest < -32
    labels[inner] = Tissue.LUNG
    branches = smooth_noise(labels.shape, 8 / space.voxel_mm, rng)
    labels[inner & (branches > 2.0)] = Tissue.BLOOD
    labels[inner & (z < -62 - ((x - 60) ** 2 + (y + 112) ** 2) / 160) & (x > -30)] = Tissue.LIVER
    middle = inner & (np.hypot(x + 6, y + 112) < 40)
    labels[middle] = Tissue.FAT
    space.paint(
        ellipsoid((-32, -82, -24), (52, 38, 46)), Tissue.MYOCARDIUM, over=(Tissue.LUNG, Tissue.FAT, Tissue.BLOOD)
    )
    space.paint(ellipsoid((-34, -84, -22), (40, 27, 35)), Tissue.BLOOD, over=(Tissue.MYOCARDIUM,))
    space.paint(tube([(4, -100, 10), (8, -100, 120)], 14.0), Tissue.BLOOD, over=(Tissue.FAT, Tissue.LUNG))
    space.paint(pair(tube([(13, -28, -110), (13, -28, 110)], 1.8)), Tissue.BLOOD)


def _paint_gland(
    space: Space, breast: np.ndarray, chest: np.ndarray, person: Person, size: float, rng: np.random.Generator
) -> None:
    """Fibroglandular tissue about the ducts, strands through the fat, veins under the skin."""
    labels, points = space.labels, space.points_mm
    density = float(np.clip(rng.normal(0.2 - 1.1 * person.decline, 0.75), -1.6, 1.4)) - (person.sex == "M") * 1.5
    tip = _tip(size)
    sided = np.stack([np.abs(points[0]), points[1], points[2]])
    away = capsule(tip - [0, 12, 0], (tip[0] - 2, -8, 0), 6.0, 24.0 * size).distance(sided) / (24 * size)
    room = (breast < -5) & (chest > -2) & (labels == Tissue.FAT)
    lobes = smooth_noise(labels.shape, 11 / space.voxel_mm, rng)
    fine = smooth_noise(labels.shape, 5 / space.voxel_mm, rng)
    gland = room & (0.75 * lobes + 0.4 * fine + density > 1.1 * away - 0.35) & (away < 1.6)
    strands = room & (np.abs(fine) < 0.09) & (breast < -3)
    labels[gland | strands] = Tissue.FIBROGLANDULAR
    for side in (-1, 1):
        for _ in range(4):
            start = np.array([side * CENTRE_X_MM, 0, 0]) + rng.normal(0, 1, 3) * [34, 6, 34]
            path = [start, start * [1, 1, 0.6] + [0, 22 * size, 0], tip * [side, 0.75, 1]]
            space.paint(tube(path, [1.9, 1.6, 1.1]), Tissue.BLOOD, over=(Tissue.FAT, Tissue.FIBROGLANDULAR))
