"""What a series shows: sequence, contrast agent and body region, by rules from physics, then tags, then names.

Design: pure functions on a small mapping of tags, so that DICOM and NIfTI are judged alike. Timing and diffusion weighting
beat words, because descriptions are typed by people and copied between protocols; words that name what timing cannot tell
(angiography, susceptibility, perfusion) come before timing's T1 and T2. What nothing tells stays None.
"""

import re
from itertools import pairwise
from typing import TypedDict

SEQUENCES = (
    "T1", "T1C", "T2", "FLAIR", "PD", "T2STAR", "STIR", "DWI", "ADC", "SWI", "MRA", "EPI", "CINE", "DCE", "PERFUSION",
    "LOCALIZER", "OTHER",
)  # fmt: skip
PLANES = ("axial", "sagittal", "coronal", "3d")
REGIONS = (
    "brain", "spine", "neck", "chest", "heart", "breast", "abdomen", "pelvis", "hip", "knee", "shoulder", "ankle", "foot",
    "wrist", "hand", "elbow", "whole_body",
)  # fmt: skip

Inferred = tuple[str | None, str | None]


class Tags(TypedDict, total=False):
    """What the rules read. `words_from` is 'tag' or 'sidecar'; `name` is the file's (of a series of files, the folder's)
    own name, `folder` that of the folder around it.
    """

    words_from: str
    name: str
    folder: str
    bids_suffix: str
    series_description: str
    protocol_name: str
    sequence_name: str
    image_type: tuple[str, ...]
    scanning_sequence: tuple[str, ...]
    sequence_variant: tuple[str, ...]
    scan_options: tuple[str, ...]
    acquisition_type: str
    acquisition_contrast: str
    angio: bool
    cardiac_images: int
    repetition_time_ms: float
    echo_time_ms: float
    inversion_time_ms: float
    flip_angle_deg: float
    echo_train_length: int
    b_value: float
    field_strength_t: float
    contrast_agent: str
    body_part: str
    vendor: str
    model_name: str


_PARTS_OF_BODY = {
    "brain": "brain head skull cerebrum cerebral neuro hirn kopf cranium cranial pituitary iac orbit orbits",
    "spine": "spine spinal cspine tspine lspine sspine ctspine tlspine lsspine cervical lumbar lumbosacral sacrum cord "
    "hws bws lws csp tsp lsp wirbelsaeule",
    "neck": "neck headneck carotid carotids larynx thyroid hals",
    "chest": "chest thorax lung lungs mediastinum",
    "heart": "heart cardiac cardio myocardium coronary herz",
    "breast": "breast breasts mamma mammae",
    "abdomen": "abdomen abdominal liver hepatic kidney kidneys renal pancreas mrcp spleen adrenal bowel leber niere",
    "pelvis": "pelvis pelvic prostate prostata uterus rectum rectal bladder ovary cervix becken scrotum",
    "hip": "hip hips huefte",
    "knee": "knee knees knie",
    "shoulder": "shoulder shoulders schulter",
    "ankle": "ankle ankles sprunggelenk",
    "foot": "foot feet fuss forefoot hindfoot",
    "wrist": "wrist wrists handgelenk",
    "hand": "hand hands finger thumb",
    "elbow": "elbow elbows ellenbogen",
    "whole_body": "wholebody ganzkoerper wb",
}
_REGION_OF = {word: region for region, words in _PARTS_OF_BODY.items() for word in words.split()}


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LOCALIZER = _listed("localizer localiser lokalizer loc scout survey aahscout smartbrain")
# Words for what timing cannot tell, or tells less surely, in the order in which they win.
_SPECIFIC = {
    "LOCALIZER": _LOCALIZER,
    "ADC": _listed("adc dadc apparent"),
    "SWI": _listed("swi swan swip susceptibility qsm venobold"),
    "MRA": _listed("mra tof angio angiography angiogram mrv venography twist tricks"),
    "DCE": _listed("dce dynamic dyn vibrant"),
    "PERFUSION": _listed("perfusion perf dsc asl pcasl pasl cbf cbv rcbv mtt ttp"),
    "CINE": _listed("cine kino"),
    "DWI": _listed("dwi dti diff diffusion tracew trace resolve hardi ivim"),
    "EPI": _listed("bold fmri sbref epi"),
    "OTHER": _listed(
        "mt0 mt1 mton mtoff mtr elastography mre fieldmap fieldmapping mapping phasemap t1map t2map t1rho"
    ),
    "STIR": _listed("stir"),
    "FLAIR": _listed("flair darkfluid t2flair"),
    "T2STAR": _listed("t2star t2starw medic merge hemo haemo"),
}
_PLAIN = {
    "T1": _listed("t1 t1w t1wi mprage mp2rage bravo fspgr spgr flash vibe lava thrive t1c t1ce t1gd t1post"),
    "T2": _listed("t2 t2w t2wi haste ssfse"),
    "PD": _listed("pd pdw proton"),
}
# Short forms that mean something in file names but something else in descriptions (FL: fluid there, FLASH here).
_NAME_ONLY = {"FLAIR": _listed("fl")}
_AGENT_YES = _listed("post gad gadolinium gado gd ce km contrast postcontrast dotarem gadovist t1c t1ce t1gd t1post")
_AGENT_NO = _listed("pre native nativ noncontrast precontrast unenhanced nogad without wo")
_NO_AGENT = {"no", "none", "n", "nein", "without", "null", "na", "n/a", "0"}
_BIDS_SUFFIXES = {
    "T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR", "PDw": "PD", "T2starw": "T2STAR", "T2star": "T2STAR", "dwi": "DWI",
    "sbref": "EPI", "bold": "EPI", "cbv": "PERFUSION", "asl": "PERFUSION", "m0scan": "PERFUSION", "angio": "MRA",
    "swi": "SWI", "epi": "EPI", "MESE": "OTHER", "MEGRE": "OTHER", "UNIT1": "T1", "inplaneT1": "T1", "inplaneT2": "T2",
    "adc": "ADC", "ADC": "ADC", "trace": "DWI",
}  # fmt: skip
_ACQUISITION_CONTRASTS = {
    "T1": "T1", "T2": "T2", "T2_STAR": "T2STAR", "PROTON_DENSITY": "PD", "STIR": "STIR", "FLUID_ATTENUATED": "FLAIR",
    "PERFUSION": "PERFUSION", "TIME_OF_FLIGHT": "MRA",
}  # fmt: skip


