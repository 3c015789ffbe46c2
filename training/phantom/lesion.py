"""Which diseases a region can have, and the painting of one.

- Two patients in five are healthy; the diseases of the region and sex share the rest.
- The mask is what was painted, so it is exact.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from models.errors import DecipherError
from training.phantom import lesion_brain, lesion_chest, lesion_joint, lesion_organ
from training.phantom.finding import Finding, Lesion
from training.phantom.person import Person
from training.phantom.shapes import Space
from training.phantom.tissue import Tissue

Painter = Callable[[Any, np.random.Generator], Lesion]
LESIONS: dict[str, dict[str, Painter]] = {
    "brain": {
        "multiple sclerosis": lesion_brain.multiple_sclerosis,
        "brain tumour": lesion_brain.brain_tumour,
        "stroke": lesion_brain.stroke,
        "intracerebral haemorrhage": lesion_brain.haemorrhage,
    },
    "knee": {
        "joint effusion": lesion_joint.effusion,
        "meniscal tear": lesion_joint.meniscal_tear,
        "anterior cruciate ligament tear": lesion_joint.cruciate_tear,
        "popliteal cyst": lesion_joint.baker_cyst,
    },
    "abdomen": {
        "renal cyst": lesion_organ.renal_cyst,
        "renal tumour": lesion_organ.renal_tumour,
        "liver haemangioma": lesion_organ.liver_haemangioma,
        "liver cyst": lesion_organ.liver_cyst,
        "liver metastases": lesion_organ.liver_metastases,
    },
    "spine": {
        "disc degeneration": lesion_joint.disc_degeneration,
        "disc herniation": lesion_joint.disc_herniation,
        "vertebral metastasis": lesion_joint.vertebral_metastasis,
    },
    "pelvis": {
        "prostate cancer": lesion_organ.prostate_cancer,
        "uterine fibroid": lesion_organ.uterine_fibroid,
        "ovarian cyst": lesion_organ.ovarian_cyst,
        "bladder tumour": lesion_organ.bladder_tumour,
    },
    "breast": {
        "breast cancer": lesion_chest.breast_cancer,
        "fibroadenoma": lesion_chest.fibroadenoma,
        "breast cyst": lesion_chest.breast_cyst,
    },
    "heart": {
        "pericardial effusion": lesion_chest.pericardial_effusion,
        "myocardial infarct": lesion_chest.myocardial_infarct,
        "hypertrophic cardiomyopathy": lesion_chest.thick_septum,
    },
}
MATERIAL: dict[str, tuple[Tissue, Tissue]] = {  # what a lesion is made of, and what it is seen against
    "multiple sclerosis": (Tissue.PLAQUE, Tissue.WHITE_MATTER),
    "brain tumour": (Tissue.TUMOUR, Tissue.WHITE_MATTER),
    "stroke": (Tissue.INFARCT, Tissue.WHITE_MATTER),
    "intracerebral haemorrhage": (Tissue.HAEMOSIDERIN, Tissue.DEEP_GRAY),
    "joint effusion": (Tissue.JOINT_FLUID, Tissue.MUSCLE),
    "meniscal tear": (Tissue.TEAR, Tissue.MENISCUS),
    "anterior cruciate ligament tear": (Tissue.TEAR, Tissue.TENDON),
    "popliteal cyst": (Tissue.JOINT_FLUID, Tissue.MUSCLE),
    "renal cyst": (Tissue.CYST, Tissue.KIDNEY_CORTEX),
    "renal tumour": (Tissue.TUMOUR, Tissue.KIDNEY_CORTEX),
    "liver haemangioma": (Tissue.HAEMANGIOMA, Tissue.LIVER),
    "liver cyst": (Tissue.CYST, Tissue.LIVER),
    "liver metastases": (Tissue.METASTASIS, Tissue.LIVER),
    "disc degeneration": (Tissue.DEGENERATE_DISC, Tissue.NUCLEUS_PULPOSUS),
    "disc herniation": (Tissue.DEGENERATE_DISC, Tissue.CSF),
    "vertebral metastasis": (Tissue.METASTASIS, Tissue.RED_MARROW),
    "prostate cancer": (Tissue.CARCINOMA, Tissue.PROSTATE),
    "uterine fibroid": (Tissue.FIBROID, Tissue.MYOMETRIUM),
    "ovarian cyst": (Tissue.CYST, Tissue.MYOMETRIUM),
    "bladder tumour": (Tissue.CARCINOMA, Tissue.URINE),
    "breast cancer": (Tissue.CARCINOMA, Tissue.FIBROGLANDULAR),
    "fibroadenoma": (Tissue.FIBROADENOMA, Tissue.FIBROGLANDULAR),
    "breast cyst": (Tissue.CYST, Tissue.FIBROGLANDULAR),
    "pericardial effusion": (Tissue.PERICARDIAL_FLUID, Tissue.MYOCARDIUM),
    "myocardial infarct": (Tissue.SCAR, Tissue.MYOCARDIUM),
    "hypertrophic cardiomyopathy": (Tissue.MYOCARDIUM, Tissue.MUSCLE),
}
ONLY_SEX = {
    "prostate cancer": "M",
    **dict.fromkeys(("uterine fibroid", "ovarian cyst", "breast cancer", "fibroadenoma", "breast cyst"), "F"),
}
HEALTHY_SHARE = 0.4


def diagnoses(region: str, sex: str) -> list[str]:
    """The diagnoses that a person of `sex` can have in `region`, "healthy" first."""
    return ["healthy", *(name for name in LESIONS[region] if ONLY_SEX.get(name, sex) == sex)]


def add_lesion(
    space: Space, region: str, person: Person, rng: np.random.Generator, diagnosis: str | None = None
) -> tuple[Finding, np.ndarray]:
    """Paint what `diagnosis` (drawn where None) brings into `space`; the finding and its mask, bool (I, J, K).

    DecipherError when the region or the sex cannot have the diagnosis.
    """
    names = diagnoses(region, person.sex)
    ill = names[1:] if rng.random() >= HEALTHY_SHARE else []
    chosen = diagnosis or (str(rng.choice(ill)) if ill else "healthy")
    if chosen not in names:
        raise DecipherError(
            f"The phantom has no {chosen!r} in the {region} of this patient.", f"Choose: {', '.join(names)}."
        )
    if chosen == "healthy":
        return Finding(), np.zeros(space.labels.shape, bool)
    finding, mask = LESIONS[region][chosen](space, rng)
    return (finding, mask) if mask.any() else (Finding(), mask)


def intensity(diagnosis: str, signal: np.ndarray) -> str:
    """How a lesion looks against its surroundings, given the signal of every tissue: "hyperintense", "hypointense",
    "isointense"; "" for the healthy."""
    if diagnosis not in MATERIAL:
        return ""
    lesion, around = (float(signal[tissue]) for tissue in MATERIAL[diagnosis])
    ratio = lesion / max(around, 1e-9)
    return "hyperintense" if ratio > 1.2 else "hypointense" if ratio < 0.83 else "isointense"
