"""What the tags of one series say against each other.

Design: words, timing, geometry and codes are each read alone, with wide margins, and compared; between the margins nothing
is said, for a false alarm costs more trust than a missed one. A sentence is made of this module's own words and of numbers:
descriptions may hold names, so none is quoted. What a description claims is worked out once for each text.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from index import vocabulary
from index.agent import agent_said, agent_tagged
from index.patient import age_between, age_of_string
from index.sequence import Tags, echo_kind
from index.vocabulary import listed, meaning, words_of

_WEIGHTINGS = dict.fromkeys(("t1", "t1w", "t1wi"), "T1") | dict.fromkeys(("t2", "t2w", "t2wi"), "T2")
_WEIGHTINGS |= dict.fromkeys(("pd", "pdw", "dp", "dpw"), "PD")
_SUFFIXES = {"T1w": "T1", "T2w": "T2", "PDw": "PD", "FLAIR": "FLAIR"}
# Described as the first, timed as the second: not both can be true. A T2 may well be a FLAIR, and a FLAIR may hide its TI.
_CLASHES = {
    ("T1", "T2"), ("T1", "FLAIR"), ("T1", "STIR"), ("T1", "T2*"), ("T2", "T1"), ("T2", "PD"), ("PD", "T2"), ("PD", "T1"),
    ("PD", "FLAIR"), ("FLAIR", "STIR"), ("FLAIR", "T1"), ("STIR", "FLAIR"), ("STIR", "T1"),
}  # fmt: skip
_SUFFIX_CLASHES = {
    ("T1", "T2"),
    ("T1", "FLAIR"),
    ("T1", "PD"),
    ("T2", "T1"),
    ("FLAIR", "T1"),
    ("FLAIR", "PD"),
    ("PD", "T1"),
}
_GRADIENT = listed("mprage vibe flash spgr fspgr irspgr lava thrive ethrive bravo ffe tfe gre")
_SPIN = listed("tse fse frfse haste ssfse")
_PLANES = {
    **dict.fromkeys(("sag", "sagittal", "sagital", "sagittale", "sagitale"), "sagittal"),
    **dict.fromkeys(("cor", "coronal", "coronale", "koronar"), "coronal"),
    **dict.fromkeys(("ax", "axial", "axiale", "tra", "trans", "transversal", "transverse", "transversale"), "axial"),
}
_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
# Where a limb lies as it likes, the planes of the anatomy are not those of the patient; so it is with the heart's.
_FREE = {"heart", "shoulder", "elbow", "wrist", "hand", "ankle", "foot", "whole_body"}
_NEIGHBOURS = {
    "brain": "neck", "neck": "brain spine chest shoulder", "chest": "neck heart breast abdomen spine shoulder",
    "heart": "chest abdomen breast", "breast": "chest heart", "abdomen": "chest heart pelvis spine",
    "pelvis": "abdomen hip spine", "hip": "pelvis", "spine": "neck chest abdomen pelvis", "shoulder": "neck chest",
    "ankle": "foot", "foot": "ankle", "wrist": "hand", "hand": "wrist",
}  # fmt: skip
_MALE, _FEMALE = "male", "female"
_ORGANS = dict.fromkeys(listed("prostate prostata scrotum scrotal testis testes testicular penis penile"), _MALE)
_ORGANS |= dict.fromkeys(
    listed("uterus uterine ovary ovaries ovarian vagina cervix endometrium placenta obstetric"), _FEMALE
)
_DIMENSION = re.compile(r"(?<=[a-z])([23])d")


class _Claims(NamedTuple):
    """What a text claims; None where it claims nothing, or two things at once."""

    weighting: str | None
    plane: str | None
    region: str | None
    agent: str | None
    echo: str | None
    dimension: str | None
    organ: str | None


def contradictions(tags: Tags, record: Mapping[str, Any]) -> str | None:
    """Short sentences joined by "; ", one for each contradiction; None where nothing contradicts.

    `tags` are those of the series, `record` its catalogue columns, of which plane, spacing_mm, affine_mm, body_region,
    part and sex are read.
    """
    said = _claims(tags.get("series_description") or "")
    found = (
        _diffusion(tags, said),
        _timing(tags, said, record),
        _suffix(tags, said),
        _echo_times(tags),
        _echo(tags, said),
        _dimension(tags, said),
        _plane(said, record) if said.plane else None,
        _region(tags, said),
        _agent(tags, said) if said.agent else None,
        _sex(tags, said, record.get("sex")),
    )
    return "; ".join([sentence for sentence in found if sentence]) or None


def age_contradiction(told: str, birth: str, study: str) -> str | None:
    """A sentence where a DICOM age string is more than 1.5 years off the years between two DICOM dates; else None.

    Dates that stand in for removed ones (a birth in 1900 or on the day of the study, a study before there was MRI) tell
    nothing.
    """
    if birth[:4] <= "1900" or study[:4] < "1980" or birth[:8] == study[:8]:
        return None
    age, counted = age_of_string(told), age_between(birth, study)
    if age is None or counted is None or abs(age - counted) <= 1.5:
        return None
    return f"age {age:.0f} by the tag, {counted:.0f} by the dates"


@lru_cache(maxsize=8192)
def _claims(text: str) -> _Claims:
    words = words_of(text)
    echoes = {name for name, products in (("gradient", _GRADIENT), ("spin", _SPIN)) if not products.isdisjoint(words)}
    return _Claims(
        weighting=_weighting(words),
        plane=_only({_PLANES[word] for word in words if word in _PLANES}),
        region=_only({vocabulary.REGION_OF[word] for word in words if word in vocabulary.REGION_OF}),
        agent=agent_said(words, text) if words else None,
        echo=_only(echoes),
        dimension=_only({word for word in words if word in ("2d", "3d")}),
        organ=_only({_ORGANS[word] for word in words if word in _ORGANS}),
    )


def _only(found: set[str]) -> str | None:
    return found.pop() if len(found) == 1 else None


def _weighting(words: tuple[str, ...]) -> str | None:
    """T1, T2, PD, FLAIR or STIR where the words name one and nothing that is timed otherwise (maps, diffusion, ...)."""
    weighted = {_WEIGHTINGS[word] for word in words if word in _WEIGHTINGS}
    specific = meaning(words, vocabulary.SPECIFIC)
    if specific in ("FLAIR", "STIR"):
        return specific if weighted <= {"T2"} else None
    return _only(weighted) if specific is None else None


def _timed(tags: Tags) -> str | None:
    """T1, T2, PD, FLAIR, STIR or T2* where TR, TE and TI leave no doubt."""
    repetition, echo = tags.get("repetition_time_ms"), tags.get("echo_time_ms")
    if not repetition or not echo:
        return None
    kind, inversion = echo_kind(tags), tags.get("inversion_time_ms")
    if kind == "GR":
        return "T2*" if echo >= 18 and repetition >= 300 else None
    if kind != "SE" or "GR" in tags.get("scanning_sequence", ()):
        return None
    if inversion:
        if inversion >= 1500 and repetition >= 4000 and echo >= 70:
            return "FLAIR"
        return "STIR" if 80 <= inversion <= 260 and repetition >= 1500 else None
    if repetition <= 800 and echo <= 30:
        return "T1"
    if repetition >= 2500 and echo >= 75:
        return "T2"
    return "PD" if repetition >= 2000 and echo <= 25 else None


def _timing(tags: Tags, said: _Claims, record: Mapping[str, Any]) -> str | None:
    claimed = said.weighting or (
        _SUFFIXES.get(tags.get("bids_suffix", "")) if "series_description" not in tags else None
    )
    timed = _timed(tags) if claimed and not tags.get("b_value") else None
    several = tags.get("echoes", 1) > 1 or "echo=" in (record.get("part") or "")
    if (claimed, timed) not in _CLASHES or (several and {claimed, timed} == {"T2", "PD"}):
        return None
    times = [("TR", tags["repetition_time_ms"]), ("TE", tags["echo_time_ms"])]
    times += [("TI", tags["inversion_time_ms"])] if tags.get("inversion_time_ms") else []
    how = "described" if said.weighting else "named"
    return f"{how} as {claimed}, timed as {timed} ({', '.join(f'{name} {time:.4g}' for name, time in times)})"


def _diffusion(tags: Tags, said: _Claims) -> str | None:
    if not said.weighting:
        return None
    kinds, b_value = tags.get("image_type", ()), tags.get("b_value", 0)
    if b_value >= 50:
        return f"described as {said.weighting}, diffusion-weighted by the tags (b {b_value:.4g})"
    if "DIFFUSION" in kinds or "ADC" in kinds or "TRACEW" in kinds:
        return f"described as {said.weighting}, diffusion by the image type"
    return None


def _suffix(tags: Tags, said: _Claims) -> str | None:
    suffix = tags.get("bids_suffix", "")
    if said.weighting and (_SUFFIXES.get(suffix), said.weighting) in _SUFFIX_CLASHES:
        return f"named {suffix}, described as {said.weighting}"
    return None


def _echo_times(tags: Tags) -> str | None:
    """TE beyond TR, and TI beyond TR: steady-state and echo-shifted gradient echoes may, spin echoes may not."""
    repetition, echo = tags.get("repetition_time_ms"), tags.get("echo_time_ms", 0)
    if not repetition:
        return None
    if echo > repetition and (echo > 3 * repetition or echo_kind(tags) == "SE"):
        return f"TE {echo:.4g} is longer than TR {repetition:.4g}"
    inversion = tags.get("inversion_time_ms", 0)
    if inversion >= repetition and echo_kind(tags) == "SE" and "GR" not in tags.get("scanning_sequence", ()):
        return f"TI {inversion:.4g} is not shorter than TR {repetition:.4g}"
    return None


def _echo(tags: Tags, said: _Claims) -> str | None:
    kinds = {kind for kind in tags.get("scanning_sequence", ()) if kind != "IR"}
    tagged = "spin" if kinds == {"SE"} else "gradient" if kinds == {"GR"} else None
    named = {"SE": "spin", "GR": "gradient"}.get(echo_kind(Tags(sequence_name=tags.get("sequence_name", ""))) or "")
    if tagged and said.echo and said.echo != tagged:
        return f"described as {said.echo} echo, tagged as {tagged} echo"
    return f"pulse sequence of {named} echo, tagged as {tagged} echo" if tagged and named and named != tagged else None


def _dimension(tags: Tags, said: _Claims) -> str | None:
    tagged = tags.get("acquisition_type", "").lower()
    if tagged not in ("2d", "3d") or "ORIGINAL" not in tags.get("image_type", ()):
        return None
    named = _DIMENSION.search(tags.get("sequence_name", "").lower())
    if named and f"{named[1]}d" != tagged:
        return f"pulse sequence of {named[1]}D, tagged as {tagged.upper()}"
    if said.dimension and said.dimension != tagged:
        return f"described as {said.dimension.upper()}, tagged as {tagged.upper()}"
    return None


def _plane(said: _Claims, record: Mapping[str, Any]) -> str | None:
    """The slices' normal must lie within 37 degrees of another axis, and over 60 off the one that the words name."""
    plane, region = record.get("plane"), record.get("body_region") or said.region
    affine, spacing = record.get("affine_mm"), record.get("spacing_mm")
    if not said.plane or plane not in _AXES or plane == said.plane or region in _FREE or not affine or not spacing:
        return None
    if region is None and "sagittal" not in (plane, said.plane):
        return None
    across = _AXES[plane]
    in_plane = [edge for axis, edge in enumerate(spacing) if axis != across]
    if spacing[across] < 1.5 * max(in_plane):
        return None
    normal = [affine[4 * row + across] for row in range(3)]
    length = math.hypot(*normal)
    if not length or abs(normal[_AXES[said.plane]]) / length > 0.5 or abs(normal[across]) / length < 0.8:
        return None
    return f"described as {said.plane}, lies {plane}"


def _region(tags: Tags, said: _Claims) -> str | None:
    tagged = _claims(tags["body_part"]).region if tags.get("body_part") else None
    if not tagged:
        return None
    told = said.region or _claims(tags.get("protocol_name") or "").region
    if told in (None, tagged) or "whole_body" in (told, tagged) or told in _NEIGHBOURS.get(tagged, "").split():
        return None
    return f"body part {tagged}, described as {told}"


def _agent(tags: Tags, said: _Claims) -> str | None:
    tagged = agent_tagged(tags.get("contrast_agent"))
    if tagged is None or tagged == said.agent:
        return None
    if tagged == "yes":
        return "contrast agent by the tag, described as without"
    return "no contrast agent by the tag, described as with"


def _sex(tags: Tags, said: _Claims, sex: str | None) -> str | None:
    if sex not in ("F", "M"):
        return None
    organ = said.organ or _claims(tags.get("body_part") or "").organ or _claims(tags.get("protocol_name") or "").organ
    if organ is None or organ == {"F": _FEMALE, "M": _MALE}[sex]:
        return None
    return f"sex {sex}, described as {organ} organs"
