"""A head: scalp, skull, folded cortex, ventricles, deep nuclei, cerebellum, orbits and sinuses.

- Millimetres with the origin near the anterior commissure; x right, y anterior, z superior.
- Gyri: the zero set of a band-passed noise volume, sampled along directions from the centre, gives sulcal sheets that
  stand on the surface; cortex is what lies within its thickness of the pia, so it follows every sulcus.
- Age widens sulci and ventricles and thins the cortex.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from training.phantom.person import Person
from training.phantom.shapes import Space, blend, capsule, ellipsoid, make_space, pair, smooth_noise, tube
from training.phantom.tissue import Tissue

CEREBRAL_CENTRE_MM = np.array([0.0, -10.0, 10.0], np.float32)
FOLD_TILE_MM = 144.0
FOLD_WAVELENGTH_MM = 25.0


def build_brain(person: Person, rng: np.random.Generator, voxel_mm: float) -> Space:
    """The label grid of a head from the vertex to the maxillary sinuses, without lesions."""
    warps = ((75.0, 2.6), (28.0, 0.9))
    space = make_space((-92, -118, -88), (92, 108, 102), voxel_mm, rng, warps, person.scale)
    points = space.points_mm
    cavity, cerebrum = _cavity(points), _cerebrum(points, person)
    _paint_head(space, cavity, person, rng)
    _paint_face(space, rng)
    space.labels[cavity < 0] = Tissue.CSF
    _paint_cerebellum(space, cavity, person, rng)
    _paint_cortex(space, np.maximum(cerebrum, cavity + 1.2), person, rng)
    _paint_stem(space, cavity)
    _paint_nuclei(space)
    _paint_ventricles(space, person, rng)
    _paint_dura(space, cavity)
    _paint_vessels(space)
    return space


def _cavity(points: np.ndarray) -> np.ndarray:
    """Signed distance in mm to the inner skull: vault, floor of the anterior fossa, middle and posterior fossae."""
    vault = ellipsoid((0, -10, 11), (70, 86, 67)).distance(points)
    floor = np.float32(-24) - points[2] + np.clip(points[1] - 40, 0, 30) * 0.15
    upper = -blend(-vault, -floor, 6.0)
    temporal = np.minimum(*(shape.distance(points) for shape in pair(ellipsoid((40, 2, -28), (27, 38, 22)))))
    posterior = ellipsoid((0, -56, -38), (54, 40, 33)).distance(points)
    clivus = ellipsoid((0, -24, -32), (19.5, 17.5, 38)).distance(points)
    return blend(blend(blend(upper, temporal, 8.0), posterior, 8.0), clivus, 10.0)


def _cerebrum(points: np.ndarray, person: Person) -> np.ndarray:
    """Signed distance in mm to the cerebral hull, above the tentorium, with the temporal lobes; age draws it inwards."""
    gap = 0.9 + 2.2 * person.decline
    vault = ellipsoid((0, -10, 11), (70 - gap, 86 - gap, 67 - gap)).distance(points)
    floor = np.where(points[1] < -28, 0.4 - _tentorium(points), -23.0 - points[2])
    temporal = np.minimum(
        *(shape.distance(points) for shape in pair(ellipsoid((41, 2, -27), (25 - gap, 36, 21 - gap))))
    )
    return blend(-blend(-vault, -floor.astype(np.float32), 5.0), temporal, 6.0)


def _paint_head(space: Space, cavity: np.ndarray, person: Person, rng: np.random.Generator) -> None:
    """Skin, fat and muscle around the cavity, then the skull: two tables of compact bone with marrow between."""
    points, labels = space.points_mm, space.labels
    scalp = 10.5 + 3.5 * person.fat + 1.2 * smooth_noise(labels.shape, 40 / space.voxel_mm, rng)
    face = ellipsoid((0, 34, -58), (57, 62, 62)).distance(points)
    neck = capsule((0, -34, -40), (0, -44, -130), 58.0, 54.0).distance(points)
    hull = blend(blend(cavity - scalp, face, 14.0), neck, 22.0)
    labels[hull < 0] = Tissue.SKIN
    labels[hull < -2] = Tissue.FAT
    streaks = smooth_noise(labels.shape, 7 / space.voxel_mm, rng)
    deep = np.minimum(face, neck) + 9 + 5 * person.fat
    labels[(deep < 0) & (streaks < 0.9) & (points[2] < -22)] = Tissue.MUSCLE
    for shape in pair(ellipsoid((62, 12, -14), (9, 30, 30))):
        space.paint(shape, Tissue.MUSCLE, over=(Tissue.FAT,))
    thickness = 5.6 + 0.8 * smooth_noise(labels.shape, 35 / space.voxel_mm, rng)
    skull = cavity < thickness
    labels[skull] = Tissue.CORTICAL_BONE
    labels[(cavity > 1.6) & (cavity < thickness - 1.5)] = Tissue.FATTY_MARROW
    labels[(cavity > 1.6) & (cavity < thickness - 1.5) & (streaks > 0.4)] = Tissue.RED_MARROW


def _paint_face(space: Space, rng: np.random.Generator) -> None:
    """Orbits with globes, lenses, muscles and nerves; nasal cavity, paranasal sinuses and mastoid cells."""
    bone = (Tissue.FAT, Tissue.MUSCLE, Tissue.CORTICAL_BONE, Tissue.FATTY_MARROW, Tissue.RED_MARROW)
    air = [
        *pair(ellipsoid((27, 46, -62), (14, 17, 17))),
        ellipsoid((0, 18, -39), (13, 12, 9)),
        *pair(ellipsoid((8, 44, -38), (5, 18, 10))),
        *pair(ellipsoid((9, 77, -14), (9, 5, 9))),
    ]
    space.paint(air, Tissue.CORTICAL_BONE, over=bone, grow_mm=3.0)
    space.paint(air, Tissue.MUCOSA, over=bone, grow_mm=0.8)
    space.paint(air, Tissue.AIR, over=(*bone, Tissue.MUCOSA))
    space.paint(ellipsoid((0, 50, -60), (13, 34, 20)), Tissue.MUCOSA)
    space.paint(pair(capsule((4, 28, -68), (4, 76, -66), 2.6, flatten=(1, 1, 2.5))), Tissue.AIR)
    space.paint(ellipsoid((0, 0, -80), (11, 9, 26)), Tissue.AIR, over=(Tissue.FAT, Tissue.MUSCLE))
    space.paint(pair(ellipsoid((33, 50, -32), (19, 30, 17))), Tissue.CORTICAL_BONE, over=bone, grow_mm=2.0)
    space.paint(pair(ellipsoid((33, 50, -32), (19, 30, 17))), Tissue.FAT)
    for start in ((44, 64, -32), (22, 64, -32), (33, 64, -21), (33, 64, -43)):
        space.paint(pair(capsule(start, (15, 24, -27), 2.6, 1.4)), Tissue.MUSCLE, over=(Tissue.FAT,))
    space.paint(pair(capsule((33, 55, -32), (13, 22, -25), 2.4)), Tissue.WHITE_MATTER, over=(Tissue.FAT, Tissue.MUSCLE))
    space.paint(pair(ellipsoid((34, 64, -32), (12.2, 12.0, 12.2))), Tissue.VITREOUS)
    space.paint(pair(ellipsoid((34, 72, -32), (4.8, 2.4, 4.8))), Tissue.CARTILAGE)
    speckle = smooth_noise(space.labels.shape, 4 / space.voxel_mm, rng)
    cells = space.mask(pair(ellipsoid((56, -34, -42), (11, 15, 17))), over=bone)
    space.labels[cells] = np.where(speckle[cells] > -0.3, Tissue.AIR, Tissue.CORTICAL_BONE)


@lru_cache(maxsize=2)
def fold_distance_mm(wavelength_mm: float = FOLD_WAVELENGTH_MM, tile: int = 72) -> np.ndarray:
    """Float32 (tile, tile, tile), periodic: distance in mm to the zero set of band-passed noise, exact near the set."""
    voxel_mm = FOLD_TILE_MM / tile
    frequency = np.meshgrid(*(np.fft.fftfreq(tile, voxel_mm),) * 2, np.fft.rfftfreq(tile, voxel_mm), indexing="ij")
    radius = np.sqrt(sum(f**2 for f in frequency))
    band = np.exp(-((radius * wavelength_mm - 1) ** 2) / (2 * 0.18**2))
    noise = np.random.default_rng(7).standard_normal((tile, tile, tile))
    field = np.fft.irfftn(np.fft.rfftn(noise) * band, (tile, tile, tile), axes=(0, 1, 2))
    slope = np.sqrt(sum(((np.roll(field, -1, a) - np.roll(field, 1, a)) / (2 * voxel_mm)) ** 2 for a in range(3)))
    return (np.abs(field) / (slope + 0.25 * slope.mean())).astype(np.float32)


def _folds(points: np.ndarray, wavelength_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Distance in mm to the nearest fold at points (3, n): the periodic tile, turned and shifted at random."""
    from scipy.ndimage import map_coordinates

    tile = fold_distance_mm()
    stretch = wavelength_mm / FOLD_WAVELENGTH_MM
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    voxels = (turn.astype(np.float32) @ points) * np.float32(tile.shape[0] / FOLD_TILE_MM / stretch)
    voxels += rng.uniform(0, tile.shape[0], (3, 1)).astype(np.float32)
    return map_coordinates(tile, voxels, order=1, mode="grid-wrap") * np.float32(stretch)


