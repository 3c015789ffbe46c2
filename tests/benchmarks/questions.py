"""What an encoder is asked about labelled series: prompts of classes, queries of search, columns that probes read."""

from collections.abc import Callable
from dataclasses import dataclass

from boxes import Label

FOUR = {"T1": "T1-weighted MRI", "T2": "T2-weighted MRI", "FLAIR": "FLAIR MRI", "PD": "proton density weighted MRI"}
EIGHT = FOUR | {
    "T1C": "T1-weighted MRI after gadolinium contrast",
    "T2STAR": "T2*-weighted gradient echo MRI",
    "DWI": "diffusion-weighted MRI",
    "ADC": "apparent diffusion coefficient map",
}
REGIONS = {
    "brain": "MRI of the brain",
    "spine": "MRI of the spine",
    "abdomen": "MRI of the abdomen",
    "pelvis": "MRI of the prostate and pelvis",
    "knee": "MRI of the knee",
    "breast": "MRI of the breast",
    "heart": "cardiac MRI",
}
PLANES = {"axial": "axial MRI", "sagittal": "sagittal MRI", "coronal": "coronal MRI"}


@dataclass(frozen=True)
class Choice:
    """Classes of a label column, each by its prompt."""

    column: str
    prompts: dict[str, str]


CHOICES = {
    "zero-shot four sequences": Choice("sequence", FOUR),
    "zero-shot eight sequences": Choice("sequence", EIGHT),
    "zero-shot region": Choice("body_region", REGIONS),
    "zero-shot plane": Choice("plane", PLANES),
}

QUERIES: dict[str, Callable[[Label], bool]] = {
    "FLAIR MRI of the brain": lambda r: r["sequence"] == "FLAIR" and r["body_region"] == "brain",
    "T1-weighted brain MRI": lambda r: r["sequence"] in ("T1", "T1C") and r["body_region"] == "brain",
    "T2-weighted MRI of the prostate": lambda r: r["sequence"] == "T2" and r["body_region"] == "pelvis",
    "MRI of the spine": lambda r: r["body_region"] == "spine",
    "MRI of the kidneys and abdomen": lambda r: r["body_region"] == "abdomen",
    "MRI of the knee": lambda r: r["body_region"] == "knee",
    "T2 hyperintense lesion": lambda r: r["lesion"] == "yes" and r["sequence"] in ("T2", "FLAIR"),
    "brain tumour with contrast enhancement": lambda r: r["sequence"] == "T1C" and r["lesion"] == "yes",
}

POINTED = "hyperintense lesion"
"""what the most similar patch is asked for"""

PROBES = {
    "probe sequence": ("sequence", "balanced_accuracy", 1),
    "probe lesion AUROC": ("lesion", "auroc", 3),
    "probe sex AUROC": ("sex", "auroc", 3),
    "probe age R2": ("age_years", "r2", 10),
}
"""figure: column, metric, and over how many divisions into folds it is averaged: where subjects and cohorts are few, the value
hangs on who shares a fold"""


def texts() -> list[str]:
    """Every text that is asked, once."""
    prompts = [prompt for choice in CHOICES.values() for prompt in choice.prompts.values()]
    return list(dict.fromkeys([*prompts, *QUERIES, POINTED]))
