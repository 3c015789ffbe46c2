"""What a series shows as attributes, and captions that mention some of them: which is true of which.

Decisions:
- An attribute is a small closed vocabulary (wordings.py); a series has a value or is unknown. A caption mentions some
  attributes. A pair is positive when all that is mentioned is known and true, negative when something mentioned is known and
  false, and ignored otherwise: what is not known is never taught.
- What is said may be wider than what is known: SAID holds the values, groups of values and denials; RELATION says which
  of them is true (1), false (-1) or neither (0) of which value.
- What follows from another column is an attribute too (fat of STIR, contrast of T1C), so that `T1 with contrast` may be said
  in two words at two places.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.wordings import DENIABLE, GROUPS, NEITHER, WORDS

ATTRIBUTES = tuple(WORDS)
VALUES = {name: tuple(words) for name, words in WORDS.items()}
DENIAL = "not "
SAID = {
    name: (*values, *GROUPS.get(name, {}), *(DENIAL + x for x in (DENIABLE if name == "finding" else ())))
    for name, values in VALUES.items()
}
FINDING_OF = {
    "ms": "multiple sclerosis", "multiple sclerosis": "multiple sclerosis", "wmh": "white matter changes",
    "glioma": "brain tumour", "brain tumour": "brain tumour", "renal tumour": "organ tumour", "bladder tumour": "organ tumour",
    "prostate cancer": "organ tumour", "liver metastases": "metastasis", "vertebral metastasis": "metastasis",
    "stroke": "stroke", "intracerebral haemorrhage": "haemorrhage", "joint effusion": "joint effusion",
    "meniscal tear": "meniscal tear", "anterior cruciate ligament tear": "ligament tear", "popliteal cyst": "cyst",
    "renal cyst": "cyst", "liver cyst": "cyst", "ovarian cyst": "cyst", "liver haemangioma": "haemangioma",
    "uterine fibroid": "fibroid", "disc herniation": "disc herniation", "disc degeneration": "disc degeneration",
    "breast cancer": "organ tumour", "breast cyst": "cyst", "fibroadenoma": "fibroadenoma",
    "pericardial effusion": "pericardial effusion", "myocardial infarct": "myocardial infarct",
    "hypertrophic cardiomyopathy": "cardiomyopathy", "healthy": "none",
}  # fmt: skip
ENHANCED = ("T1C", "DCE")
FLUID = {"T2": "bright", "STIR": "bright", "T1": "dark", "T1C": "dark", "FLAIR": "dark"}
OEDEMATOUS = ("multiple sclerosis", "white matter changes", "stroke", "brain tumour")
"""findings that are bright on T2, FLAIR and STIR alike; cysts and effusions are dark where fluid is"""
WATERY = ("cyst", "joint effusion", "pericardial effusion")
SPINE = {
    "cervical": re.compile(r"\b(?:cervical|c-?spine|C[1-7])\b", re.IGNORECASE),
    "thoracic": re.compile(r"\b(?:thoracic|t-?spine|T(?:[5-9]|1[0-2]))\b", re.IGNORECASE),
    "lumbar": re.compile(r"\b(?:lumbar|l-?spine|L[1-5])\b", re.IGNORECASE),
}


def attributes_of(record: Mapping[str, Any]) -> np.ndarray:
    """(A,) int16: the index of each attribute's value in VALUES, -1 where unknown."""
    known = {
        **{name: record.get(name) for name in ATTRIBUTES},
        "age": _age_band(record.get("age_years")),
        "finding": _finding(record),
    }
    region, sequence = record.get("body_region"), record.get("sequence")
    known["contrast"] = "yes" if sequence in ENHANCED else known["contrast"]
    known["fat_suppressed"] = "yes" if sequence == "STIR" else _yes_no(known["fat_suppressed"])
    known["fluid"] = FLUID.get(sequence or "")
    known["signal"] = _signal(sequence, known["finding"])
    # Sex shows in the pelvis alone, a skull in the head alone: elsewhere neither is asked of the pixels.
    known["sex"] = record.get("sex") if region == "pelvis" else None
    known["skull_stripped"] = _yes_no(known["skull_stripped"]) if region == "brain" else None
    known["part"] = _spine_part(record) if region == "spine" else None
    return np.array([_position(name, known[name]) for name in ATTRIBUTES], dtype=np.int16)


