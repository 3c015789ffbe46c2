"""What a series shows: sequence, contrast agent and body region, by rules from physics, then tags, then names.

Design: pure functions on a small mapping of tags, so that DICOM and NIfTI are judged alike. Timing and diffusion weighting
beat words, because descriptions are typed by people and copied between protocols; words that name what timing cannot tell
(angiography, susceptibility, perfusion) come before timing's T1 and T2, unless timing says that they cannot be true. What
nothing tells stays None. Limits of TR, TE and TI hold from 0.2 to 3 T and leave the doubtful middle to words.
"""

import math
import re
from functools import lru_cache
from typing import TypedDict

from index import vocabulary
from index.agent import agent_said, agent_tagged
from index.vocabulary import meaning, words_of

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
Words = tuple[str, ...]


class Tags(TypedDict, total=False):
    """What the rules read. `words_from` is 'tag' or 'sidecar'; `name` is the file's (of a series of files, the folder's)
    own name, `folder` that of the folder around it; `echoes` is the number of echo times in the whole series.
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
    echoes: int
    b_value: float
    field_strength_t: float
    contrast_agent: str
    body_part: str
    vendor: str
    model_name: str


# Siemens names its pulse sequences by kind and dimension: *tse2d1_25, *fl3d1_ns, *spcir_278ns, epse2d1_72.
_SIEMENS = re.compile(r"\*?(tgse|tse|se|tir|spc|h|tfl|tfi|fl|fi|me|epse|epfid|ep)(?:ir)?(?:[23]d|_)")
_SIEMENS_ECHO = {"tse": "SE", "se": "SE", "tir": "SE", "spc": "SE", "h": "SE", "epse": "EP", "epfid": "EP", "ep": "EP"}
_WEIGHTED = re.compile(r"b(\d{2,4})t?")


def is_localizer(*texts: str | None) -> bool:
    """True where the texts name a planning image, and not one that localises a function of the brain."""
    words = words_of(*texts)
    return not vocabulary.LOCALIZER.isdisjoint(words) and vocabulary.FUNCTIONAL.isdisjoint(words)


def infer_sequence(tags: Tags) -> Inferred:
    """(one of SEQUENCES or None, 'physics', 'tag', 'sidecar', 'name' or None)."""
    found, source = _kind(tags)
    if found == "T1" and infer_contrast(tags)[0] == "yes":
        found = "T1C"
    return found, source


def _kind(tags: Tags) -> Inferred:
    described, source = _described(tags), tags.get("words_from", "tag")
    named = words_of(tags.get("name"))
    echo = echo_kind(tags, described)
    rules: tuple[Inferred, ...] = (
        (_from_diffusion(tags, described) or _from_image_type(tags) or _from_inversion(tags, echo), "physics"),
        (_specific(described, tags, echo) or _from_options(tags) or _weighted(described, tags, echo), source),
        (vocabulary.BIDS_SUFFIXES.get(tags.get("bids_suffix", "")), "name"),
        (_specific(named, tags, echo) or meaning(named, vocabulary.NAME_ONLY), "name"),
        (_from_timing(tags, echo), "physics"),
        (vocabulary.PLAIN_CONTRASTS.get(tags.get("acquisition_contrast", "")), source),
        (meaning(described, vocabulary.PLAIN), source),
        (meaning(named, vocabulary.PLAIN), "name"),
    )
    found = next((rule for rule in rules if rule[0]), None)
    if found is None and tags.get("folder"):
        around = words_of(tags["folder"])
        found = (_specific(around, tags, echo) or meaning(around, vocabulary.PLAIN), "name")
    return found if found and found[0] else (None, None)


def _described(tags: Tags) -> Words:
    """Words about this series. GE's protocol name is that of the whole examination: it says nothing where others speak."""
    about = tags.get("series_description")
    whole = tags.get("vendor") == "GE" and about
    return words_of(about, None if whole else tags.get("protocol_name"), tags.get("sequence_name"))


def echo_kind(tags: Tags, words: Words = ()) -> str | None:
    """'EP', 'GR' or 'SE': how the signal is read out, by the tag, else by the pulse sequence's name, else by `words`."""
    kinds = tags.get("scanning_sequence", ())
    for kind in ("EP", "SE", "GR"):
        if kind in kinds:
            return kind
    match = _SIEMENS.match(tags.get("sequence_name", "").lower())
    if match and match[1] != "tgse":
        return _SIEMENS_ECHO.get(match[1], "GR")
    return meaning(words, vocabulary.ECHO)