def _paint_cortex(space: Space, hull: np.ndarray, person: Person, rng: np.random.Generator) -> None:
    """White matter inside the hull, cortex within its thickness of the pia, fluid in the sulci."""
    inside = hull < 0
    points, depth = space.points_mm[:, inside], -hull[inside]
    radii = np.array([[69.0], [85.0], [66.0]], np.float32)
    from_centre = points - CEREBRAL_CENTRE_MM[:, None]
    reach = np.sqrt(((from_centre / radii) ** 2).sum(0)) + 0.02
    folds = np.full(depth.shape, 60.0, np.float32)
    shallow = depth < 24
    folds[shallow] = _folds(from_centre[:, shallow] / reach[shallow] ** 0.75, rng.uniform(20, 23.5), rng)
    deepest = 14 + 4.5 * smooth_noise(space.labels.shape, 18 / space.voxel_mm, rng)[inside]
    sulci = np.hypot(folds, np.clip(depth - deepest, 0, None))
    sulci = np.minimum(sulci, _named_fissures(points))
    width = 0.6 + 0.8 * person.decline
    pia = np.minimum(depth + width, sulci)
    thickness = 3.1 - 0.45 * person.decline + 0.25 * rng.standard_normal()
    tissue = np.full(depth.shape, Tissue.WHITE_MATTER, np.uint8)
    tissue[pia < width + thickness] = Tissue.GRAY_MATTER
    tissue[pia < width] = Tissue.CSF
    space.labels[inside] = tissue


