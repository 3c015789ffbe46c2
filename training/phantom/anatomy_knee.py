"""A knee: femur, tibia, fibula and patella, cartilage, menisci, ligaments and tendons, muscles, fat, vessels.

- Millimetres with the origin at the joint line; x lateral (mirrored for a left knee), y anterior, z superior.
- Bones are smooth unions of ellipsoids and rods; cartilage is a shell of the bone's own distance, so that it follows it.
"""

import numpy as np

from training.phantom.person import Person
from training.phantom.shapes import Space, blend, capsule, ellipsoid, make_space, smooth_noise, tube
from training.phantom.tissue import Tissue

SOFT = (Tissue.FAT, Tissue.MUSCLE, Tissue.JOINT_FLUID)


def build_knee(person: Person, rng: np.random.Generator, voxel_mm: float) -> Space:
    """The label grid of a knee from the lower thigh to the upper calf, without lesions."""
    left = bool(rng.random() < 0.5)
    warps = ((60.0, 2.0), (22.0, 0.7))
    space = make_space((-74, -80, -88), (74, 74, 88), voxel_mm, rng, warps, person.scale, mirror=left)
    points = space.points_mm
    _paint_limb(space, person, rng)
    _paint_muscles(space, person, rng)
    femur, tibia, patella = _femur(points), _tibia(points), ellipsoid((0, 44, 24), (21, 10, 21)).distance(points)
    _paint_cartilage(space, femur, tibia, patella)
    _paint_bones(space, femur, tibia, patella, person, rng)
    _paint_menisci(space)
    _paint_ligaments(space)
    return space


def _paint_limb(space: Space, person: Person, rng: np.random.Generator) -> None:
    """Skin and subcutaneous fat; everything deeper starts as fat between the compartments."""
    limb = _limb(space.points_mm, person)
    limb += 1.5 * smooth_noise(space.labels.shape, 40 / space.voxel_mm, rng)
    space.labels[limb < 0] = Tissue.SKIN
    space.labels[limb < -1.8] = Tissue.FAT


def _limb(points: np.ndarray, person: Person) -> np.ndarray:
    thick = 1 + 12 * person.fat
    thigh = capsule((0, -8, 20), (0, -8, 140), 42 + thick, 66 + thick, flatten=(1, 1.04, 1)).distance(points)
    calf = capsule((0, -8, 10), (0, -20, -140), 41 + thick, 54 + thick).distance(points)
    front = ellipsoid((0, 14, 14), (40, 45, 58)).distance(points)
    return blend(blend(thigh, calf, 15.0), front, 10.0)


def _paint_muscles(space: Space, person: Person, rng: np.random.Generator) -> None:
    """Hamstrings, quadriceps and calf as tapering rods with streaks of fat."""
    bulk = 1.1 - 0.15 * person.decline + 0.1 * (person.sex == "M")
    rods = [
        *tube([(30, -42, 120), (34, -36, 40), (36, -26, -8)], [22 * bulk, 16 * bulk, 5]),
        *tube([(-16, -46, 120), (-20, -42, 40), (-26, -32, -14)], [24 * bulk, 19 * bulk, 7]),
        *tube([(-36, -30, 120), (-38, -34, 40), (-34, -30, -16)], [15 * bulk, 10 * bulk, 3.5]),
        *tube([(-34, 14, 120), (-36, 16, 60), (-34, 20, 22)], [28 * bulk, 23 * bulk, 9]),
        *tube([(34, 14, 120), (36, 16, 60), (33, 22, 34)], [28 * bulk, 21 * bulk, 7]),
        *tube([(0, 34, 120), (0, 38, 56)], [19 * bulk, 9]),
        *tube([(-20, -34, 18), (-22, -44, -40), (-22, -48, -120)], [12, 22 * bulk, 26 * bulk]),
        *tube([(20, -34, 18), (21, -44, -40), (20, -48, -120)], [11, 20 * bulk, 24 * bulk]),
        *tube([(2, -24, -26), (2, -30, -120)], [14, 25 * bulk]),
        *tube([(30, 8, -34), (30, 4, -120)], [11, 19 * bulk]),
        ellipsoid((4, -26, -26), (24, 8, 15)),
    ]
    belly = space.mask(rods, over=(Tissue.FAT,))
    streaks = smooth_noise(space.labels.shape, np.array([3.5, 3.5, 14]) / space.voxel_mm, rng)
    space.labels[belly & (streaks < 1.9 - 0.5 * person.decline)] = Tissue.MUSCLE
    space.paint(tube([(4, -34, 110), (3, -34, 20), (2, -32, -110)], 3.6), Tissue.BLOOD)
    space.paint(tube([(-3, -42, 110), (-2, -42, 20), (-2, -40, -110)], 3.4), Tissue.BLOOD)
    space.paint(capsule((-44, -34, 110), (-46, -30, -110), 2.0), Tissue.BLOOD)


