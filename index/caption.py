"""The caption of a series: one plain sentence built from its catalogue row, in the field's standard words.

It is embedded beside the pixels at encode time, so that text can be matched with what the tags say. `TERMS` is the one
place where a catalogue value gets its words; training's paraphrases start from it.
"""

from collections.abc import Mapping
from typing import Any

TERMS: dict[str, dict[str, str]] = {
    "sequence": {
        "T1": "T1-weighted",
        "T1C": "contrast-enhanced T1-weighted",
        "T2": "T2-weighted",
        "FLAIR": "fluid-attenuated inversion recovery (FLAIR)",
        "PD": "proton density weighted",
        "T2STAR": "T2*-weighted gradient echo",
        "STIR": "short tau inversion recovery (STIR)",
        "DWI": "diffusion-weighted",
        "ADC": "apparent diffusion coefficient map",
        "SWI": "susceptibility-weighted",
        "MRA": "MR angiography",
        "EPI": "echo planar",
        "CINE": "cine",
        "DCE": "dynamic contrast-enhanced",
        "PERFUSION": "perfusion",
    },
    "plane": {"axial": "axial", "sagittal": "sagittal", "coronal": "coronal", "3d": "three-dimensional"},
    "body_region": {
        "brain": "brain",
        "spine": "spine",
        "neck": "neck",
        "chest": "chest",
        "heart": "heart",
        "breast": "breast",
        "abdomen": "abdomen",
        "pelvis": "pelvis",
        "hip": "hip",
        "knee": "knee",
        "shoulder": "shoulder",
        "ankle": "ankle",
        "foot": "foot",
        "wrist": "wrist",
        "hand": "hand",
        "elbow": "elbow",
        "whole_body": "whole body",
    },
}
SEX = {"F": "female", "M": "male"}
QUESTIONS = {"sequence": "{} MRI", "body_region": "MRI of the {}", "plane": "{} MRI"}
"""{column: how a zero-shot question names one of its values}; the certainty of a model is measured on these"""


def question(column: str, value: str) -> str:
    """The prompt that asks for a catalogue value: "MRI of the knee"."""
    return QUESTIONS[column].format(TERMS[column][value])


def is_silent(record: Mapping[str, Any]) -> bool:
    """Whether the tags tell neither sequence nor body region, so that a caption would say nothing of what is shown."""
    return not any(TERMS[column].get(record.get(column) or "") for column in ("sequence", "body_region"))


def caption(record: Mapping[str, Any]) -> str:
    """One sentence of a record's plane, sequence, region, contrast, age and sex; what is null is left out."""
    words = [TERMS[column].get(record.get(column) or "") for column in ("plane", "sequence")]
    parts = [" ".join([*(w for w in words if w), "MRI"])]
    if region := TERMS["body_region"].get(record.get("body_region") or ""):
        parts.append(f"of the {region}")
    if record.get("contrast") == "yes":
        parts.append("with contrast agent")
    who = [
        f"{record['age_years']:.0f}-year-old" if record.get("age_years") is not None else "",
        SEX.get(record.get("sex") or "", ""),
    ]
    if any(who):
        parts.append("of a " + " ".join(w for w in (*who, "patient") if w))
    sentence = " ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]