def words_of(*texts: str | None) -> tuple[str, ...]:
    """Lower-case words of the texts, split at everything that is neither letter nor digit, and at a change to upper case."""
    joined = " ".join(text for text in texts if text)
    return tuple(
        re.findall(r"[a-z0-9*]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", joined).lower().replace("t2*", "t2star"))
    )


def is_localizer(*texts: str | None) -> bool:
    """True where the texts name a planning image."""
    return not _LOCALIZER.isdisjoint(words_of(*texts))


def infer_sequence(tags: Tags) -> Inferred:
    """(one of SEQUENCES or None, 'physics', 'tag', 'sidecar', 'name' or None)."""
    found, source = _kind(tags)
    if found == "T1" and infer_contrast(tags)[0] == "yes":
        found = "T1C"
    return found, source


def _kind(tags: Tags) -> Inferred:
    described = words_of(tags.get("series_description"), tags.get("protocol_name"), tags.get("sequence_name"))
    named, around = words_of(tags.get("name")), words_of(tags.get("folder"))
    source = tags.get("words_from", "tag")
    rules: tuple[Inferred, ...] = (
        (_from_diffusion(tags) or _from_image_type(tags) or _from_inversion(tags), "physics"),
        (_word(described, _SPECIFIC) or _from_options(tags), source),
        (_BIDS_SUFFIXES.get(tags.get("bids_suffix", "")), "name"),
        (_word(named, _SPECIFIC) or _word(named, _NAME_ONLY), "name"),
        (_from_timing(tags), "physics"),
        (_word(described, _PLAIN), source),
        (_word(named, _PLAIN), "name"),
        (_word(around, _SPECIFIC) or _word(around, _PLAIN), "name"),
    )
    return next((rule for rule in rules if rule[0]), (None, None))


def _word(words: tuple[str, ...], table: dict[str, frozenset[str]]) -> str | None:
    return next((kind for kind, listed in table.items() if not listed.isdisjoint(words)), None)


def _from_image_type(tags: Tags) -> str | None:
    kinds = set(tags.get("image_type", ()))
    if kinds & {"LOCALIZER"}:
        return "LOCALIZER"
    if kinds & {"SWI"}:
        return "SWI"
    if kinds & {"RCBV", "RCBF", "CBF", "CBV", "MTT", "TTP", "TMAX", "PERFUSION", "ASL"}:
        return "PERFUSION"
    if kinds & {"FA", "EADC", "EXP", "FIELD_MAP", "P", "PHASE", "PHASE MAP", "R", "I", "REAL", "IMAGINARY"}:
        return "OTHER"
    return None


