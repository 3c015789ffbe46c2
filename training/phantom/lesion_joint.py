"""Lesions of the knee and of the spine: menisci, ligaments, effusion, bone marrow; discs and vertebrae."""

import numpy as np

from training.phantom.anatomy_spine import SpineSpace
from training.phantom.finding import Finding, Lesion, paint_mask, rough_distance
from training.phantom.shapes import Space, capsule, ellipsoid, pair
from training.phantom.tissue import Tissue

MARROW = (Tissue.FATTY_MARROW, Tissue.RED_MARROW)
AROUND_JOINT = (Tissue.FAT, Tissue.JOINT_FLUID)


def _knee_name(space: Space) -> str:
    return "right knee" if space.stretch[0] > 0 else "left knee"


def _effuse(space: Space, depth_mm: float) -> np.ndarray:
    """Mask of fluid in the suprapatellar recess and beside the patella."""
    pools = [
        ellipsoid((0, 35, 50), (24, depth_mm, 24)),
        *pair(ellipsoid((24, 26, 26), (7, 0.9 * depth_mm, 20))),
        *pair(ellipsoid((22, -40, 12), (8, 0.5 * depth_mm, 9))),
    ]
    return space.mask(pools, over=AROUND_JOINT)


def effusion(space: Space, rng: np.random.Generator) -> Lesion:
    """Fluid that distends the suprapatellar recess and the gutters."""
    depth = float(rng.uniform(5, 9))
    mask = paint_mask(space, _effuse(space, depth), Tissue.JOINT_FLUID)
    noun = str(
        rng.choice(["joint effusion", "moderate joint effusion", "large joint effusion"][: 2 if depth < 7 else 3])
    )
    return Finding("joint effusion", noun, f"suprapatellar recess of the {_knee_name(space)}", 2 * depth, 1), mask


def meniscal_tear(space: Space, rng: np.random.Generator) -> Lesion:
    """A fluid cleft through a horn of a meniscus, with a small effusion."""
    medial, posterior = rng.random() < 0.7, rng.random() < 0.8
    x, y = (-21 if medial else 21), (-25 if posterior else 14)
    low, high = sorted((x - 10, x + 10))
    cleft = capsule((low, y, -4), (high, y + 1, 3), 2.4, flatten=(1, 1, 1.3))
    mask = paint_mask(space, space.mask(cleft, over=(Tissue.MENISCUS, Tissue.CARTILAGE)), Tissue.TEAR)
    paint_mask(space, _effuse(space, 3.5), Tissue.JOINT_FLUID)
    place = f"{'posterior' if posterior else 'anterior'} horn of the {'medial' if medial else 'lateral'} meniscus"
    return Finding("meniscal tear", "tear", f"{place}, {_knee_name(space)}", 0.0, 1), mask


def cruciate_tear(space: Space, rng: np.random.Generator) -> Lesion:
    """A torn anterior cruciate ligament with contusions of the lateral femoral condyle and tibial plateau."""
    torn = space.mask(capsule((8, -16, 17), (-2, 9, -4), 5.5), over=(Tissue.TENDON, *AROUND_JOINT))
    paint_mask(space, torn, Tissue.TEAR)
    bruise = np.zeros_like(torn)
    for centre in ((22, 6, 8), (20, -20, -14)):
        around = rough_distance(space, ellipsoid(centre, rng.uniform(9, 15, 3)), 2.0, 7, rng)
        bruise |= (around < 0) & np.isin(space.labels, MARROW)
    paint_mask(space, bruise, Tissue.BONE_OEDEMA)
    paint_mask(space, _effuse(space, float(rng.uniform(4, 7))), Tissue.JOINT_FLUID)
    noun = "tear of the anterior cruciate ligament with bone contusion"
    return Finding("anterior cruciate ligament tear", noun, _knee_name(space), 0.0, 1), torn | bruise


def baker_cyst(space: Space, rng: np.random.Generator) -> Lesion:
    """A popliteal cyst between the medial gastrocnemius and the semimembranosus."""
    radius = float(rng.uniform(7, 12))
    shape = ellipsoid((-20, -50, 4), (radius, 0.7 * radius, 1.6 * radius))
    mask = space.mask(shape, over=(Tissue.FAT, Tissue.MUSCLE))
    place = f"popliteal fossa of the {_knee_name(space)}"
    return Finding("popliteal cyst", "popliteal cyst", place, 3.2 * radius, 1), paint_mask(
        space, mask, Tissue.JOINT_FLUID
    )


