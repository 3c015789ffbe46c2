"""A short radiology report for a phantom series: technique, findings, impression.

- Sentences are drawn from several grammars, so that no wording names the phantom; all of them agree with the labels.
- A healthy patient's report denies lesions; a lesion is told with place and size; age, sex and technique come and go.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.phantom.finding import Finding
from training.phantom.normal import NORMAL

WEIGHTING = {
    "T1": ("T1-weighted", "T1", "T1w"),
    "T1C": ("post-contrast T1-weighted", "gadolinium-enhanced T1", "T1 with contrast", "contrast-enhanced T1-weighted"),
    "T2": ("T2-weighted", "T2", "T2w fast spin-echo"),
    "FLAIR": ("FLAIR", "T2 FLAIR", "fluid-attenuated inversion recovery"),
    "PD": ("proton density", "PD-weighted", "proton-density-weighted"),
    "T2STAR": ("T2*-weighted gradient-echo", "T2* GRE", "gradient-echo T2*"),
    "STIR": ("STIR", "short-tau inversion recovery", "fat-suppressed STIR"),
    "DWI": ("diffusion-weighted", "DWI", "diffusion-weighted echo-planar"),
    "ADC": ("ADC map", "apparent diffusion coefficient", "ADC"),
    "CINE": ("cine", "cine SSFP", "balanced SSFP cine", "bright-blood cine", "cine TrueFISP"),
    "MRA": ("time-of-flight MRA", "MR angiography", "TOF angiography", "non-contrast MRA"),
    "SWI": ("susceptibility-weighted", "SWI"),
    "EPI": ("echo-planar", "EPI", "gradient-echo EPI", "BOLD echo-planar"),
    "DCE": ("dynamic contrast-enhanced", "DCE", "dynamic post-contrast T1", "DCE T1-weighted"),
}
PLANE = {
    "axial": ("axial", "transverse"),
    "sagittal": ("sagittal",),
    "coronal": ("coronal",),
    "3d": ("3D", "volumetric"),
}
REGION = {
    "brain": ("brain", "head"),
    "knee": ("knee",),
    "abdomen": ("abdomen", "upper abdomen"),
    "spine": ("spine",),
    "pelvis": ("pelvis",),
    "breast": ("breast", "breasts"),
    "heart": ("heart", "cardiac"),
}
NO_LESION = (
    "No focal lesion.",
    "No lesion identified.",
    "No focal abnormality.",
    "Normal study.",
    "Unremarkable examination.",
    "No evidence of a focal lesion.",
    "Nothing abnormal is seen.",
    "No mass or other focal lesion.",
)


def write_report(labels: Mapping[str, Any], finding: Finding, intensity: str, rng: np.random.Generator) -> str:
    """English text of a few sentences; `labels` as in PhantomSeries.labels, `finding` what was painted, `intensity` how
    it looks in this series (lesion.intensity)."""
    parts = [_technique(labels, rng)]
    if rng.random() < 0.6:
        parts.append(_patient(labels, rng))
    parts.extend(_findings(labels, finding, intensity, rng))
    return " ".join(part for part in parts if part)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return str(options[int(rng.integers(len(options)))])


def _technique(labels: Mapping[str, Any], rng: np.random.Generator) -> str:
    weighting = _pick(WEIGHTING[labels["sequence"]], rng)
    plane = _pick(PLANE[labels["plane"]], rng)
    region = _pick(REGION[labels["body_region"]], rng)
    grammar = (
        f"{plane} {weighting} MRI of the {region}.",
        f"MRI {region}, {plane} {weighting}.",
        f"Technique: {plane} {weighting} images of the {region} were acquired.",
        f"{region} MRI. Sequence: {plane} {weighting}.",
        f"{weighting} {region} MRI, {plane}.",
        f"{region} MR: {weighting}, {plane} plane."
        if plane not in ("3D", "volumetric")
        else f"{region} MR: {plane} {weighting}.",
    )
    sentence = _pick(grammar, rng)
    if labels["skull_stripped"] == "yes" and rng.random() < 0.7:
        sentence += " Skull-stripped."
    if labels["contrast"] == "no" and rng.random() < 0.3:
        sentence += _pick(
            (" No contrast agent was given.", " Without intravenous contrast.", " Non-contrast study."), rng
        )
    return sentence[0].upper() + sentence[1:]


def _patient(labels: Mapping[str, Any], rng: np.random.Generator) -> str:
    if labels["age_years"] is None or labels["sex"] is None:
        return ""
    age, woman = f"{labels['age_years']:.0f}", labels["sex"] == "F"
    noun = "woman" if woman else "man"
    grammar = (
        f"{age}-year-old {noun}.",
        f"Patient: {'female' if woman else 'male'}, {age} years.",
        f"Clinical: {age} y/o {'F' if woman else 'M'}.",
        f"{noun.capitalize()} aged {age}.",
    )
    return _pick(grammar, rng)


def _findings(labels: Mapping[str, Any], finding: Finding, intensity: str, rng: np.random.Generator) -> list[str]:
    region, diagnosis = labels["body_region"], labels["diagnosis"]
    if labels["lesion"] is None or diagnosis is None:
        return []  # a real head of which nothing is known, or nothing but that it is ill
    normal = [sentence for sentence, against in NORMAL[region] if diagnosis not in against]
    rng.shuffle(normal)
    if labels["lesion"] == "no":
        return [*normal[: int(rng.integers(0, 3))], _pick(NO_LESION, rng)]
    beside = normal[: int(rng.integers(0, 2))]
    lesion = [_lesion_sentence(finding, rng), _appearance(labels, finding, intensity, rng)]
    return [*lesion, *beside, _impression(finding, rng) if rng.random() < 0.6 else ""]


def _lesion_sentence(finding: Finding, rng: np.random.Generator) -> str:
    article = "an" if finding.noun[0] in "aeiou" else "a"
    if not finding.size_mm:
        sizeless = (
            f"There is {article} {finding.noun}, {finding.place}.",
            f"Findings: {finding.noun}, {finding.place}.",
            f"{finding.noun.capitalize()}, {finding.place}.",
        )
        return _pick(sizeless, rng)
    size = _pick((f"{finding.size_mm:.0f} mm", f"{finding.size_mm / 10:.1f} cm"), rng)
    if finding.count > 1:
        count = _pick(("Multiple", "Several", f"{finding.count}"), rng)
        return f"{count} {finding.noun} in the {finding.place}, the largest {size}."
    grammar = (
        f"There is {article} {finding.noun} in the {finding.place}, measuring {size}.",
        f"Findings: {finding.noun}, {finding.place}, {size}.",
        f"{finding.noun.capitalize()} of the {finding.place} ({size}).",
        f"There is {article} {finding.noun} of {size} in the {finding.place}.",
        f"{finding.noun.capitalize()} is seen in the {finding.place}, {size}.",
    )
    return _pick(grammar, rng)


def _appearance(labels: Mapping[str, Any], finding: Finding, intensity: str, rng: np.random.Generator) -> str:
    """What the lesion does in this contrast; left out in two reports of five."""
    if finding.enhances and labels["contrast"] == "yes":
        return _pick(("It enhances after contrast.", "Avid enhancement.", "There is contrast enhancement."), rng)
    if rng.random() < 0.4 or not intensity:
        return ""
    name = {"T1C": "T1", "DCE": "T1", "T2STAR": "T2*", "CINE": "SSFP"}.get(labels["sequence"], labels["sequence"])
    if name == "ADC":
        return {"hyperintense": "The ADC is raised.", "hypointense": "The ADC is reduced."}.get(intensity, "")
    if name == "DWI" and finding.diagnosis == "stroke":
        return "Restricted diffusion."
    noun = "lesions" if finding.count > 1 else "lesion"
    return _pick(
        (f"{name} {intensity} {noun}.", f"{intensity.capitalize()} on {name}.", f"{name}-{intensity} signal."), rng
    )


def _impression(finding: Finding, rng: np.random.Generator) -> str:
    name = finding.diagnosis
    return _pick(
        (
            f"Impression: {name}.",
            f"Consistent with {name}.",
            f"Suggestive of {name}.",
            f"Compatible with {name}.",
            f"Diagnosis: {name}.",
        ),
        rng,
    )