def _specific(words: Words, tags: Tags, echo: str | None) -> str | None:
    """What words name that timing cannot tell, unless timing says that it cannot be."""
    found = meaning(words, vocabulary.SPECIFIC)
    if found == "FLAIR" and "t1" in words and tags.get("echo_time_ms", 0) < 40:
        return "T1"
    if found == "LOCALIZER" and not vocabulary.FUNCTIONAL.isdisjoint(words):
        return "EPI"
    if found in (None, "OTHER") and tags.get("cardiac_images", 0) > 1:
        return "CINE"
    return found if found and _possible(found, tags, echo) else None


def _weighted(described: Words, tags: Tags, echo: str | None) -> str | None:
    """Diffusion weighting by a word such as b1000, or a pulse sequence such as ep_b0."""
    if "ep_b" in tags.get("sequence_name", ""):
        return "DWI"
    matches = (_WEIGHTED.fullmatch(word) for word in described) if echo in ("EP", None) else ()
    return "DWI" if any(match and int(match[1]) >= 50 for match in matches) else None


def _possible(kind: str, tags: Tags, echo: str | None) -> bool:
    """False where TR, TE, TI or the kind of echo rule out what words say."""
    repetition, echo_ms = tags.get("repetition_time_ms"), tags.get("echo_time_ms")
    if kind == "FLAIR":
        return not (repetition and repetition < 2500 and echo != "GR") and not (echo_ms and echo_ms < 50)
    if kind == "STIR":
        return tags.get("inversion_time_ms", 150) <= 350 and not (repetition and repetition < 1000 and echo != "GR")
    if kind in ("SWI", "T2STAR"):
        return echo != "SE" or "GR" in tags.get("scanning_sequence", ())
    return kind != "DCE" or not (echo_ms and echo_ms >= 25)


def _from_diffusion(tags: Tags, described: Words) -> str | None:
    kinds = tags.get("image_type", ())
    b_value = tags.get("b_value", 0)
    if "ADC" in kinds:
        return "ADC"
    if "FA" in kinds or "EADC" in kinds or "EXP" in kinds:
        return "OTHER"
    if b_value > 0 and "ORIGINAL" not in kinds and meaning(described, vocabulary.SPECIFIC) == "ADC":
        return "ADC"
    weighted = b_value > 0 or tags.get("acquisition_contrast") == "DIFFUSION"
    return "DWI" if weighted or "TRACEW" in kinds or "TRACE" in kinds or "DIFFUSION" in kinds else None


def _from_image_type(tags: Tags) -> str | None:
    kinds = tags.get("image_type", ())
    is_real = ("R" in kinds or "REAL" in kinds) and not tags.get("inversion_time_ms")
    return next(
        (vocabulary.IMAGE_TYPES[kind] for kind in kinds if kind in vocabulary.IMAGE_TYPES), "OTHER" if is_real else None
    )


def _from_options(tags: Tags) -> str | None:
    angio = tags.get("angio") and tags.get("echo_time_ms", 0) < 20
    if angio or "TOF" in tags.get("sequence_variant", ()) or "TOF" in tags.get("scan_options", ()):
        return "MRA"
    return vocabulary.SPECIFIC_CONTRASTS.get(tags.get("acquisition_contrast", ""))


def _from_inversion(tags: Tags, echo_kind: str | None) -> str | None:
    """Inversion recovery by its TI: fat is nulled near 80-300 ms, fluid from 1300 ms on, grey matter between.

    TR must be that of whole shots; where it is the short one within a shot it says nothing.
    """
    inversion, repetition = tags.get("inversion_time_ms"), tags.get("repetition_time_ms")
    if not inversion or not repetition or repetition <= inversion or echo_kind == "EP":
        return None
    echo = tags.get("echo_time_ms", 0)
    if 80 <= inversion <= 300 and repetition >= 1000 and echo_kind != "GR":
        return "STIR"
    if inversion >= 1300 and repetition >= 3500 and echo >= 60:
        return "FLAIR"
    if inversion >= 1800 and echo_kind == "GR" and 0 < echo < 8:
        return "PD"
    return "T1" if 300 < inversion < (1800 if echo_kind == "GR" else 1500) and echo < 40 else None


