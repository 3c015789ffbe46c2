"""Lesions of breast and heart: cancer, fibroadenoma, cyst; pericardial effusion, myocardial infarct, thick myocardium."""

import numpy as np

from training.phantom.anatomy_heart import AXES, CAVITY_MM, LEFT_CENTRE, WALL_MM, heart_distance
from training.phantom.finding import Finding, Lesion, draw_site, paint_mask, rough_distance, side_of
from training.phantom.shapes import Space, capsule, ellipsoid
from training.phantom.tissue import Tissue

BREAST = (Tissue.FIBROGLANDULAR, Tissue.FAT, Tissue.BLOOD)
WALLS = ("lateral", "inferior", "septal", "anterior")
"""of the left ventricle, by quarter turns about its long axis"""


def _in_breast(space: Space, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A place (3,) in the gland, and its words."""
    side = int(rng.choice([-1, 1]))
    low, high = sorted((side * 50, side * 116))
    site = draw_site(space, (Tissue.FIBROGLANDULAR,), (low, -4, -40), (high, 56, 36), rng)
    outer = "outer" if abs(site[0]) > 82 else "inner"
    place = f"{'upper' if site[2] > -6 else 'lower'} {outer} quadrant of the {side_of(side)} breast"
    return site, place


def breast_cancer(space: Space, rng: np.random.Generator) -> Lesion:
    """An irregular, spiculated mass that enhances."""
    site, place = _in_breast(space, rng)
    radius = float(rng.uniform(6, 19))
    body = rough_distance(space, ellipsoid(site, radius * rng.uniform(0.8, 1.2, 3)), 0.3 * radius, 6, rng) < 0
    spikes = []
    for _ in range(14):
        way = rng.normal(0, 1, 3)
        way /= np.linalg.norm(way)
        spikes.append(capsule(site, site + way * radius * rng.uniform(1.3, 2.1), 2.6, 0.8))
    near = space.mask(ellipsoid(site, (2.2 * radius,) * 3), over=BREAST)
    mask = paint_mask(space, near & (body | space.mask(spikes, over=BREAST)), Tissue.CARCINOMA)
    if radius > 14:
        paint_mask(space, mask & space.mask(ellipsoid(site, (0.5 * radius,) * 3)), Tissue.NECROSIS)
    noun = str(rng.choice(["spiculated mass", "irregular mass", "irregular enhancing mass"]))
    return Finding("breast cancer", noun, place, 2 * radius, 1, True), mask


def fibroadenoma(space: Space, rng: np.random.Generator) -> Lesion:
    """A smooth, oval mass, bright on T2."""
    site, place = _in_breast(space, rng)
    radius = float(rng.uniform(6, 15))
    mask = space.mask(ellipsoid(site, radius * rng.uniform(0.75, 1.2, 3)), over=BREAST)
    noun = str(rng.choice(["circumscribed oval mass", "fibroadenoma", "smooth lobulated mass"]))
    return Finding("fibroadenoma", noun, place, 2 * radius, 1, True), paint_mask(space, mask, Tissue.FIBROADENOMA)


def breast_cyst(space: Space, rng: np.random.Generator) -> Lesion:
    """A simple cyst of the breast."""
    site, place = _in_breast(space, rng)
    radius = float(rng.uniform(6, 18))
    mask = space.mask(ellipsoid(site, radius * rng.uniform(0.9, 1.1, 3)), over=BREAST)
    return Finding("breast cyst", "simple cyst", place, 2 * radius, 1), paint_mask(space, mask, Tissue.CYST)


def pericardial_effusion(space: Space, rng: np.random.Generator) -> Lesion:
    """Fluid about the heart, deeper where it collects behind and below."""
    depth = float(rng.uniform(7, 20))
    around = heart_distance(space.points_mm)
    deep = depth * np.clip(0.75 - 0.006 * space.points_mm[1] - 0.006 * space.points_mm[2], 0.4, 1.0)
    below = space.points_mm[2] < 34
    mask = (around < deep) & below & np.isin(space.labels, (Tissue.FAT, Tissue.LUNG))
    noun = "small pericardial effusion" if depth < 10 else "large pericardial effusion" if depth > 15 else "effusion"
    place = "pericardial sac around the heart"
    return Finding("pericardial effusion", noun, place, depth, 1), paint_mask(space, mask, Tissue.PERICARDIAL_FLUID)


def _about_left(points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each (I, J, K): distance in mm to the left ventricle's cavity, place along its axis in mm, angle in radians."""
    local = np.tensordot(AXES, points_mm - LEFT_CENTRE.reshape(3, 1, 1, 1), axes=(1, 0))
    norm = np.sqrt(((local / CAVITY_MM.reshape(3, 1, 1, 1)) ** 2).sum(0))
    return (norm - 1) * CAVITY_MM[1], local[0], np.arctan2(local[2], -local[1])


def _sector(angle: np.ndarray, middle: float, half: float) -> np.ndarray:
    return np.abs(np.angle(np.exp(1j * (angle - middle)))) < half


def myocardial_infarct(space: Space, rng: np.random.Generator) -> Lesion:
    """A scar of one wall of the left ventricle, from the cavity outwards."""
    quarter, half = int(rng.integers(4)), float(rng.uniform(0.5, 1.0))
    depth, along, angle = _about_left(space.points_mm)
    share = rng.uniform(0.6, 1.05)
    mask = _sector(angle, quarter * np.pi / 2, half) & (along > -20) & (along < 34) & (depth < share * WALL_MM)
    mask &= (depth > -2) & (space.labels == Tissue.MYOCARDIUM)
    noun = "subendocardial infarct" if share < 0.8 else "transmural myocardial infarct"
    place = f"{WALLS[quarter]} wall of the left ventricle"
    return Finding("myocardial infarct", noun, place, 0.0, 1, True), paint_mask(space, mask, Tissue.SCAR)


def thick_septum(space: Space, rng: np.random.Generator) -> Lesion:
    """A septum that grows into the left ventricle: hypertrophic cardiomyopathy."""
    extra = float(rng.uniform(7, 13))
    depth, along, angle = _about_left(space.points_mm)
    septum = _sector(angle, np.pi, 0.9) & (along > -28) & (along < 36)
    grown = septum & (depth > -extra) & (depth < 0) & (space.labels == Tissue.BLOOD)
    paint_mask(space, grown, Tissue.MYOCARDIUM)
    noun = "asymmetric septal hypertrophy"
    found = Finding("hypertrophic cardiomyopathy", noun, "septal wall of the left ventricle", WALL_MM + extra, 1)
    return found, grown
