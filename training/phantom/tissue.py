"""Tissues and what makes their signal: relaxation times, proton density, diffusion, uptake of contrast agent.

- Values are rounded from the usual compilations: brain from Stanisz 2005, Rooney 2007 and Wansapura 1999; abdomen, pelvis
  and marrow from de Bazelaire 2004; knee from Gold 2004; breast from Rakow-Penner 2006; heart from Stanisz 2005 and von
  Knobelsdorff-Brenkenhoff 2013; cartilage, disc and lesions from ranges in reviews.
- Fat has the long apparent T2 of fast spin echo, since that is how it is seen.
- Uptake is the contrast agent in mmol/l minutes after a standard dose; texture is the relative spread inside a tissue.
"""

from enum import IntEnum

import numpy as np


class Tissue(IntEnum):
    """Label values of a digital anatomy."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    CORTICAL_BONE = 4
    FATTY_MARROW = 5
    RED_MARROW = 6
    TENDON = 7
    BLOOD = 8
    GRAY_MATTER = 9
    WHITE_MATTER = 10
    DEEP_GRAY = 11
    PALLIDUM = 12
    AGED_WHITE_MATTER = 13
    CSF = 14
    VITREOUS = 15
    MUCOSA = 16
    CARTILAGE = 17
    MENISCUS = 18
    JOINT_FLUID = 19
    LIVER = 20
    SPLEEN = 21
    KIDNEY_CORTEX = 22
    KIDNEY_MEDULLA = 23
    PANCREAS = 24
    BILE = 25
    GUT_WALL = 26
    GUT_CONTENT = 27
    LUNG = 28
    CORD = 29
    NUCLEUS_PULPOSUS = 30
    ANNULUS = 31
    DEGENERATE_DISC = 32
    URINE = 33
    PROSTATE = 34
    MYOMETRIUM = 35
    ENDOMETRIUM = 36
    PLAQUE = 37
    OEDEMA = 38
    TUMOUR = 39
    NECROSIS = 40
    INFARCT = 41
    CYST = 42
    HAEMANGIOMA = 43
    METASTASIS = 44
    HAEMOSIDERIN = 45
    TEAR = 46
    BONE_OEDEMA = 47
    FIBROID = 48
    PROSTATE_CENTRAL = 49
    CARCINOMA = 50
    FIBROGLANDULAR = 51
    FIBROADENOMA = 52
    MYOCARDIUM = 53
    SCAR = 54
    PERICARDIAL_FLUID = 55
    DURA = 56


# Columns: T1 ms at 1.5 T, at 3 T, T2 ms at 1.5 T, at 3 T, T2* ms at 1.5 T, at 3 T, proton density,
# diffusion in um2/ms, uptake in mmol/l, texture.
_ROWS: dict[Tissue, tuple[float, ...]] = {
    Tissue.AIR: (1000, 1000, 10, 10, 5, 5, 0.0, 0.0, 0.0, 0.0),
    Tissue.SKIN: (800, 950, 36, 32, 18, 14, 0.75, 1.0, 0.25, 0.10),
    Tissue.FAT: (280, 365, 110, 95, 38, 28, 0.92, 0.08, 0.02, 0.07),
    Tissue.MUSCLE: (990, 1330, 44, 38, 28, 22, 0.78, 1.5, 0.12, 0.10),
    Tissue.CORTICAL_BONE: (220, 240, 1.2, 1.0, 0.5, 0.4, 0.25, 0.1, 0.0, 0.1),
    Tissue.FATTY_MARROW: (300, 385, 100, 88, 22, 15, 0.82, 0.15, 0.03, 0.09),
    Tissue.RED_MARROW: (545, 600, 62, 55, 12, 8, 0.70, 0.35, 0.10, 0.12),
    Tissue.TENDON: (560, 640, 4.0, 3.5, 2.0, 1.5, 0.50, 0.5, 0.03, 0.1),
    Tissue.BLOOD: (1440, 1850, 250, 180, 110, 60, 0.95, 1.2, 1.6, 0.03),
    Tissue.GRAY_MATTER: (1060, 1420, 98, 88, 68, 52, 0.83, 0.80, 0.03, 0.04),
    Tissue.WHITE_MATTER: (640, 850, 78, 70, 62, 48, 0.70, 0.72, 0.02, 0.025),
    Tissue.DEEP_GRAY: (900, 1230, 84, 74, 50, 36, 0.79, 0.75, 0.03, 0.03),
    Tissue.PALLIDUM: (760, 1020, 66, 56, 32, 20, 0.74, 0.75, 0.03, 0.03),
    Tissue.AGED_WHITE_MATTER: (760, 1020, 102, 92, 75, 60, 0.77, 0.90, 0.02, 0.04),
    Tissue.CSF: (4200, 4250, 1900, 1600, 900, 600, 1.0, 3.0, 0.0, 0.01),
    Tissue.VITREOUS: (3900, 4000, 1300, 1100, 600, 400, 1.0, 2.8, 0.0, 0.01),
    Tissue.MUCOSA: (1150, 1450, 140, 120, 30, 20, 0.88, 1.6, 0.6, 0.12),
    Tissue.CARTILAGE: (1030, 1200, 44, 38, 26, 21, 0.78, 1.4, 0.06, 0.06),
    Tissue.MENISCUS: (860, 980, 13, 11, 7, 5, 0.55, 1.0, 0.04, 0.08),
    Tissue.JOINT_FLUID: (3200, 3500, 900, 750, 400, 250, 1.0, 2.5, 0.06, 0.02),
    Tissue.LIVER: (575, 810, 50, 40, 26, 19, 0.78, 1.15, 0.35, 0.05),
    Tissue.SPLEEN: (1050, 1330, 82, 68, 50, 36, 0.82, 0.85, 0.50, 0.04),
    Tissue.KIDNEY_CORTEX: (970, 1150, 90, 78, 60, 45, 0.84, 2.2, 0.90, 0.05),
    Tissue.KIDNEY_MEDULLA: (1400, 1550, 98, 86, 55, 40, 0.88, 2.0, 0.70, 0.05),
    Tissue.PANCREAS: (590, 730, 55, 46, 35, 26, 0.78, 1.5, 0.40, 0.12),
    Tissue.BILE: (2200, 2500, 700, 600, 300, 200, 0.98, 2.7, 0.0, 0.03),
    Tissue.GUT_WALL: (900, 1100, 62, 54, 34, 24, 0.80, 1.4, 0.45, 0.10),
    Tissue.GUT_CONTENT: (1300, 1500, 150, 125, 40, 25, 0.82, 1.9, 0.0, 0.22),
    Tissue.LUNG: (1100, 1250, 30, 25, 1.5, 0.8, 0.14, 1.5, 0.2, 0.4),
    Tissue.CORD: (760, 970, 80, 74, 55, 40, 0.74, 0.90, 0.03, 0.03),
    Tissue.NUCLEUS_PULPOSUS: (1050, 1250, 125, 108, 70, 50, 0.86, 1.7, 0.02, 0.06),
    Tissue.ANNULUS: (850, 950, 34, 30, 18, 13, 0.62, 1.2, 0.02, 0.08),
    Tissue.DEGENERATE_DISC: (800, 900, 38, 33, 18, 13, 0.66, 1.2, 0.03, 0.08),
    Tissue.URINE: (3700, 3900, 1400, 1200, 700, 450, 1.0, 2.9, 0.0, 0.01),
    Tissue.PROSTATE: (1350, 1620, 135, 116, 60, 45, 0.86, 1.5, 0.35, 0.14),
    Tissue.MYOMETRIUM: (1250, 1500, 92, 78, 50, 38, 0.84, 1.4, 0.50, 0.07),
    Tissue.ENDOMETRIUM: (1450, 1700, 185, 160, 100, 70, 0.92, 1.4, 0.40, 0.05),
    Tissue.PLAQUE: (1080, 1480, 165, 145, 120, 95, 0.88, 1.15, 0.04, 0.06),
    Tissue.OEDEMA: (1150, 1560, 155, 138, 115, 90, 0.88, 1.40, 0.03, 0.06),
    Tissue.TUMOUR: (1250, 1650, 135, 120, 70, 50, 0.87, 0.95, 0.70, 0.12),
    Tissue.NECROSIS: (2300, 2700, 420, 350, 150, 100, 0.95, 2.1, 0.04, 0.10),
    Tissue.INFARCT: (1200, 1600, 150, 132, 105, 85, 0.86, 0.42, 0.04, 0.05),
    Tissue.CYST: (3300, 3600, 1200, 1000, 500, 350, 1.0, 2.7, 0.0, 0.01),
    Tissue.HAEMANGIOMA: (1200, 1450, 190, 160, 100, 70, 0.92, 1.9, 0.8, 0.06),
    Tissue.METASTASIS: (1050, 1300, 98, 84, 45, 34, 0.80, 0.95, 0.20, 0.08),
    Tissue.HAEMOSIDERIN: (900, 1100, 40, 30, 8, 4, 0.75, 0.7, 0.0, 0.05),
    Tissue.TEAR: (1700, 2000, 180, 150, 60, 45, 0.90, 2.0, 0.08, 0.05),
    Tissue.BONE_OEDEMA: (950, 1150, 130, 115, 40, 28, 0.88, 1.5, 0.30, 0.10),
    Tissue.FIBROID: (1000, 1200, 52, 44, 26, 20, 0.78, 1.0, 0.35, 0.06),
    Tissue.PROSTATE_CENTRAL: (1150, 1400, 76, 66, 45, 34, 0.82, 1.25, 0.40, 0.22),
    Tissue.CARCINOMA: (1250, 1500, 82, 70, 48, 36, 0.83, 0.75, 0.60, 0.08),
    Tissue.FIBROGLANDULAR: (1265, 1445, 58, 54, 40, 32, 0.80, 1.9, 0.12, 0.10),
    Tissue.FIBROADENOMA: (1330, 1550, 112, 96, 60, 45, 0.86, 1.6, 0.42, 0.05),
    Tissue.MYOCARDIUM: (1000, 1250, 50, 46, 34, 27, 0.80, 1.6, 0.20, 0.05),
    Tissue.SCAR: (1150, 1420, 68, 62, 42, 33, 0.84, 1.9, 0.75, 0.08),
    Tissue.PERICARDIAL_FLUID: (3000, 3300, 650, 550, 300, 200, 1.0, 2.6, 0.0, 0.03),
    Tissue.DURA: (900, 1050, 42, 36, 20, 15, 0.60, 1.0, 0.55, 0.05),
}
_TABLE = np.array([_ROWS[tissue] for tissue in Tissue], dtype=np.float64)
_COLUMNS = {"t1_ms": 0, "t2_ms": 2, "t2star_ms": 4}
_FIXED = {"pd": 6, "adc_um2_ms": 7, "uptake_mmol_l": 8, "texture": 9}

FATTY = (Tissue.FAT, Tissue.FATTY_MARROW)
BRAIN = (
    Tissue.GRAY_MATTER,
    Tissue.WHITE_MATTER,
    Tissue.DEEP_GRAY,
    Tissue.PALLIDUM,
    Tissue.AGED_WHITE_MATTER,
    Tissue.PLAQUE,
    Tissue.OEDEMA,
    Tissue.TUMOUR,
    Tissue.NECROSIS,
    Tissue.INFARCT,
    Tissue.HAEMOSIDERIN,
)


def tissue_values(name: str, field_strength_t: float = 1.5) -> np.ndarray:
    """One property of every tissue, float64 (tissues,), by Tissue value: t1_ms, t2_ms, t2star_ms (at 1.5 or 3 T, linear
    between and held outside), pd, adc_um2_ms, uptake_mmol_l or texture."""
    if name in _FIXED:
        return _TABLE[:, _FIXED[name]].copy()
    weight = float(np.clip((field_strength_t - 1.5) / 1.5, 0, 1))
    low, high = _TABLE[:, _COLUMNS[name]], _TABLE[:, _COLUMNS[name] + 1]
    return low * (1 - weight) + high * weight
