"""Lesions of abdomen and pelvis: cysts and tumours of kidney and liver; prostate, uterus, ovary, bladder."""

import numpy as np

from training.phantom.finding import Finding, Lesion, draw_site, paint_mask, rough_distance, side_of
from training.phantom.shapes import Space, ellipsoid
from training.phantom.tissue import Tissue

KIDNEY = (Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA)
BELLY = (Tissue.FAT, Tissue.GUT_WALL, Tissue.GUT_CONTENT, Tissue.AIR)


def _segment(site: np.ndarray) -> str:
    return "left lobe of the liver" if site[0] < 28 else "right lobe of the liver"


def renal_cyst(space: Space, rng: np.random.Generator) -> Lesion:
    """A simple cyst that bulges from the cortex of a kidney."""
    side = int(rng.choice([-1, 1]))
    low, high = sorted((side * 66, side * 100))
    site = draw_site(space, (Tissue.KIDNEY_CORTEX,), (low, -80, -50), (high, -20, 45), rng)
    radius = float(rng.uniform(8, 24))
    mask = space.mask(ellipsoid(site, radius * rng.uniform(0.92, 1.08, 3)), over=(*KIDNEY, Tissue.FAT, *BELLY))
    pole = "upper pole" if site[2] > 10 else "lower pole" if site[2] < -22 else "interpolar region"
    place = f"{pole} of the {side_of(side)} kidney"
    noun = str(rng.choice(["simple cyst", "renal cyst", "cortical cyst"]))
    return Finding("renal cyst", noun, place, 2 * radius, 1), paint_mask(space, mask, Tissue.CYST)


def renal_tumour(space: Space, rng: np.random.Generator) -> Lesion:
    """A solid tumour of a kidney, with a necrotic middle when large."""
    side = int(rng.choice([-1, 1]))
    low, high = sorted((side * 62, side * 100))
    site = draw_site(space, KIDNEY, (low, -80, -50), (high, -20, 45), rng)
    radius = float(rng.uniform(12, 32))
    around = rough_distance(space, ellipsoid(site, (radius, radius, radius)), 0.1 * radius, 14, rng)
    mask = paint_mask(space, (around < 0) & np.isin(space.labels, (*KIDNEY, *BELLY)), Tissue.TUMOUR)
    paint_mask(space, mask & (around < -0.55 * radius), Tissue.NECROSIS)
    return Finding("renal tumour", "solid mass", f"{side_of(side)} kidney", 2 * radius, 1, True), mask


def _in_liver(space: Space, rng: np.random.Generator) -> np.ndarray:
    return draw_site(space, (Tissue.LIVER,), (-20, -60, 0), (130, 60, 100), rng)


def liver_haemangioma(space: Space, rng: np.random.Generator) -> Lesion:
    """A lobulated haemangioma, very bright on T2."""
    site, radius = _in_liver(space, rng), float(rng.uniform(9, 24))
    around = rough_distance(space, ellipsoid(site, (radius, radius, radius)), 0.12 * radius, 12, rng)
    mask = (around < 0) & np.isin(space.labels, (Tissue.LIVER, Tissue.BLOOD))
    finding = Finding("liver haemangioma", "haemangioma", _segment(site), 2 * radius, 1, True)
    return finding, paint_mask(space, mask, Tissue.HAEMANGIOMA)


def liver_cyst(space: Space, rng: np.random.Generator) -> Lesion:
    """A simple cyst of the liver."""
    site, radius = _in_liver(space, rng), float(rng.uniform(8, 26))
    mask = space.mask(ellipsoid(site, radius * rng.uniform(0.9, 1.1, 3)), over=(Tissue.LIVER, Tissue.BLOOD))
    finding = Finding("liver cyst", "simple hepatic cyst", _segment(site), 2 * radius, 1)
    return finding, paint_mask(space, mask, Tissue.CYST)


def liver_metastases(space: Space, rng: np.random.Generator) -> Lesion:
    """Several round metastases."""
    mask, largest, count = np.zeros(space.labels.shape, bool), 0.0, int(rng.integers(3, 10))
    for _ in range(count):
        radius = float(rng.uniform(6, 17))
        largest = max(largest, 2 * radius)
        mask |= space.mask(
            ellipsoid(_in_liver(space, rng), (radius, radius, radius)), over=(Tissue.LIVER, Tissue.BLOOD)
        )
    finding = Finding("liver metastases", "hepatic metastases", "liver", largest, count, True)
    return finding, paint_mask(space, mask, Tissue.METASTASIS)


def prostate_cancer(space: Space, rng: np.random.Generator) -> Lesion:
    """A dark focus in the bright peripheral zone."""
    side = int(rng.choice([-1, 1]))
    low, high = sorted((side * 4, side * 26))
    site = draw_site(space, (Tissue.PROSTATE,), (low, -18, -42), (high, 2, -8), rng)
    radius = float(rng.uniform(6, 10))
    zones = (Tissue.PROSTATE, Tissue.PROSTATE_CENTRAL)
    mask = space.mask(ellipsoid(site, (radius, radius * 0.8, radius)), over=zones)
    place = f"{side_of(side)} peripheral zone of the prostate"
    return Finding("prostate cancer", "focal lesion", place, 2 * radius, 1, True), paint_mask(
        space, mask, Tissue.CARCINOMA
    )


def uterine_fibroid(space: Space, rng: np.random.Generator) -> Lesion:
    """A dark, round leiomyoma of the uterine wall."""
    site = draw_site(space, (Tissue.MYOMETRIUM,), (-30, -20, 16), (30, 45, 85), rng)
    radius = float(rng.uniform(9, 30))
    shape = ellipsoid(site, radius * rng.uniform(0.9, 1.1, 3))
    mask = space.mask(shape, over=(Tissue.MYOMETRIUM, Tissue.ENDOMETRIUM, *BELLY))
    finding = Finding("uterine fibroid", "fibroid", "uterus", 2 * radius, 1, True)
    return finding, paint_mask(space, mask, Tissue.FIBROID)


def ovarian_cyst(space: Space, rng: np.random.Generator) -> Lesion:
    """A large simple cyst of an ovary."""
    side, radius = int(rng.choice([-1, 1])), float(rng.uniform(14, 34))
    mask = space.mask(
        ellipsoid((side * 46, 2, 46), (radius, radius, radius)), over=(Tissue.MYOMETRIUM, Tissue.CYST, *BELLY)
    )
    finding = Finding("ovarian cyst", "simple cyst", f"{side_of(side)} ovary", 2 * radius, 1)
    return finding, paint_mask(space, mask, Tissue.CYST)


def bladder_tumour(space: Space, rng: np.random.Generator) -> Lesion:
    """A solid tumour that grows from the bladder's wall into the urine."""
    side = int(rng.choice([-1, 1]))
    low, high = sorted((side * 14, side * 46))
    site = draw_site(space, (Tissue.GUT_WALL,), (low, 4, -12), (high, 50, 34), rng)
    radius = float(rng.uniform(9, 17))
    around = rough_distance(space, ellipsoid(site, (radius, radius, radius)), 0.1 * radius, 8, rng)
    mask = (around < 0) & np.isin(space.labels, (Tissue.URINE, Tissue.GUT_WALL))
    finding = Finding("bladder tumour", "mass", f"{side_of(side)} wall of the bladder", 2 * radius, 1, True)
    return finding, paint_mask(space, mask, Tissue.CARCINOMA)
