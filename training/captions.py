"""Many ways to say what a series is: attributes, their words, and sentences that mention some of them.

Decisions:
- An attribute is a small closed vocabulary; a series has a value or is unknown. A caption mentions some attributes.
  A pair is positive when all that is mentioned is known and equal, negative when something mentioned is known and
  different, and ignored otherwise: what is not known is never taught.
- Word order, abbreviations and lay words vary, since a query is typed by people.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from index.caption import TERMS

WORDS: dict[str, dict[str, list[str]]] = {
    "sequence": {
        "T1": ["T1-weighted", "T1w", "T1", "T1 weighted", "native T1", "non-contrast T1-weighted"],
        "T1C": ["T1-weighted post-contrast", "gadolinium-enhanced T1", "T1 with contrast", "T1 after gadolinium contrast",
                "T1-weighted with contrast", "T1 post gad", "enhanced T1-weighted"],
        "T2": ["T2-weighted", "T2w", "T2", "T2 weighted", "T2 turbo spin echo", "T2 TSE"],
        "FLAIR": ["FLAIR", "T2 FLAIR", "fluid-attenuated inversion recovery", "T2-weighted FLAIR", "dark fluid"],
        "PD": ["proton density weighted", "PD-weighted", "PD", "proton density", "PDw", "intermediate-weighted"],
        "T2STAR": ["T2*-weighted", "T2* gradient echo", "T2star", "gradient echo T2*", "GRE T2*"],
        "STIR": ["STIR", "short tau inversion recovery", "T2 STIR", "fat-suppressed inversion recovery"],
        "DWI": ["diffusion-weighted", "DWI", "diffusion", "diffusion weighted imaging", "diffusion trace"],
        "ADC": ["ADC", "apparent diffusion coefficient", "ADC map", "diffusion coefficient map"],
        "EPI": ["echo planar", "EPI", "functional", "BOLD"],
        "CINE": ["cine", "cine SSFP"],
        "DCE": ["dynamic contrast-enhanced", "DCE", "dynamic enhanced"],
    },
    "body_region": {
        "brain": ["brain", "head", "cerebral", "brain"],
        "spine": ["spine", "spinal cord", "vertebral column", "cervical spine", "lumbar spine"],
        "abdomen": ["abdomen", "abdominal organs", "liver and kidneys", "kidneys", "upper abdomen"],
        "pelvis": ["pelvis", "prostate", "prostate and pelvis", "pelvic organs"],
        "knee": ["knee", "knee joint"],
        "breast": ["breast", "breasts"],
        "heart": ["heart", "cardiac chambers"],
    },
    "plane": {
        "axial": ["axial", "transverse", "transaxial"],
        "sagittal": ["sagittal", "sag"],
        "coronal": ["coronal", "cor"],
        "3d": ["3D", "three-dimensional", "volumetric", "isotropic 3D"],
    },
    "contrast": {
        "yes": ["with contrast", "after gadolinium", "contrast-enhanced", "post contrast"],
        "no": ["without contrast", "non-contrast", "no contrast agent given", "unenhanced"],
    },
    "lesion": {
        "yes": ["with a lesion", "hyperintense lesion", "showing lesions", "abnormal, lesion present", "with pathology",
                "with an abnormality"],
        "no": ["no lesion", "without lesion", "normal", "no abnormality", "healthy volunteer", "unremarkable"],
    },
    "finding": {
        "white matter lesions": ["multiple sclerosis", "demyelinating lesions", "white matter lesions", "MS plaques",
                                 "hyperintense white matter lesions", "white matter hyperintensities"],
        "tumour": ["tumour", "tumor", "glioma", "a mass", "neoplasm", "brain tumour"],
        "stroke": ["acute infarct", "ischaemic stroke", "stroke", "infarction"],
        "none": ["no lesion", "healthy", "normal study", "no focal abnormality"],
    },
    "age": {
        "child": ["an infant", "a child", "a young child", "paediatric"],
        "young": ["a young adult", "a person in the twenties or thirties", "a 30-year-old"],
        "middle": ["a middle-aged adult", "a 50-year-old", "a person in the fifties"],
        "old": ["an elderly patient", "an old person", "a 75-year-old", "a senior"],
    },
}  # fmt: skip
ATTRIBUTES = tuple(WORDS)
VALUES = {name: tuple(words) for name, words in WORDS.items()}
FINDING_OF = {
    "ms": "white matter lesions", "wmh": "white matter lesions", "multiple sclerosis": "white matter lesions",
    "glioma": "tumour", "tumour": "tumour", "brain tumour": "tumour", "stroke": "stroke", "healthy": "none",
}  # fmt: skip
MORE_GENERAL = {("T1C", "T1")}
"""(what an image is, what a caption says): true but not the whole truth, so neither taught nor punished"""


def attributes_of(record: Mapping[str, Any]) -> np.ndarray:
    """(A,) int16: the index of each attribute's value in VALUES, -1 where unknown."""
    known = {
        **record,
        "age": _age_band(record.get("age_years")),
        "finding": FINDING_OF.get(record.get("diagnosis") or ""),
    }
    return np.array([_position(name, known.get(name)) for name in ATTRIBUTES], dtype=np.int16)