def _from_diffusion(tags: Tags) -> str | None:
    kinds = set(tags.get("image_type", ()))
    if "ADC" in kinds:
        return "ADC"
    if kinds & {"FA", "EADC", "EXP"}:
        return "OTHER"
    if kinds & {"TRACEW", "TRACE", "DIFFUSION"} or tags.get("b_value", 0) > 0:
        return "DWI"
    return "DWI" if tags.get("acquisition_contrast") == "DIFFUSION" else None


def _from_options(tags: Tags) -> str | None:
    if tags.get("angio") or "TOF" in {*tags.get("sequence_variant", ()), *tags.get("scan_options", ())}:
        return "MRA"
    if tags.get("cardiac_images", 0) > 1:
        return "CINE"
    return _ACQUISITION_CONTRASTS.get(tags.get("acquisition_contrast", ""))


def _from_inversion(tags: Tags) -> str | None:
    """Inversion recovery by its TI: fat is nulled near 150-250 ms, fluid from 1600 ms on, grey matter between."""
    inversion, repetition = tags.get("inversion_time_ms"), tags.get("repetition_time_ms")
    if not inversion or not repetition or "EP" in tags.get("scanning_sequence", ()):
        return None
    echo = tags.get("echo_time_ms", 0)
    if 80 <= inversion <= 300 and repetition >= 1500 and "GR" not in tags.get("scanning_sequence", ()):
        return "STIR"
    if inversion >= 1500 and repetition >= 4000 and echo >= 60:
        return "FLAIR"
    return "T1" if 300 < inversion < 1500 and echo < 40 and repetition > inversion else None


def _from_timing(tags: Tags) -> str | None:
    """T1, T2, PD or T2STAR by TR, TE and flip angle, for spin echo and gradient echo apart; None between the classes."""
    echo, repetition = tags.get("echo_time_ms"), tags.get("repetition_time_ms")
    kind = set(tags.get("scanning_sequence", ()))
    if not echo or not repetition:
        return None
    if "EP" in kind:
        return "EPI"
    if "GR" in kind:
        return _gradient_echo(echo, repetition, tags)
    return _spin_echo(echo, repetition) if "SE" in kind else None


def _spin_echo(echo_ms: float, repetition_ms: float) -> str | None:
    if repetition_ms < 1200 and echo_ms < 40:
        return "T1"
    if repetition_ms >= 1500 and echo_ms >= 60:
        return "T2"
    return "PD" if repetition_ms >= 1500 and echo_ms <= 45 else None


def _gradient_echo(echo_ms: float, repetition_ms: float, tags: Tags) -> str | None:
    steady = "SS" in tags.get("sequence_variant", ()) and "SP" not in tags.get("sequence_variant", ())
    if echo_ms >= 12 and repetition_ms >= 200:
        return "T2STAR"
    return "T1" if echo_ms < 8 and not steady and tags.get("flip_angle_deg", 90) >= 8 else None


def infer_contrast(tags: Tags) -> Inferred:
    """('yes' or 'no' for a contrast agent in the patient, or None; where from)."""
    agent = tags.get("contrast_agent", "").strip().lower()
    if agent:
        return ("no" if agent in _NO_AGENT or agent.startswith("no ") else "yes"), tags.get("words_from", "tag")
    described = words_of(tags.get("series_description"), tags.get("protocol_name"))
    for words, source in (
        (described, tags.get("words_from", "tag")),
        (words_of(tags.get("name")), "name"),
        (words_of(tags.get("folder")), "name"),
    ):
        pairs = set(pairwise(words))
        if not _AGENT_NO.isdisjoint(words) or pairs & {("w", "o"), ("non", "contrast"), ("no", "contrast")}:
            return "no", source
        if not _AGENT_YES.isdisjoint(words) and ("post", "op") not in pairs:
            return "yes", source
    return None, None


def infer_region(tags: Tags) -> Inferred:
    """(one of REGIONS or None; where from): the body part tag, then description words, then name words."""
    source = tags.get("words_from", "tag")
    described = words_of(tags.get("series_description"), tags.get("protocol_name"))
    for words, origin in (
        (words_of(tags.get("body_part")), source),
        (described, source),
        (words_of(tags.get("name")), "name"),
        (words_of(tags.get("folder")), "name"),
    ):
        if region := _region(words):
            return region, origin
    return None, None


def _region(words: tuple[str, ...]) -> str | None:
    if ("whole", "body") in pairwise(words):
        return "whole_body"
    bare = (word.rstrip("0123456789") for word in words)
    return next((_REGION_OF[word] for word in bare if word in _REGION_OF), None)