def _named_fissures(points: np.ndarray) -> np.ndarray:
    """Distance in mm to the interhemispheric fissure above the corpus callosum, the Sylvian fissures and the insulae."""
    x, y, z = points
    wave = 2.5 * np.sin(y / 6.0 + 0.3 * z) + 1.5 * np.sin(z / 4.0)
    callosum = (np.hypot((y + 8) / 42, (z - 2) / 25) - 1) * 25
    between = np.hypot(x, np.clip(-callosum, 0, None))
    beyond = np.clip(34 - np.abs(x), 0, None) + np.clip(y - 24, 0, None) + np.clip(-36 - y, 0, None)
    sylvian = np.hypot(z + 7 + 0.3 * y + 0.6 * wave, beyond)
    aside = np.clip(np.hypot((y - 2) / 22, (z - 1) / 13) - 1, 0, None) * 13
    insula = np.hypot(np.abs(x) - 37 - 0.5 * wave + 0.012 * (y - 2) ** 2, aside)
    return np.minimum(np.minimum(between, sylvian), insula)


def _tentorium(points: np.ndarray) -> np.ndarray:
    """Height in mm above the tentorium, a tent that is highest in the middle and falls to the back and the sides."""
    behind = np.clip(-28 - points[1], 0, 80)
    return points[2] - (4 - 0.30 * behind - 0.16 * np.abs(points[0]))