def without_pathology(attributes: np.ndarray, sequence: str) -> np.ndarray:
    """Attributes (A,) of the same anatomy in another sequence: whether a lesion shows is no longer known."""
    other = attributes.copy()
    other[ATTRIBUTES.index("sequence")] = _position("sequence", sequence)
    other[[ATTRIBUTES.index("lesion"), ATTRIBUTES.index("finding")]] = -1
    return other


def _position(name: str, value: str | None) -> int:
    return VALUES[name].index(value) if value in VALUES[name] else -1


def _age_band(age_years: float | None) -> str | None:
    if age_years is None:
        return None
    return "child" if age_years < 13 else "young" if age_years < 40 else "middle" if age_years < 63 else "old"


@dataclass(frozen=True)
class Captions:
    """texts (T); mentions (T, A) int16, -1 where an attribute is not mentioned."""

    texts: list[str]
    mentions: np.ndarray


def make_captions(count: int, seed: int = 0) -> Captions:
    """`count` different captions, each about one to four attributes, all values of an attribute equally often."""
    rng = np.random.default_rng([seed, 11])
    found: dict[str, np.ndarray] = {}
    while len(found) < count:
        mention = _draw_mention(rng)
        found.setdefault(write_caption(mention, rng), mention)
    return Captions(list(found), np.stack(list(found.values())))


def _draw_mention(rng: np.random.Generator) -> np.ndarray:
    mention = np.full(len(ATTRIBUTES), -1, dtype=np.int16)
    likely = np.array([0.65, 0.5, 0.25, 0.15, 0.15, 0.15, 0.12])
    chosen = rng.random(len(ATTRIBUTES)) < likely
    if not chosen.any():
        chosen[rng.integers(0, 2)] = True
    for a in np.flatnonzero(chosen):
        mention[a] = rng.integers(len(VALUES[ATTRIBUTES[a]]))
    if mention[ATTRIBUTES.index("finding")] >= 0:
        mention[ATTRIBUTES.index("lesion")] = -1
    return mention


def write_caption(mention: np.ndarray, rng: np.random.Generator) -> str:
    """A sentence or a heap of keywords that says just what `mention` (A,) holds."""
    said = {}
    for name, value in zip(ATTRIBUTES, mention, strict=True):
        if value >= 0:
            key = VALUES[name][value]
            canonical = TERMS.get(name, {}).get(key)
            words = WORDS[name][key] + ([canonical] if canonical else [])
            said[name] = words[rng.integers(len(words))]
    if rng.random() < 0.35:
        return _keywords(list(said.values()), rng)
    return _sentence(said, rng)


def _keywords(words: list[str], rng: np.random.Generator) -> str:
    mri = [["MRI"], ["MR"], []][rng.integers(3)]
    mixed = [*words, *mri]
    return ([" ", ", "][rng.integers(2)]).join(mixed[i] for i in rng.permutation(len(mixed)))


def _sentence(said: dict[str, str], rng: np.random.Generator) -> str:
    image = ["MRI", "MR image", "scan", "MRI series", "image", "MRI"][rng.integers(6)]
    parts = [f"{said.get('plane', '')} {said.get('sequence', '')} {image}".strip()]
    if "body_region" in said:
        parts.append([f"of the {said['body_region']}", f"{said['body_region']}"][rng.integers(2)])
        if rng.random() < 0.3:
            parts.reverse()
    tail = [said[name] for name in ("contrast", "lesion") if name in said]
    if "finding" in said:
        tail.append([f"with {said['finding']}", said["finding"], f"showing {said['finding']}"][rng.integers(3)])
    if "age" in said:
        tail.append(f"of {said['age']}")
    text = " ".join([*parts, *(tail[i] for i in rng.permutation(len(tail)))])
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def match(attributes: np.ndarray, mentions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of images (B, A) and captions (T, A) belong together: (positive, negative), each (B, T) bool."""
    image, text = attributes[:, None], mentions[None]
    said, known = text >= 0, image >= 0
    general = np.zeros(image.shape[:1] + text.shape[1:], dtype=bool)
    sequence = ATTRIBUTES.index("sequence")
    for narrow, wide in MORE_GENERAL:
        general[..., sequence] |= (image[..., sequence] == _position("sequence", narrow)) & (
            text[..., sequence] == _position("sequence", wide)
        )
    equal = image == text
    positive = (~said | (known & equal)).all(-1)
    negative = (said & known & ~equal & ~general).any(-1)
    return positive, negative