def _from_timing(tags: Tags, kind: str | None) -> str | None:
    """T1, T2, PD or T2STAR by TR, TE and flip angle, for spin echo and gradient echo apart; None between the classes."""
    echo, repetition = tags.get("echo_time_ms"), tags.get("repetition_time_ms")
    if not echo or not repetition:
        return None
    if tags.get("echoes", 1) > 2 and kind != "EP":
        return "OTHER"
    if kind == "EP":
        return "EPI"
    if kind == "GR":
        return _gradient_echo(echo, repetition, tags)
    return _spin_echo(echo, repetition) if kind == "SE" else None


def _spin_echo(echo_ms: float, repetition_ms: float) -> str | None:
    """Single-shot sequences repeat within a second and are T2-weighted all the same: their echo is long."""
    if repetition_ms < 1200 and echo_ms < (40 if repetition_ms < 800 else 25):
        return "T1"
    if repetition_ms >= 700 and echo_ms >= 60:
        return "T2"
    return "PD" if repetition_ms >= 1500 and echo_ms <= 45 else None


def _gradient_echo(echo_ms: float, repetition_ms: float, tags: Tags) -> str | None:
    """Spoiled gradient echo is T1-weighted at and above the Ernst angle (tissue T1 of 1 s), well below it PD-weighted."""
    variant, flip = tags.get("sequence_variant", ()), tags.get("flip_angle_deg", 90)
    balanced = repetition_ms < 10 and flip >= 35 and 0.4 <= echo_ms / repetition_ms <= 0.6
    steady = balanced or ("SS" in variant and "SP" not in variant)
    ernst = math.degrees(math.acos(math.exp(-repetition_ms / 1000)))
    if echo_ms >= 12 and tags.get("echo_train_length", 0) >= 16:
        return "EPI"
    if echo_ms >= 12:
        return "T2STAR" if repetition_ms >= 200 or (flip < 1.5 * ernst and not steady) else None
    if steady or echo_ms >= 8:
        return None
    if "MP" in variant or "IR" in tags.get("scanning_sequence", ()) or flip >= 0.9 * ernst:
        return "T1"
    return "PD" if repetition_ms < 100 and flip < 0.55 * ernst else None


def infer_contrast(tags: Tags) -> Inferred:
    """('yes' or 'no' for a contrast agent in the patient, or None; where from).

    A description that says "before contrast" beats the tag: an agent is often entered once for a whole examination.
    """
    tagged, source = agent_tagged(tags.get("contrast_agent")), tags.get("words_from", "tag")
    about = tags.get("series_description")
    said = agent_said(words_of(about), about) if about else None
    if said == "no" or (said and not tagged):
        return said, source
    if tagged:
        return tagged, source
    whole = tags.get("vendor") == "GE" and about
    for text, origin in (
        ("" if whole else tags.get("protocol_name"), source),
        (tags.get("name"), "name"),
        (tags.get("folder"), "name"),
    ):
        if text and (said := agent_said(words_of(text), text)):
            return said, origin
    return None, None


def infer_region(tags: Tags) -> Inferred:
    """(one of REGIONS or None; where from): the body part tag, then description words, then name words.

    Without a word, fluid-attenuated inversion recovery shows the brain: nowhere else is fluid suppressed by habit.
    """
    source = tags.get("words_from", "tag")
    for text, origin in (
        (tags.get("body_part"), source),
        (tags.get("series_description"), source),
        (tags.get("protocol_name"), source),
        (tags.get("name"), "name"),
        (tags.get("folder"), "name"),
    ):
        if text and (region := region_said(words_of(text))):
            return region, origin
    found, origin_of_sequence = _kind(tags)
    return ("brain", origin_of_sequence) if found == "FLAIR" else (None, None)


@lru_cache(maxsize=8192)
def region_said(words: Words) -> str | None:
    """The first region that the words name; None where they name none."""
    bare = (word.rstrip("0123456789") if len(word) > 3 else word for word in words)
    return next((vocabulary.REGION_OF[word] for word in bare if word in vocabulary.REGION_OF), None)