def without_pathology(attributes: np.ndarray, sequence: str) -> np.ndarray:
    """Attributes (A,) of the same anatomy in another sequence: whether a lesion shows is no longer known, nor whether fat
    does."""
    other = attributes.copy()
    for name in ("lesion", "finding", "signal", "fat_suppressed"):
        other[ATTRIBUTES.index(name)] = -1
    other[ATTRIBUTES.index("sequence")] = _position("sequence", sequence)
    other[ATTRIBUTES.index("fluid")] = _position("fluid", FLUID.get(sequence))
    if sequence in ENHANCED:
        other[ATTRIBUTES.index("contrast")] = _position("contrast", "yes")
    return other


def _position(name: str, value: str | None) -> int:
    return VALUES[name].index(value) if value in VALUES[name] else -1


def _age_band(age_years: float | None) -> str | None:
    if age_years is None:
        return None
    return "child" if age_years < 13 else "young" if age_years < 40 else "middle" if age_years < 63 else "old"


def _finding(record: Mapping[str, Any]) -> str | None:
    diagnosis = record.get("diagnosis") or ""
    if diagnosis == "tumour":
        return {"brain": "brain tumour", None: None}.get(record.get("body_region"), "organ tumour")
    return FINDING_OF.get(diagnosis, "none" if record.get("lesion") == "no" else None)


def _signal(sequence: str | None, finding: str | None) -> str | None:
    if sequence in ("T2", "FLAIR", "STIR") and finding in OEDEMATOUS:
        return "bright"
    return FLUID.get(sequence or "") if finding in WATERY else None


def _yes_no(value: Any) -> str | None:
    return {True: "yes", False: "no"}.get(value, value)


def _spine_part(record: Mapping[str, Any]) -> str | None:
    """The one part of the spine that the report names, None where it names none or several."""
    named = [part for part, pattern in SPINE.items() if pattern.search(record.get("report") or "")]
    return named[0] if len(named) == 1 else None


def _relation(name: str) -> np.ndarray:
    """(S, V) int8: what each of SAID is of each of VALUES: 1 true, -1 false, 0 neither."""
    rows = [_truth(name, said) for said in SAID[name]]
    return np.array([[row[value] for value in VALUES[name]] for row in rows], dtype=np.int8)


def _truth(name: str, said: str) -> dict[str, int]:
    if said.startswith(DENIAL) and said not in VALUES[name]:
        denied = _truth(name, said.removeprefix(DENIAL))
        # Who has one finding may have another, too: only nothing at all is surely without it.
        return {value: 1 if value == "none" else -1 if denied[value] > 0 else 0 for value in VALUES[name]}
    if said in VALUES[name]:
        true, perhaps = {said}, NEITHER.get(name, {}).get(said, set())
    else:
        _, true, perhaps = GROUPS[name][said]
    return {value: 1 if value in true else 0 if value in perhaps else -1 for value in VALUES[name]}


RELATION = {name: _relation(name) for name in ATTRIBUTES}


def match(attributes: np.ndarray, mentions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of images (B, A) and captions (T, A) belong together: (positive, negative), each (B, T) bool.

    attributes index VALUES, mentions SAID; -1 is unknown, and not mentioned.
    """
    positive = np.ones((len(attributes), len(mentions)), dtype=bool)
    negative = np.zeros_like(positive)
    for a, name in enumerate(ATTRIBUTES):
        said, known = mentions[None, :, a] >= 0, attributes[:, None, a] >= 0
        truth = RELATION[name][mentions[None, :, a], attributes[:, None, a]]
        positive &= ~said | (known & (truth > 0))
        negative |= said & known & (truth < 0)
    return positive, negative


@dataclass(frozen=True)
class Captions:
    """texts (T); mentions (T, A) int16, of SAID, -1 where an attribute is not mentioned."""

    texts: list[str]
    mentions: np.ndarray