def _femur(points: np.ndarray) -> np.ndarray:
    """Signed distance in mm to the distal femur: shaft, two condyles, trochlea, with the notch cut out."""
    shaft = capsule((0, 0, 130), (0, -1, 40), 14, 19).distance(points)
    lateral = ellipsoid((22, -8, 21), (17, 31, 20)).distance(points)
    medial = ellipsoid((-22, -10, 20.5), (17, 31, 20)).distance(points)
    trochlea = ellipsoid((0, 6, 32), (33, 25, 18)).distance(points)
    bone = blend(blend(blend(shaft, trochlea, 12.0), lateral, 9.0), medial, 9.0)
    notch = capsule((0, -40, 12), (0, 4, 8), 8.5).distance(points)
    groove = capsule((0, 36, 10), (0, 38, 50), 9.0).distance(points)
    return np.maximum(bone, -np.minimum(notch, groove + 1.5))


def _tibia(points: np.ndarray) -> np.ndarray:
    """Signed distance in mm to the proximal tibia: a flat plateau with its spines, narrowing to the shaft."""
    lateral = ellipsoid((19, -7, -18), (20, 24, 22)).distance(points)
    medial = ellipsoid((-19, -6, -18), (20, 26, 22)).distance(points)
    shaft = capsule((0, -4, -34), (0, -8, -130), 22, 14).distance(points)
    tuberosity = ellipsoid((4, 20, -38), (9, 9, 15)).distance(points)
    bone = blend(blend(blend(lateral, medial, 8.0), shaft, 14.0), tuberosity, 6.0)
    spines = ellipsoid((0, -6, -5), (7, 8, 6)).distance(points)
    return np.minimum(-blend(-bone, points[2] * -1 - 4.5, 3.0), spines)


def _paint_bones(
    space: Space, femur: np.ndarray, tibia: np.ndarray, patella: np.ndarray, person: Person, rng: np.random.Generator
) -> None:
    """Compact bone with marrow inside; shafts have thick walls; the growth plates leave a scar."""
    z = space.points_mm[2]
    fibula = capsule((36, -22, -22), (35, -24, -130), 8.5, 6.0).distance(space.points_mm)
    red = smooth_noise(space.labels.shape, 11 / space.voxel_mm, rng) > 0.9 + person.decline
    wall = 1.3 + 0.035 * np.clip(np.abs(z - 4) - 34, 0, 60)
    for bone, scar in ((femur, 33.0), (tibia, -22.0), (patella, 999.0), (fibula, 999.0)):
        space.labels[bone < 0] = Tissue.CORTICAL_BONE
        marrow = bone < -wall
        space.labels[marrow] = Tissue.FATTY_MARROW
        space.labels[marrow & red & (np.abs(z) > 28)] = Tissue.RED_MARROW
        space.labels[marrow & (np.abs(z - scar + 0.004 * space.points_mm[0] ** 2) < 0.6)] = Tissue.CORTICAL_BONE


def _paint_cartilage(space: Space, femur: np.ndarray, tibia: np.ndarray, patella: np.ndarray) -> None:
    """Shells of cartilage on the surfaces that articulate, with a film of fluid between them."""
    x, y, z = space.points_mm
    soft = np.isin(space.labels, SOFT)
    joint = (np.abs(z + 1.5) < 4) & (np.hypot(x / 39, (y + 6) / 31) < 1) & (femur < 3.6) & (tibia < 4.5)
    space.labels[soft & joint] = Tissue.JOINT_FLUID
    space.paint(ellipsoid((0, 37, 46), (17, 2.2, 16)), Tissue.JOINT_FLUID, over=SOFT)
    bearing = ((z < 24) & (np.abs(x) > 6)) | ((y > 14) & (z < 44) & (z > 2))
    space.labels[soft & bearing & (femur < 2.7)] = Tissue.CARTILAGE
    plateau = (z > -8) & (np.abs(x) > 5) & (np.abs(x) < 36)
    space.labels[soft & plateau & (tibia < 2.6)] = Tissue.CARTILAGE
    space.labels[soft & (patella < 3.2) & (y < 41) & (np.abs(z - 26) < 15)] = Tissue.CARTILAGE


def _paint_menisci(space: Space) -> None:
    """Two wedges, thick at the rim, open towards the notch."""
    x, y, z = space.points_mm
    for centre in (21.0, -21.0):
        across, along = (x - centre) / 18.0, (y + 6) / 25.0
        rim = np.hypot(across, along)
        opening = (across * -np.sign(centre) > 0.15) & (np.abs(along) < 0.62)
        wedge = (rim > 0.5) & (rim < 1.08) & (np.abs(z + 0.6) < 5.2 * (rim - 0.47) / 0.5) & ~opening
        wedge &= np.isin(space.labels, (*SOFT, Tissue.CARTILAGE))
        space.labels[wedge] = Tissue.MENISCUS


def _paint_ligaments(space: Space) -> None:
    """Cruciate and collateral ligaments, patellar and quadriceps tendons."""
    bands = [
        capsule((8, -16, 17), (-2, 9, -4), 3.6),
        *tube([(-8, 0, 13), (-3, -17, 10), (0, -27, -10)], 4.0),
        capsule((-42, -2, 22), (-29, 4, -46), 2.4, flatten=(0.7, 2.6, 1)),
        capsule((41, -6, 20), (38, -19, -18), 2.2),
        capsule((0, 46, 8), (3, 32, -34), 3.2, flatten=(3.6, 1, 1)),
        capsule((0, 47, 42), (0, 40, 110), 3.2, flatten=(4.2, 1, 1)),
    ]
    space.paint(bands, Tissue.TENDON, over=SOFT)
