"""A pelvis: bones, bladder, rectum, prostate or uterus, muscles, vessels, gut, fat.

- Millimetres with the origin between the femoral heads; x right, y anterior, z superior.
"""

import numpy as np

from training.phantom.person import Person
from training.phantom.shapes import Space, blend, capsule, ellipsoid, make_space, pair, smooth_noise, tube
from training.phantom.tissue import Tissue

SOFT = (Tissue.FAT, Tissue.MUSCLE, Tissue.GUT_WALL, Tissue.GUT_CONTENT, Tissue.AIR)


def build_pelvis(person: Person, rng: np.random.Generator, voxel_mm: float) -> Space:
    """The label grid of a pelvis from the iliac wings to the upper thighs, without lesions."""
    width, depth = 164 + 32 * person.fat, 98 + 30 * person.fat
    high = (width + 12, depth + 12, 112)
    warps = ((85.0, 4.0), (30.0, 1.3))
    space = make_space((-high[0], -high[1] - 14, -96), high, voxel_mm, rng, warps, person.scale)
    _paint_wall(space, person, width, depth, rng)
    _paint_gut(space, rng)
    _paint_bones(space, person, rng)
    _paint_organs(space, person, rng)
    return space


def _paint_wall(space: Space, person: Person, width: float, depth: float, rng: np.random.Generator) -> None:
    """Skin and fat; gluteal, thigh, pelvic and abdominal muscles as rods with sheets of fat between."""
    labels, (x, y, _) = space.labels, space.points_mm
    hull = (((np.abs(x) / width) ** 2.4 + (np.abs(y + 6) / depth) ** 2.4) ** (1 / 2.4) - 1) * depth
    labels[hull < 0] = Tissue.SKIN
    labels[hull < -2.5] = Tissue.FAT
    rods = [
        *pair(capsule((54, -72, 70), (88, -62, -40), 36, 42, flatten=(1.4, 0.95, 1))),
        *pair(capsule((106, -18, 74), (124, -14, 4), 27, 18, flatten=(0.9, 1.8, 1))),
        *pair(capsule((46, -4, 140), (88, 22, -30), 25, 13)),
        *pair(capsule((90, 40, 14), (86, 46, -130), 21, 28)),
        *pair(capsule((122, 28, 34), (114, 18, -130), 15, 30)),
        *pair(capsule((44, 26, -28), (60, 8, -130), 19, 36)),
        *pair(capsule((70, -50, -46), (74, -48, -130), 24, 34)),
        *pair(capsule((58, -4, 34), (54, -8, -34), 12, 14, flatten=(0.85, 2.3, 1))),
        *pair(capsule((36, -14, 2), (16, -22, -44), 4.5, 5.5, flatten=(0.9, 5.0, 1))),
        *pair(capsule((30, 74 + 6 * person.fat, 140), (12, 62, -26), 10, 7, flatten=(2.2, 0.8, 1))),
    ]
    sheets = smooth_noise(labels.shape, np.array([12, 12, 30]) / space.voxel_mm, rng)
    muscle = (
        space.mask(rods, over=(Tissue.FAT,))
        & (np.abs(sheets) > 0.06 + 0.06 * person.decline)
        & (hull < -8 - 12 * person.fat)
    )
    labels[muscle] = Tissue.MUSCLE


def _paint_gut(space: Space, rng: np.random.Generator) -> None:
    """Loops of bowel above the bladder; sigmoid and rectum before the sacrum."""
    labels, (x, y, z) = space.labels, space.points_mm
    first, second = (smooth_noise(labels.shape, 14 / space.voxel_mm, rng) for _ in range(2))
    room = (z > 26 + 8 * second) & (np.hypot(x / 84, (y - 12) / 62) < 1) & (labels == Tissue.FAT)
    labels[room & (first > -0.2)] = Tissue.GUT_WALL
    labels[room & (first > 0.3)] = Tissue.GUT_CONTENT
    labels[room & (first > 1.0) & (second > 0.8)] = Tissue.AIR


def _paint_bones(space: Space, person: Person, rng: np.random.Generator) -> None:
    """Femurs, iliac wings, acetabula, pubic and ischial rami, sacrum; sockets lined with cartilage."""
    points, labels = space.points_mm, space.labels
    heads = pair(ellipsoid((88, 2, 0), (24, 24, 24)))
    sockets = pair(ellipsoid((78, 0, 6), (34, 34, 34)))
    sided = np.stack([np.abs(points[0]), points[1], points[2]])
    wing = capsule((74, -24, 22), (96, 4, 150), 15, 13, flatten=(0.55, 3.0, 1)).distance(sided)
    iliac = blend(wing, capsule((66, -34, 30), (40, -62, 100), 17, 15).distance(sided), 8.0)
    pubis = np.minimum(
        capsule((74, 10, -4), (10, 46, -26), 13, 11).distance(sided),
        capsule((70, -30, -14), (62, -38, -48), 15, 15).distance(sided),
    )
    ramus = capsule((62, -38, -52), (14, 40, -38), 9, 8).distance(sided)
    hip = blend(blend(blend(iliac, sockets[0].distance(sided), 10.0), pubis, 8.0), ramus, 6.0)
    cup = ellipsoid((88, 2, 0), (28.5, 28.5, 28.5)).distance(sided)
    hip = np.maximum(hip, -cup)
    femur = blend(heads[0].distance(sided), capsule((92, 2, -2), (124, -6, -26), 16, 17).distance(sided), 6.0)
    femur = blend(femur, capsule((124, -6, -30), (112, -2, -160), 20, 15).distance(sided), 10.0)
    bend = -66 - 0.004 * (points[2] - 60) ** 2 * np.sign(points[2] - 60) * -1
    sacrum = ellipsoid((0, -72, 66), (52, 24, 52)).distance(
        np.stack([points[0], points[1] - (bend + 66) * 0.3, points[2]])
    )
    red = smooth_noise(labels.shape, 12 / space.voxel_mm, rng) > 0.2 + person.decline
    labels[(cup < 0) & np.isin(labels, SOFT)] = Tissue.CARTILAGE
    for bone, wall, patchy in ((hip, 2.4, True), (femur, 2.2, False), (sacrum, 2.0, True)):
        labels[bone < 0] = Tissue.CORTICAL_BONE
        labels[bone < -wall] = Tissue.FATTY_MARROW
        if patchy:
            labels[(bone < -wall) & red] = Tissue.RED_MARROW
    joint = (np.abs(np.abs(points[0]) - 46 + 0.1 * (points[2] - 60)) < 1.8) & (points[1] < -40) & (points[2] > 22)
    labels[joint & np.isin(labels, (Tissue.FATTY_MARROW, Tissue.RED_MARROW))] = Tissue.CARTILAGE
    space.paint(ellipsoid((0, 47, -28), (4, 12, 17)), Tissue.ANNULUS)