def _disc_fields(space: SpineSpace, disc: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lateral and forward offset, and height above the middle of a disc (level + 0.5), each (I, J, K) in mm."""
    side, forward, along, level = space.column.straighten(space.points_mm)
    return side, forward, along + (level - disc) * space.column.pitch


def _draw_disc(space: SpineSpace, rng: np.random.Generator) -> tuple[float, str]:
    """One of the discs that wear first, as level + 0.5, and its name."""
    lumbar = space.column.conus > -100
    lower = int(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2])) if lumbar else int(rng.choice([2, 3, 4]))
    return lower + 0.5, f"{space.level_names[lower + 1]}/{space.level_names[lower]}"


def disc_degeneration(space: SpineSpace, rng: np.random.Generator) -> Lesion:
    """A dark disc with changed endplates."""
    disc, name = _draw_disc(space, rng)
    _, _, height = _disc_fields(space, disc)
    near = np.abs(height) < 0.6 * space.column.disc
    mask = near & np.isin(space.labels, (Tissue.NUCLEUS_PULPOSUS, Tissue.ANNULUS))
    paint_mask(space, mask, Tissue.DEGENERATE_DISC)
    plates = (np.abs(height) < 0.5 * space.column.disc + 6) & np.isin(space.labels, MARROW)
    if rng.random() < 0.6:
        mask |= paint_mask(space, plates, Tissue.BONE_OEDEMA if rng.random() < 0.5 else Tissue.FATTY_MARROW)
    return Finding("disc degeneration", "degenerative disc with loss of signal", f"{name} level", 0.0, 1), mask


def disc_herniation(space: SpineSpace, rng: np.random.Generator) -> Lesion:
    """Disc material that protrudes into the canal, to one side or in the middle; the disc itself has dried."""
    disc, name = _draw_disc(space, rng)
    side, forward, height = _disc_fields(space, disc)
    column = space.column
    depth = float(rng.uniform(0.55, 1.0)) * (column.cord[1] + 3)
    shift = float(rng.choice([-1, 0, 1])) * 0.3 * column.width
    reach = np.hypot((side - shift) / (0.42 * column.width), (forward + column.depth - 1) / (depth + 3.0))
    bulge = (np.hypot(reach, height / (0.75 * column.disc + 1.5)) < 1) & (forward < -0.85 * column.depth)
    soft = (Tissue.CSF, Tissue.FAT, Tissue.CORD, Tissue.ANNULUS)
    inside = (np.abs(height) < 0.55 * column.disc) & (space.labels == Tissue.NUCLEUS_PULPOSUS)
    mask = paint_mask(space, inside | (bulge & np.isin(space.labels, soft)), Tissue.DEGENERATE_DISC)
    word = "central" if shift == 0 else f"{'right' if shift > 0 else 'left'} paracentral"
    return Finding("disc herniation", f"{word} disc herniation", f"{name} level", depth + 3, 1), mask


def vertebral_metastasis(space: SpineSpace, rng: np.random.Generator) -> Lesion:
    """Metastases that replace the marrow of one to three vertebral bodies."""
    levels = rng.choice(np.arange(1, space.column.levels - 1), int(rng.integers(1, 4)), replace=False)
    mask = np.zeros(space.labels.shape, bool)
    for level in levels:
        site = space.column.place_mm(int(level)) + rng.normal(0, 3, 3)
        radii = space.column.depth * rng.uniform(0.45, 0.9, 3)
        mask |= (rough_distance(space, ellipsoid(site, radii), 1.2, 7, rng) < 0) & np.isin(space.labels, MARROW)
    paint_mask(space, mask, Tissue.METASTASIS)
    names = ", ".join(space.level_names[int(level)] for level in sorted(levels, reverse=True))
    noun = "marrow-replacing lesions" if len(levels) > 1 else "marrow-replacing lesion"
    place = f"{names} vertebral {'bodies' if len(levels) > 1 else 'body'}"
    return Finding("vertebral metastasis", noun, place, 1.5 * space.column.depth, len(levels), True), mask