def _paint_cerebellum(space: Space, cavity: np.ndarray, person: Person, rng: np.random.Generator) -> None:
    """Two hemispheres and the vermis fill the posterior fossa: grey folia on a core of white matter."""
    gap = 0.7 + 1.0 * person.decline
    x, y, z = space.points_mm
    valley = np.hypot(x / 5, np.clip(y + 84, 0, None) / 14) < 1
    cistern = np.hypot(y + 25 + 0.3 * (z + 40), x * 0.72) < 12.5
    body = (cavity < -gap) & (_tentorium(space.points_mm) < -gap) & (y < -30) & (z > -68) & ~cistern
    body &= ~(valley & (z < -30))
    points = space.points_mm[:, body]
    folds = _folds(points * np.array([[0.3], [1.0], [1.0]], np.float32), 10.0, rng)
    core = [*pair(ellipsoid((22, -54, -36), (19, 13, 10))), ellipsoid((0, -48, -34), (9, 9, 9))]
    depth = np.minimum.reduce([shape.distance(points) for shape in core])
    tissue = np.where(depth < 0, Tissue.WHITE_MATTER, Tissue.GRAY_MATTER).astype(np.uint8)
    tissue[(depth > 0) & (depth < 10) & (folds > 2.2)] = Tissue.WHITE_MATTER
    tissue[(depth > 5) & (folds < 0.35 + 0.5 * person.decline)] = Tissue.CSF
    space.labels[body] = tissue
    space.paint(pair(ellipsoid((15, -52, -36), (5, 4, 4))), Tissue.DEEP_GRAY)


def _paint_stem(space: Space, cavity: np.ndarray) -> None:
    """Midbrain, pons and medulla as white matter; the cord below the foramen magnum in its fluid."""
    space.paint(capsule((0, -36, -62), (0, -46, -130), 11.0), Tissue.CSF)
    space.paint(capsule((0, -36, -62), (0, -46, -130), 6.5), Tissue.WHITE_MATTER)
    stem = [
        capsule((0, -21, -4), (0, -25, -20), 12.5, flatten=(1.2, 0.95, 1.0)),
        ellipsoid((0, -22, -31), (17, 13.5, 15)),
        capsule((0, -29, -42), (0, -36, -64), 8.5, 7.0),
        *pair(capsule((10, -30, -33), (22, -46, -37), 6.0)),
    ]
    space.paint(stem, Tissue.WHITE_MATTER)
    space.paint(capsule((0, -29, -12), (0, -29, -20), 2.0), Tissue.CSF)
    space.paint(pair(ellipsoid((6, -17, -12), (4, 4, 2.5))), Tissue.PALLIDUM)


def _paint_nuclei(space: Space) -> None:
    """Thalamus, caudate, putamen, pallidum, hippocampus and amygdala; the callosum is white matter already."""
    space.paint(ellipsoid((0, -10, 2), (33, 36, 20)), Tissue.WHITE_MATTER, over=(Tissue.CSF, Tissue.GRAY_MATTER))
    space.paint(pair(ellipsoid((27, 2, 2), (6.5, 17, 12))), Tissue.DEEP_GRAY)
    space.paint(pair(ellipsoid((20, -1, 0), (5.0, 10, 8))), Tissue.PALLIDUM)
    space.paint(pair(ellipsoid((11, -18, 6), (9.5, 15, 10.5))), Tissue.DEEP_GRAY)
    space.paint(pair(ellipsoid((13, 20, 6), (6.5, 9.5, 11))), Tissue.DEEP_GRAY)
    space.paint(pair(tube([(14, 16, 14), (17, 0, 20), (19, -18, 19)], [5.0, 3.5, 2.5])), Tissue.DEEP_GRAY)
    space.paint(pair(tube([(24, -6, -22), (28, -20, -17), (26, -32, -8)], [6.0, 4.5, 3.5])), Tissue.GRAY_MATTER)