def _paint_organs(space: Space, person: Person, rng: np.random.Generator) -> None:
    """Bladder, rectum and vessels; prostate and seminal vesicles, or uterus, cervix and ovaries."""
    full = rng.uniform(0.7, 1.25)
    rectum = [(-18, -28, 66), (0, -42, 40), (0, -44, 6), (0, -30, -26), (0, -34, -56)]
    space.paint(tube(rectum, [14, 17, 18, 13, 10]), Tissue.GUT_WALL)
    filled = float(rng.uniform(0.55, 1.05))
    space.paint(tube(rectum[:-1], [filled * radius for radius in (10, 13, 14, 8)]), Tissue.GUT_CONTENT)
    gas = float(rng.uniform(0.0, 1.3))
    if gas > 0.35:
        space.paint(ellipsoid((0, -38, 14), np.array([10, 9, 26]) * gas), Tissue.AIR, over=(Tissue.GUT_CONTENT,))
    wall, urine = (
        ellipsoid((0, 26, 10), np.array([40, 28, 27]) * full + 3.5),
        ellipsoid((0, 26, 10), np.array([40, 28, 27]) * full),
    )
    space.paint(wall, Tissue.GUT_WALL, over=SOFT)
    space.paint(urine, Tissue.URINE, over=SOFT)
    _paint_male(space, person, rng) if person.sex == "M" else _paint_female(space, person, rng)
    space.paint(pair(tube([(34, -10, 150), (54, 12, 50), (62, 44, 4), (66, 52, -130)], [6, 5.5, 5, 4.5])), Tissue.BLOOD)
    space.paint(pair(tube([(36, -22, 150), (58, 0, 50), (56, 38, 2), (58, 48, -130)], [6.5, 6, 5.5, 5])), Tissue.BLOOD)


def _paint_male(space: Space, person: Person, rng: np.random.Generator) -> None:
    """Prostate with a central gland that grows with age, and seminal vesicles."""
    grow = float(np.clip(0.95 + 0.4 * person.decline + rng.normal(0, 0.13), 0.85, 1.6))
    over = (*SOFT, Tissue.URINE)
    space.paint(ellipsoid((0, 2, -24), np.array([25, 17, 18]) * grow), Tissue.PROSTATE, over=over)
    space.paint(ellipsoid((0, 6, -21), np.array([18, 12, 14]) * grow), Tissue.PROSTATE_CENTRAL, over=(Tissue.PROSTATE,))
    space.paint(pair(capsule((6, -9, 2), (26, -12, 8), 6.0)), Tissue.ENDOMETRIUM, over=SOFT)
    space.paint(pair(capsule((5, 66, -36), (4, 60, -90), 8.0)), Tissue.SPLEEN, over=(Tissue.FAT,))


def _paint_female(space: Space, person: Person, rng: np.random.Generator) -> None:
    """Uterus with its lining, cervix and vagina, ovaries with follicles before the menopause."""
    size = 1.0 - 0.35 * person.decline + rng.normal(0, 0.06)
    over = (*SOFT, Tissue.URINE)
    space.paint(
        capsule((0, -4, 22), (0, 26, 56), 19 * size, 25 * size, flatten=(1.15, 0.9, 0.9)), Tissue.MYOMETRIUM, over=over
    )
    space.paint(capsule((0, 2, 28), (0, 24, 54), 2.5, 5.5 * size, flatten=(1.8, 0.7, 0.9)), Tissue.ENDOMETRIUM)
    space.paint(capsule((0, -6, 16), (0, -12, -6), 13 * size), Tissue.MYOMETRIUM, over=over)
    space.paint(capsule((0, -10, -8), (0, -4, -56), 4.0, flatten=(3.0, 1, 1)), Tissue.GUT_WALL, over=over)
    space.paint(pair(ellipsoid((46, 0, 44), np.array([14, 11, 16]) * size)), Tissue.MYOMETRIUM, over=SOFT)
    if person.age_years < 52:
        for _ in range(8):
            site = np.array([46 * rng.choice([-1, 1]), 0, 44]) + rng.normal(0, 5, 3)
            space.paint(ellipsoid(site, (3.6, 3.6, 3.6)), Tissue.CYST, over=(Tissue.MYOMETRIUM,))
