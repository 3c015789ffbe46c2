"""Lesions of the brain: plaques of multiple sclerosis, a tumour with oedema, an acute infarct, an old haemorrhage."""

import numpy as np

from training.phantom.finding import Finding, Lesion, draw_site, paint_mask, rough_distance, side_of
from training.phantom.shapes import Space, ellipsoid
from training.phantom.tissue import Tissue

PARENCHYMA = (Tissue.WHITE_MATTER, Tissue.GRAY_MATTER, Tissue.DEEP_GRAY, Tissue.PALLIDUM, Tissue.AGED_WHITE_MATTER)
WHITE = (Tissue.WHITE_MATTER, Tissue.AGED_WHITE_MATTER)


def lobe(site: np.ndarray) -> str:
    """Side and lobe of a place (3,) in template mm."""
    x, y, z = site
    if z < -12 and y < -30:
        return f"{side_of(x)} cerebellar hemisphere"
    part = "temporal" if z < -6 and abs(x) > 22 else "frontal" if y > 2 else "occipital" if y < -62 else "parietal"
    return f"{side_of(x)} {part} lobe"


def multiple_sclerosis(space: Space, rng: np.random.Generator) -> Lesion:
    """Ovoid plaques about the ventricles, most of them at right angles to the callosum, and scattered ones."""
    mask = np.zeros(space.labels.shape, bool)
    count, largest = int(rng.integers(6, 24)), 0.0
    for index in range(count):
        near = index % 3 != 2
        box = ((-30, -45, 8), (30, 38, 32)) if near else ((-50, -75, -20), (50, 55, 50))
        radius = rng.uniform(1.9, 4.5)
        radii = (radius * rng.uniform(1.0, 2.0), radius, radius * rng.uniform(0.9, 1.4))
        largest = max(largest, 2 * max(radii))
        mask |= space.mask(ellipsoid(draw_site(space, WHITE, *box, rng), radii), over=WHITE)
    noun = str(rng.choice(["demyelinating plaques", "white matter lesions", "demyelinating lesions"]))
    return Finding("multiple sclerosis", noun, "periventricular white matter", largest, count), paint_mask(
        space, mask, Tissue.PLAQUE
    )


def brain_tumour(space: Space, rng: np.random.Generator) -> Lesion:
    """A tumour, most often with a necrotic core and an enhancing rim, in vasogenic oedema."""
    side = int(rng.choice([-1, 1]))
    low, high = sorted((side * 18, side * 44))
    site = draw_site(space, WHITE, (low, -65, -8), (high, 48, 48), rng)
    radius = float(rng.uniform(9, 21))
    shape = ellipsoid(site, radius * rng.uniform(0.85, 1.15, 3))
    around = rough_distance(space, shape, 0.13 * radius, 10, rng)
    solid = (around < 0) & np.isin(space.labels, (*PARENCHYMA, Tissue.CSF))
    oedema = (around < radius * rng.uniform(0.4, 1.0)) & np.isin(space.labels, WHITE) & ~solid
    paint_mask(space, oedema, Tissue.OEDEMA)
    paint_mask(space, solid, Tissue.TUMOUR)
    if rng.random() < 0.75:
        paint_mask(space, solid & (around < -rng.uniform(3.0, 5.5)), Tissue.NECROSIS)
    noun = str(rng.choice(["mass with surrounding oedema", "glial tumour", "intra-axial mass"]))
    return Finding("brain tumour", noun, lobe(site), 2 * radius, 1, True), oedema | solid


def stroke(space: Space, rng: np.random.Generator) -> Lesion:
    """A recent infarct of cortex and white matter in the territory of a middle cerebral artery."""
    side = int(rng.choice([-1, 1]))
    low, high = sorted((side * 28, side * 56))
    site = draw_site(space, PARENCHYMA, (low, -50, -5), (high, 40, 50), rng)
    radius = float(rng.uniform(9, 23))
    around = rough_distance(space, ellipsoid(site, (radius * 0.8, radius * 1.1, radius)), 0.15 * radius, 12, rng)
    mask = (around < 0) & np.isin(space.labels, PARENCHYMA)
    return Finding("stroke", "acute infarct", lobe(site), 2 * radius, 1), paint_mask(space, mask, Tissue.INFARCT)


def haemorrhage(space: Space, rng: np.random.Generator) -> Lesion:
    """An old haematoma of the deep grey matter: a cleft of fluid in a rim of haemosiderin."""
    side = int(rng.choice([-1, 1]))
    low, high = sorted((side * 18, side * 32))
    site = draw_site(space, PARENCHYMA, (low, -22, -6), (high, 20, 14), rng)
    radius = float(rng.uniform(6, 12))
    around = rough_distance(space, ellipsoid(site, (radius * 0.7, radius, radius * 0.8)), 0.1 * radius, 8, rng)
    mask = paint_mask(space, (around < 0) & np.isin(space.labels, PARENCHYMA), Tissue.HAEMOSIDERIN)
    paint_mask(space, mask & (around < -2.8), Tissue.NECROSIS)
    place = f"{side_of(side)} basal ganglia"
    return Finding("intracerebral haemorrhage", "chronic haematoma", place, 2 * radius, 1), mask