def _paint_ventricles(space: Space, person: Person, rng: np.random.Generator) -> None:
    """Lateral, third and fourth ventricles; radii grow with decline."""
    grow = (0.9 + 1.15 * person.decline) * float(np.exp(rng.normal(0, 0.18)))
    body = [(34, 6, 2.4), (24, 12, 4.2), (2, 19, 3.9), (-20, 20, 4.1), (-36, 14, 5.0)]
    wide = [(2.5 + 1.35 * radius * grow, y, z, radius * grow) for y, z, radius in body]
    for first, second in pairwise(wide):
        space.paint(pair(capsule(first[:3], second[:3], first[3], second[3], flatten=(1.35, 1, 1))), Tissue.CSF)
    atrium = [(20, -38, 12), (19, -52, 7), (17, -64, 5)]
    space.paint(pair(tube(atrium, [4.8 * grow, 3.2 * grow, 1.4 * grow])), Tissue.CSF)
    temporal = [(20, -38, 12), (29, -34, -4), (33, -18, -17), (32, -2, -22)]
    space.paint(pair(tube(temporal, [4.0 * grow, 2.8 * grow, 2.0 * grow, 1.5 * grow])), Tissue.CSF)
    septum = capsule((0, 30, 8), (0, -10, 17), 7.0, flatten=(0.1, 1, 1))
    space.paint(septum, Tissue.WHITE_MATTER)
    third = capsule((0, 2, -5), (0, -22, 4), 7.5, 8.0, flatten=(0.14 + 0.3 * person.decline, 1, 1))
    space.paint(third, Tissue.CSF)
    space.paint(ellipsoid((0, -38, -33), (7 * grow**0.5, 5 * grow**0.5, 10)), Tissue.CSF)


def _paint_dura(space: Space, cavity: np.ndarray) -> None:
    """The dura under the skull and the falx between the hemispheres."""
    space.labels[(np.abs(cavity - 0.5) < 0.7) & (space.labels != Tissue.AIR)] = Tissue.DURA
    falx = (np.abs(space.points_mm[0]) < 0.8) & (cavity < 0) & (space.points_mm[2] > 24) & (cavity > -38)
    space.labels[falx & (space.labels == Tissue.CSF)] = Tissue.DURA


def _paint_vessels(space: Space) -> None:
    """Venous sinuses along the skull; carotid, vertebral, basilar and cerebral arteries."""
    sagittal = [(0, 72, 28), (0, 52, 62), (0, 14, 76), (0, -32, 75), (0, -70, 52), (0, -90, 18), (0, -92, -4)]
    space.paint(tube(sagittal, [1.6, 2.0, 2.4, 3.0, 3.4, 3.8, 4.0]), Tissue.BLOOD)
    space.paint(pair(tube([(0, -92, -6), (34, -80, -16), (54, -48, -26), (48, -28, -46)], 3.2)), Tissue.BLOOD)
    space.paint(
        tube([(0, -34, 8), (0, -56, 12), (0, -86, 0)], 2.0), Tissue.BLOOD, over=(Tissue.CSF, Tissue.GRAY_MATTER)
    )
    space.paint(pair(tube([(20, -4, -80), (22, 0, -50), (12, 2, -38), (12, 8, -22)], 2.4)), Tissue.BLOOD)
    space.paint(pair(tube([(12, 8, -21), (26, 8, -18), (37, 4, -8)], 1.5)), Tissue.BLOOD)
    arteries = [
        *tube([(37, 4, -8), (44, -8, 4), (46, -30, 16)], [1.5, 1.3, 1.0]),
        *tube([(37, 4, -8), (45, 10, 8), (44, 14, 26)], [1.4, 1.2, 1.0]),
        *tube([(12, 8, -20), (2, 16, -12), (1.5, 36, 4), (1.5, 28, 26)], [1.4, 1.4, 1.3, 1.0]),
        *tube([(0, -6, -20), (14, -16, -16), (22, -38, -8), (14, -66, -2)], [1.5, 1.4, 1.3, 1.0]),
        *tube([(24, -32, -88), (12, -24, -66), (0, -8, -48)], [1.8, 1.7, 1.7]),
    ]
    space.paint(pair(arteries), Tissue.BLOOD)
    space.paint(tube([(0, -8, -48), (0, -6, -20)], 1.8), Tissue.BLOOD)
